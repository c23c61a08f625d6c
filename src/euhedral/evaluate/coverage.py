"""Coverage of one set of crystals by another: COV-R, COV-P, AMSD-R and AMSD-P of the CDVAE line.

A reference crystal is covered if some sample's structure fingerprint lies within a cutoff of its own, and some sample's
composition fingerprint too (not necessarily the same sample: the published script takes the two minima apart). COV-R is
the share of covered references, COV-P the share of samples covered by references; AMSD are the mean smallest distances
of the structure fingerprints and AMCD those of the compositions (Xie et al., ICLR 2022, appendix C; Ganea et al., 2021).

Convention on crystals that fail. As in the published scripts (txie-93/cdvae and jiaor17/DiffCSP, `compute_cov`), only a
crystal without a fingerprint is set aside; crystals that are invalid by distance or by oxidation states take part. A
sample set aside stays in the denominator of COV-P, and is in no mean of distances. A reference set aside, on which the
published scripts stop with an error, stays in the denominator of COV-R as not covered. A Magpie feature that is not
known for an element counts as the mean of that feature, so a composition is set aside only if all 132 are unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.errors import ConfigError
from euhedral.evaluate.composition_scaler import COMPOSITION_MEANS, COMPOSITION_STDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

NO_FINGERPRINT = "no fingerprint"
"""Reason of a crystal that has no fingerprint and was given without a reason."""


@dataclass(frozen=True, kw_only=True)
class CoverageCutoffs:
    """Largest distances at which a crystal counts as covered, of raw structure and of standardised composition."""

    structure: float
    composition: float

    def __post_init__(self) -> None:
        if not (self.structure > 0 and self.composition > 0):
            raise ConfigError(f"cutoffs of coverage must be positive, not {self}")


COVERAGE_CUTOFFS: Mapping[str, CoverageCutoffs] = {
    "mp_20": CoverageCutoffs(structure=0.4, composition=10.0),
    "carbon_24": CoverageCutoffs(structure=0.2, composition=4.0),
    "perov_5": CoverageCutoffs(structure=0.2, composition=4.0),
}
"""Published cutoffs (COV_Cutoffs of scripts/compute_metrics.py in txie-93/cdvae); MPTS-52 is judged by those of MP-20."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CoveredSet:
    """One of the two sets as seen from the other.

    Attributes:
        structure_distance: to the nearest structure fingerprint of the other set, (crystals,), NaN if set aside.
        composition_distance: to the nearest standardised composition of the other set, (crystals,), NaN if set aside.
        covered: whether both are within their cutoffs, (crystals,), False if set aside.
        reasons: why a crystal was set aside, or None; one a crystal.
    """

    structure_distance: NDArray[np.float64]
    composition_distance: NDArray[np.float64]
    covered: NDArray[np.bool_]
    reasons: tuple[str | None, ...]

    @property
    def share(self) -> float:
        """Share of covered crystals among all, those set aside included; NaN if there are none."""
        return float(self.covered.mean()) if len(self.covered) else math.nan

    @property
    def mean_structure_distance(self) -> float:
        """Mean over the crystals with a distance (AMSD); NaN if there are none."""
        return _mean_of_known(self.structure_distance)

    @property
    def mean_composition_distance(self) -> float:
        """Mean over the crystals with a distance (AMCD); NaN if there are none."""
        return _mean_of_known(self.composition_distance)


@dataclass(frozen=True, kw_only=True, eq=False)
class Coverage:
    """Coverage of a reference by samples and the reverse.

    Resample `samples` for intervals of COV-P and AMSD-P and `reference` for those of COV-R and AMSD-R; the distances of
    either are conditional on the other set.

    Attributes:
        samples: each sample, seen from the reference.
        reference: each reference crystal, seen from the samples.
        cutoffs: of both distances.
    """

    samples: CoveredSet
    reference: CoveredSet
    cutoffs: CoverageCutoffs

    @property
    def recall(self) -> float:
        """COV-R."""
        return self.reference.share

    @property
    def precision(self) -> float:
        """COV-P."""
        return self.samples.share

    @property
    def amsd_recall(self) -> float:
        """AMSD-R."""
        return self.reference.mean_structure_distance

    @property
    def amsd_precision(self) -> float:
        """AMSD-P."""
        return self.samples.mean_structure_distance


def coverage_cutoffs(dataset: str) -> CoverageCutoffs:
    """The published cutoffs of a data set.

    Raises:
        ConfigError: on a data set without published cutoffs.
    """
    if dataset not in COVERAGE_CUTOFFS:
        raise ConfigError(
            f"there are no published cutoffs of coverage for '{dataset}', only for {', '.join(COVERAGE_CUTOFFS)}; "
            "give CoverageCutoffs of your own"
        )
    return COVERAGE_CUTOFFS[dataset]


