"""What two sets share, against overlaps that are made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.crystal_sources import cif, csv_text
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.convert import convert
from euhedral.data.groups import chemical_system_keys, content_keys, formula_keys, space_group_keys
from euhedral.data.leakage import leakage, overlap
from euhedral.data.store import CrystalStore


def store(folder: Path, name: str, rows: list[tuple[str, str]]) -> CrystalStore:
    path = folder / f"{name}.csv"
    path.write_text(csv_text(rows, "material_id,cif"))
    return CrystalStore.open(convert(path, folder / f"{name}.arrow").store)


def batch(*crystals: tuple[list[int], int]) -> CrystalBatch:
    """Random places for these species, by seed."""
    made = []
    for species, seed in crystals:
        rng = torch.Generator().manual_seed(seed)
        made.append((5 * torch.eye(3), torch.rand(len(species), 3, generator=rng), torch.tensor(species)))
    return CrystalBatch.from_crystals(made)


def test_each_kind_is_counted_by_itself(tmp_path: Path):
    train = store(tmp_path, "train", [("a", cif(["Li", "O"], seed=1)), ("b", cif(["Na", "Cl"], seed=2))])
    test = store(
        tmp_path,
        "test",
        [
            ("a", cif(["Fe", "S"], seed=3)),  # id only
            ("x", cif(["Li", "O"], seed=1)),  # the crystal itself under another name
            ("y", cif(["O", "Li"], seed=9)),  # another crystal of the same compound
            ("z", cif(["Na", "Na", "Cl"], seed=4)),  # the same elements only
        ],
    )
    found = {one.kind: one for one in leakage(train, test)}
    assert list(found) == ["id", "exact content", "reduced formula", "chemical system"]
    assert found["id"].test_rows == (0,) and found["id"].train_rows == (0,) and found["id"].examples == ("a",)
    assert found["exact content"].test_rows == (1,) and found["exact content"].examples == ("x",)
    assert found["reduced formula"].test_rows == (1, 2) and found["reduced formula"].train_rows == (0,)
    assert found["reduced formula"].examples == ("Li2O2",)
    assert found["chemical system"].test_rows == (1, 2, 3) and found["chemical system"].share == 0.75
    assert found["chemical system"].to_dict() == {
        "kind": "chemical system",
        "test_crystals": 3,
        "share": 0.75,
        "train_crystals": 2,
        "examples": ["Li-O", "Cl-Na"],
        "undecided": 0,
    }


def test_a_set_shares_all_with_itself(tmp_path: Path, small_csv: Path):
    one = CrystalStore.open(convert(small_csv, tmp_path / "one.arrow").store)
    assert [found.share for found in leakage(one, one)] == [1.0] * 4


@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_overlap_is_that_of_the_sets(train, test):
    found = overlap("id", train, test, test)
    assert {test[i] for i in found.test_rows} == {train[i] for i in found.train_rows} == set(train) & set(test)
    assert found.share == sum(key in train for key in test) / len(test)
    assert len(found.examples) == len(set(train) & set(test))


@given(st.integers(0, 10_000), st.integers(2, 9))
def test_content_does_not_depend_on_the_order_of_atoms_but_on_every_number(seed, atoms):
    rng = torch.Generator().manual_seed(seed)
    species = torch.randint(1, 119, (atoms,), generator=rng)
    one = CrystalBatch.from_crystals([(4 * torch.eye(3), torch.rand(atoms, 3, generator=rng), species)])
    order = torch.randperm(atoms, generator=rng)
    shuffled = CrystalBatch(frac=one.frac[order], cell=one.cell, species=one.species[order], num_atoms=one.num_atoms)
    moved = CrystalBatch(frac=one.frac.roll(1, 0), cell=one.cell * 1.001, species=one.species, num_atoms=one.num_atoms)
    both = CrystalBatch.concat([shuffled, moved, one])
    keys = content_keys(both)
    assert keys[0] == keys[2] == content_keys(one)[0] and keys[1] != keys[2]


def test_keys_of_formula_and_system():
    made = batch(([3, 3, 8, 8, 25, 25], 0), ([8, 3], 1), ([8], 2), ([20, 20, 20, *[15, 15], *[8] * 8], 3))
    assert formula_keys(made) == ["LiMnO", "Li2O2", "O2", "Ca3(PO4)2"]
    assert chemical_system_keys(made) == ["Li-Mn-O", "Li-O", "O", "Ca-O-P"]
    assert formula_keys(CrystalBatch.empty()) == chemical_system_keys(CrystalBatch.empty()) == []
    assert content_keys(CrystalBatch.empty()) == []


def test_keys_of_space_groups_name_failures_zero():
    cube = CrystalBatch.from_crystals([(4 * torch.eye(3), torch.zeros(1, 3), torch.tensor([26]))])
    clash = CrystalBatch.from_crystals([(4 * torch.eye(3), torch.zeros(2, 3), torch.tensor([26, 26]))])
    assert space_group_keys(CrystalBatch.concat([cube, clash])) == ["221", "0"]


def test_empty_sets_are_refused(tmp_path: Path):
    from euhedral.errors import DataError

    class Empty:
        path = "empty.arrow"

        def __len__(self) -> int:
            return 0

    one = store(tmp_path, "one", [("a", cif(["Li"]))])
    with pytest.raises(DataError, match=r"the test set 'empty\.arrow' holds no crystals"):
        leakage(one, Empty())  # type: ignore[arg-type]
