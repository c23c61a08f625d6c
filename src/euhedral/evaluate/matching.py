"""Match rate and RMSE of predicted crystals against references, by the convention of the prediction benchmarks.

A prediction matches if StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10) maps it onto its reference, by `matcher`'s
implementation of pymatgen's rules; the
RMSE is the mean over the matched pairs of the rms displacement divided by (V/N)^(1/3) (CDVAE, Xie et al., ICLR 2022;
DiffCSP, Jiao et al., NeurIPS 2023). Pairs are one to one and each stays in the denominator. Published scripts drop
matches of crystals that fail the validity checks, and differ in whose: figures are given for each convention by name.
The published scripts also call a crystal invalid where CrystalNN fails to give a fingerprint; that is not done here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from euhedral.errors import ConfigError, CrystalError
from euhedral.evaluate.comparison import (
    Comparison,
    Progress,
    Tolerances,
    compare_pairs,
    plain_crystals,
)
from euhedral.evaluate.validity import (
    CompositionRule,
    assess,
    composition_counts,
    construction_problems,
    describe_rule,
)

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

CSP_TOLERANCES = Tolerances(stol=0.5, ltol=0.3, angle_tol=10.0)
"""Tolerances of the published prediction benchmarks."""

Filter = Literal["unfiltered", "prediction_valid", "both_valid"]
"""Which matches count: all; those of a valid prediction (the published script for several samples); those where the
reference is valid too (the published script for one sample)."""
FILTERS: tuple[Filter, ...] = get_args(Filter)


@dataclass(frozen=True, kw_only=True)
class MatchRecord:
    """Outcome of one pair.

    Attributes:
        index: position of the pair.
        rms: normalised rms displacement, or None where the pair does not match.
        reason: why there is no rms, or None.
        prediction_problem: why the prediction is not valid, or None.
        reference_problem: why the reference is not valid, or None.
        seconds: time of the comparison.
    """

    index: int
    rms: float | None
    reason: str | None
    prediction_problem: str | None
    reference_problem: str | None
    seconds: float

    def counted_rms(self, kept: Filter) -> float | None:
        """The rms if the pair counts as matched under a filter, else None."""
        if kept != "unfiltered" and self.prediction_problem is not None:
            return None
        if kept == "both_valid" and self.reference_problem is not None:
            return None
        return self.rms


@dataclass(frozen=True, kw_only=True)
class MatchFigures:
    """Match rate in [0, 1] over all pairs, and RMSE over the matched (None if there are none)."""

    matched: int
    match_rate: float
    rmse: float | None


@dataclass(frozen=True, kw_only=True)
class MatchSummary:
    """Figures of all pairs under each filter, with what is needed to repeat them.

    Attributes:
        pairs: references, the denominator of the match rate.
        samples: predictions for each reference of which the best counts.
        figures: by filter.
        tolerances: of the matcher.
        rule: composition rule of the validity checks.
        matcher: tool and version.
        reasons: how often each reason for not matching occurred, over all samples.
    """

    pairs: int
    samples: int
    figures: dict[Filter, MatchFigures]
    tolerances: Tolerances
    rule: str
    matcher: str
    reasons: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values, ready for JSON."""
        return asdict(self)


def match_pairs(
    predicted: CrystalBatch,
    reference: CrystalBatch,
    *,
    workers: int = 1,
    seconds_per_pair: float = 60.0,
    tolerances: Tolerances = CSP_TOLERANCES,
    rule: CompositionRule = "cdvae",
    progress: Progress | None = None,
) -> list[MatchRecord]:
    """Compare crystal i of `predicted` with crystal i of `reference`, for every i.

    Args:
        predicted: one prediction a reference.
        reference: the true crystals.
        workers: processes, one thread each.
        seconds_per_pair: a pair that takes longer is ended and recorded as not matched.
        tolerances: of the matcher; the default is the published convention.
        rule: composition rule for the filtered figures.
        progress: called with (done, total) in the calling thread.

    Returns:
        One record a pair, in order.

    Raises:
        CrystalError: if the batches differ in length.
        ConfigError: on an unknown rule, no workers or a time limit that is not positive.
    """
    if len(predicted) != len(reference):
        raise CrystalError(
            f"pairs need as many predictions as references, but {len(predicted)} and {len(reference)} came"
        )
    problems = [[record.problem for record in assess(batch, rule)] for batch in (predicted, reference)]
    outcomes = _compare_pairs(
        predicted,
        reference,
        workers=workers,
        seconds_per_pair=seconds_per_pair,
        tolerances=tolerances,
        progress=progress,
    )
    return [
        MatchRecord(
            index=i,
            rms=outcome.rms,
            reason=outcome.reason,
            prediction_problem=problems[0][i],
            reference_problem=problems[1][i],
            seconds=outcome.seconds,
        )
        for i, outcome in enumerate(outcomes)
    ]


