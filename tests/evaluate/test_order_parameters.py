from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.evaluate.order_parameters import MOTIFS, order_parameters


def circle(n: int, z: float = 0.0) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angles), np.sin(angles), np.full(n, z)], axis=1)


POLE = np.array([[0.0, 0.0, 1.0]])
CUBE = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
IDEAL = {
    "sgl_bd": POLE,
    "L-shaped": np.eye(3)[:2],
    "linear": np.concatenate([POLE, -POLE]),
    "trigonal planar": circle(3),
    "T-shaped": np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]]),
    "square co-planar": circle(4),
    "tetrahedral": np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
    "trigonal pyramidal": np.concatenate([POLE, circle(3)]),
    "pentagonal planar": circle(5),
    "square pyramidal": np.concatenate([POLE, circle(4)]),
    "trigonal bipyramidal": np.concatenate([POLE, -POLE, circle(3)]),
    "hexagonal planar": circle(6),
    "octahedral": np.concatenate([np.eye(3), -np.eye(3)]),
    "pentagonal pyramidal": np.concatenate([POLE, circle(5)]),
    "hexagonal pyramidal": np.concatenate([POLE, circle(6)]),
    "pentagonal bipyramidal": np.concatenate([POLE, -POLE, circle(5)]),
    "hexagonal bipyramidal": np.concatenate([POLE, -POLE, circle(6)]),
    "body-centered cubic": CUBE,
}


def evaluate(vectors: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    weights = np.linspace(1, 0.5, len(vectors)) if weights is None else weights
    return dict(zip(MOTIFS[len(vectors)], order_parameters(vectors[None], weights[None])[0].tolist(), strict=True))


@pytest.mark.parametrize("motif", IDEAL)
def test_the_ideal_motif_scores_highest(motif: str) -> None:
    values = evaluate(IDEAL[motif])
    assert values[motif] == pytest.approx(1.0, abs=0.03)
    # A see-saw is looked for as a trigonal bipyramid with a vacancy, which a trigonal pyramid is too.
    assert values[motif] == pytest.approx(max(values.values()), abs=1e-6)


def test_bond_orders_of_the_close_packings() -> None:
    fcc = np.array([[x, y, 0.0] for x in (-1.0, 1) for y in (-1.0, 1)])
    fcc = np.concatenate([np.roll(fcc, k, axis=1) for k in range(3)])
    values = evaluate(fcc)
    assert values["q4"] == pytest.approx(0.19094065, abs=1e-7)
    assert values["q6"] == pytest.approx(0.57452426, abs=1e-7)
    assert values["q2"] == pytest.approx(0.0, abs=1e-6)
    assert values["cuboctahedral"] == pytest.approx(1.0, abs=0.03)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(MOTIFS)))
def test_rotated_scaled_and_relisted_shells_score_the_same(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, weights = rng.normal(size=(n, 3)), rng.random(n)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(n)
    turned = 2.5 * vectors[order] @ rotation
    first, second = evaluate(vectors, weights), evaluate(turned, weights[order])
    np.testing.assert_allclose(list(first.values()), list(second.values()), atol=1e-6)


def test_ties_of_a_distorted_cube_do_not_depend_on_the_listing() -> None:
    shell = CUBE * np.array([1.0, 1.0, 1.4])
    weights = np.ones(8)
    rng = np.random.default_rng(0)
    first = evaluate(shell, weights)
    for _ in range(5):
        order = rng.permutation(8)
        rounding = 1e-14 * rng.normal(size=8)
        again = evaluate(shell[order], weights[order] + rounding)
        assert again == pytest.approx(first, abs=1e-9)


@pytest.mark.parametrize("n", sorted(MOTIFS))
def test_equal_to_pymatgen(n: int) -> None:
    from pymatgen.core import PeriodicSite
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.local_env import CN_OPT_PARAMS, LocalStructOrderParams

    rng = np.random.default_rng(n)
    shells = [rng.normal(size=(n, 3)) for _ in range(4)]
    shells += [ideal + 0.05 * rng.normal(size=ideal.shape) for ideal in IDEAL.values() if len(ideal) == n]
    shells += [ideal for ideal in IDEAL.values() if len(ideal) == n]
    lattice = Lattice.cubic(100)
    for shell in shells:
        shell = 2 * shell
        sites = [PeriodicSite("H", coords, lattice, coords_are_cartesian=True) for coords in ([0, 0, 0], *shell)]
        for motif, value in evaluate(shell).items():
            kind, *parameters = CN_OPT_PARAMS.get(n, {}).get(motif, [motif])
            program = LocalStructOrderParams([kind], parameters=[parameters[0] if parameters else None])
            expected = program.get_order_parameters(sites, 0, indices_neighs=list(range(1, n + 1)))[0]
            assert value == pytest.approx(expected or 0.0, abs=1e-6), motif
