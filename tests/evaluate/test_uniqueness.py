from __future__ import annotations

import math

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.evaluate.comparison import Comparison, Outcomes, local_task, plain_crystals
from euhedral.evaluate.uniqueness import (
    DuplicateRecord,
    _records,
    find_duplicates,
    known_formula_mask,
    reduced_formulas,
    unique_mask,
    unique_share,
)


def binary(second: list[float], length: float = 4.0, species: tuple[int, int] = (55, 17)) -> CrystalBatch:
    frac = torch.tensor([[0.0, 0.0, 0.0], second], dtype=torch.float64)
    return CrystalBatch.from_crystals([(length * torch.eye(3, dtype=torch.float64), frac, torch.tensor(species))])


def doubled(batch: CrystalBatch) -> CrystalBatch:
    cell = batch.cell[0] * torch.tensor([[2.0], [1.0], [1.0]], dtype=torch.float64)
    frac = torch.cat([(batch.frac + torch.tensor([k, 0.0, 0.0])) / torch.tensor([2.0, 1.0, 1.0]) for k in (0, 1)])
    return CrystalBatch.from_crystals([(cell, frac, batch.species.repeat(2))])


CENTRE, FACE = [0.5, 0.5, 0.5], [0.5, 0.0, 0.0]


def test_duplicates_point_to_the_first_of_their_kind() -> None:
    broken = binary(CENTRE)
    broken.frac[1, 0] = math.nan
    batch = CrystalBatch.concat(
        [
            binary(CENTRE),  # 0
            binary(FACE),  # 1 another structure of the same formula
            binary([0.51, 0.5, 0.5]),  # 2 nearly 0
            binary(CENTRE, species=(37, 17)),  # 3 another formula, same structure
            doubled(binary(FACE)),  # 4 supercell of 1
            broken,  # 5
            binary(CENTRE, length=4.2),  # 6 0, scaled
        ]
    )
    calls: list[tuple[int, int]] = []
    records = find_duplicates(batch, progress=lambda done, total: calls.append((done, total)))
    assert [r.duplicate_of for r in records] == [None, None, 0, None, 1, None, 0]
    assert [r.unique for r in records] == [True, True, False, True, False, False, False]
    assert records[5].reason == "coordinate is not finite"
    assert unique_share(records) == pytest.approx(3 / 7)
    assert calls == [(1, 1)]  # one bucket holds more than one crystal


def test_the_mask_is_that_of_the_records() -> None:
    batch = CrystalBatch.concat([binary(CENTRE), binary(CENTRE), binary(FACE)])
    assert unique_mask(batch).tolist() == [True, False, True]


def test_nothing_to_compare() -> None:
    assert unique_mask(CrystalBatch.empty()).shape == (0,)
    assert math.isnan(unique_share([]))
    assert unique_mask(binary(CENTRE)).tolist() == [True]


def test_an_undecided_pair_is_not_unique_and_starts_no_kind() -> None:
    late = Comparison(matched=False, reason="not decided within 1 s")
    crystals = plain_crystals(CrystalBatch.concat([binary(CENTRE)] * 8))
    local = local_task("sift", crystals, [[4, 5, 6, 7]], rms=False)
    outcomes = Outcomes(by_pair={(1, 0): late, (3, 0): late, (3, 2): Comparison(matched=True)})
    records = _records(local, outcomes)
    assert records[1] == DuplicateRecord(index=5, duplicate_of=None, reason="against crystal 4: not decided within 1 s")
    assert [r.unique for r in records] == [True, False, True, False]
    assert records[3] == DuplicateRecord(index=7, duplicate_of=6, reason=None)  # a match settles what was undecided


def test_formulas_are_reduced_and_known_ones_found() -> None:
    unknown = binary(CENTRE, species=(55, 0))
    batch = CrystalBatch.concat([binary(CENTRE), doubled(binary(CENTRE)), binary(CENTRE, species=(8, 12)), unknown])
    assert reduced_formulas(batch) == ["CsCl", "CsCl", "MgO", None]
    assert known_formula_mask(batch, {"MgO", "LiF"}).tolist() == [False, False, True, False]
    assert known_formula_mask(CrystalBatch.empty(), {"MgO"}).tolist() == []


def test_workers_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        find_duplicates(binary(CENTRE), workers=0)
