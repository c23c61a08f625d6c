"""Species as continuous values: codes (analog bits, one-hot), points of the simplex, or beliefs of a Bayesian flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

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
    surprise,
)
from euhedral.noise.base import expand_time
from euhedral.noise.codes import ELEMENTS, AnalogBits, OneHot
from euhedral.noise.d3pm import IGNORED
from euhedral.noise.diffusion_paths import (
    VarianceExplodingPath,
    VarianceExplodingPathConfig,
    VariancePreservingPath,
    VariancePreservingPathConfig,
)
from euhedral.noise.edm import EDM, EDMConfig
from euhedral.noise.flow_paths import GaussianFlowPath, GaussianFlowPathConfig
from euhedral.noise.interpolant import Interpolant, InterpolantConfig
from euhedral.noise.path import Derived, Path, normal_like
from euhedral.noise.simplex import SimplexFlow

CodePathConfig = Annotated[
    GaussianFlowPathConfig | VariancePreservingPathConfig | VarianceExplodingPathConfig | EDMConfig | InterpolantConfig,
    Field(discriminator="kind"),
]
_CODE_PATHS: dict[str, Any] = {
    "gaussian_flow": GaussianFlowPath,
    "variance_preserving": VariancePreservingPath,
    "variance_exploding": VarianceExplodingPath,
    "edm": EDM,
    "interpolant": Interpolant,
}


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
        self.path: Path = _CODE_PATHS[config.path.kind](config.path)
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


@dataclass(frozen=True, kw_only=True)
class SimplexSpeciesConfig:
    """Flow matching on the simplex of probabilities.

    Attributes:
        power: the flow's own time is t to this power, above 0, so that more steps fall where classes are decided.
    """

    power: float = 3.0
    kind: Literal["simplex"] = "simplex"

    def __post_init__(self) -> None:
        if not 0 < self.power < 100:
            raise ConfigError(f"species.power must be above 0, not {self.power}")


class SimplexSpecies(SpeciesField):
    """Values are probabilities of the 118 elements, which flow to a corner; see `noise.simplex`.

    The network reads their square roots, a point of the unit sphere, and predicts the element; the mean of the corners that
    its logits mean gives the velocity. Fixed species are treated as by `CodedSpecies`.
    """

    features = ELEMENTS

    def __init__(self, config: SimplexSpeciesConfig) -> None:
        self.config = config
        self.process = SimplexFlow()

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Points on their way at time t; the target is the species, -100 where they are given."""
        hot = one_hot(species).to(t.dtype)
        noisy = self.process.corrupt(hot, t**self.config.power, rng=rng).noisy
        features = torch.where(expand_time(given, hot).bool(), hot, noisy.clamp_min(0).sqrt())
        shown = ShownSpecies(species=torch.zeros_like(species), features=features, known=torch.where(given, 1.0, t))
        return NoisySpecies(shown=shown, target=species.masked_fill(given[:, None], IGNORED))

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """Mean cross entropy of what is not given (Dirichlet Flow Matching, Section 3)."""
        return surprise(guess, noisy.target)

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """The square roots of the probabilities."""
        given = state.fixed.all(1)
        hot = one_hot(state.species).to(state.value.dtype)
        features = torch.where(given[:, None, None], hot, state.value.clamp_min(0).sqrt())
        known = torch.where(given, 1.0, t)
        return ShownSpecies(species=torch.zeros_like(state.species), features=features, known=known)

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """Along the mean velocity; at the end, the elements."""
        if float(later[0]) >= 1:
            return revealed(state, guess, rng)
        now, then = t**self.config.power, later**self.config.power
        logits = guess.masked_fill(~state.usable[:, None], float("-inf"))
        chances = logits[..., 1:].to(state.value.dtype).softmax(-1)
        velocity = self.process.velocity_from_clean(state.value, chances, now)
        value = self.process.advance(state.value, velocity, then - now)
        if state.partly_fixed:
            hot = one_hot(state.species).to(value)
            noised = self.process.corrupt(hot.to(rng.device), then.to(rng.device), rng=rng).noisy
            value = torch.where(state.fixed[..., None], noised.to(value), value)
        return replace(state, value=value)

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


class BayesianSpecies(SpeciesField):
    """Values are logits of a belief over the 118 elements, sharpened by noisy measurements.

    The loss is the published one, 118 beta t |e_x - p|², averaged over the atoms that are not given. Fixed species are treated
    as by `CodedSpecies`: where others are open, with the belief that measurements of them give by then.
    """

    features = ELEMENTS

    def __init__(self, config: BayesianSpeciesConfig) -> None:
        self.config = config

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Beliefs at time t (Eq. 185); the target is the species, -100 where they are given."""
        hot = one_hot(species).to(t.dtype)
        value = self._measured(hot, torch.zeros_like(t), t, rng)
        features = torch.where(expand_time(given, value).bool(), _signed(hot), _signed(value.softmax(-1)))
        shown = ShownSpecies(species=torch.zeros_like(species), features=features, known=torch.where(given, 1.0, t))
        return NoisySpecies(shown=shown, target=species.masked_fill(given[:, None], IGNORED))

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """See the class."""
        known = noisy.target == IGNORED
        hot = one_hot(noisy.target.masked_fill(known, 1)).to(guess.dtype)
        error = (hot - guess[..., 1:].softmax(-1)).square().sum(-1) * (ELEMENTS * self.config.accuracy * t[:, None])
        return error.masked_fill(known, 0.0).sum() / (~known).sum().clamp_min(1)

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """The probabilities from -1 to 1."""
        given = state.fixed.all(1)
        hot = one_hot(state.species).to(state.value.dtype)
        features = torch.where(given[:, None, None], _signed(hot), _signed(state.value.softmax(-1)))
        known = torch.where(given, 1.0, t)
        return ShownSpecies(species=torch.zeros_like(state.species), features=features, known=known)

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """Draw an element of each atom from the prediction, measure it, and update; at the end, the elements."""
        if float(later[0]) >= 1:
            return revealed(state, guess, rng)
        if self.config.end_back:
            likely = guess[..., 1:].to(state.value.dtype).softmax(-1)
            value = self._measured(likely, torch.zeros_like(t), later, rng)
        else:
            chances = guess[..., 1:].double().softmax(-1).cpu()
            drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=rng).view(chances.shape[:2]).to(guess.device)
            hot = functional.one_hot(drawn, ELEMENTS).to(state.value.dtype)
            value = state.value + self._measured(hot, t, later, rng)
        if state.partly_fixed:
            hot = one_hot(state.species).to(value)
            value = torch.where(state.fixed[..., None], self._measured(hot, torch.zeros_like(t), later, rng), value)
        return replace(state, value=value)

    def _measured(self, hot: Tensor, t: Tensor, later: Tensor, rng: torch.Generator) -> Tensor:
        accuracy = expand_time(self.config.accuracy * (later.square() - t.square()), hot)
        return accuracy * (ELEMENTS * hot - 1) + (accuracy * ELEMENTS).sqrt() * normal_like(hot, rng)


def _signed(chances: Tensor) -> Tensor:
    return 2 * chances - 1
