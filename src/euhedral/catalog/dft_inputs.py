"""Hand-over to density-functional theory: input folders of VASP and Quantum ESPRESSO for crystals of a screening.

VASP gets the Materials Project's relaxation set as pymatgen has it. Its pseudopotentials are licensed: where pymatgen knows no
folder of them (PMG_VASP_PSP_DIR), `POTCAR.spec` names the ones that the set is made for.
Quantum ESPRESSO gets a relaxation of cell and positions, whose cutoffs are a beginning for the SSSP efficiency library and
whose pseudopotentials are named by element, to be put in place of `Cu.upf` and the like.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

CUTOFF = 60.0
"""Of the wave functions, Ry."""
DENSITY_CUTOFF = 480.0
"""Of the charge density, Ry."""
K_SPACING = 0.03
"""Between points of the reciprocal grid, 1/Å without the factor 2π."""


def write_dft_inputs(
    crystals: CrystalBatch, names: Sequence[str], folder: str | Path, *, codes: Sequence[str] = ("vasp", "espresso")
) -> dict[str, str]:
    """Write `folder/CODE/NAME/` for each crystal; files that are there are replaced.

    Args:
        crystals: to be calculated.
        names: of their folders.
        folder: made where it is missing.
        codes: of CODES.

    Returns:
        Why no input could be made, by 'code/name'; empty where all could.

    Raises:
        ConfigError: on an unknown code, or other than one name a crystal.
        OutputError: where nothing can be written.
    """
    if unknown := [code for code in codes if code not in CODES]:
        raise ConfigError(f"no inputs are made for {', '.join(unknown)}; there are {', '.join(CODES)}")
    if len(names) != len(crystals):
        raise ConfigError(f"expected one name a crystal: {len(names)} names, {len(crystals)} crystals")
    problems: dict[str, str] = {}
    for crystal, name in zip(crystals, names, strict=True):
        for code in codes:
            target = Path(folder) / code / name
            try:
                target.mkdir(parents=True, exist_ok=True)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    CODES[code](crystal, target)
            except OSError as error:
                raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
            # The sets refuse what they have no parameters for, each in its own words.
            except Exception as error:
                problems[f"{code}/{name}"] = f"{type(error).__name__}: {error}"[:300]
    return problems


def _write_vasp(crystal: CrystalBatch, target: Path) -> None:
    from pymatgen.core import SETTINGS
    from pymatgen.io.vasp.sets import MPRelaxSet

    (structure,) = crystal.to_pymatgen()
    inputs = MPRelaxSet(structure)
    inputs.write_input(str(target), potcar_spec=not SETTINGS.get("PMG_VASP_PSP_DIR"))


def _write_espresso(crystal: CrystalBatch, target: Path) -> None:
    from ase.io import write

    (atoms,) = crystal.to_ase()
    data: dict[str, Any] = {
        "control": {"calculation": "vc-relax", "pseudo_dir": "./", "outdir": "./out", "tprnfor": True, "tstress": True},
        "system": {
            "ecutwfc": CUTOFF,
            "ecutrho": DENSITY_CUTOFF,
            "occupations": "smearing",
            "smearing": "mv",
            "degauss": 0.01,
        },
        "electrons": {"conv_thr": 1e-8 * len(atoms)},
    }
    pseudopotentials = {symbol: f"{symbol}.upf" for symbol in sorted(set(atoms.get_chemical_symbols()))}
    write(
        target / "espresso.pwi",
        atoms,
        format="espresso-in",
        input_data=data,
        pseudopotentials=pseudopotentials,
        kspacing=K_SPACING,
    )


CODES: Mapping[str, Callable[[CrystalBatch, Path], None]] = {"vasp": _write_vasp, "espresso": _write_espresso}
"""Codes that inputs are made for."""
