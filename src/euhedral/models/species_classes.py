"""Species as classes: given, masked (D3PM, absorbing), or mistaken for others (D3PM, uniform)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from euhedral.errors import RequestError
from euhedral.models.base import SampleRequest
from euhedral.models.species_state import (
    NoisySpecies,
    ShownSpecies,
    SpeciesField,
    SpeciesState,
    all_known,
    revealed,
)
from euhedral.models.surprise import surprise
from euhedral.noise.codes import ELEMENTS
from euhedral.noise.d3pm import IGNORED, AbsorbingSpecies, UniformSpecies
from euhedral.noise.masked import MASKED


@dataclass(frozen=True, kw_only=True)
class GivenSpeciesConfig:
    """Structure prediction alone."""

    kind: Literal["given"] = "given"


class GivenSpecies(SpeciesField):
    """All species are known at all times."""

    predicts = False

    def __init__(self, config: GivenSpeciesConfig) -> None:
        self.config = config

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """The species."""
        return NoisySpecies(shown=all_known(species), target=species)

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """Nothing."""
        return guess.new_zeros(())

    def start(self, request: SampleRequest, *, rng: torch.Generator, device: torch.device) -> SpeciesState:
        """The species of the request, shared out by chance where they are owed.

        Raises RequestError where compositions are left open.
        """
        if bool((request.species == MASKED).any()) and not request.shares_out:
            raise RequestError("this model predicts structures of given compositions: ask for one with --formula")
        state = super().start(request, rng=rng, device=device)
        return revealed(state, torch.zeros(*request.species.shape, ELEMENTS + 1, device=device), rng)

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """The species."""
        return all_known(state.species)

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """The same."""
        return state


@dataclass(frozen=True, kw_only=True)
class AbsorbingSpeciesConfig:
    """Masked diffusion (D3PM's absorbing state; discrete flow matching with a mask)."""

    kind: Literal["absorbing"] = "absorbing"


class AbsorbingField(SpeciesField):
    """Species are masked at random times and revealed one by one, evenly along the path; see `noise.d3pm`."""

    def __init__(self, config: AbsorbingSpeciesConfig) -> None:
        self.config = config
        self.process = AbsorbingSpecies()

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Masked species; the target is the clean ones where they are masked, -100 elsewhere."""
        known = torch.where(given, torch.ones_like(t), t)
        masked = self.process.corrupt(species, known, rng=rng)
        return NoisySpecies(shown=ShownSpecies(species=masked.noisy, features=None, known=known), target=masked.target)

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """Mean cross entropy of what is masked."""
        return surprise(guess, noisy.target)

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """What is revealed."""
        return ShownSpecies(
            species=state.species, features=None, known=(state.species != MASKED).float().mean(1).to(t.dtype)
        )

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """Reveal as many as are due at the later time."""
        open_places = ~state.fixed
        most = int(open_places.sum(1).max()) if len(open_places) else 0
        due = -(-most * float(later[0]) // 1) if most else 0
        known = most - int((state.species == MASKED).sum(1).max()) if most else 0
        species, palette = state.species, state.palette
        for _ in range(int(due) - known):
            species, palette = palette.reveal(species, guess, rng=rng)
        return replace(state, species=species, palette=palette)


@dataclass(frozen=True, kw_only=True)
class UniformSpeciesConfig:
    """Discrete diffusion towards any element (D3PM's uniform transitions)."""

    kind: Literal["uniform"] = "uniform"


class UniformField(SpeciesField):
    """Every species is a guess, which may change up to the end; see `noise.d3pm`.

    What a guess heads for is an element that the request allows (any that may be added, where places are open); at the end
    species are drawn one after the other, so that what is owed comes out.
    """

    def __init__(self, config: UniformSpeciesConfig) -> None:
        self.config = config
        self.process = UniformSpecies()

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Species of which some are others; the target is the clean ones, -100 where they are given."""
        known = torch.where(given, torch.ones_like(t), t)
        noisy = self.process.corrupt(species, known, rng=rng)
        return NoisySpecies(
            shown=ShownSpecies(species=noisy.noisy, features=None, known=known),
            target=noisy.target.masked_fill(given[:, None], IGNORED),
        )

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """Mean cross entropy of what is not given: the auxiliary term of D3PM, Eq. 5, alone."""
        return surprise(guess, noisy.target)

    def start(self, request: SampleRequest, *, rng: torch.Generator, device: torch.device) -> SpeciesState:
        """Any elements."""
        state = super().start(request, rng=rng, device=device)
        drawn = self.process.prior(tuple(request.species.shape), rng=rng).to(device)
        return replace(state, value=drawn[..., None])

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """The guesses, and what is fixed."""
        species = torch.where(state.fixed, state.species, state.value[..., 0])
        return ShownSpecies(species=species, features=None, known=torch.where(state.fixed.all(1), 1.0, t))

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """Other guesses, drawn from the posterior; at the end, the elements."""
        if float(later[0]) >= 1:
            return revealed(state, guess, rng)
        logits = guess.masked_fill(~state.usable[:, None], float("-inf"))
        return replace(state, value=self.process.reverse(state.value[..., 0], logits, t, later, rng=rng)[..., None])
