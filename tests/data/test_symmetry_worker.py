from __future__ import annotations

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.idealize import idealized
from euhedral.crystal.symmetry import reduced_cells, space_group
from euhedral.crystal.symmetry_search import symmetry_of
from euhedral.data.groups import space_group_keys
from euhedral.data.symmetry_worker import SymmetryWorker
from euhedral.errors import CrystalError
from euhedral.testing.crystals import rock_salt


def endless() -> CrystalBatch:
    """Three atoms of a generated crystal on which moyopy 0.21 does not end at 0.5 Å."""
    cell = [
        [2.7325379848480225, -0.7128095626831055, -0.24771113693714142],
        [-0.7128096222877502, 2.749319553375244, -0.11743372678756714],
        [-0.24771113693714142, -0.11743371188640594, 7.80712366104126],
    ]
    frac = [
        [0.5972997546195984, 0.3657737374305725, 0.8722326159477234],
        [0.9367154836654663, 0.9831535816192627, 0.5440952777862549],
        [0.2648273706436157, 0.8303986191749573, 0.18292154371738434],
    ]
    return CrystalBatch.from_crystals(
        [(torch.tensor(cell, dtype=torch.float64), torch.tensor(frac, dtype=torch.float64), [41, 41, 41])]
    )


def test_a_search_without_end_is_ended_and_the_next_one_runs() -> None:
    worker = SymmetryWorker(seconds=1.0)
    try:
        (cell,) = reduced_cells(endless())
        assert not isinstance(cell, CrystalError)
        with pytest.raises(CrystalError, match="not decided within 1 s"):
            worker.search(cell.request(0.5))
        (salt,) = reduced_cells(rock_salt())
        assert not isinstance(salt, CrystalError)
        found = worker.search(salt.request(0.1))
        assert found == symmetry_of(salt.request(0.1)) and found.number == 225 and len(found.rotations) == 48
    finally:
        worker.close()


def test_a_crystal_whose_search_has_no_end_gets_the_symmetry_of_a_tighter_tolerance() -> None:
    worker = SymmetryWorker(seconds=1.0)
    try:
        found = idealized(endless(), (0.5, 0.1), search=worker.search)
        assert torch.allclose(found.cell, idealized(endless(), (0.1,)).cell)
        with pytest.raises(CrystalError, match="too close"):
            (cell,) = reduced_cells(rock_salt())
            worker.search(cell.request(5.0))  # type: ignore[union-attr]
    finally:
        worker.close()


def test_keys_of_space_groups_are_zero_where_a_search_has_no_end() -> None:
    batch = CrystalBatch.concat([endless(), rock_salt().to(torch.float64)])
    assert space_group_keys(batch, 0.5, seconds_per_crystal=1.0) == ["0", "225"]


def test_space_groups_are_those_of_the_search_in_this_process() -> None:
    overlapping = CrystalBatch.from_crystals(
        [(3 * torch.eye(3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64), [26, 26])]
    )
    batch = CrystalBatch.concat([rock_salt().to(torch.float64), overlapping, endless()])
    worker = SymmetryWorker()
    try:
        found = space_group(batch, 0.1, search=worker.search)
    finally:
        worker.close()
    assert found[0] == space_group(batch, 0.1)[0] and found[0].symbol == "F m -3 m"
    assert found[1].number == 0 and found[1].error is not None
    assert found[2] == space_group(batch, 0.1)[2]
