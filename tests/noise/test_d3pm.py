"""Discrete processes: the posterior against Bayes' rule with transition matrices, and exact sampling of a categorical."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from euhedral.noise.base import NoiseProcess
from euhedral.noise.d3pm import CLASSES, AbsorbingSpecies, DiscreteProcess, UniformSpecies
from euhedral.testing import noise as contract

PROCESSES = [pytest.param(AbsorbingSpecies(), id="absorbing"), pytest.param(UniformSpecies(), id="uniform")]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transition(process: DiscreteProcess, kept: float) -> Tensor:
    """Row x: distribution of what a species x becomes where each is kept with a probability."""
    if isinstance(process, AbsorbingSpecies):
        matrix = kept * torch.eye(CLASSES, dtype=torch.float64)
        matrix[:, 0] += 1 - kept
        return matrix
    matrix = kept * torch.eye(CLASSES, dtype=torch.float64)
    matrix[1:, 1:] += (1 - kept) / (CLASSES - 1)
    return matrix


def random_clean(crystals: int, atoms: int, seed: int) -> Tensor:
    clean = torch.rand(crystals, atoms, CLASSES, generator=rng(seed), dtype=torch.float64)
    clean[..., 0] = 0
    return clean / clean.sum(-1, keepdim=True)


@pytest.mark.parametrize("process", PROCESSES)
def test_process_contract(process: DiscreteProcess) -> None:
    assert isinstance(process, NoiseProcess)
    contract.check_noise_process(process, torch.randint(1, 119, (300, 6), generator=rng()))


@pytest.mark.parametrize("process", PROCESSES)
def test_posterior_is_bayes_rule(process: DiscreteProcess) -> None:
    crystals, atoms = 6, 4
    t, later = torch.linspace(0.05, 0.7, crystals), torch.linspace(0.1, 1.0, crystals)
    clean = random_clean(crystals, atoms, 1)
    species = torch.randint(1, 119, (crystals, atoms), generator=rng(2))
    noisy = process.corrupt(species, t, rng=rng(3)).noisy
    found = process.posterior(noisy, clean, t, later)
    for c in range(crystals):
        until_later = transition(process, float(later[c]))
        # What is kept until t is kept until the later time, and then on: t is the noisier of the two.
        onward = transition(process, float(t[c]) / float(later[c]))
        until_t = until_later @ onward
        for i in range(atoms):
            seen = int(noisy[c, i])
            # Sum over x of p(x) q(x_later | x) q(x_t | x_later) / q(x_t | x), where x can have led to x_t.
            weight = torch.where(until_t[:, seen] > 0, clean[c, i] / until_t[:, seen].clamp_min(1e-300), 0.0)
            exact = (weight[:, None] * until_later * onward[:, seen]).sum(0)
            exact = exact / exact.sum()
            found_here = found[c, i] / found[c, i].sum()
            torch.testing.assert_close(found_here, exact, atol=1e-6, rtol=0)


def test_posteriors_sum_to_one() -> None:
    clean = random_clean(5, 3, 4)
    t, later = torch.linspace(0, 0.6, 5), torch.linspace(0.2, 1, 5)
    for process, noisy in (
        (AbsorbingSpecies(), torch.tensor([[0, 8, 0]] * 5)),
        (UniformSpecies(), torch.tensor([[1, 8, 118]] * 5)),
    ):
        total = process.posterior(noisy, clean, t, later).sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("steps", [1, 3, 15])
def test_exact_denoiser_gives_back_the_categorical(process: DiscreteProcess, steps: int) -> None:
    elements = torch.tensor([1, 8, 26, 118])
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    draws, shape = rng(steps), (4000, 2)
    noisy = process.prior(shape, rng=draws)
    for k in range(steps):
        t, later = (torch.full((4000,), i / steps) for i in (k, k + 1))
        prior = torch.zeros(CLASSES, dtype=torch.float64)
        prior[elements] = chances
        # p(x | x_t) of an atom on its own is proportional to p(x) q(x_t | x).
        likelihood = transition(process, k / steps)[:, noisy].movedim(0, -1)
        noisy = process.reverse(noisy, (prior * likelihood).log(), t, later, rng=draws)
    counts = torch.bincount(noisy.flatten(), minlength=CLASSES)
    assert int(counts[elements].sum()) == 8000
    assert chisquare(counts[elements].numpy(), (8000 * chances).numpy()).pvalue > 1e-3


def test_what_is_known_stays_under_a_mask() -> None:
    noisy = torch.tensor([[0, 8, 26, 0]] * 50)
    logits = torch.randn(50, 4, CLASSES, generator=rng())
    after = AbsorbingSpecies().reverse(noisy, logits, torch.full((50,), 0.2), torch.full((50,), 0.5), rng=rng(1))
    assert (after[:, 1:3] == torch.tensor([8, 26])).all()
    share = (after[:, [0, 3]] > 0).double().mean()
    assert abs(float(share) - 0.375) < 0.2


def test_forbidden_elements_are_never_drawn() -> None:
    logits = torch.full((200, 3, CLASSES), float("-inf"))
    logits[..., [3, 8]] = 0.0
    noisy, t, later = torch.zeros(200, 3, dtype=torch.int64), torch.full((200,), 0.3), torch.ones(200)
    after = AbsorbingSpecies().reverse(noisy, logits, t, later, rng=rng())
    assert set(after.flatten().tolist()) == {3, 8}
