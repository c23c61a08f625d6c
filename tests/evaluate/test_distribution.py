from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, jensenshannon

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.evaluate.distribution import (
    densities,
    element_numbers,
    element_table,
    frechet,
    jensen_shannon,
    label_table,
    mean_by_crystal,
    mmd,
    vendi,
    wasserstein,
)
from euhedral.testing.crystals import perovskite, rock_salt, rock_salt_conventional


def rows(number: int, features: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, features))


def broken() -> CrystalBatch:
    crystal = rock_salt()
    crystal.cell[0] = 0.0
    return crystal


def test_densities_and_elements_of_crystals() -> None:
    batch = CrystalBatch.concat([rock_salt(), rock_salt_conventional(), broken(), perovskite()])
    found = densities(batch)
    assert found.values[0] == pytest.approx(2.164, abs=2e-3)  # halite
    assert found.values[1] == pytest.approx(found.values[0], rel=1e-6)
    assert math.isnan(found.values[2]) and found.reasons[2] is not None and found.reasons[0] is None
    exact = [structure.density for structure in batch[[0, 1, 3]].to_pymatgen()]
    assert found.values[[0, 1, 3]] == pytest.approx(exact, rel=1e-4)  # the masses are rounded
    numbers = element_numbers(batch)
    assert numbers.values[[0, 1, 3]].tolist() == [2, 2, 3] and math.isnan(numbers.values[2])
    assert len(densities(CrystalBatch.empty()).values) == 0
    assert len(element_numbers(CrystalBatch.empty()).values) == 0


def test_the_mean_over_the_atoms_of_each_crystal() -> None:
    batch = CrystalBatch.concat([rock_salt(), perovskite()])
    means = mean_by_crystal(batch, [6, 6, 12, 6, 2, 2, 2])
    assert means.tolist() == [6.0, 4.8]
    assert np.isnan(mean_by_crystal(batch, [6, math.nan, 12, 6, 2, 2, 2])).tolist() == [True, False]
    none = CrystalBatch(
        frac=torch.zeros(0, 3),
        cell=torch.eye(3)[None],
        species=torch.zeros(0, dtype=torch.int64),
        num_atoms=torch.tensor([0]),
    )
    assert np.isnan(mean_by_crystal(none, [])).tolist() == [True]
    with pytest.raises(ConfigError, match="7 atoms"):
        mean_by_crystal(batch, [6.0])


def test_tables() -> None:
    strange = rock_salt()
    strange.species[0] = 200
    table = element_table(CrystalBatch.concat([perovskite(), strange]))
    assert table.shape == (2, 119) and table[0, [38, 22, 8]].tolist() == [1, 1, 3] and table[1, 0] == 1
    assert label_table([2, -1, 0], 3).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert label_table([], 4).shape == (0, 4)
    with pytest.raises(ConfigError, match="label 3"):
        label_table([3], 3)


def test_wasserstein_of_a_shifted_set_is_the_shift() -> None:
    values = rows(200, 1)[:, 0]
    assert wasserstein(values, values + 0.75).value == pytest.approx(0.75, abs=1e-12)
    assert wasserstein(values, values[::-1]).value == 0.0
    assert wasserstein([3.0], [5.0]).value == 2.0


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 30))
def test_wasserstein_is_the_area_between_the_distribution_functions(seed: int, one: int, two: int) -> None:
    first, second = rows(one, 1, seed)[:, 0], rows(two, 1, seed + 1)[:, 0]
    edges = np.sort(np.concatenate([first, second]))
    gaps = [abs((first <= x).mean() - (second <= x).mean()) for x in edges[:-1]]
    assert wasserstein(first, second).value == pytest.approx(float(np.dot(gaps, np.diff(edges))), abs=1e-9)


