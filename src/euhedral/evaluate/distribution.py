"""Distances between two sets of crystals: Wasserstein, Jensen-Shannon, Frechet, maximum mean discrepancy; and diversity.

Every function takes one value or one row of features a crystal and leaves out those that are not finite, counting them:
a distance of distributions is over the crystals that have the value, and says how many do not. The values stay in the
result, so that they can be resampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from euhedral.errors import ConfigError
from euhedral.evaluate.validity import construction_problems

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from euhedral.crystal.batch import CrystalBatch

GRAMS_PER_CM3 = 1.66053906660
"""One u/Å³ in g/cm³ (CODATA 2018)."""
BANDWIDTH_ROWS = 1_000
"""Rows of the reference, evenly spaced, whose median distance is the default bandwidth."""

Kernel = Literal["rbf", "polynomial"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CrystalValues:
    """One number a crystal.

    Attributes:
        values: (crystals,), NaN where it could not be had.
        reasons: why it could not be had, or None; one a crystal.
    """

    values: NDArray[np.float64]
    reasons: tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class SetDistance:
    """A distance between two sets, over the crystals that have the value.

    Attributes:
        value: the distance; NaN if a set has too few crystals with a value.
        samples: the values or rows of the samples that count.
        reference: the values or rows of the reference that count.
        samples_left_out: samples without a finite value.
        reference_left_out: reference crystals without a finite value.
        setting: kernel and bandwidth, where there are any.
    """

    value: float
    samples: NDArray[np.float64]
    reference: NDArray[np.float64]
    samples_left_out: int
    reference_left_out: int
    setting: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diversity:
    """Vendi score of a set: the effective number of different crystals, 1 to `crystals`.

    Attributes:
        score: exp of the entropy of the eigenvalues; NaN if no crystal has features.
        crystals: crystals that count.
        left_out: crystals whose features are not finite or all zero.
    """

    score: float
    crystals: int
    left_out: int


def densities(batch: CrystalBatch) -> CrystalValues:
    """Mass density of each crystal in g/cm³."""
    import torch

    from euhedral.crystal.elements import ATOMIC_MASSES

    reasons = construction_problems(batch)
    known = batch.species.cpu().clamp(0, len(ATOMIC_MASSES) - 1)
    mass = torch.zeros(len(batch), dtype=torch.float64)
    mass.index_add_(0, batch.owner.cpu(), torch.tensor(ATOMIC_MASSES, dtype=torch.float64)[known])
    values = GRAMS_PER_CM3 * (mass / batch.cell.cpu().double().det().abs()).numpy()
    return CrystalValues(values=_without_failures(values, reasons), reasons=tuple(reasons))


def element_numbers(batch: CrystalBatch) -> CrystalValues:
    """How many different elements each crystal holds."""
    counts = element_table(batch)
    reasons = construction_problems(batch)
    return CrystalValues(
        values=_without_failures((counts > 0).sum(1).astype(np.float64), reasons), reasons=tuple(reasons)
    )


def mean_by_crystal(batch: CrystalBatch, atom_values: ArrayLike) -> NDArray[np.float64]:
    """Mean over the atoms of each crystal, (crystals,); NaN where an atom has NaN or there are no atoms.

    Used for the coordination number, which is known atom by atom.

    Raises:
        ConfigError: if there is not one value an atom.
    """
    values = np.asarray(atom_values, dtype=np.float64)
    owner, count = batch.owner.cpu().numpy(), batch.num_atoms.cpu().numpy()
    if values.shape != owner.shape:
        raise ConfigError(f"expected one value for each of {len(owner)} atoms, got {values.shape}")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(owner, weights=values, minlength=len(count)) / count


def element_table(batch: CrystalBatch) -> NDArray[np.int32]:
    """Atoms of each element in each crystal, (crystals, 119); numbers that are no element count as 0, unknown."""
    species = batch.species.cpu().numpy()
    species = np.where((species >= 1) & (species <= 118), species, 0)
    table = np.zeros((len(batch), 119), dtype=np.int32)
    np.add.at(table, (batch.owner.cpu().numpy(), species), 1)
    return table


def label_table(labels: ArrayLike, bins: int) -> NDArray[np.int32]:
    """One-hot rows of labels such as space groups or atom counts, (crystals, bins); a negative label gives zeros.

    Raises:
        ConfigError: on a label that is `bins` or more.
    """
    numbers = np.asarray(labels, dtype=np.int64).reshape(-1)
    if len(numbers) and numbers.max() >= bins:
        raise ConfigError(f"label {numbers.max()} does not fit into {bins} bins; use more")
    table = np.zeros((len(numbers), bins), dtype=np.int32)
    rows = np.flatnonzero(numbers >= 0)
    table[rows, numbers[rows]] = 1
    return table


def wasserstein(samples: ArrayLike, reference: ArrayLike) -> SetDistance:
    """Wasserstein distance of order 1 between two sets of numbers, in their unit (Xie et al., ICLR 2022, appendix C)."""
    from scipy.stats import wasserstein_distance

    (ours, left), (theirs, reference_left) = _finite(samples), _finite(reference)
    known = len(ours) and len(theirs)
    return SetDistance(
        value=float(wasserstein_distance(ours, theirs)) if known else math.nan,
        samples=ours,
        reference=theirs,
        samples_left_out=left,
        reference_left_out=reference_left,
    )


def jensen_shannon(samples: ArrayLike, reference: ArrayLike) -> SetDistance:
    """Jensen-Shannon divergence in bits of two histograms, 0 (equal) to 1 (disjoint); Lin, IEEE Trans. Inf. Theory 1991.

    JSD = H((p + q) / 2) - (H(p) + H(q)) / 2, with p and q the sums of the rows, normalised. It is the divergence; its
    square root is a metric.

    Args:
        samples: counts in each bin, (crystals, bins), e.g. of `element_table` or `label_table`; a row of zeros is left out.
        reference: as `samples`, with the same bins.

    Raises:
        ConfigError: on bins that differ or a negative count.
    """
    ours, theirs = (np.asarray(table, dtype=np.float64) for table in (samples, reference))
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        raise ConfigError(f"expected two tables (crystals, bins) with the same bins, got {ours.shape}, {theirs.shape}")
    if (ours < 0).any() or (theirs < 0).any():
        raise ConfigError("counts of a histogram cannot be negative")
    counted = [table[np.isfinite(table).all(1) & table.any(1)] for table in (ours, theirs)]
    p, q = (table.sum(0) for table in counted)
    value = math.nan
    if p.sum() > 0 and q.sum() > 0:
        p, q = p / p.sum(), q / q.sum()
        value = min(max((_relative_entropy(p, (p + q) / 2) + _relative_entropy(q, (p + q) / 2)) / 2, 0.0), 1.0)
    return SetDistance(
        value=value,
        samples=counted[0],
        reference=counted[1],
        samples_left_out=len(ours) - len(counted[0]),
        reference_left_out=len(theirs) - len(counted[1]),
    )


def vendi(features: ArrayLike) -> Diversity:
    """Vendi score with the cosine kernel: exp(-sum_i l_i log l_i), l the eigenvalues of K/n (Friedman and Dieng, 2023, eq. 2).

    K/n = X X^T / n and X^T X / n have the same eigenvalues other than zero, so the smaller of the two is decomposed:
    10,000 crystals with 61 features need a matrix of 61 x 61.

    Args:
        features: (crystals, features); rows that are not finite or all zero are left out.
    """
    rows, _ = _finite_rows(features)
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    score = math.nan
    if len(rows):
        gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
        eigenvalues = np.linalg.eigvalsh(gram / len(rows))
        positive = eigenvalues[eigenvalues > 0]
        score = float(np.exp(-(positive * np.log(positive)).sum()))
    return Diversity(score=score, crystals=len(rows), left_out=len(np.asarray(features)) - len(rows))


def frechet(samples: ArrayLike, reference: ArrayLike) -> SetDistance:
    """Squared Frechet distance of the Gaussians fitted to two sets of embeddings (Heusel et al., NeurIPS 2017, eq. 6).

    d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with n - 1. Its estimate is biased upwards for few
    crystals: compare sets of the same size. The unit is that of the embedding, squared. NaN below two crystals.

    Raises:
        ConfigError: if the two have different numbers of features.
    """
    ours, left, theirs, reference_left = _two_sets(samples, reference)
    value = math.nan
    if min(len(ours), len(theirs)) >= 2:
        first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (ours, theirs))
        # The eigenvalues of S1 S2 are those of the symmetric R S2 R with R = S1^(1/2), which stay real and positive.
        levels, axes = np.linalg.eigh(first)
        root = (axes * np.sqrt(np.clip(levels, 0, None))) @ axes.T
        cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
        shift = ((ours.mean(0) - theirs.mean(0)) ** 2).sum()
        value = max(float(shift + np.trace(first) + np.trace(second) - 2 * cross), 0.0)
    return SetDistance(
        value=value, samples=ours, reference=theirs, samples_left_out=left, reference_left_out=reference_left
    )


def mmd(
    samples: ArrayLike,
    reference: ArrayLike,
    *,
    kernel: Kernel = "rbf",
    bandwidth: float | None = None,
    block: int = 1024,
) -> SetDistance:
    """Squared maximum mean discrepancy, unbiased estimate (Gretton et al., JMLR 2012, eq. 3); may be below zero.

    Kernels: "rbf" exp(-|x - y|^2 / (2 s^2)); "polynomial" (x.y / features + 1)^3, as in the kernel inception distance
    (Binkowski et al., ICLR 2018). NaN below two crystals.

    Args:
        samples: embeddings, (samples, features).
        reference: embeddings, (reference, features).
        kernel: which of the two.
        bandwidth: s of "rbf"; by default the median distance between rows of the reference.
        block: rows compared at a time, which bounds the memory.

    Raises:
        ConfigError: on an unknown kernel, a bandwidth that is not positive, or different numbers of features.
    """
    if kernel not in ("rbf", "polynomial"):
        raise ConfigError(f"there is no kernel '{kernel}'; use 'rbf' or 'polynomial'")
    if bandwidth is not None and not bandwidth > 0:
        raise ConfigError(f"the bandwidth must be positive, not {bandwidth}")
    if block < 1:
        raise ConfigError(f"block must be at least 1, not {block}")
    ours, left, theirs, reference_left = _two_sets(samples, reference)
    value, setting = math.nan, "polynomial kernel of degree 3"
    if min(len(ours), len(theirs)) >= 2:
        width = None
        first, second = ours, theirs
        if kernel == "rbf":
            width = bandwidth if bandwidth is not None else _median_distance(theirs)
            setting = f"rbf kernel, bandwidth {width:.6g}"
            center = theirs.mean(0)  # the kernel does not change with it, and short rows lose fewer digits
            first, second = ours - center, theirs - center
        value = (
            _mean_kernel(first, first, width, block, same=True)
            + _mean_kernel(second, second, width, block, same=True)
            - 2 * _mean_kernel(first, second, width, block, same=False)
        )
    return SetDistance(
        value=value,
        samples=ours,
        reference=theirs,
        samples_left_out=left,
        reference_left_out=reference_left,
        setting=setting,
    )


def _mean_kernel(
    first: NDArray[np.float64], second: NDArray[np.float64], width: float | None, block: int, *, same: bool
) -> float:
    """Mean kernel of all pairs; without those of a row with itself if `same`."""
    total, features = 0.0, first.shape[1]
    squares = (second * second).sum(1)
    for start in range(0, len(first), block):
        part = first[start : start + block]
        values = part @ second.T
        if width is None:
            values /= features
            values += 1
            values *= values * values
        else:
            # -|x - y|^2 = 2 x.y - |x|^2 - |y|^2 by one matrix product; rounding must not make it positive.
            values *= 2
            values -= squares
            values -= (part * part).sum(1)[:, None]
            np.minimum(values, 0.0, out=values)
            values /= 2 * width * width
            np.exp(values, out=values)
        if same:
            rows = np.arange(len(part))
            values[rows, rows + start] = 0.0
        total += float(values.sum())
    return total / (len(first) * (len(second) - same))


def _median_distance(rows: NDArray[np.float64]) -> float:
    """Median distance between different rows, of at most BANDWIDTH_ROWS of them; 1 where all are equal."""
    from scipy.spatial.distance import pdist

    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), BANDWIDTH_ROWS)).astype(np.int64)]
    return float(np.median(pdist(chosen))) or 1.0


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())


def _finite(values: ArrayLike) -> tuple[NDArray[np.float64], int]:
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    known = numbers[np.isfinite(numbers)]
    return known, len(numbers) - len(known)


def _finite_rows(features: ArrayLike) -> tuple[NDArray[np.float64], int]:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2:
        raise ConfigError(f"expected features (crystals, features), got {rows.shape}")
    known = rows[np.isfinite(rows).all(1)]
    return known, len(rows) - len(known)


def _two_sets(samples: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float64], int, NDArray[np.float64], int]:
    (ours, left), (theirs, reference_left) = _finite_rows(samples), _finite_rows(reference)
    if ours.shape[1] != theirs.shape[1]:
        raise ConfigError(
            f"embeddings have {ours.shape[1]} features in the samples and {theirs.shape[1]} in the reference"
        )
    return ours, left, theirs, reference_left


def _without_failures(values: NDArray[np.float64], reasons: list[str | None]) -> NDArray[np.float64]:
    return np.where([reason is None for reason in reasons], values, math.nan) if len(reasons) else values