def match_samples(samples: Sequence[CrystalBatch], reference: CrystalBatch, **options: Any) -> list[list[MatchRecord]]:
    """Compare several predictions for each reference; `options` are those of `match_pairs`.

    Args:
        samples: each a batch with one prediction a reference, in the order of `reference`.
        reference: the true crystals.

    Returns:
        Records by sample and reference, `[sample][reference]`.

    Raises:
        CrystalError: if a sample has another number of crystals than `reference`.
    """
    from euhedral.crystal.batch import CrystalBatch

    count = len(reference)
    for k, sample in enumerate(samples):
        if len(sample) != count:
            raise CrystalError(f"sample {k} has {len(sample)} crystals for {count} references")
    # Predictions are often float32 and references float64; the comparison itself is in float64.
    predicted = CrystalBatch.concat([sample.to(reference.cell.dtype) for sample in samples])
    records = match_pairs(predicted, CrystalBatch.concat([reference] * len(samples)), **options)
    return [records[k * count : (k + 1) * count] for k in range(len(samples))]


def summarize_matches(
    records: Sequence[MatchRecord],
    *,
    tolerances: Tolerances = CSP_TOLERANCES,
    rule: CompositionRule = "cdvae",
) -> MatchSummary:
    """Match rate and RMSE under each filter for one prediction a reference; state what `match_pairs` was given."""
    return summarize_at([records], [1], tolerances=tolerances, rule=rule)[1]


def summarize_at(
    records: Sequence[Sequence[MatchRecord]],
    samples: Iterable[int],
    *,
    tolerances: Tolerances = CSP_TOLERANCES,
    rule: CompositionRule = "cdvae",
) -> dict[int, MatchSummary]:
    """Figures of the best of the first k predictions for each reference, for each k of `samples`.

    A reference counts as matched at k if any of its first k predictions does; its smallest rms enters the RMSE.

    Args:
        records: `[sample][reference]`, as `match_samples` gives them.
        samples: the numbers k.

    Raises:
        ConfigError: if k is below 1 or above the samples that there are.
    """
    summaries = {}
    for k in samples:
        if not 1 <= k <= len(records):
            raise ConfigError(f"the best of {k} was asked for, but there are {len(records)} samples")
        first = records[:k]
        reasons = Counter(r.reason for sample in first for r in sample if r.reason is not None)
        summaries[k] = MatchSummary(
            pairs=len(first[0]),
            samples=k,
            figures={kept: _figures(first, kept) for kept in FILTERS},
            tolerances=tolerances,
            rule=describe_rule(rule),
            matcher=_matcher_version(),
            reasons=dict(reasons.most_common()),
        )
    return summaries


def _figures(records: Sequence[Sequence[MatchRecord]], kept: Filter) -> MatchFigures:
    best = []
    for predictions in zip(*records, strict=True):
        counted = [rms for record in predictions if (rms := record.counted_rms(kept)) is not None]
        if counted:
            best.append(min(counted))
    pairs = len(records[0])
    return MatchFigures(
        matched=len(best),
        match_rate=len(best) / pairs if pairs else math.nan,
        rmse=math.fsum(best) / len(best) if best else None,
    )


def _compare_pairs(
    predicted: CrystalBatch,
    reference: CrystalBatch,
    *,
    workers: int,
    seconds_per_pair: float,
    tolerances: Tolerances,
    progress: Progress | None,
) -> list[Comparison]:
    outcomes = _decided_beforehand(predicted, reference)
    open_pairs = [i for i, outcome in enumerate(outcomes) if outcome is None]
    settled, total = len(outcomes) - len(open_pairs), len(outcomes)
    if progress is not None and settled:
        progress(settled, total)

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(settled + done, total)

    crystals = plain_crystals(predicted) + plain_crystals(reference)
    found = compare_pairs(
        crystals,
        [(i, len(predicted) + i) for i in open_pairs],
        tolerances=tolerances,
        rms=True,
        seconds_per_pair=seconds_per_pair,
        workers=workers,
        progress=report,
    )
    for i, outcome in zip(open_pairs, found, strict=True):
        outcomes[i] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _decided_beforehand(predicted: CrystalBatch, reference: CrystalBatch) -> list[Comparison | None]:
    """Outcomes that need no matcher: a crystal that cannot be built, or another composition. None where open."""
    outcomes: list[Comparison | None] = []
    rows = zip(
        construction_problems(predicted),
        construction_problems(reference),
        composition_counts(predicted),
        composition_counts(reference),
        strict=True,
    )
    for wrong_prediction, wrong_reference, own, true in rows:
        if wrong_prediction is not None:
            reason = f"prediction: {wrong_prediction}"
        elif wrong_reference is not None:
            reason = f"reference: {wrong_reference}"
        elif own != true:
            reason = "composition differs"
        else:
            outcomes.append(None)
            continue
        outcomes.append(Comparison(matched=False, reason=reason))
    return outcomes


def _matcher_version() -> str:
    from importlib.metadata import version

    return f"euhedral {version('euhedral')}, rules of pymatgen {version('pymatgen')} StructureMatcher"