def test_wasserstein_leaves_out_what_is_not_finite_and_says_so() -> None:
    found = wasserstein([1.0, math.nan, math.inf], [2.0, math.nan])
    assert found.value == 1.0 and (found.samples_left_out, found.reference_left_out) == (2, 1)
    assert math.isnan(wasserstein([math.nan], [1.0]).value) and math.isnan(wasserstein([], []).value)


def test_jensen_shannon_of_equal_and_of_disjoint_histograms() -> None:
    one = label_table([1, 1, 2, 225], 231)
    assert jensen_shannon(one, np.repeat(one, 3, axis=0)).value == 0.0
    assert jensen_shannon(one, label_table([3, 4], 231)).value == 1.0
    half = jensen_shannon(label_table([0, 1], 2), label_table([0, 0], 2)).value
    # H(3/4, 1/4) - (1 + 0) / 2
    assert half == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5, abs=1e-12)


@given(st.integers(0, 1000))
def test_jensen_shannon_equals_scipy_and_is_symmetric(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = rng.integers(0, 4, (7, 9)), rng.integers(0, 4, (5, 9))
    one[0, 0] = two[0, 0] = 1
    found = jensen_shannon(one, two).value
    assert found == pytest.approx(jensenshannon(one.sum(0), two.sum(0), base=2) ** 2, abs=1e-9)
    assert found == pytest.approx(jensen_shannon(two, one).value, abs=1e-12)


def test_jensen_shannon_of_nothing_and_of_what_does_not_fit() -> None:
    found = jensen_shannon(label_table([-1, 1], 3), np.zeros((0, 3)))
    assert math.isnan(found.value) and found.samples_left_out == 1 and len(found.samples) == 1
    with pytest.raises(ConfigError, match="same bins"):
        jensen_shannon(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ConfigError, match="negative"):
        jensen_shannon(np.ones((2, 3)), -np.ones((2, 3)))


def test_vendi_counts_different_crystals() -> None:
    assert vendi(np.tile(rows(1), (8, 1))).score == pytest.approx(1.0, abs=1e-6)
    assert vendi(np.eye(6)).score == pytest.approx(6.0, abs=1e-9)
    assert vendi(np.repeat(np.eye(3, 10), 4, axis=0)).score == pytest.approx(3.0, abs=1e-9)
    assert vendi(rows(1)).score == pytest.approx(1.0, abs=1e-9)
    assert vendi(rows(9) * 7.0).score == pytest.approx(vendi(rows(9)).score, abs=1e-9)


@pytest.mark.parametrize("number", [4, 40])
def test_vendi_is_the_entropy_of_the_full_kernel(number: int) -> None:
    unit = rows(number) / np.linalg.norm(rows(number), axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / number)
    eigenvalues = eigenvalues[eigenvalues > 1e-15]
    assert vendi(rows(number)).score == pytest.approx(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()), abs=1e-6)


def test_vendi_leaves_out_rows_without_features() -> None:
    features = rows(5)
    features[0], features[1, 2] = 0.0, math.nan
    found = vendi(features)
    assert (found.crystals, found.left_out) == (3, 2)
    assert found.score == pytest.approx(vendi(features[2:]).score, abs=1e-12)
    assert math.isnan(vendi(np.zeros((0, 5))).score)
    with pytest.raises(ConfigError, match="features"):
        vendi(np.ones(3))


def test_frechet_of_two_gaussians_with_known_moments() -> None:
    # Whitened rows have exactly the mean 0 and the covariance 1.
    plain = rows(300, 3)
    plain -= plain.mean(0)
    white = plain @ np.linalg.inv(np.linalg.cholesky(np.cov(plain, rowvar=False))).T
    moved = white * np.array([2.0, 3.0, 1.0]) + np.array([1.0, 0.0, -2.0])
    # |(1, 0, -2)|^2 + (2 - 1)^2 + (3 - 1)^2 + 0
    assert frechet(white, moved).value == pytest.approx(5.0 + 1.0 + 4.0, abs=1e-9)
    assert frechet(white, white).value == pytest.approx(0.0, abs=1e-9)


