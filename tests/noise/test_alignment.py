from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import kstest

from euhedral.crystal.geometry import wrap, wrap_centered
from euhedral.noise.alignment import aligned


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cost(start: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    return wrap_centered(clean - start).square().sum((1, 2))


SPECIES = torch.tensor([[8, 8, 3, 8, 26]])


def test_a_shifted_and_renumbered_copy_is_brought_back() -> None:
    clean = torch.rand(40, 5, 3, generator=rng(), dtype=torch.float64)
    shift = torch.rand(40, 1, 3, generator=rng(1), dtype=torch.float64)
    start = wrap(clean[:, [3, 0, 2, 1, 4]] + shift)
    found = aligned(start, clean, SPECIES.expand(40, -1), rng=rng(2), origins=12)
    assert float(cost(found, clean).max()) < 1e-20


def test_nothing_but_the_origin_and_like_atoms_changes() -> None:
    start, clean = (torch.rand(30, 5, 3, generator=rng(seed)) for seed in (0, 1))
    before = start.clone()
    found = aligned(start, clean, SPECIES.expand(30, -1), rng=rng(2))
    assert torch.equal(start, before)
    orders = [[*p[:2], 2, p[2], 4] for p in itertools.permutations([0, 1, 3])]
    apart = torch.stack([wrap_centered(found - start[:, order]) for order in orders])
    apart = wrap_centered(apart - apart[:, :, :1]).abs().amax((2, 3))
    assert float(apart.amin(0).max()) < 1e-5


def test_no_atom_order_is_nearer_at_the_shift_that_was_found() -> None:
    start, clean = (torch.rand(20, 5, 3, generator=rng(seed), dtype=torch.float64) for seed in (3, 4))
    found = aligned(start, clean, SPECIES.expand(20, -1), rng=rng(5))
    least = cost(found, clean)
    for p in itertools.permutations([0, 1, 3]):
        # The last move of the origin may make another order nearer, by little.
        assert (cost(found[:, [*p[:2], 2, p[2], 4]], clean) > 0.6 * least).all()
    # The mean displacement is zero: no shift by a little is nearer.
    assert float(wrap_centered(clean - found).mean(1).abs().median()) < 1e-9


def test_paths_become_shorter_and_more_origins_make_them_no_longer() -> None:
    start, clean = (torch.rand(400, 8, 3, generator=rng(seed)) for seed in (0, 1))
    species = torch.tensor([[8] * 5 + [3] * 3]).expand(400, -1)
    plain = wrap_centered(clean - start)
    plain = (plain - plain.mean(1, keepdim=True)).square().sum((1, 2)).mean()
    means = [float(cost(aligned(start, clean, species, rng=rng(2), origins=k), clean).mean()) for k in (1, 4, 16)]
    assert means[0] < 0.7 * float(plain)
    assert means[2] < means[1] < means[0]


def test_the_noise_of_other_crystals_stays_uniform() -> None:
    """Differences of unlike atoms, which neither a shift nor an exchange of like atoms can change."""
    start, clean = (torch.rand(3000, 2, 3, generator=rng(seed)) for seed in (0, 1))
    found = aligned(start, clean, torch.tensor([[11, 17]]).expand(3000, -1), rng=rng(2))
    apart = wrap(found[:, 0] - found[:, 1])
    torch.testing.assert_close(apart, wrap(start[:, 0] - start[:, 1]), atol=1e-5, rtol=0)
    assert kstest(apart.flatten().numpy(), "uniform").pvalue > 1e-4  # type: ignore


def test_one_atom_lands_on_its_place() -> None:
    start, clean = (torch.rand(6, 1, 3, generator=rng(seed)) for seed in (0, 1))
    found = aligned(start, clean, torch.full((6, 1), 29), rng=rng(2))
    torch.testing.assert_close(wrap_centered(clean - found), torch.zeros(6, 1, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_seed_are_kept(dtype: torch.dtype) -> None:
    start, clean = (torch.rand(6, 4, 3, generator=rng(seed)).to(dtype) for seed in (0, 1))
    species = torch.tensor([[1, 1, 8, 8]]).expand(6, -1)
    first, again = (aligned(start, clean, species, rng=rng(2)) for _ in range(2))
    assert first.dtype == dtype
    assert torch.equal(first, again)
