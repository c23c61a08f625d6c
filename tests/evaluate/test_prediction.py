from __future__ import annotations

import math

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.evaluate.comparison import Tolerances
from euhedral.evaluate.prediction import (
    ReferenceRecord,
    counted_rms,
    match_everyone,
    polymorph_groups,
    summarize_coverage,
)

CENTRE, FACE = [0.5, 0.5, 0.5], [0.5, 0.0, 0.0]


def binary(second: list[float], species: tuple[int, int] = (55, 17)) -> CrystalBatch:
    frac = torch.tensor([[0.0, 0.0, 0.0], second], dtype=torch.float64)
    return CrystalBatch.from_crystals([(4 * torch.eye(3, dtype=torch.float64), frac, torch.tensor(species))])


def broken() -> CrystalBatch:
    crystal = binary(CENTRE)
    crystal.frac[1, 0] = math.nan
    return crystal


def moved(shift: float) -> CrystalBatch:
    return binary([0.5 + shift / 4, 0.5, 0.5])


def rms_of(shift: float) -> float:
    return shift / 2 / (64 / 2) ** (1 / 3)


@pytest.fixture(scope="module")
def reference() -> CrystalBatch:
    others = [binary(CENTRE, species=(37, 17)), binary(CENTRE, species=(11, 17)), broken()]
    return CrystalBatch.concat([binary(CENTRE), binary(FACE), *others])


@pytest.fixture(scope="module")
def records(reference: CrystalBatch) -> list[ReferenceRecord]:
    predicted = [binary(FACE), moved(0.3), moved(0.2), binary([0.25, 0.25, 0.1], species=(37, 17)), broken()]
    calls: list[tuple[int, int]] = []
    found = match_everyone(
        CrystalBatch.concat(predicted), reference, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (7, 7)  # two references with three predictions, one with one
    return found


def test_any_prediction_counts_and_the_best_one_gives_the_rms(records: list[ReferenceRecord]) -> None:
    assert [record.index for record in records] == list(range(5))
    assert records[0].rms == pytest.approx(rms_of(0.2), rel=1e-6) and records[0].prediction == 2
    assert records[1].rms == pytest.approx(0, abs=1e-7) and records[1].prediction == 0
    assert [record.candidates for record in records] == [3, 3, 1, 0, 0]
    assert records[3].reason == "no prediction of this composition"
    assert records[4].reason == "reference: coordinate is not finite"


def test_metre_and_crmse_by_hand(reference: CrystalBatch, records: list[ReferenceRecord]) -> None:
    third = records[2].rms
    values = [rms_of(0.2), 0.0, 0.5 if third is None else third, 0.5, 0.5]
    matched = 2 + (third is not None)
    summary = summarize_coverage(reference, records)
    assert summary.references == 5 and summary.matched == matched
    assert summary.metre == pytest.approx(matched / 5)
    assert summary.crmse == pytest.approx(sum(values) / 5, abs=1e-7)
    assert counted_rms(records, Tolerances(stol=0.4))[3] == 0.4
    assert sum(summary.reasons.values()) == 5 - matched


def test_polymorphs_are_grouped_by_formula(reference: CrystalBatch, records: list[ReferenceRecord]) -> None:
    groups = polymorph_groups(reference, records)
    assert [(group.formula, group.references) for group in groups] == [
        ("CsCl", (0, 1, 4)),
        ("RbCl", (2,)),
        ("NaCl", (3,)),
    ]
    assert groups[0].matched == 2 and groups[0].covered == pytest.approx(2 / 3)
    summary = summarize_coverage(reference, records)
    assert (summary.groups, summary.polymorphs, summary.fully_covered) == (1, 3, 0)
    assert summary.polymorph_metre == pytest.approx(2 / 3)


def test_crystals_of_invalid_structure_match_nothing() -> None:
    """Although they equal a reference; as in the published code."""
    close, flat = binary([0.1, 0.0, 0.0]), binary(CENTRE)
    flat.cell[0] = torch.tensor([[4000.0, 0.0, 0.0], [0.0, 4.0, 0.0], [3999.9, 0.1, 2.0]], dtype=torch.float64)
    records = match_everyone(CrystalBatch.concat([close, flat]), CrystalBatch.concat([close, flat, binary(CENTRE)]))
    assert [record.candidates for record in records] == [0, 0, 0]
    assert [record.reason for record in records] == [
        "reference: atoms at most 0.5 Å apart",
        "reference: flat cell",
        "no prediction of this composition",
    ]


def test_an_unknown_element_is_a_group_of_its_own() -> None:
    reference = CrystalBatch.concat([binary(CENTRE, species=(0, 17)), binary(CENTRE, species=(0, 17))])
    records = match_everyone(binary(CENTRE), reference)
    assert [group.formula for group in polymorph_groups(reference, records)] == [None, None]


def test_nothing_to_match() -> None:
    summary = summarize_coverage(CrystalBatch.empty(), match_everyone(binary(CENTRE), CrystalBatch.empty()))
    assert summary.references == 0 and math.isnan(summary.metre) and math.isnan(summary.crmse)
    without = match_everyone(CrystalBatch.empty(), binary(CENTRE))
    assert summarize_coverage(binary(CENTRE), without).crmse == 0.5