@given(st.integers(0, 1000))
def test_frechet_equals_the_matrix_square_root(seed: int) -> None:
    one, two = rows(40, 4, seed) @ rows(4, 4, seed + 1), rows(30, 4, seed + 2) + 0.3
    first, second = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    exact = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet(one, two).value == pytest.approx(exact, abs=1e-6)
    assert frechet(two, one).value == pytest.approx(exact, abs=1e-6)


def test_frechet_does_not_change_with_a_rotation_and_needs_two_crystals() -> None:
    one, two = rows(30), rows(30, seed=1)
    turn = np.linalg.qr(rows(5, 5, 2))[0]
    assert frechet(one @ turn, two @ turn).value == pytest.approx(frechet(one, two).value, abs=1e-9)
    assert math.isnan(frechet(one[:1], two).value)
    one[0] = math.nan
    assert frechet(one, two).samples_left_out == 1
    assert frechet(rows(9, 1), rows(9, 1)).value == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ConfigError, match="5 features in the samples and 4"):
        frechet(one, two[:, :4])


@given(st.integers(0, 1000), st.integers(1, 30))
def test_mmd_equals_the_sums_over_all_pairs(seed: int, block: int) -> None:
    one, two = rows(12, 3, seed), rows(9, 3, seed + 1) + 0.5

    def written_out(kernel: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
        def without_diagonal(values: np.ndarray) -> float:
            return (values.sum() - np.trace(values)) / (len(values) * (len(values) - 1))

        return without_diagonal(own) + without_diagonal(other) - 2 * kernel.mean()

    def gauss(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-(cdist(a, b) ** 2) / (2 * 1.3**2))

    exact = written_out(gauss(one, two), gauss(one, one), gauss(two, two))
    assert mmd(one, two, bandwidth=1.3, block=block).value == pytest.approx(exact, abs=1e-9)

    def cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 3 + 1) ** 3

    exact = written_out(cubic(one, two), cubic(one, one), cubic(two, two))
    assert mmd(one, two, kernel="polynomial", block=block).value == pytest.approx(exact, abs=1e-9)


def test_mmd_of_samples_of_one_distribution_is_near_zero_and_of_others_is_not() -> None:
    one, two = rows(400), rows(400, seed=1)
    assert abs(mmd(one, two).value) < 0.01
    assert mmd(one, two + 2.0).value > 0.2
    # With distances far beyond the bandwidth only the diagonal is left, which the unbiased estimate leaves out.
    assert mmd(one, two, bandwidth=1e-3).value == pytest.approx(0.0, abs=1e-12)


def test_mmd_of_equal_sets_is_the_known_bias_of_the_pairs() -> None:
    one = rows(50)
    kernel = np.exp(-(cdist(one, one) ** 2) / 2)
    off = (kernel.sum() - 50) / (50 * 49)
    # 2 (mean without the diagonal) - 2 (mean with it) = 2 (off - 1) / 50
    assert mmd(one, one, bandwidth=1.0).value == pytest.approx(2 * (off - 1) / 50, abs=1e-12)
    assert mmd(np.ones((4, 2)), np.ones((3, 2))).value == 0.0


def test_the_setting_of_mmd_is_named_and_errors_are_told() -> None:
    assert mmd(rows(5), rows(5)).setting.startswith("rbf kernel, bandwidth ")
    assert mmd(rows(5), rows(5), kernel="polynomial").setting == "polynomial kernel of degree 3"
    assert math.isnan(mmd(rows(1), rows(5)).value) and math.isnan(mmd(np.zeros((0, 5)), rows(5)).value)
    for wrong, words in (
        ({"kernel": "linear"}, "no kernel 'linear'"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"block": 0}, "block"),
    ):
        with pytest.raises(ConfigError, match=words):
            mmd(rows(5), rows(5), **wrong)
