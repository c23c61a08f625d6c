"""Revealing masked species: laws of what is chosen, by chi-square and against a known joint distribution."""

from __future__ import annotations

import itertools

import torch
from scipy.stats import chisquare
from torch import Tensor

from euhedral.noise.masked import MASKED, MaskedSpecies

PROCESS = MaskedSpecies()
NEVER = float("-inf")


def logits_of(probabilities: dict[int, float], shape: tuple[int, int]) -> Tensor:
    logits = torch.full((*shape, 119), NEVER)
    for element, probability in probabilities.items():
        logits[..., element] = torch.tensor(probability).log() + 3.0
    return logits


def test_reveal_follows_the_softmax() -> None:
    probabilities = {1: 0.05, 8: 0.4, 26: 0.25, 79: 0.2, 118: 0.1}
    noisy = torch.zeros(6000, 3, dtype=torch.int64)
    after = PROCESS.reveal(noisy, logits_of(probabilities, (6000, 3)), 3, rng=torch.Generator().manual_seed(0))
    counts = torch.bincount(after.flatten(), minlength=119)
    assert counts.sum() == sum(int(counts[z]) for z in probabilities) == 18000
    expected = [18000 * p for p in probabilities.values()]
    assert chisquare([int(counts[z]) for z in probabilities], expected).pvalue > 1e-3


def test_reveal_chooses_places_evenly() -> None:
    noisy = torch.tensor([[0, 5, 0, 0, 7, 0]]).repeat(8000, 1)
    after = PROCESS.reveal(noisy, logits_of({3: 1.0}, (8000, 6)), 2, rng=torch.Generator().manual_seed(1))
    assert (after[:, 1] == 5).all()
    assert (after[:, 4] == 7).all()
    chosen = (after == 3)[:, [0, 2, 3, 5]]
    assert (chosen.sum(1) == 2).all()
    pairs = [int((chosen[:, i] & chosen[:, j]).sum()) for i, j in itertools.combinations(range(4), 2)]
    assert chisquare(pairs).pvalue > 1e-3


def test_reveal_of_none_and_of_known_crystals_changes_nothing() -> None:
    rng = torch.Generator().manual_seed(2)
    noisy = torch.tensor([[0, 0, 3], [1, 2, 3]])
    logits = torch.zeros(2, 3, 119)
    assert torch.equal(PROCESS.reveal(noisy, logits, 0, rng=rng), noisy)
    assert torch.equal(PROCESS.reveal(noisy, logits, 9, rng=rng)[1], noisy[1])


def test_reveal_takes_half_precision_logits() -> None:
    noisy = torch.zeros(500, 4, dtype=torch.int64)
    logits = logits_of({8: 0.5, 16: 0.5}, (500, 4)).bfloat16()
    after = PROCESS.reveal(noisy, logits, 4, rng=torch.Generator().manual_seed(3))
    assert set(after.unique().tolist()) == {8, 16}


def test_any_order_sampling_reproduces_a_joint_distribution() -> None:
    # Three atoms of two elements with a correlated law; the exact conditionals are read off the table.
    elements = (3, 8)
    states = list(itertools.product(elements, repeat=3))
    joint = torch.tensor([0.02, 0.2, 0.03, 0.1, 0.25, 0.05, 0.3, 0.05], dtype=torch.float64)
    table = torch.tensor(states)

    def conditionals(species: Tensor) -> Tensor:
        agrees = ((species[:, None] == table) | (species[:, None] == MASKED)).all(-1)
        weight = agrees.double() * joint
        logits = torch.full((*species.shape, 119), NEVER, dtype=torch.float64)
        for element in elements:
            share = (weight[:, :, None] * (table == element)).sum(1) / weight.sum(1, keepdim=True)
            logits[..., element] = share.log()
        return logits

    rng, crystals = torch.Generator().manual_seed(4), 20000
    species = PROCESS.prior((crystals, 3), rng=rng)
    for step in range(3):
        assert ((species != MASKED).sum(1) == step).all()
        species = PROCESS.reveal(species, conditionals(species), 1, rng=rng)
    found = [int((species == torch.tensor(state)).all(1).sum()) for state in states]
    assert sum(found) == crystals
    assert chisquare(found, (crystals * joint).tolist()).pvalue > 1e-3
    # Revealing all at once is not exact: atoms become independent. The test above can tell the two apart.
    at_once = PROCESS.reveal(torch.zeros_like(species), conditionals(torch.zeros_like(species)), 3, rng=rng)
    wrong = [int((at_once == torch.tensor(state)).all(1).sum()) for state in states]
    assert chisquare(wrong, (crystals * joint).tolist()).pvalue < 1e-6


def test_corruption_is_independent_between_atoms() -> None:
    clean = torch.randint(1, 119, (20000, 2), generator=torch.Generator().manual_seed(5))
    known = PROCESS.corrupt(clean, torch.full((20000,), 0.3), rng=torch.Generator().manual_seed(6)).noisy != MASKED
    counts = [int(((known[:, 0] == a) & (known[:, 1] == b)).sum()) for a in (True, False) for b in (True, False)]
    assert chisquare(counts, [20000 * p for p in (0.09, 0.21, 0.21, 0.49)]).pvalue > 1e-3
