"""Species of a joint model on their way: the contract of a field of them, and what fields share.

A field turns the species of training crystals into what the network reads and learns, and draws species of samples. Those
that a request fixes are kept, and those that it leaves open come from its palette, whatever the field.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from euhedral.models.base import SampleRequest
from euhedral.models.palette import Palette
from euhedral.noise.codes import ELEMENTS
from euhedral.noise.masked import MASKED


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesState:
    """Species of samples on their way.

    Attributes:
        species: atomic numbers that are known, 0 else, (b, n).
        fixed: which of them the request gave, (b, n).
        palette: what the others may be.
        value: codes, probabilities, beliefs (b, n, k) or guesses (b, n, 1) of all atoms; empty where the field has none.
    """

    species: Tensor
    fixed: Tensor
    palette: Palette
    value: Tensor

    @property
    def partly_fixed(self) -> bool:
        """Whether some species are fixed and others open."""
        return bool(self.fixed.any()) and not bool(self.fixed.all())

    @property
    def usable(self) -> Tensor:
        """Elements that open atoms may come to be, (b, 119)."""
        return self.palette.reachable((self.species == MASKED).sum(1))


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownSpecies:
    """What a network reads: atomic numbers with 0 where masked, (b, n), channels (b, n, k) or None, the share known, (b,)."""

    species: Tensor
    features: Tensor | None
    known: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisySpecies:
    """Noisy species of a training batch: what is shown of them, and the target of the field's own kind."""

    shown: ShownSpecies
    target: Tensor


class SpeciesField(ABC):
    """See the module.

    Attributes:
        predicts: whether the network predicts species at all.
        features: channels that it reads of each atom.
        codes: channels that it predicts of each atom; 0 for logits.
    """

    predicts: bool = True
    features: int = 0
    codes: int = 0

    @abstractmethod
    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Noisy species at time t; those of crystals that are `given`, (b,) bool, are all known."""

    @abstractmethod
    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """A scalar, of what the network says of the species."""

    def start(self, request: SampleRequest, *, rng: torch.Generator, device: torch.device) -> SpeciesState:
        """Species at t = 0."""
        species = request.species.to(device)
        return SpeciesState(
            species=species,
            fixed=species != MASKED,
            palette=Palette.of(request, device),
            value=self._prior((*species.shape, self.features), rng=rng).to(device),
        )

    @abstractmethod
    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """What the network reads of a state at time t."""

    @abstractmethod
    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """The state at a later time; at later = 1 no species is masked."""

    def _prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return torch.zeros(shape)


def one_hot(species: Tensor) -> Tensor:
    """One-hot elements, (..., 118); all zero where masked."""
    return functional.one_hot(species, ELEMENTS + 1)[..., 1:]


def all_known(species: Tensor) -> ShownSpecies:
    """Species of which none is hidden."""
    return ShownSpecies(species=species, features=None, known=torch.ones(len(species), device=species.device))


def revealed(state: SpeciesState, logits: Tensor, rng: torch.Generator) -> SpeciesState:
    """The state with every species known, drawn one after the other so that the palette is obeyed."""
    species, palette = state.species, state.palette
    while bool((species == MASKED).any()):
        species, palette = palette.reveal(species, logits, rng=rng)
    return replace(state, species=species, palette=palette)
