"""Discrete diffusion of species (Austin et al., D3PM, NeurIPS 2021): towards a mask, or towards any element.

Values are atomic numbers (crystals, atoms), 0 where masked. Distributions have a last axis of 119 by atomic number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.masked import MASKED, MaskedSpecies

CLASSES = 119
IGNORED = -100


class DiscreteProcess(ABC):
    """A Markov process of single species; its reverse step needs the distribution of the clean species alone."""

    def kept(self, t: Tensor) -> Tensor:
        """Probability that a species was not touched until time t, (crystals,): t itself.

        It is the schedule of D3PM, Appendix A.2 for a mask, beta = 1 / (T - k + 1), in the limit of many levels.
        """
        return t

    @abstractmethod
    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Species at t = 0."""

    @abstractmethod
    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Noisy species at time t, and as target the clean ones, -100 where nothing is left to learn."""

    @abstractmethod
    def posterior(self, noisy: Tensor, clean: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """p(x_later | x_t) = sum over x of p(x) q(x_later | x_t, x) (D3PM, Eq. 3 and 4).

        Args:
            noisy: species at time t, (crystals, atoms).
            clean: probabilities of the clean species, (crystals, atoms, 119), zero at the mask.
            t: time, (crystals,), below 1.
            later: a time in (t, 1], (crystals,).

        Returns:
            Probabilities of the species at the later time, (crystals, atoms, 119).
        """

    def reverse(self, noisy: Tensor, logits: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Draw species at a later time from the posterior, given logits of the clean ones (-inf where forbidden)."""
        clean = logits.double()
        clean = torch.cat([torch.full_like(clean[..., :1], float("-inf")), clean[..., 1:]], -1).softmax(-1)
        chances = self.posterior(noisy, clean, t, later)
        draws = torch.rand(chances.shape, generator=rng, device=rng.device, dtype=torch.float64).to(chances.device)
        return (chances.log() - torch.log(-torch.log(draws.clamp_min(1e-300)))).argmax(-1)


class AbsorbingSpecies(DiscreteProcess):
    """Towards the mask: each species is masked at a random time and stays so."""

    def __init__(self) -> None:
        self._masked = MaskedSpecies()

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """All masked."""
        return self._masked.prior(shape, rng=rng, device=device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """See the class; targets are the clean species that are masked."""
        return self._masked.corrupt(clean, self.kept(t), rng=rng)

    def posterior(self, noisy: Tensor, clean: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """What is known stays; what is masked becomes known with probability (k' - k) / (1 - k)."""
        now, then = (expand_time(self.kept(time).double(), clean) for time in (t, later))
        revealed = (then - now) / (1 - now)
        after = torch.cat([(1 - revealed).expand_as(clean[..., :1]), revealed * clean[..., 1:]], -1)
        return torch.where((noisy == MASKED)[..., None], after, _one_hot(noisy))


class UniformSpecies(DiscreteProcess):
    """Towards any of the elements: a species is kept, or else drawn anew from all of them."""

    def __init__(self, elements: int = CLASSES - 1) -> None:
        self.elements = elements

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Any element, each as likely."""
        return torch.randint(1, self.elements + 1, shape, generator=rng, device=device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """See the class; targets are all clean species, since none can be told to be untouched."""
        known = torch.rand(clean.shape, generator=rng, device=clean.device) < expand_time(self.kept(t), clean.float())
        return Corrupted(
            noisy=torch.where(known, clean, self.prior(tuple(clean.shape), rng=rng, device=clean.device)), target=clean
        )

    def posterior(self, noisy: Tensor, clean: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """q(x_later | x_t, x) is proportional to q(x_t | x_later) q(x_later | x), summed over x in closed form."""
        now, then = (expand_time(self.kept(time).double(), clean) for time in (t, later))
        step, n, here = now / then, self.elements, _one_hot(noisy)
        real = torch.zeros(CLASSES, dtype=torch.float64, device=clean.device)
        real[1 : n + 1] = 1.0
        # q(x_t | x_later) over x_later, and q(x_t | x) over x, both for the x_t that is seen.
        onward = step * here + (1 - step) / n * real
        seen = now * here + (1 - now) / n
        weight = clean / seen
        total = weight.sum(-1, keepdim=True)
        return onward * (then * weight + (1 - then) / n * total * real)


def _one_hot(species: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(species, CLASSES).double()
