from pathlib import Path

import pytest
import torch

from euhedral.catalog.dft_inputs import write_dft_inputs
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError


def _salt(first: int = 11) -> CrystalBatch:
    cell = 2.8 * torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)
    frac = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([first, 17]))])


def test_both_codes_get_the_crystal_back_as_it_was(tmp_path: Path):
    from ase.io import read
    from pymatgen.core import Structure
    from pymatgen.io.vasp.inputs import Incar

    crystal = _salt()
    assert write_dft_inputs(crystal, ["0001_NaCl"], tmp_path) == {}
    vasp, espresso = tmp_path / "vasp" / "0001_NaCl", tmp_path / "espresso" / "0001_NaCl"
    (given,) = crystal.to_pymatgen()
    assert Structure.from_file(vasp / "POSCAR").matches(given, scale=False)
    assert Incar.from_file(vasp / "INCAR")["ENCUT"] == 520
    assert (vasp / "POTCAR.spec").read_text().split() == ["Na_pv", "Cl"]
    atoms = read(espresso / "espresso.pwi", format="espresso-in")
    assert atoms.get_chemical_symbols() == ["Na", "Cl"]  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.allclose(torch.tensor(atoms.cell.array), crystal.cell[0], atol=1e-8)  # pyright: ignore[reportAttributeAccessIssue]


def test_what_the_set_has_no_parameters_for_is_a_problem_of_that_crystal(tmp_path: Path):
    problems = write_dft_inputs(CrystalBatch.concat([_salt(118), _salt()]), ["a", "b"], tmp_path, codes=["vasp"])
    assert list(problems) == ["vasp/a"]
    assert (tmp_path / "vasp" / "b" / "INCAR").is_file()


def test_unknown_codes_and_missing_names_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="abinit"):
        write_dft_inputs(_salt(), ["a"], tmp_path, codes=["abinit"])
    with pytest.raises(ConfigError, match="one name a crystal"):
        write_dft_inputs(_salt(), [], tmp_path)
