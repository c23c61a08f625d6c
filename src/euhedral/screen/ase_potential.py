"""Any ASE calculator as a potential, and the universal ones that are known by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from euhedral.crystal.convert import to_ase
from euhedral.errors import ConfigError, CrystalError, EuhedralError
from euhedral.screen.chgnet_potential import WEIGHTS, ChgnetPotential
from euhedral.screen.method import chgnet_method
from euhedral.screen.potential import EV_PER_A3_IN_GPA, Potential, Prediction

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from euhedral.crystal.batch import CrystalBatch


class AsePotential:
    """An ASE calculator, one crystal after the other.

    Args:
        calculator: must give energies and forces; without stresses only the atoms can be relaxed.
        name: model and version, for records; the calculator's class by default.
    """

    def __init__(self, calculator: Calculator, *, name: str | None = None) -> None:
        self.calculator = calculator
        self.name = name or f"ASE {type(calculator).__module__}.{type(calculator).__name__}"

    def predict(self, batch: CrystalBatch, *, keys: Sequence[Hashable] | None = None) -> Prediction:
        """Energy, forces and stress; see `Potential`. A calculator that raises gives no energy and its message."""
        energies, forces, stresses, reasons = [], [], [], []
        for crystal in batch.to("cpu").to(torch.float64):
            try:
                energy, force, stress, reason = *self._of_crystal(crystal), None
            # Calculators raise whatever their codes do; it concerns this crystal only.
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:300]
                energy = torch.tensor(torch.nan, dtype=torch.float64)
                force, stress = torch.full_like(crystal.frac, torch.nan), torch.full_like(crystal.cell[0], torch.nan)
            energies.append(energy)
            forces.append(force)
            stresses.append(stress)
            reasons.append(reason)
        return Prediction(
            energy_per_atom=torch.stack(energies) if energies else torch.zeros(0, dtype=torch.float64),
            forces=torch.cat(forces) if forces else torch.zeros(0, 3, dtype=torch.float64),
            stress_gpa=torch.stack(stresses) if stresses else torch.zeros(0, 3, 3, dtype=torch.float64),
            reasons=tuple(reasons),
        )

    def moments(self, crystal: CrystalBatch) -> torch.Tensor:
        """Sizes of the magnetic moments of one crystal's atoms in Bohr magnetons, float64, (atoms,).

        Raises:
            CrystalError: where the calculator gives none.
        """
        from ase.calculators.calculator import PropertyNotImplementedError

        (atoms,) = to_ase(crystal)
        atoms.calc = self.calculator
        try:
            moments = torch.as_tensor(atoms.get_magnetic_moments(), dtype=torch.float64)
        except (PropertyNotImplementedError, RuntimeError, AttributeError) as error:
            raise CrystalError(f"{self.name} gives no magnetic moments: {error}") from error
        return (moments if moments.ndim == 1 else moments.norm(dim=1)).abs()

    def _of_crystal(self, crystal: CrystalBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        from ase.calculators.calculator import PropertyNotImplementedError

        (atoms,) = to_ase(crystal)
        atoms.calc = self.calculator
        energy = torch.tensor(float(atoms.get_potential_energy()) / len(atoms), dtype=torch.float64)
        forces = torch.as_tensor(atoms.get_forces(), dtype=torch.float64)
        try:
            stress = torch.as_tensor(atoms.get_stress(voigt=False), dtype=torch.float64) * EV_PER_A3_IN_GPA
        except PropertyNotImplementedError:
            stress = torch.full((3, 3), torch.nan, dtype=torch.float64)
        return energy, forces, stress


def make_potential(given: Potential | Calculator | Callable[[], Any] | str, *, device: str = "cpu") -> Potential:
    """A potential from what a user may give.

    Args:
        given: a name of `potential_names`, a `Potential`, an ASE calculator, or a function that makes one of these.
        device: for potentials given by name.

    Raises:
        ConfigError: on an unknown name, or something else that is no potential.
        EuhedralError: if the package of a name is not installed.
    """
    if isinstance(given, str):
        return _by_name(given, device)
    if isinstance(given, Potential) and not inspect.isclass(given):
        return given
    if hasattr(given, "get_potential_energy") and not inspect.isclass(given):
        return AsePotential(given)  # pyright: ignore[reportArgumentType]
    if callable(given):
        made: Any = given()
        if not callable(made) or isinstance(made, Potential):
            return make_potential(made, device=device)
    raise ConfigError(
        f"a potential is a name, a Potential, an ASE calculator or a function that makes one, not {given!r}"
    )


def potential_names() -> tuple[str, ...]:
    """Names that `make_potential` knows."""
    return (*_CHGNET, *_CALCULATORS)


def check_installed(name: str) -> None:
    """Raise EuhedralError where the package of a name of `potential_names` is missing; nothing is imported."""
    if name in _CHGNET:
        chgnet_method(_CHGNET[name])
    elif find_spec(module := _CALCULATORS[name].module) is None:
        raise _missing(name, f"there is no module {module}")


def _missing(name: str, why: object) -> EuhedralError:
    return EuhedralError(
        f"the potential {name!r} needs another package: pip install {_CALCULATORS[name].install} ({why})"
    )


def _by_name(name: str, device: str) -> Potential:
    if name in _CHGNET:
        return ChgnetPotential(_CHGNET[name], device=device)
    if name not in _CALCULATORS:
        raise ConfigError(f"no potential is called {name!r}; there are {', '.join(potential_names())}")
    try:
        calculator, title = _CALCULATORS[name].make(device)
    except ImportError as error:
        raise _missing(name, error) from error
    # Each package has its own ways to fail; most often it cannot download its weights.
    except Exception as error:
        raise EuhedralError(
            f"the potential {name!r} could not be made ({_with_causes(error)}). Where its package has no weights of its own it "
            "downloads them when it is first used: use it once where the network can be reached, or give module:function of "
            "your own that makes the calculator from a file of weights"
        ) from error
    return AsePotential(calculator, name=title)


def _with_causes(error: BaseException) -> str:
    """What an exception says, and the one that all came from."""
    first = error
    while (before := first.__cause__ or first.__context__) is not None:
        first = before
    told = (f"{type(one).__name__}: {' '.join(str(one).split())[:120]}" for one in dict.fromkeys((error, first)))
    return ", because of ".join(told)


def _mace(device: str) -> tuple[Calculator, str]:
    calculator = import_module("mace.calculators").mace_mp(model="medium-mpa-0", device=device, default_dtype="float64")
    return calculator, f"MACE-MPA-0 medium (mace-torch {_version('mace-torch')})"


def _sevenn(device: str) -> tuple[Calculator, str]:
    calculator = import_module("sevenn.calculator").SevenNetCalculator("7net-0", device=device)
    return calculator, f"SevenNet-0 (sevenn {_version('sevenn')})"


def _orb(device: str) -> tuple[Calculator, str]:
    made = import_module("orb_models.forcefield.pretrained").orb_v3_conservative_inf_omat(device=device)
    if isinstance(made, tuple):
        model, adapter = made
        calculator = import_module("orb_models.forcefield.inference.calculator").ORBCalculator
        found = calculator(model, atoms_adapter=adapter, device=device)
    else:  # before 0.6, the last release for Python 3.11
        found = import_module("orb_models.forcefield.calculator").ORBCalculator(made, device=device)
    return found, f"ORB v3 conservative inf OMat (orb-models {_version('orb-models')})"


def _mattersim(device: str) -> tuple[Calculator, str]:
    calculator = import_module("mattersim.forcefield").MatterSimCalculator(device=device)
    return calculator, f"MatterSim default (mattersim {_version('mattersim')})"


class _Known(NamedTuple):
    """A calculator that is known by name.

    Attributes:
        make: from a device to the calculator, and its title for records.
        module: that its package brings.
        install: what pip is to install.
    """

    make: Callable[[str], tuple[Any, str]]
    module: str
    install: str


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


_CHGNET: Mapping[str, str] = {"chgnet": "0.3.0", "chgnet-r2scan": "r2scan"}
assert set(_CHGNET.values()) == set(WEIGHTS)
_CALCULATORS: Mapping[str, _Known] = {
    "mace": _Known(_mace, "mace", "mace-torch"),
    "sevenn": _Known(_sevenn, "sevenn", "sevenn"),
    "orb": _Known(_orb, "orb_models", "orb-models"),
    "mattersim": _Known(_mattersim, "mattersim", "mattersim"),
}
