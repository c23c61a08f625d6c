"""Figures that compare the samples with a reference as sets: coverage, distances of distributions, diversity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.evaluate.bootstrap import statistic_interval
from euhedral.evaluate.context import Context, Measured, make_figure
from euhedral.evaluate.coverage import coverage, coverage_cutoffs, standardize_compositions
from euhedral.evaluate.distribution import (
    densities,
    element_numbers,
    element_table,
    jensen_shannon,
    label_table,
    mean_by_crystal,
    mmd,
    vendi,
    wasserstein,
)
from euhedral.evaluate.fingerprints import (
    FINGERPRINT_VERSION,
    STRUCTURE_NUMBERS,
    CompositionFingerprints,
    StructureFingerprints,
    composition_fingerprints,
    structure_fingerprints,
)
from euhedral.evaluate.histograms import histogram
from euhedral.evaluate.measures_crystal import (
    buildable,
    composition_verdicts,
    space_group_numbers,
    structure_verdicts,
    unbuildable,
)
from euhedral.evaluate.report import Failure, Figure
from euhedral.evaluate.validity import CompositionRule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.samples import Samples

MMD_CRYSTALS = 5000
"""Most crystals of a set whose pairs enter the maximum mean discrepancy, evenly spaced; its time grows with the square."""
_LARGEST_CELL_COUNTED = 500
_NO_INTERVAL = "no interval: a resample holds crystals twice, which lowers it"


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    """One number a crystal, of samples and reference."""

    name: str
    title: str
    unit: str
    own: NDArray[np.float64]
    other: NDArray[np.float64]


def measure_coverage(context: Context, settings: Mapping[str, Any]) -> Measured:
    """COV-R, COV-P, AMSD-R and AMSD-P; the interval of either side is conditional on the other set."""
    reference = context.references()
    cutoffs = coverage_cutoffs(context.dataset.cutoffs)
    own, other = fingerprints_of(context, context.samples), fingerprints_of(context, reference)
    compositions = [compositions_of(context, samples).values for samples in (context.samples, reference)]
    found = coverage(
        own.values,
        compositions[0],
        other.values,
        compositions[1],
        cutoffs=cutoffs,
        reasons=first_reasons(context, context.samples, own.reasons),
        reference_reasons=first_reasons(context, reference, other.reasons),
    )
    note = f"cutoffs {cutoffs.structure:g} (structure) and {cutoffs.composition:g} (composition)"
    figures = (
        context.share("coverage.recall", found.reference.covered, note=f"of the reference; {note}", better="higher"),
        context.share("coverage.precision", found.samples.covered, note=f"of the samples; {note}", better="higher"),
        context.mean_of_known("coverage.amsd_recall", found.reference.structure_distance, better="lower"),
        context.mean_of_known("coverage.amsd_precision", found.samples.structure_distance, better="lower"),
        context.mean_of_known("coverage.amcd_recall", found.reference.composition_distance, better="lower"),
        context.mean_of_known("coverage.amcd_precision", found.samples.composition_distance, better="lower"),
    )
    return Measured(
        figures=figures,
        failures=_fingerprint_failures(context),
        columns={
            "nearest_structure_distance": _or_none(found.samples.structure_distance),
            "nearest_composition_distance": _or_none(found.samples.composition_distance),
            "covered": found.samples.covered.tolist(),
        },
    )


def measure_wasserstein(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Wasserstein distances of density, number of elements and mean coordination number, of all and of valid samples."""
    reference = context.references()
    quantities = []
    for name in settings["quantities"]:
        title, unit, values = _QUANTITIES[name]
        own, other = values(context, context.samples), values(context, reference)
        quantities.append(_Quantity(name=name, title=title, unit=unit, own=own, other=other))
    figures, distributions = [], []
    for quantity in quantities:
        figures += wasserstein_figures(
            context, quantity.name, quantity.unit, quantity.own, quantity.other, rule=settings["rule"]
        )
        if quantity.name == "coordination":
            distributions.append(
                histogram(quantity.name, quantity.title, quantity.own, quantity.other, unit=quantity.unit)
            )
    return Measured(
        figures=tuple(figures),
        failures=_fingerprint_failures(context) if "coordination" in settings["quantities"] else (),
        distributions=tuple(distributions),
        columns={quantity.name: _or_none(quantity.own) for quantity in quantities},
    )


