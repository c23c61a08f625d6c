from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, CrystalError
from euhedral.evaluate.matching import (
    CSP_TOLERANCES,
    MatchRecord,
    match_pairs,
    match_samples,
    summarize_at,
    summarize_matches,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data"
CSCL = 4.0


def pair(shift: float = 0.0, *, length: float = CSCL, species: tuple[int, int] = (55, 17)) -> CrystalBatch:
    """CsCl with the second atom moved by `shift` Å along x."""
    frac = torch.tensor([[0.0, 0.0, 0.0], [0.5 + shift / length, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(length * torch.eye(3, dtype=torch.float64), frac, torch.tensor(species))])


def doubled(batch: CrystalBatch) -> CrystalBatch:
    """Twice the cell along a."""
    cell = batch.cell[0] * torch.tensor([[2.0], [1.0], [1.0]], dtype=torch.float64)
    frac = torch.cat([(batch.frac + torch.tensor([k, 0.0, 0.0])) / torch.tensor([2.0, 1.0, 1.0]) for k in (0, 1)])
    return CrystalBatch.from_crystals([(cell, frac, batch.species.repeat(2))])


def expected_rms(shift: float) -> float:
    """Each of the two atoms is off by half the shift once the origin is shared; in units of (V/N)^(1/3)."""
    return (shift / 2) / (CSCL**3 / 2) ** (1 / 3)


def turned(batch: CrystalBatch) -> CrystalBatch:
    """The same crystal with atoms reversed, the origin moved and the axes rotated in space."""
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    rotation = rotation * torch.sign(torch.linalg.det(rotation))
    frac = batch.frac.flip(0) + torch.tensor([0.3, 0.8, 0.1], dtype=torch.float64)
    return CrystalBatch.from_crystals([(batch.cell[0] @ rotation, frac, batch.species.flip(0))])


def broken(kind: str) -> CrystalBatch:
    good = pair()
    cell, frac, species = good.cell.clone(), good.frac.clone(), good.species.clone()
    if kind == "nan":
        frac[1, 2] = math.nan
    elif kind == "flat":
        cell[0, 2] = cell[0, 1]
    elif kind == "coincident":
        frac[1] = frac[0]
    elif kind == "unknown":
        species[1] = 0
    return CrystalBatch(frac=frac, cell=cell, species=species, num_atoms=good.num_atoms)


@pytest.fixture(scope="module")
def records() -> list[MatchRecord]:
    """All analytic pairs at once, since a worker process takes a second to start."""
    predicted = [
        pair(),  # 0 identical
        pair(0.3),  # 1 shifted
        doubled(pair(0.3)),  # 2 the same in a supercell
        turned(pair(0.3)),  # 3 the same turned
        pair(0.3, length=4.4),  # 4 scaled: only the shape counts; 0.3 Å of 4.4
        pair(species=(37, 17)),  # 5 wrong species
        broken("nan"),  # 6
        broken("flat"),  # 7
        broken("coincident"),  # 8
        broken("unknown"),  # 9
        pair(),  # 10 against a broken reference
        pair(length=4.0, species=(55, 55)),  # 11 wrong ratio
    ]
    reference = [pair()] * 10 + [broken("nan"), pair()]
    calls: list[tuple[int, int]] = []
    found = match_pairs(
        CrystalBatch.concat(predicted),
        CrystalBatch.concat(reference),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (12, 12)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    return found


def test_identical_crystals_match_exactly(records: list[MatchRecord]) -> None:
    assert records[0].rms == pytest.approx(0, abs=1e-9)
    assert records[0].reason is None


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_shift_gives_its_analytic_rms_in_any_setting(records: list[MatchRecord], index: int) -> None:
    assert records[index].rms == pytest.approx(expected_rms(0.3), rel=1e-6)


def test_the_volume_does_not_count(records: list[MatchRecord]) -> None:
    assert records[4].rms == pytest.approx(expected_rms(0.3 * CSCL / 4.4), rel=1e-6)


def test_what_cannot_match_is_a_record_with_its_reason(records: list[MatchRecord]) -> None:
    assert [record.index for record in records] == list(range(12))
    for index, reason in {
        5: "composition differs",
        6: "prediction: coordinate is not finite",
        7: "prediction: volume",
        9: "prediction: unknown element",
        10: "reference: coordinate is not finite",
        11: "composition differs",
    }.items():
        record = records[index]
        assert record.rms is None and record.reason is not None
        assert record.reason.startswith(reason), record
    assert records[8].prediction_problem is not None
    assert "0.5 Å apart" in records[8].prediction_problem
    assert records[10].reference_problem is not None


def test_failures_stay_in_the_denominator(records: list[MatchRecord]) -> None:
    summary = summarize_matches(records)
    plain = summary.figures["unfiltered"]
    values = [r.rms for r in records if r.rms is not None]
    assert summary.pairs == 12 and plain.matched == len(values) >= 5
    assert plain.match_rate == pytest.approx(len(values) / 12)
    assert plain.rmse == pytest.approx(sum(values) / len(values))
    assert summary.reasons["composition differs"] == 2
    assert json.loads(json.dumps(summary.to_dict()))["figures"]["unfiltered"]["matched"] == plain.matched
    assert "pymatgen" in summary.matcher and "smact14" in summary.rule


def record(rms: float | None, prediction: str | None = None, reference: str | None = None, index: int = 0):
    return MatchRecord(
        index=index,
        rms=rms,
        reason=None if rms is not None else "no match",
        prediction_problem=prediction,
        reference_problem=reference,
        seconds=0.0,
    )


def test_filters_follow_the_two_published_scripts() -> None:
    summary = summarize_matches([record(0.1), record(0.2, "bad"), record(0.3, None, "bad"), record(None)])
    assert {name: f.match_rate for name, f in summary.figures.items()} == {
        "unfiltered": 0.75,
        "prediction_valid": 0.5,
        "both_valid": 0.25,
    }
    assert summary.figures["prediction_valid"].rmse == pytest.approx(0.2)


def test_the_best_of_k_counts() -> None:
    first = [record(0.3), record(None), record(0.1, "bad"), record(None)]
    second = [record(0.1), record(0.2), record(0.4), record(None)]
    at = summarize_at([first, second], [1, 2])
    assert at[1].figures["unfiltered"].match_rate == 0.5
    assert at[2].figures["unfiltered"].match_rate == 0.75
    assert at[2].figures["unfiltered"].rmse == pytest.approx((0.1 + 0.2 + 0.1) / 3)
    # A better rms of an invalid prediction does not count where only valid ones do.
    assert at[2].figures["prediction_valid"].rmse == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert at[2].samples == 2 and at[2].pairs == 4


def test_nothing_matched_has_no_rmse() -> None:
    figures = summarize_matches([record(None)]).figures["unfiltered"]
    assert figures.match_rate == 0 and figures.rmse is None
    assert math.isnan(summarize_matches([]).figures["unfiltered"].match_rate)


@pytest.mark.parametrize("k", [0, 2])
def test_more_samples_than_there_are_is_an_error(k: int) -> None:
    with pytest.raises(ConfigError, match="there are 1 samples"):
        summarize_at([[record(0.1)]], [k])


def test_samples_are_matched_in_order_and_by_several_workers() -> None:
    references = CrystalBatch.concat([pair(), pair(species=(37, 17))])
    samples = [
        CrystalBatch.concat([pair(0.2), pair(0.2)]).to(torch.float32),
        CrystalBatch.concat([pair(), pair(species=(37, 17))]),
    ]
    found = match_samples(samples, references, workers=2)
    assert [[r.rms is not None for r in sample] for sample in found] == [[True, False], [True, True]]
    assert found[0][0].rms == pytest.approx(expected_rms(0.2), rel=1e-4)
    at = summarize_at(found, [1, 2])
    assert at[1].figures["both_valid"].match_rate == 0.5 and at[2].figures["both_valid"].match_rate == 1


def test_batches_of_other_lengths_are_refused() -> None:
    with pytest.raises(CrystalError, match="as many predictions as references, but 1 and 2"):
        match_pairs(pair(), CrystalBatch.concat([pair(), pair()]))
    with pytest.raises(CrystalError, match="sample 1 has 2 crystals for 1"):
        match_samples([pair(), CrystalBatch.concat([pair(), pair()])], pair())


@pytest.mark.parametrize("options", [{"workers": 0}, {"seconds_per_pair": 0.0}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        match_pairs(pair(), pair(), **options)


def test_no_pairs_need_no_process() -> None:
    assert match_pairs(CrystalBatch.empty(), CrystalBatch.empty()) == []
    assert match_samples([], CrystalBatch.empty()) == []


def test_real_crystals_match_themselves() -> None:
    path = DATA / "mp_20" / "val.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    from pymatgen.core import Structure

    structures = []
    with gzip.open(path, "rt") as lines:
        for row, _ in zip(csv.DictReader(lines), range(100), strict=False):
            structures.append(Structure.from_str(row["cif"], fmt="cif"))
    batch = CrystalBatch.from_crystals(
        [
            (torch.tensor(s.lattice.matrix.copy()), torch.tensor(s.frac_coords), torch.tensor(s.atomic_numbers))
            for s in structures
        ]
    )
    summary = summarize_matches(match_pairs(batch, batch, workers=2))
    assert summary.pairs == 100
    assert summary.figures["unfiltered"].match_rate == 1
    assert summary.figures["unfiltered"].rmse == pytest.approx(0, abs=1e-6)
    assert summary.figures["both_valid"].matched < 100  # the published filter drops part of the true crystals
    assert summary.figures["both_valid"].matched > 80
    assert summary.tolerances == CSP_TOLERANCES
