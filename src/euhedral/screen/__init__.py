"""From raw crystals to the stable and new ones; sees crystals only, never a model."""

from euhedral.screen.ase_potential import AsePotential as AsePotential
from euhedral.screen.ase_potential import make_potential as make_potential
from euhedral.screen.ase_potential import potential_names as potential_names
from euhedral.screen.chgnet_potential import ChgnetPotential as ChgnetPotential
from euhedral.screen.hull import Hull as Hull
from euhedral.screen.hull import HullEnergies as HullEnergies
from euhedral.screen.method import EnergyMethod as EnergyMethod
from euhedral.screen.method import chgnet_method as chgnet_method
from euhedral.screen.potential import Potential as Potential
from euhedral.screen.potential import Prediction as Prediction
from euhedral.screen.reference import HullReference as HullReference
from euhedral.screen.reference import default_reference as default_reference
from euhedral.screen.reference_files import read_reference as read_reference
from euhedral.screen.relax import relax as relax
from euhedral.screen.relaxation import Relaxation as Relaxation
from euhedral.screen.relaxation import RelaxConfig as RelaxConfig
from euhedral.screen.relaxation import RelaxedCrystal as RelaxedCrystal
from euhedral.screen.relaxation import displacement_rmsd as displacement_rmsd