def standardize_compositions(fingerprints: ArrayLike) -> NDArray[np.float64]:
    """(x - mean) / std of each Magpie feature by the published table, (crystals, 132); NaN features become 0.

    Raises:
        ConfigError: if there are not 132 features.
    """
    values = np.asarray(fingerprints, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(COMPOSITION_MEANS):
        raise ConfigError(f"composition fingerprints are (crystals, {len(COMPOSITION_MEANS)}), not {values.shape}")
    scaled = (values - np.asarray(COMPOSITION_MEANS)) / np.asarray(COMPOSITION_STDS)
    return np.where(np.isnan(scaled), 0.0, scaled)


def coverage(
    structures: ArrayLike,
    compositions: ArrayLike,
    reference_structures: ArrayLike,
    reference_compositions: ArrayLike,
    *,
    cutoffs: CoverageCutoffs,
    reasons: Sequence[str | None] | None = None,
    reference_reasons: Sequence[str | None] | None = None,
    block: int = 1024,
) -> Coverage:
    """COV-R, COV-P, AMSD-R and AMSD-P of samples against a reference, with the distances of each crystal.

    Args:
        structures: fingerprints of the samples, (samples, 61); a row with NaN has failed.
        compositions: Magpie features of the samples, (samples, 132), not standardised.
        reference_structures: as `structures`.
        reference_compositions: as `compositions`.
        cutoffs: see `coverage_cutoffs`.
        reasons: why each sample failed, or None; one with a reason is set aside.
        reference_reasons: as `reasons`.
        block: samples compared at a time; the memory is about 16 bytes times `block` times the reference.

    Raises:
        ConfigError: on shapes that do not fit together or a block that is not positive.
    """
    if block < 1:
        raise ConfigError(f"block must be at least 1, not {block}")
    ours = _Fingerprints.read(structures, compositions, reasons, "samples")
    theirs = _Fingerprints.read(reference_structures, reference_compositions, reference_reasons, "reference")
    if ours.structures.shape[1] != theirs.structures.shape[1] and min(len(ours.kept), len(theirs.kept)):
        raise ConfigError(
            f"structure fingerprints have {ours.structures.shape[1]} features in the samples and "
            f"{theirs.structures.shape[1]} in the reference; compute both the same way"
        )
    structure = _nearest_distances(ours.structures, theirs.structures, block)
    composition = _nearest_distances(ours.compositions, theirs.compositions, block)
    return Coverage(
        samples=ours.seen(structure[0], composition[0], cutoffs),
        reference=theirs.seen(structure[1], composition[1], cutoffs),
        cutoffs=cutoffs,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fingerprints:
    """Fingerprints of the crystals that have them; `kept` are their positions."""

    structures: NDArray[np.float64]
    compositions: NDArray[np.float64]
    kept: NDArray[np.int64]
    reasons: tuple[str | None, ...]

    @classmethod
    def read(
        cls, structures: ArrayLike, compositions: ArrayLike, reasons: Sequence[str | None] | None, name: str
    ) -> _Fingerprints:
        one, two = np.asarray(structures, dtype=np.float64), np.asarray(compositions, dtype=np.float64)
        given = list(reasons) if reasons is not None else [None] * len(one)
        if one.ndim != 2 or two.ndim != 2 or not len(one) == len(two) == len(given):
            raise ConfigError(
                f"{name}: expected structure fingerprints (n, 61), composition fingerprints (n, 132) and n reasons; "
                f"got {one.shape}, {two.shape} and {len(given)}"
            )
        failed = np.atleast_1d(~np.isfinite(one).all(1) | np.isnan(two).all(1) | np.isinf(two).any(1))
        full = tuple(why or (NO_FINGERPRINT if bad else None) for why, bad in zip(given, failed, strict=True))
        kept = np.array([i for i, why in enumerate(full) if why is None], dtype=np.int64)
        return cls(structures=one[kept], compositions=standardize_compositions(two[kept]), kept=kept, reasons=full)

    def seen(
        self, structure: NDArray[np.float64], composition: NDArray[np.float64], cutoffs: CoverageCutoffs
    ) -> CoveredSet:
        distances = np.full((2, len(self.reasons)), math.nan)
        distances[:, self.kept] = structure, composition
        covered = (distances[0] <= cutoffs.structure) & (distances[1] <= cutoffs.composition)  # NaN is never within
        return CoveredSet(
            structure_distance=distances[0],
            composition_distance=distances[1],
            covered=covered,
            reasons=self.reasons,
        )


def _nearest_distances(
    first: NDArray[np.float64], second: NDArray[np.float64], block: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Euclidean distance of each row to the nearest row of the other set; NaN if the other is empty.

    The nearest row is found by |a|^2 + |b|^2 - 2 a.b, one matrix product a block, and its distance then computed from
    the difference, so that rounding can at most exchange two rows that are equally near to 1e-7.
    """
    if not len(first) or not len(second):
        return np.full(len(first), math.nan), np.full(len(second), math.nan)
    center = second.mean(0)
    a, b = first - center, second - center
    squares = (b * b).sum(1)
    of_first = np.empty(len(a), dtype=np.int64)
    of_second, best = np.zeros(len(b), dtype=np.int64), np.full(len(b), math.inf)
    for start in range(0, len(a), block):
        part = a[start : start + block]
        distances = part @ b.T
        distances *= -2.0
        distances += squares
        of_first[start : start + block] = distances.argmin(1)
        distances += (part * part).sum(1)[:, None]
        nearest = distances.argmin(0)
        found = np.take_along_axis(distances, nearest[None], 0)[0]
        closer = found < best
        best[closer], of_second[closer] = found[closer], nearest[closer] + start
    return (
        np.linalg.norm(first - second[of_first], axis=1),
        np.linalg.norm(second - first[of_second], axis=1),
    )


def _mean_of_known(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
