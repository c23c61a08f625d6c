from types import SimpleNamespace

import pytest
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, EuhedralError
from euhedral.screen import ase_potential
from euhedral.screen.ase_potential import AsePotential, make_potential, potential_names
from euhedral.screen.chgnet_potential import ChgnetPotential
from euhedral.screen.potential import EV_PER_A3_IN_GPA, Potential
from euhedral.testing.crystals import random_crystals, rock_salt
from screen.potentials import PairWell


class _NoStress(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if 3 in atoms.numbers:
            raise RuntimeError("no idea about lithium")
        self.results = {"energy": 2.0 * len(atoms), "forces": 0 * atoms.positions}


def test_passes_on_what_the_calculator_gives():
    batch = random_crystals([2, 5], rng=torch.Generator().manual_seed(0), dtype=torch.float64)
    said = AsePotential(LennardJones(sigma=2.2, epsilon=0.1, rc=6.0)).predict(batch)
    first = 0
    for i, atoms in enumerate(batch.to_ase()):
        atoms.calc = LennardJones(sigma=2.2, epsilon=0.1, rc=6.0)
        last = first + len(atoms)
        assert float(said.energy_per_atom[i]) == pytest.approx(atoms.get_potential_energy() / len(atoms))
        assert torch.allclose(said.forces[first:last], torch.tensor(atoms.get_forces()))
        assert torch.allclose(said.stress_gpa[i], EV_PER_A3_IN_GPA * torch.tensor(atoms.get_stress(voigt=False)))
        first = last
    assert said.reasons == (None, None)


def test_an_exception_is_the_reason_of_its_crystal_and_a_missing_stress_is_none():
    said = AsePotential(_NoStress()).predict(CrystalBatch.concat([rock_salt(3, 9), rock_salt()]))
    assert said.reasons == ("RuntimeError: no idea about lithium", None)
    assert torch.isfinite(said.energy_per_atom).tolist() == [False, True]
    assert torch.isnan(said.stress_gpa).all()
    assert AsePotential(_NoStress()).predict(CrystalBatch.empty()).forces.shape == (0, 3)


def test_all_that_can_be_given_becomes_a_potential():
    assert isinstance(make_potential("chgnet"), ChgnetPotential)
    assert make_potential("chgnet-r2scan").name.startswith("CHGNet r2scan")
    well = PairWell()
    assert make_potential(well) is well
    assert make_potential(lambda: well) is well
    for given in (LennardJones(), LennardJones, lambda: LennardJones()):
        made = make_potential(given)
        assert isinstance(made, Potential) and made.name == "ASE ase.calculators.lj.LennardJones"


@pytest.mark.parametrize("given", [3, None, lambda: 3, lambda: make_potential])
def test_what_is_no_potential_is_refused(given: object):
    with pytest.raises(ConfigError, match="a potential is a name"):
        make_potential(given)  # pyright: ignore[reportArgumentType]


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ConfigError, match="no potential is called 'emt'; there are chgnet, chgnet-r2scan, mace"):
        make_potential("emt")


@pytest.mark.parametrize("name", [name for name in potential_names() if not name.startswith("chgnet")])
def test_a_potential_that_is_not_installed_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch):
    def missing(module: str) -> None:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr("euhedral.screen.ase_potential.import_module", missing)
    with pytest.raises(EuhedralError, match=rf"the potential '{name}' needs another package: pip install .*{name[:3]}"):
        make_potential(name)


@pytest.mark.parametrize("name", [name for name in potential_names() if not name.startswith("chgnet")])
def test_a_potential_without_weights_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch):
    def unreachable(_: str) -> None:
        try:
            raise OSError("no route to host")
        except OSError as error:
            raise RuntimeError("download failed") from error

    known = ase_potential._CALCULATORS[name]
    monkeypatch.setitem(ase_potential._CALCULATORS, name, known._replace(make=unreachable))  # pyright: ignore
    said = rf"'{name}' could not be made \(RuntimeError: download failed, because of OSError: no route.*module:function"
    with pytest.raises(EuhedralError, match=said):
        make_potential(name)


@pytest.mark.parametrize("newer", [True, False])
def test_orb_is_made_by_either_release(newer: bool, monkeypatch: pytest.MonkeyPatch):
    made = LennardJones()
    folder = "orb_models.forcefield.inference.calculator" if newer else "orb_models.forcefield.calculator"
    modules = {
        "orb_models.forcefield.pretrained": SimpleNamespace(
            orb_v3_conservative_inf_omat=lambda device: ("model", "adapter") if newer else "model"
        ),
        folder: SimpleNamespace(ORBCalculator=lambda model, **_: made if model == "model" else None),
    }
    monkeypatch.setattr(ase_potential, "import_module", modules.__getitem__)
    monkeypatch.setattr(ase_potential, "_version", lambda _: "0")
    found = make_potential("orb")
    assert isinstance(found, AsePotential) and found.calculator is made
