"""How a joint model treats species: given, masked, mistaken, coded as continuous values, on the simplex, or believed.

A field turns the species of training crystals into what the network reads and learns, and draws species of samples. Those
that a request fixes are kept, and those that it leaves open come from its palette, whatever the field.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from euhedral.errors import RequestError
from euhedral.models.base import SampleRequest
from euhedral.models.palette import Palette
from euhedral.noise.base import expand_time
from euhedral.noise.codes import ELEMENTS, AnalogBits, OneHot
from euhedral.noise.d3pm import IGNORED, AbsorbingSpecies, UniformSpecies
from euhedral.noise.diffusion_paths import (
    VarianceExplodingPath,
    VarianceExplodingPathConfig,
    VariancePreservingPath,
    VariancePreservingPathConfig,
)
from euhedral.noise.edm import EDM, EDMConfig
from euhedral.noise.flow_paths import GaussianFlowPath, GaussianFlowPathConfig
from euhedral.noise.interpolant import Interpolant, InterpolantConfig
from euhedral.noise.masked import MASKED
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


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesState:
    """Species of samples on their way.

    Attributes:
        species: atomic numbers that are known, 0 else, (b, n).
        fixed: which of them the request gave, (b, n).
        palette: what the others may be.
        value: codes or beliefs of all atoms, (b, n, k); empty where the field has none.
    """

    species: Tensor
    fixed: Tensor
    palette: Palette
    value: Tensor


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
        return NoisySpecies(shown=_all_known(species), target=species)

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
        return _revealed(state, torch.zeros(*request.species.shape, ELEMENTS + 1, device=device), rng)

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """The species."""
        return _all_known(state.species)

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
        return _surprise(guess, noisy.target)

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
        revealed = most - int((state.species == MASKED).sum(1).max()) if most else 0
        species, palette = state.species, state.palette
        for _ in range(int(due) - revealed):
            species, palette = palette.reveal(species, guess, rng=rng)
        return replace(state, species=species, palette=palette)


@dataclass(frozen=True, kw_only=True)
class UniformSpeciesConfig:
    """Discrete diffusion towards any element (D3PM's uniform transitions)."""

    kind: Literal["uniform"] = "uniform"


class UniformField(SpeciesField):
    """Every species is a guess, which may change up to the end; see `noise.d3pm`.

    On the way each atom keeps to the elements that its request allows; at the end species are drawn one after the other, so
    that what is owed comes out.
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
        """Mean cross entropy of what is not given (D3PM, Eq. 5, without its bound)."""
        return _surprise(guess, noisy.target)

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
            return _revealed(state, guess, rng)
        usable = (state.palette.allowed | state.palette.addable)[:, None]
        logits = guess.masked_fill(~usable, float("-inf"))
        return replace(state, value=self.process.reverse(state.value[..., 0], logits, t, later, rng=rng)[..., None])


@dataclass(frozen=True, kw_only=True)
class SimplexSpeciesConfig:
    """Flow matching on the simplex of probabilities.

    Attributes:
        power: the flow's own time is t to this power, so that more steps fall where classes are decided.
    """

    power: float = 3.0
    kind: Literal["simplex"] = "simplex"


class SimplexSpecies(SpeciesField):
    """Values are probabilities of the 118 elements, which flow to a corner; see `noise.simplex`.

    The network reads their square roots, a point of the unit sphere, and predicts the element; the mean of the corners that
    its logits mean gives the velocity.
    """

    features = ELEMENTS

    def __init__(self, config: SimplexSpeciesConfig) -> None:
        self.config = config
        self.process = SimplexFlow()

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Points on their way at time t; the target is the species, -100 where they are given."""
        hot = _hot(species).to(t.dtype)
        noisy = self.process.corrupt(hot, t**self.config.power, rng=rng).noisy
        features = torch.where(expand_time(given, hot).bool(), hot, noisy.clamp_min(0).sqrt())
        shown = ShownSpecies(species=torch.zeros_like(species), features=features, known=torch.where(given, 1.0, t))
        return NoisySpecies(shown=shown, target=species.masked_fill(given[:, None], IGNORED))

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """Mean cross entropy of what is not given (Dirichlet Flow Matching, Eq. 7)."""
        return _surprise(guess, noisy.target)

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """The square roots of the probabilities."""
        hot = _hot(state.species).to(state.value.dtype)
        features = torch.where(state.fixed[..., None], hot, state.value.clamp_min(0).sqrt())
        known = torch.where(state.fixed.all(1), 1.0, t)
        return ShownSpecies(species=torch.zeros_like(state.species), features=features, known=known)

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """Along the mean velocity; at the end, the elements."""
        if float(later[0]) >= 1:
            return _revealed(state, guess, rng)
        now, then = t**self.config.power, later**self.config.power
        chances = guess[..., 1:].to(state.value.dtype).softmax(-1)
        velocity = self.process.velocity_from_clean(state.value, chances, now)
        return replace(state, value=self.process.advance(state.value, velocity, then - now))

    def _prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.process.prior(shape, rng=rng)


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
            return _revealed(state, self.code.logits(value), rng)
        if bool(state.fixed.any()):
            clean = self.code.encode(state.species).to(value)
            noised = self.path.corrupt(clean.to(rng.device), later.to(rng.device), rng=rng).noisy.to(value)
            value = torch.where(state.fixed[..., None], noised, value)
        return replace(state, value=value)

    def _prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.path.prior(shape, rng=rng)


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

    The loss is the published one, 118 beta t |e_x - p|², averaged over the atoms that are not given.
    """

    features = ELEMENTS

    def __init__(self, config: BayesianSpeciesConfig) -> None:
        self.config = config

    def corrupt(self, species: Tensor, t: Tensor, given: Tensor, *, rng: torch.Generator) -> NoisySpecies:
        """Beliefs at time t (Eq. 185); the target is the species, -100 where they are given."""
        hot = _hot(species).to(t.dtype)
        value = self._measured(hot, torch.zeros_like(t), t, rng)
        features = torch.where(expand_time(given, value).bool(), _signed(hot), _signed(value.softmax(-1)))
        shown = ShownSpecies(species=torch.zeros_like(species), features=features, known=torch.where(given, 1.0, t))
        return NoisySpecies(shown=shown, target=species.masked_fill(given[:, None], IGNORED))

    def loss(self, guess: Tensor, noisy: NoisySpecies, t: Tensor) -> Tensor:
        """See the class."""
        known = noisy.target == IGNORED
        hot = _hot(noisy.target.masked_fill(known, 1)).to(guess.dtype)
        error = (hot - guess[..., 1:].softmax(-1)).square().sum(-1) * (ELEMENTS * self.config.accuracy * t[:, None])
        return error.masked_fill(known, 0.0).sum() / (~known).sum().clamp_min(1)

    def show(self, state: SpeciesState, t: Tensor, *, rng: torch.Generator) -> ShownSpecies:
        """The probabilities from -1 to 1."""
        hot = _hot(state.species).to(state.value.dtype)
        features = torch.where(state.fixed[..., None], _signed(hot), _signed(state.value.softmax(-1)))
        known = torch.where(state.fixed.all(1), 1.0, t)
        return ShownSpecies(species=torch.zeros_like(state.species), features=features, known=known)

    def step(
        self, state: SpeciesState, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator
    ) -> SpeciesState:
        """Draw an element of each atom from the prediction, measure it, and update; at the end, the elements."""
        if float(later[0]) >= 1:
            return _revealed(state, guess, rng)
        if self.config.end_back:
            likely = guess[..., 1:].to(state.value.dtype).softmax(-1)
            return replace(state, value=self._measured(likely, torch.zeros_like(t), later, rng))
        chances = guess[..., 1:].double().softmax(-1).cpu()
        drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=rng).view(chances.shape[:2]).to(guess.device)
        hot = functional.one_hot(drawn, ELEMENTS).to(state.value.dtype)
        return replace(state, value=state.value + self._measured(hot, t, later, rng))

    def _measured(self, hot: Tensor, t: Tensor, later: Tensor, rng: torch.Generator) -> Tensor:
        accuracy = expand_time(self.config.accuracy * (later.square() - t.square()), hot)
        return accuracy * (ELEMENTS * hot - 1) + (accuracy * ELEMENTS).sqrt() * normal_like(hot, rng)


def _hot(species: Tensor) -> Tensor:
    """One-hot elements, (..., 118); all zero where masked."""
    return functional.one_hot(species, ELEMENTS + 1)[..., 1:]


def _surprise(logits: Tensor, species: Tensor) -> Tensor:
    """Mean cross entropy of the species that are not -100, 0 where all are."""
    target = species.flatten()
    total = functional.cross_entropy(logits.flatten(0, 1), target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp_min(1)


def _signed(chances: Tensor) -> Tensor:
    return 2 * chances - 1


def _all_known(species: Tensor) -> ShownSpecies:
    return ShownSpecies(species=species, features=None, known=torch.ones(len(species), device=species.device))


def _revealed(state: SpeciesState, logits: Tensor, rng: torch.Generator) -> SpeciesState:
    """The state with every species known, drawn one after the other so that the palette is obeyed."""
    species, palette = state.species, state.palette
    while bool((species == MASKED).any()):
        species, palette = palette.reveal(species, logits, rng=rng)
    return replace(state, species=species, palette=palette)


SpeciesFieldConfig = Annotated[
    GivenSpeciesConfig
    | AbsorbingSpeciesConfig
    | UniformSpeciesConfig
    | CodedSpeciesConfig
    | SimplexSpeciesConfig
    | BayesianSpeciesConfig,
    Field(discriminator="kind"),
]
_FIELDS: dict[str, Any] = {
    "given": GivenSpecies,
    "absorbing": AbsorbingField,
    "uniform": UniformField,
    "coded": CodedSpecies,
    "simplex": SimplexSpecies,
    "bayesian": BayesianSpecies,
}


def species_field(config: Any) -> SpeciesField:
    """The field of a configuration, by its kind."""
    return _FIELDS[config.kind](config)
