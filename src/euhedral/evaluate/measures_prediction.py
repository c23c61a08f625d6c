"""Figures of predicted crystals, each against the crystal that it should be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.data.worker_process import UNDECIDED
from euhedral.errors import CrystalError
from euhedral.evaluate.bootstrap import ratio_interval
from euhedral.evaluate.cache import joined_key
from euhedral.evaluate.context import Context, Measured, NotMeasurable, make_figure
from euhedral.evaluate.displacement import LARGEST_RMS, Displacement, relaxation_displacements
from euhedral.evaluate.matching import FILTERS, Filter, MatchRecord, match_pairs
from euhedral.evaluate.measures_crystal import (
    composition_verdicts,
    structure_verdicts,
    unbuildable,
)
from euhedral.evaluate.measures_set import tolerance_note, tolerances_of
from euhedral.evaluate.prediction import ReferenceRecord, counted_rms, match_everyone, polymorph_groups
from euhedral.evaluate.report import Failure, Figure, Parity

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.samples import Samples

_MATCH_VERSION = 2
_EVERYONE_VERSION = 3
_DISPLACEMENT_VERSION = 1
POINTS_SHOWN = 2000
_SUFFIX: Mapping[Filter, str] = {
    "unfiltered": "",
    "prediction_valid": "_prediction_valid",
    "both_valid": "_both_valid",
}
_MEANING: Mapping[Filter, str] = {
    "unfiltered": "all matches count",
    "prediction_valid": "matches of valid predictions count",
    "both_valid": "matches of valid predictions of valid references count",
}


def measure_match(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Match rate and RMSE at one and at k samples, under each filter."""
    reference = context.references()
    count = len(reference)
    if len(context.samples) != count * context.samples.draws:
        raise CrystalError(
            f"sample i answers reference i, but there are {len(context.samples)} samples in {context.samples.draws} "
            f"draw(s) for {count} references; give one sample a reference, or one source a draw"
        )
    records = match_records(context, settings)
    figures: list[Figure] = []
    for k in sorted({1, len(records)}):
        for kept in FILTERS:
            figures += _figures(context, records[:k], kept, tolerance_note(settings))
    broken = unbuildable(context, context.samples)
    flat = [record for draw in records for record in draw]
    failures = tuple(
        Failure(index=i, stage="match", reason=record.reason)
        for i, record in enumerate(flat)
        if record.reason is not None and record.reason != "no match" and broken[i] is None
    )
    return Measured(
        figures=tuple(figures),
        failures=failures,
        columns={
            "match_rms": [record.rms for record in flat],
            "match_reason": [record.reason for record in flat],
            "reference_index": [i % count for i in range(len(flat))],
        },
        parities=(_volumes(context, reference),),
    )


def match_records(context: Context, settings: Mapping[str, Any]) -> list[list[MatchRecord]]:
    """Outcome of each pair, `[draw][reference]`."""
    reference, draws = context.references(), context.samples.draws
    tolerances = tolerances_of(settings)

    def find() -> list[list[MatchRecord]]:
        from euhedral.crystal.batch import CrystalBatch

        predicted = context.crystals
        references = reference.crystals if draws == 1 else CrystalBatch.concat([reference.crystals] * draws)
        own, true = context.keys(predicted), context.keys(reference.crystals) * draws
        pair_keys = [joined_key(pair) for pair in zip(own, true, strict=True)]
        places: dict[bytes, int] = {}
        for i, key in enumerate(pair_keys):
            places.setdefault(key, i)
        kept = asdict(tolerances)
        cached = context.cache.get("match", _MATCH_VERSION, kept, pair_keys)
        missing = [i for key, i in places.items() if key not in cached]
        fresh = {
            pair_keys[i]: json.dumps([record.rms, record.reason, record.seconds]).encode()
            for i, record in zip(
                missing, _compared(context, predicted[missing], references[missing], settings), strict=True
            )
        }
        context.cache.put("match", _MATCH_VERSION, kept, fresh)
        results = {**cached, **fresh}
        flat = _with_problems(context, reference, [json.loads(results[key]) for key in pair_keys], settings["rule"])
        count = len(reference)
        return [flat[d * count : (d + 1) * count] for d in range(draws)]

    return context.once(("match", tolerances, settings["rule"]), find)