def measure_divergence(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Jensen-Shannon divergences of elements, space groups and atom counts."""
    reference = context.references()
    symprec = float(settings["symprec"])
    figures = []
    for name, table in (
        ("elements", lambda samples: element_table(samples.crystals)[:, 1:]),
        ("space_groups", lambda samples: label_table(space_group_numbers(context, samples, symprec), 231)[:, 1:]),
        ("num_atoms", lambda samples: _atom_counts(samples.crystals)),
    ):
        note = f"bits, 0 to 1; moyopy, symprec {symprec:g} Å" if name == "space_groups" else "bits, 0 to 1"
        figures.append(_divergence_figure(context, f"jsd.{name}", table(context.samples), table(reference), note))
    return Measured(figures=tuple(figures))


def measure_mmd(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Maximum mean discrepancies of density and volume per atom."""
    reference = context.references()
    figures = []
    for name in settings["quantities"]:
        values = _QUANTITIES[name][2]
        own, other = (values(context, samples) for samples in (context.samples, reference))
        found = mmd(thinned(own[:, None]), thinned(other[:, None]))
        pairs = f"{len(found.samples)} and {len(found.reference)} crystals"
        note = f"squared, unbiased (may fall below 0), {found.setting}; {pairs}"
        figures.append(
            make_figure(
                f"mmd.{name}", found.value, None, samples=len(own), note=f"{note}; {_QUADRATIC}", better="lower"
            )
        )
    return Measured(figures=tuple(figures))


def measure_diversity(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Vendi scores of structures and compositions: the effective number of different crystals."""
    samples = context.samples
    structure = vendi(fingerprints_of(context, samples).values)
    composition = vendi(standardize_compositions(_sound_rows(compositions_of(context, samples).values)))
    return Measured(
        figures=tuple(
            make_figure(
                f"diversity.vendi_{name}",
                found.score,
                None,
                samples=len(samples),
                note=f"of {found.crystals} crystals, cosine kernel; {_NO_INTERVAL}",
                better="higher",
            )
            for name, found in (("structure", structure), ("composition", composition))
        ),
        failures=_fingerprint_failures(context),
    )


def fingerprints_of(context: Context, samples: Samples) -> StructureFingerprints:
    """Structure fingerprints, from the cache where they are known."""

    def find() -> StructureFingerprints:
        batch = samples.crystals

        def compute(part: CrystalBatch, progress: Callable[[int, int], None]) -> list[bytes]:
            found = structure_fingerprints(
                part, workers=context.workers, seconds_per_crystal=context.seconds_per_crystal, progress=progress
            )
            return _packed(found, part.num_atoms.tolist())

        packed = context.for_each(
            "structure fingerprint", FINGERPRINT_VERSION, {}, batch, compute, stage="fingerprints"
        )
        return _unpacked(packed, batch.num_atoms.tolist())

    return context.once(("fingerprints", id(samples)), find)


def compositions_of(context: Context, samples: Samples) -> CompositionFingerprints:
    """Composition fingerprints; quick enough not to be kept."""
    return context.once(("compositions", id(samples)), lambda: composition_fingerprints(samples.crystals))


def _packed(found: StructureFingerprints, atoms: Sequence[int]) -> list[bytes]:
    """Each crystal's fingerprint, the coordination numbers of its atoms, and the reason as text."""
    packed, start = [], 0
    for values, count, reason in zip(found.values, atoms, found.reasons, strict=True):
        coordination = found.coordination[start : start + count]
        start += count
        packed.append(values.tobytes() + coordination.tobytes() + (reason or "").encode())
    return packed


def _unpacked(packed: Sequence[bytes], atoms: Sequence[int]) -> StructureFingerprints:
    values = np.empty((len(packed), STRUCTURE_NUMBERS))
    coordination: list[NDArray[np.float64]] = [np.zeros(0)]
    reasons = []
    for i, (content, count) in enumerate(zip(packed, atoms, strict=True)):
        values[i] = np.frombuffer(content, count=STRUCTURE_NUMBERS)
        coordination.append(np.frombuffer(content, count=count, offset=8 * STRUCTURE_NUMBERS))
        reasons.append(content[8 * (STRUCTURE_NUMBERS + count) :].decode() or None)
    return StructureFingerprints(values=values, coordination=np.concatenate(coordination), reasons=tuple(reasons))


def _density(context: Context, samples: Samples) -> NDArray[np.float64]:
    return densities(samples.crystals).values


def _num_elements(context: Context, samples: Samples) -> NDArray[np.float64]:
    return element_numbers(samples.crystals).values


def _coordination(context: Context, samples: Samples) -> NDArray[np.float64]:
    return mean_by_crystal(samples.crystals, fingerprints_of(context, samples).coordination)


def _volume_per_atom(context: Context, samples: Samples) -> NDArray[np.float64]:
    values, sound = np.full(len(samples), np.nan), buildable(context, samples)
    chosen = samples.crystals[sound]
    values[sound] = (chosen.volume.double() / chosen.num_atoms).numpy()
    return values


_QUANTITIES: Mapping[str, tuple[str, str, Callable[[Context, Samples], NDArray[np.float64]]]] = {
    "density": ("Density", "g/cm³", _density),
    "num_elements": ("Elements in a crystal", "", _num_elements),
    "coordination": ("Mean coordination number", "", _coordination),
    "volume_per_atom": ("Volume per atom", "Å³", _volume_per_atom),
}
_QUADRATIC = "no interval: its time grows with the square of the crystals"


def wasserstein_figures(
    context: Context,
    quantity: str,
    unit: str,
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    rule: CompositionRule,
    note: str = "",
) -> tuple[Figure, Figure]:
    """Wasserstein distance of all samples, and of the valid ones alone, against the whole reference.

    The published script draws 1,000 of the samples that are valid by structure and composition and have a fingerprint
    (`GenEval.valid_samples` of scripts/compute_metrics.py in txie-93/cdvae); here all of those are taken.
    """
    structure = structure_verdicts(context, context.samples)
    composition = composition_verdicts(context, context.samples, rule)
    reasons = fingerprints_of(context, context.samples).reasons
    verdicts = zip(structure, composition, reasons, strict=True)
    valid = np.array([s is None and c.valid and why is None for s, c, why in verdicts], dtype=bool)
    told = f"the {int(valid.sum())} valid samples (rule '{rule}') alone, as published"
    return (
        _wasserstein_figure(context, quantity, unit, own, other, note),
        _wasserstein_figure(
            context, f"{quantity}_valid", unit, np.where(valid, own, np.nan), other, f"{told}; {note}" if note else told
        ),
    )


def _wasserstein_figure(
    context: Context, quantity: str, unit: str, own: NDArray[np.float64], other: NDArray[np.float64], note: str
) -> Figure:
    """Wasserstein distance of one number a crystal, NaN where it does not count, with the interval of the samples."""
    found = wasserstein(own, other)
    name = f"wasserstein.{quantity}"
    interval = None
    if len(found.samples) and len(found.reference):
        kinds, counts = np.unique(found.samples, return_counts=True)
        distance = _distance_from_counts(kinds, found.reference)
        interval = statistic_interval(counts, distance, rng=context.rng(name), distance=True)
    parts = ["interval of the samples, the reference as it is", note]
    if found.samples_left_out:
        parts.append(f"{found.samples_left_out} of {len(own)} samples left out")
    return make_figure(
        name,
        found.value,
        interval,
        samples=len(own),
        unit=unit,
        note="; ".join(part for part in parts if part),
        better="lower",
    )


def _distance_from_counts(
    kinds: NDArray[np.float64], reference: NDArray[np.float64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Wasserstein distance from how often each of the sorted values `kinds` was drawn: the area between both CDFs."""
    grid = np.unique(np.concatenate([kinds, reference]))
    steps = np.diff(grid)
    target = np.searchsorted(np.sort(reference), grid[:-1], side="right") / len(reference)
    place = np.searchsorted(kinds, grid[:-1], side="right")

    def distance(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        cumulated = np.concatenate([np.zeros((len(drawn), 1)), np.cumsum(drawn, axis=1)], axis=1)
        return np.abs(cumulated[:, place] / cumulated[:, -1:] - target) @ steps

    return distance


def _divergence_figure(
    context: Context, name: str, own: NDArray[np.int32], other: NDArray[np.int32], note: str
) -> Figure:
    found = jensen_shannon(own, other)
    interval = None
    if len(found.samples) and len(found.reference):
        table, target = found.samples, found.reference.sum(0) / found.reference.sum()
        kinds, counts = np.unique(table, axis=0, return_counts=True) if table.sum() == len(table) else (table, None)
        counts = np.ones(len(table), dtype=np.int64) if counts is None else counts

        def divergence(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
            sums = drawn @ kinds
            return _divergences(sums / sums.sum(axis=1, keepdims=True), target)

        interval = statistic_interval(counts, divergence, rng=context.rng(name), distance=True)
    return make_figure(name, found.value, interval, samples=len(own), note=note, better="lower")


def _divergences(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence in bits of each row of p and q."""

    def entropy(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.sum(x * np.log2(np.where(x > 0, x, 1.0)), axis=-1)

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def _atom_counts(batch: CrystalBatch) -> NDArray[np.int32]:
    counts = np.minimum(batch.num_atoms.numpy(), _LARGEST_CELL_COUNTED)
    return label_table(np.where(counts > 0, counts, -1), _LARGEST_CELL_COUNTED + 1)


def thinned(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most MMD_CRYSTALS of the finite rows (crystals, features), evenly spaced."""
    finite = rows[np.isfinite(rows).all(axis=1)]
    return finite[np.linspace(0, len(finite) - 1, min(len(finite), MMD_CRYSTALS)).astype(np.int64)]


def _sound_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows with at least one known feature; standardising would make the others all zero."""
    return values[~np.isnan(values).all(axis=1)]


def first_reasons(context: Context, samples: Samples, reasons: Sequence[str | None]) -> list[str | None]:
    """The reader's or the builder's reason before that of the fingerprint."""
    return [broken or reason for broken, reason in zip(unbuildable(context, samples), reasons, strict=True)]


def stage_failures(context: Context, reasons: Sequence[str | None], stage: str) -> tuple[Failure, ...]:
    """Failures of this stage alone: what could not be built is told by the validity."""
    broken = unbuildable(context, context.samples)
    return tuple(
        Failure(index=i, stage=stage, reason=reason)
        for i, reason in enumerate(reasons)
        if reason is not None and broken[i] is None
    )


def _fingerprint_failures(context: Context) -> tuple[Failure, ...]:
    own = fingerprints_of(context, context.samples)
    return stage_failures(context, first_reasons(context, context.samples, own.reasons), "fingerprint")


def _or_none(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
