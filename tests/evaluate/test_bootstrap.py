from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from euhedral.evaluate.bootstrap import mean_interval, ratio_interval, share_interval, statistic_interval


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("passed", "total"), [(300, 1000), (50, 100), (9000, 10_000)])
def test_the_interval_of_a_share_is_the_binomial_one(passed: int, total: int) -> None:
    from scipy.stats import binom

    share = passed / total
    interval = share_interval(passed, total, rng=seeded(), resamples=20_000)
    assert interval is not None
    low, high = binom.ppf([0.025, 0.975], total, share) / total
    # 20,000 draws know a percentile to a few hundredths of the spread.
    spread = math.sqrt(share * (1 - share) / total)
    assert interval.low == pytest.approx(low, abs=0.1 * spread + 1 / total)
    assert interval.high == pytest.approx(high, abs=0.1 * spread + 1 / total)


@pytest.mark.parametrize("distinct", [True, False])
def test_the_interval_of_a_mean_is_the_normal_one(distinct: bool) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(3.0, 2.0, size=2000) if distinct else generator.integers(0, 5, size=2000).astype(float)
    interval = mean_interval(values, rng=seeded(), resamples=4000)
    error = values.std() / math.sqrt(len(values))
    assert interval is not None
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.12 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.12 * error)


def test_a_mask_gives_the_same_interval_as_a_share_and_as_a_mean() -> None:
    mask = np.arange(400) < 100
    share = share_interval(100, 400, rng=seeded(), resamples=8000)
    mean = mean_interval(mask.astype(float), rng=seeded(1), resamples=8000)
    assert share is not None and mean is not None
    assert (share.low, share.high) == pytest.approx((mean.low, mean.high), abs=0.006)


def test_the_interval_of_a_ratio_knows_that_the_number_of_matches_varies() -> None:
    generator = np.random.default_rng(2)
    matched = generator.random(1000) < 0.3
    values = np.where(matched, generator.normal(0.1, 0.03, size=1000), 0.0)
    interval = ratio_interval(values, matched.astype(float), rng=seeded(), resamples=4000)
    error = values[matched].std() / math.sqrt(matched.sum())
    assert interval is not None
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_intervals_that_do_not_exist() -> None:
    assert share_interval(1, 1, rng=seeded()) is None
    assert share_interval(0, 0, rng=seeded()) is None
    assert mean_interval(np.array([]), rng=seeded()) is None
    assert mean_interval(np.array([1.0, math.nan]), rng=seeded()) is None
    assert ratio_interval(np.zeros(5), np.zeros(5), rng=seeded()) is None
    assert statistic_interval(np.array([1]), lambda drawn: drawn[:, 0], rng=seeded()) is None
    assert statistic_interval(np.ones(4, dtype=int), lambda drawn: np.full(len(drawn), np.nan), rng=seeded()) is None


def test_draws_have_as_many_crystals_as_there_are() -> None:
    for counts in (np.ones(7, dtype=int), np.array([3, 1, 5])):
        totals = []

        def remember(drawn: np.ndarray, totals: list[float] = totals) -> np.ndarray:
            totals.extend(drawn.sum(axis=1))
            return drawn[:, 0]

        assert statistic_interval(counts, remember, rng=seeded(), resamples=50) is not None
        assert set(totals) == {counts.sum()}


def test_shares_of_none_and_all_have_the_exact_interval() -> None:
    from scipy.stats import binomtest

    for passed in (0, 20):
        interval = share_interval(passed, 20, rng=seeded())
        exact = binomtest(passed, 20).proportion_ci(0.95, method="exact")
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_the_interval_of_a_distance_is_about_its_value_and_never_negative() -> None:
    reference = np.full(4, 0.25)

    def distance(drawn: np.ndarray) -> np.ndarray:
        return 0.5 * np.abs(drawn / drawn.sum(axis=1, keepdims=True) - reference).sum(axis=1)

    counts = np.full(4, 25)
    plain = statistic_interval(counts, distance, rng=seeded())
    centred = statistic_interval(counts, distance, rng=seeded(), distance=True)
    assert plain is not None and centred is not None
    assert plain.low > 0  # no resample has the truth's shares exactly
    assert centred.low == 0.0 < centred.high


@given(st.integers(0, 50), st.integers(2, 50), st.integers(0, 3))
def test_the_same_seed_gives_the_same_interval(passed: int, total: int, seed: int) -> None:
    passed = min(passed, total)
    first, second = (share_interval(passed, total, rng=seeded(seed)) for _ in range(2))
    assert first == second and first is not None and 0 <= first.low <= first.high <= 1