def _compared(
    context: Context, predicted: CrystalBatch, reference: CrystalBatch, settings: Mapping[str, Any]
) -> list[MatchRecord]:
    if not len(predicted):
        return []
    return match_pairs(
        predicted,
        reference,
        workers=context.workers,
        seconds_per_pair=context.seconds_per_crystal,
        tolerances=tolerances_of(settings),
        rule=settings["rule"],
        progress=context.reporter("match"),
    )


def _with_problems(
    context: Context, reference: Samples, outcomes: Sequence[Sequence[Any]], rule: Any
) -> list[MatchRecord]:
    """Records of all pairs, with why the prediction or the reference is not valid."""
    problems = []
    for samples in (context.samples, reference):
        structure, composition = structure_verdicts(context, samples), composition_verdicts(context, samples, rule)
        problems.append([s or (None if c.valid else c.reason) for s, c in zip(structure, composition, strict=True)])
    count = len(reference)
    return [
        MatchRecord(
            index=i % count,
            rms=rms,
            reason=context.samples.reasons[i] or reason,
            prediction_problem=problems[0][i],
            reference_problem=problems[1][i % count],
            seconds=seconds,
        )
        for i, (rms, reason, seconds) in enumerate(outcomes)
    ]


def _figures(context: Context, records: Sequence[Sequence[MatchRecord]], kept: Filter, note: str) -> list[Figure]:
    """Match rate and RMSE of the best of several draws under one filter."""
    best = np.array([_best(draws, kept) for draws in zip(*records, strict=True)], dtype=np.float64)
    matched = np.isfinite(best)
    at = "" if len(records) == 1 else f"_at_{len(records)}"
    rate, rmse = f"match.rate{_SUFFIX[kept]}{at}", f"match.rmse{_SUFFIX[kept]}{at}"
    words = f"{_MEANING[kept]}; {note}" + (f"; best of {len(records)}" if at else "")
    interval = ratio_interval(np.where(matched, best, 0.0), matched.astype(np.float64), rng=context.rng(rmse))
    return [
        context.share(rate, matched, note=words, better="higher"),
        make_figure(
            rmse,
            float(best[matched].mean()) if matched.any() else None,
            interval,
            samples=len(best),
            note=f"mean over {int(matched.sum())} matches of rms displacement / (V/N)^(1/3); {words}",
            better="lower",
        ),
    ]


def _best(records: Sequence[MatchRecord], kept: Filter) -> float:
    counted = [rms for record in records if (rms := record.counted_rms(kept)) is not None]
    return min(counted) if counted else np.nan


def _volumes(context: Context, reference: Samples) -> Parity:
    """Volume per atom of prediction and reference, of the first draw."""
    count = len(reference)
    own, true = unbuildable(context, context.samples), unbuildable(context, reference)
    sound = [i for i in range(count) if own[i] is None and true[i] is None][:POINTS_SHOWN]

    def volumes(batch: CrystalBatch) -> tuple[float, ...]:
        chosen = batch[sound]
        return tuple((chosen.volume.double() / chosen.num_atoms).tolist())

    return Parity(
        name="volume_per_atom",
        title="Volume per atom",
        unit="Å³",
        wanted=volumes(reference.crystals),
        obtained=volumes(context.crystals),
    )


