"""Species as continuous values: codes (analog bits, one-hot), points of the simplex, or beliefs of a Bayesian flow."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from euhedral.errors import ConfigError
from euhedral.models.species_state import (
    NoisySpecies,
    ShownSpecies,
    SpeciesField,
    SpeciesState,
    one_hot,
    revealed,
)
from euhedral.models.surprise import surprise
from euhedral.noise.base import expand_time
from euhedral.noise.codes import ELEMENTS, AnalogBits, OneHot
from euhedral.noise.d3pm import IGNORED
from euhedral.noise.euclidean_paths import EUCLIDEAN_PATHS, EuclideanPathConfig
from euhedral.noise.flow_paths import GaussianFlowPathConfig
from euhedral.noise.path import Derived, Path, normal_like
from euhedral.noise.simplex import SimplexFlow

CodePathConfig = Annotated[EuclideanPathConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class CodedSpeciesConfig:
    """Continuous codes along a path of Euclidean values.

    Attributes:
        code: `analog_bits` or `one_hot`; see `noise.codes`.
        path: of the codes.
        scale: factor of one-hot codes.
    """

    code: Literal["analog_bits", "one_hot"] = "analog_bits"
    path: CodePathConfig = field(default_factory=GaussianFlowPathConfig)
    scale: float = 1.0
    kind: Literal["coded"] = "coded"


class CodedSpecies(SpeciesField):
    """Codes are noised and denoised; at the end each atom becomes the element that its code is nearest to.

    Atoms whose species a request fixes have clean codes where all of the crystal's are fixed, and else, at each step,
    clean ones noised to the time of the others (Lugmayr et al., RePaint, CVPR 2022, Eq. 8).
    """

    def __init__(self, config: CodedSpeciesConfig) -> None:
        self.config = config
        self.code = AnalogBits() if config.code == "analog_bits" else OneHot(config.scale)
        self.path: Path = EUCLIDEAN_PATHS[config.path.kind](config.path)
        self.features = self.code.width
        self.codes = self.code.width * self.path.vectors

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Noisy codes, and the target of their path."""
        clean = self.code.encode(species)
        noisy = self.path.corrupt(clean, t, rng=rng)
        known = expand_time(given, clean).bool()
        features = torch.where(known, clean, self.path.shown(noisy.noisy, t))
        shown = ShownSpecies(species=torch.zeros_like(species), features=features, known=torch.where(given, 1.0, t))
        # Nothing is learned of codes that are known: their target is not a number, which `loss` leaves out.
        return NoisySpecies(shown=shown, target=noisy.target.masked_fill(known, torch.nan))

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """Mean squared error of what is not given."""
        known = noisy.target.isnan()
        error = (guess - noisy.target.masked_fill(known, 0.0)).square().masked_fill(known, 0.0)
        return error.sum() / (~known).sum().clamp_min(1)

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """Codes, with those of fixed species in their place."""
        clean = self.code.encode(state.species)
        given = state.fixed.all(1)
        value = torch.where(expand_time(given, clean).bool(), clean, self.path.shown(state.value, t))
        return ShownSpecies(species=torch.zeros_like(state.species), features=value, known=torch.where(given, 1.0, t))

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """A step of the path; at the end, the elements.

        In a diffusion, the clean codes that a prediction means are kept within those of elements (Chen et al., ICLR 2023,
        Section 3.1), for the reason that `LatticeField.step` has.
        """
        code = self.code
        guess = self.path.within(state.value, guess, t, lambda clean: clean.clamp(code.least, code.most))
        return self._settled(state, self.path.step(state.value, guess, t, later, rng=rng), later, rng)

    def derivative(self, state: SpeciesState, guess: Tensor, t: Tensor) -> Tensor:
        """The direction of the codes, for solvers of higher order."""
        assert isinstance(self.path, Derived)
        return self.path.derivative(state.value, guess, t)

    def move(
        self, state: SpeciesState, derivative: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """Codes at a later time along a direction; at the end, the elements."""
        assert isinstance(self.path, Derived)
        return self._settled(state, self.path.move(state.value, derivative, t, later), later, rng)

    def _settled(self, state: SpeciesState, value: Tensor, later: Tensor, rng: torch.Generator) -> SpeciesState:
        if float(later[0]) >= 1:
            return revealed(state, self.code.logits(value), rng)
        if bool(state.fixed.any()):
            clean = self.code.encode(state.species).to(value)
            noised = self.path.corrupt(clean.to(rng.device), later.to(rng.device), rng=rng).noisy.to(value)
            value = torch.where(state.fixed[..., None], noised, value)
        return replace(state, value=value)

    def _prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.path.prior(shape, rng=rng)


class ProbableSpecies(SpeciesField):
    """Values, (b, n, 118), tell probabilities of the elements, and become sure of one; the network predicts logits.

    The network reads the probabilities in a form of the subclass. Fixed species are treated as by `CodedSpecies`.
    """

    features = ELEMENTS

    @abstractmethod
    def noised(self, hot: Tensor, t: Tensor, *, rng: torch.Generator) -> Tensor:
        """Values at time t of elements, given one-hot."""

    @abstractmethod
    def chances(self, value: Tensor) -> Tensor:
        """The probabilities that values tell."""

    @abstractmethod
    def read(self, chances: Tensor) -> Tensor:
        """Probabilities as the network reads them."""

    @abstractmethod
    def moved(self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Values at a later time below 1; `step` puts those of fixed species in their place."""

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Values on their way at time t; the target is the species, -100 where they are given."""
        value = self.noised(one_hot(species).to(t.dtype), t, rng=rng)
        return NoisySpecies(
            shown=self._shown(species, value, t, given), target=species.masked_fill(given[:, None], IGNORED)
        )

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """The probabilities, and the elements of crystals whose species are all fixed."""
        return self._shown(state.species, state.value, t, state.fixed.all(1))

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """Other values; at the end, the elements."""
        if float(later[0]) >= 1:
            return revealed(state, guess, rng)
        value = self.moved(state, guess, t, later, rng=rng)
        if state.partly_fixed:
            noised = self.noised(one_hot(state.species).to(value), later, rng=rng)
            value = torch.where(state.fixed[..., None], noised, value)
        return replace(state, value=value)

    def _shown(self, species: Tensor, value: Tensor, t: Tensor, given: Tensor) -> ShownSpecies:
        hot = one_hot(species).to(value.dtype)
        features = self.read(torch.where(given[:, None, None], hot, self.chances(value)))
        return ShownSpecies(species=torch.zeros_like(species), features=features, known=torch.where(given, 1.0, t))


@dataclass(frozen=True, kw_only=True)
class SimplexSpeciesConfig:
    """Flow matching on the simplex of probabilities.

    Attributes:
        power: the flow's own time is t to this power, above 0 and below 100, so that more steps fall where classes are
            decided.
    """

    power: float = 3.0
    kind: Literal["simplex"] = "simplex"

    def __post_init__(self) -> None:
        if not 0 < self.power < 100:
            raise ConfigError(f"species.power must be above 0 and below 100, not {self.power}")


class SimplexSpecies(ProbableSpecies):
    """Values are the probabilities, which flow to a corner; see `noise.simplex`.

    The network reads their square roots, a point of the unit sphere; the mean of the corners that its logits mean gives the
    velocity.
    """

    def __init__(self, config: SimplexSpeciesConfig) -> None:
        self.config = config
        self.process = SimplexFlow()

    def noised(self, hot: Tensor, t: Tensor, *, rng: torch.Generator) -> Tensor:
        """Points on the lines to their corners."""
        own = t**self.config.power
        return self.process.corrupt(hot.to(rng.device), own.to(rng.device), rng=rng).noisy.to(hot)

    def chances(self, value: Tensor) -> Tensor:
        """The values, where rounding made none of them negative."""
        return value.clamp_min(0)

    def read(self, chances: Tensor) -> Tensor:
        """Their square roots."""
        return chances.sqrt()

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """Mean cross entropy of what is not given (Dirichlet Flow Matching, Section 3)."""
        return surprise(guess, noisy.target)

    def moved(self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Along the mean velocity."""
        now, then = t**self.config.power, later**self.config.power
        logits = guess.masked_fill(~state.usable[:, None], float("-inf"))
        corner = logits[..., 1:].to(state.value.dtype).softmax(-1)
        velocity = self.process.velocity_from_clean(state.value, corner, now)
        return self.process.advance(state.value, velocity, then - now)

    def _prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.process.prior(shape, rng=rng)


@dataclass(frozen=True, kw_only=True)
class BayesianSpeciesConfig:
    """Bayesian flow of classes (Graves et al., 2023, Section 6; CrysBFN).

    Attributes:
        accuracy: beta at t = 1; it grows with the square of the time.
        end_back: see `noise.bayesian`; the belief is drawn anew from the predicted probabilities, and no element of them.
    """

    accuracy: float = 0.5
    end_back: bool = False
    kind: Literal["bayesian"] = "bayesian"


class BayesianSpecies(ProbableSpecies):
    """Values are logits of a belief, sharpened by noisy measurements.

    The loss is the published one, 118 beta t |e_x - p|², averaged over the atoms that are not given.
    """

    def __init__(self, config: BayesianSpeciesConfig) -> None:
        self.config = config

    def noised(self, hot: Tensor, t: Tensor, *, rng: torch.Generator) -> Tensor:
        """Beliefs that measurements of elements give until time t (Eq. 185)."""
        return self._measured(hot, torch.zeros_like(t), t, rng)

    def chances(self, value: Tensor) -> Tensor:
        """The belief."""
        return value.softmax(-1)

    def read(self, chances: Tensor) -> Tensor:
        """The probabilities from -1 to 1."""
        return 2 * chances - 1

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """See the class."""
        known = noisy.target == IGNORED
        hot = one_hot(noisy.target.masked_fill(known, 1)).to(guess.dtype)
        error = (hot - guess[..., 1:].softmax(-1)).square().sum(-1) * (ELEMENTS * self.config.accuracy * t[:, None])
        return error.masked_fill(known, 0.0).sum() / (~known).sum().clamp_min(1)

    def moved(self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Draw an element of each atom from the prediction, measure it, and update; or draw the belief anew, end-back."""
        if self.config.end_back:
            return self.noised(guess[..., 1:].to(state.value.dtype).softmax(-1), later, rng=rng)
        chances = guess[..., 1:].double().softmax(-1).cpu()
        drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=rng).view(chances.shape[:2]).to(guess.device)
        hot = functional.one_hot(drawn, ELEMENTS).to(state.value.dtype)
        return state.value + self._measured(hot, t, later, rng)

    def _measured(self, hot: Tensor, t: Tensor, later: Tensor, rng: torch.Generator) -> Tensor:
        accuracy = expand_time(self.config.accuracy * (later.square() - t.square()), hot)
        return accuracy * (ELEMENTS * hot - 1) + (accuracy * ELEMENTS).sqrt() * normal_like(hot, rng)
