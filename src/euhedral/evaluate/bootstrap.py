"""95 % intervals of figures by the percentile bootstrap over crystals.

Crystals are drawn with replacement, as many as there are; the figure is calculated for each draw, and the interval runs
from the 2.5th to the 97.5th percentile of the outcomes (Efron 1979). Values that occur often are drawn as counts, which
is the same distribution at a fraction of the cost: a share is one binomial number a draw.

The interval of a share that is 0 or 1 has no width, as no draw can differ (at 95 % the true share is within 3/n of it).
A distance between distributions grows by resampling, since each draw strays from the crystals as these stray from the
truth: for distances the outcomes are shifted to have the figure as their mean, and cut at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Generator

RESAMPLES = 1000
LEVEL = 0.95
_NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Ends of an interval."""

    low: float
    high: float


def share_interval(passed: int, total: int, *, rng: Generator, resamples: int = RESAMPLES) -> Interval | None:
    """Interval of passed/total; None for fewer than two crystals.

    Draws of a share of 0 or 1 are all the same, which says nothing of how near to it the true share is: these two have
    the exact interval (Clopper and Pearson, Biometrika 1934), whose other end is (tail)^(1/total) away from 0.
    """
    if total < 2:
        return None
    if passed in (0, total):
        reach = ((1 - LEVEL) / 2) ** (1 / total)
        return Interval(low=0.0, high=1 - reach) if passed == 0 else Interval(low=reach, high=1.0)
    return _interval(_numpy(rng).binomial(total, passed / total, size=resamples) / total)


def mean_interval(values: NDArray[np.float64], *, rng: Generator, resamples: int = RESAMPLES) -> Interval | None:
    """Interval of the mean of `values` (crystals,); None for fewer than two, or where one is not finite."""
    return ratio_interval(values, np.ones(len(values)), rng=rng, resamples=resamples)


def ratio_interval(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Interval of sum(numerator) / sum(denominator), such as an RMSE over those crystals that matched.

    Args:
        numerator: (crystals,), 0 for a crystal that does not take part.
        denominator: (crystals,), 0 or 1, or any weight.
        rng: source of the draws.
        resamples: number of draws.

    Returns:
        None for fewer than two crystals, where a value is not finite, or where nobody takes part. Draws in which nobody
        takes part are left out.
    """
    pairs = np.stack([np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)], axis=1)
    if len(pairs) < 2 or not np.isfinite(pairs).all() or not pairs[:, 1].any():
        return None
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)

    def ratio(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = weights @ distinct
        return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] != 0)

    return _interval(_weighted(counts, ratio, rng=rng, resamples=resamples))


def statistic_interval(
    counts: NDArray[np.int64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
    distance: bool = False,
) -> Interval | None:
    """Interval of any statistic that can be calculated from how often each kind of crystal was drawn.

    Args:
        counts: how many crystals are of each kind, (kinds,); all one where each is a kind of its own.
        statistic: from the numbers drawn of each kind (draws, kinds), whose rows add up to the number of crystals, to
            the value of each draw (draws,); NaN where a draw has none.
        rng: source of the draws.
        resamples: number of draws.
        distance: the statistic is a distance, at least zero: outcomes are centred on its value.

    Returns:
        None for fewer than two crystals, or where no draw has a value.
    """
    if int(counts.sum()) < 2:
        return None
    found = _weighted(counts, statistic, rng=rng, resamples=resamples)
    if not distance or not len(found):
        return _interval(found)
    value = float(statistic(counts[None].astype(np.float64))[0])
    return _interval(np.maximum(found - found.mean() + value, 0.0))


def _weighted(
    counts: NDArray[np.int64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    rng: Generator,
    resamples: int,
) -> NDArray[np.float64]:
    """Outcomes of the draws that have one, (draws,); class i has `counts[i]` equal members."""
    total, generator = int(counts.sum()), _numpy(rng)
    at_once = max(1, _NUMBERS_AT_ONCE // len(counts))
    outcomes = []
    for start in range(0, resamples, at_once):
        draws = min(at_once, resamples - start)
        outcomes.append(statistic(_draw(counts, total, draws, generator)))
    values = np.concatenate(outcomes)
    return values[np.isfinite(values)]


def _draw(counts: NDArray[np.int64], total: int, draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """How often each class was drawn, (draws, classes)."""
    if (counts == 1).all():
        # A multinomial of as many classes as draws costs a binomial number a class; plain indices are quicker.
        picked = generator.integers(0, total, size=(draws, total), dtype=np.int64)
        picked += np.arange(draws)[:, None] * total
        return np.bincount(picked.ravel(), minlength=draws * total).reshape(draws, total).astype(np.float64)
    return generator.multinomial(total, counts / total, size=draws).astype(np.float64)


def _interval(values: NDArray[np.float64]) -> Interval | None:
    if not len(values):
        return None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(low=float(low), high=float(high))


def _numpy(rng: Generator) -> np.random.Generator:
    import torch

    return np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))