def measure_relaxation(context: Context, settings: Mapping[str, Any]) -> Measured:
    """How far atoms move when a sample is relaxed, in Å: by MatterGen's rule, and of the samples that match themselves.

    The matcher's rms is in units of (V/N)^(1/3), with V the geometric mean of both volumes, to which it scales the two.
    """
    if context.relaxed is None:
        raise NotMeasurable("needs the samples after relaxation (--relaxed)")
    own, after = context.samples, context.relaxed
    records = _compared(context, own.crystals, after.crystals, {**settings, "rule": "cdvae"})
    rms = np.array([np.nan if record.rms is None else record.rms for record in records], dtype=np.float64)
    lengths = [
        (batch.volume.double() / batch.num_atoms.clamp(min=1)).pow(1 / 6).numpy()
        for batch in (own.crystals, after.crystals)
    ]
    displacements, moved = rms * lengths[0] * lengths[1], _moved(context, own, after)
    rmsd = np.array([np.nan if one.rmsd is None else one.rmsd for one in moved], dtype=np.float64)
    mapped = sum(one.mapped for one in moved)
    looser = f"MatterGen's rule; {mapped} could be mapped, the others count {LARGEST_RMS:g} (V/N)^(1/3)"
    strict, broken = tolerance_note(settings), unbuildable(context, own)
    return Measured(
        figures=(
            context.mean_of_known("relaxation.rmsd", rmsd, unit="Å", note=looser, better="lower"),
            context.mean_of_known("relaxation.rmsd_matched", displacements, unit="Å", note=strict, better="lower"),
            context.share("relaxation.matched", np.isfinite(rms), note=strict, better="higher"),
        ),
        failures=tuple(
            Failure(index=i, stage="relaxation", reason=reason)
            for i, record in enumerate(records)
            if (reason := after.reasons[i] or record.reason or moved[i].reason) is not None and broken[i] is None
        ),
        columns={
            "relaxation_rmsd": [_known(value) for value in rmsd],
            "relaxation_rmsd_matched": [_known(value) for value in displacements],
        },
    )


def _moved(context: Context, own: Samples, after: Samples) -> list[Displacement]:
    """Displacements by MatterGen's rule, from the cache where they are known."""

    def find() -> list[list[Any]]:
        found = relaxation_displacements(
            own.crystals,
            after.crystals,
            workers=context.workers,
            seconds_per_pair=context.seconds_per_crystal,
            progress=context.reporter("displacements"),
        )
        return [[one.rmsd, one.mapped, one.reason] for one in found]

    rows = context.for_all("displacements", _DISPLACEMENT_VERSION, {}, [own.crystals, after.crystals], find)
    return [Displacement(rmsd=rmsd, mapped=mapped, reason=reason) for rmsd, mapped, reason in rows]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def measure_everyone(context: Context, settings: Mapping[str, Any]) -> Measured:
    """METRe and cRMSE: every reference against all predictions of its composition."""
    reference, tolerances = context.references(), tolerances_of(settings)

    def find() -> list[list[Any]]:
        records = match_everyone(
            context.crystals,
            reference.crystals,
            workers=context.workers,
            seconds_per_pair=context.seconds_per_crystal,
            tolerances=tolerances,
            progress=context.reporter("match everyone"),
        )
        return [[record.rms, record.prediction, record.candidates, record.reason] for record in records]

    kept = asdict(tolerances)
    rows = context.for_all("match everyone", _EVERYONE_VERSION, kept, [context.crystals, reference.crystals], find)
    records = [
        ReferenceRecord(index=i, rms=rms, prediction=prediction, candidates=candidates, reason=reason)
        for i, (rms, prediction, candidates, reason) in enumerate(rows)
    ]
    matched = np.array([record.rms is not None for record in records], dtype=bool)
    groups = [group for group in polymorph_groups(reference.crystals, records) if len(group.references) > 1]
    several = np.array(sorted(i for group in groups for i in group.references), dtype=np.int64)
    note = f"of the references, all predictions of their composition; {tolerance_note(settings)}"
    undecided = sum(UNDECIDED in (record.reason or "") for record in records)
    if undecided:
        note = f"{note}; {undecided} not decided in time, which count as unmatched"
    figures = [
        context.share("match.metre", matched, note=note, better="higher"),
        context.mean(
            "match.crmse",
            np.array(counted_rms(records, tolerances)),
            note=f"an unmatched reference counts {tolerances.stol:g}; {note}",
            better="lower",
        ),
    ]
    if groups:
        words = f"of references that share their formula with another; {len(groups)} formulas; {note}"
        figures.append(context.share("match.metre_polymorphs", matched[several], note=words, better="higher"))
    return Measured(figures=tuple(figures))
