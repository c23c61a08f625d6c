"""Joint diffusion of coordinates, lattice and species with one network: the family of DiffCSP."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.lattice import SYMMETRIC_BASIS, cell_from_log_symmetric, log_symmetric
from euhedral.errors import ConfigError, RequestError
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.conditions import Conditions
from euhedral.models.palette import Palette
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.cspnet import CSPNet, CSPNetConfig, MatrixPrediction
from euhedral.noise.d3pm import AbsorbingSpecies
from euhedral.noise.gaussian import VariancePreserving, VariancePreservingConfig
from euhedral.noise.joint import JointNoise
from euhedral.noise.masked import MASKED
from euhedral.noise.torus import without_mean
from euhedral.noise.wrapped_normal import WrappedNormal, WrappedNormalConfig

SHORTEST, LONGEST = 0.5, 500.0
"""Bounds in Å of the principal stretches of a generated cell, so that a diverged one is a crystal, though a bad one."""
FARTHEST = 20.0
"""Bound of the log-symmetric coordinates on their way, in standard deviations, for the same reason."""


@dataclass(frozen=True, kw_only=True)
class DiffusionWeights:
    """Weights of the parts of the loss, each a mean squared error of order one or a cross entropy."""

    frac: float = 1.0
    lattice: float = 1.0
    species: float = 1.0


@dataclass(frozen=True, kw_only=True)
class JointDiffusionConfig:
    """Everything that defines the model; the defaults are DiffCSP's for MP-20.

    Attributes:
        net: the backbone; its `lattice` decides whether the matrix of the cell is diffused, in Å, or its six
            standardised log-symmetric coordinates.
        frac: widths of the noise of coordinates.
        cell: schedule of the noise of the lattice.
        species: `given` for structure prediction alone; `absorbing` masks species with the same time as the rest.
        prediction_share: share of training crystals whose species are all given where species are masked.
        corrector: step of the Langevin corrector of coordinates in units of sigma / sigma_min squared; 0 leaves the
            corrector out, and with it half of the evaluations.
        condition_keep: probability that a known condition is shown in training (classifier-free guidance).
        weights: parts of the loss.
        lattice_mean: mean of the log-symmetric lattice coordinates of the training crystals, six numbers.
        lattice_std: their standard deviation.
        property_mean: mean of each property of `PROPERTIES` in training.
        property_std: its standard deviation.
    """

    net: CSPNetConfig = field(default_factory=CSPNetConfig)
    frac: WrappedNormalConfig = field(default_factory=WrappedNormalConfig)
    cell: VariancePreservingConfig = field(default_factory=VariancePreservingConfig)
    species: Literal["given", "absorbing"] = "given"
    prediction_share: float = 0.0
    corrector: float = 1e-5
    condition_keep: float = 0.5
    weights: DiffusionWeights = field(default_factory=DiffusionWeights)
    lattice_mean: tuple[float, ...] = (0.0,) * 6
    lattice_std: tuple[float, ...] = (1.0,) * 6
    property_mean: tuple[float, ...] = (0.0,) * 3
    property_std: tuple[float, ...] = (1.0,) * 3


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """Noisy crystals: coordinates (b, n, 3), lattice (b, 3, 3) or (b, 6), species (b, n)."""

    frac: Tensor
    lattice: Tensor
    species: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """What is asked of the crystals, nothing, and the strength that leads from the one to the other."""

    full: Context
    none: Context
    strength: float


class JointDiffusion(GenerativeModel):
    """Wrapped-normal diffusion of coordinates, DDPM of the lattice, and species given or masked.

    Loss: w_f |s - s*|^2 + w_l |e - e*|^2 - w_s log p(species masked), s* being the scaled score of the coordinates and
    e* the noise of the lattice (Jiao et al., DiffCSP, NeurIPS 2023, Eq. 4 and 6). The mean of s* over the atoms is
    taken out: the score of crystals whose origin is free has none, so that this changes the noise of the gradient and
    not where it leads.
    """

    def __init__(self, config: JointDiffusionConfig) -> None:
        super().__init__()
        if (config.species == "absorbing") != config.net.species:
            raise ConfigError("net.species must be true where species is 'absorbing', and false where it is 'given'")
        if config.net.space_group:
            raise ConfigError("net.space_group must be false: this family does not learn space groups")
        self.config = config
        self.net = CSPNet(config.net)
        self.noise = JointNoise(
            frac=WrappedNormal(config.frac), cell=VariancePreserving(config.cell), species=AbsorbingSpecies()
        )
        for name in ("lattice_mean", "lattice_std", "property_mean", "property_std"):
            self.register_buffer(name, torch.tensor(getattr(config, name)), persistent=False)
        self.lattice_mean: Tensor
        self.lattice_std: Tensor
        self.property_mean: Tensor
        self.property_std: Tensor

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """See the class; the crystals must have one atom count. `rng` lives on the batch's device."""
        count, size = self._equal_count(batch), len(batch)
        device, levels = batch.frac.device, self.config.frac.levels
        level = torch.randint(1, levels + 1, (size,), generator=rng, device=device)
        time = 1 - level.float() / levels
        species = batch.species.reshape(size, count)
        moved = self.noise.frac.corrupt(batch.frac.reshape(size, count, 3).float(), time, rng=rng)
        strained = self.noise.cell.corrupt(self._lattice(batch), time, rng=rng)
        given = torch.rand(size, generator=rng, device=device) < self.config.prediction_share
        known = torch.where(given | (self.config.species == "given"), torch.ones_like(time), time)
        masked = self.noise.species.corrupt(species, known, rng=rng)
        shown = conditions.drop(self.config.condition_keep, rng=rng)
        state = _State(frac=moved.noisy, lattice=strained.noisy, species=masked.noisy)
        guess = self.net(self._noisy(state, time, known), self._context(shown))
        weights = self.config.weights
        terms = {
            "frac": (guess.frac - without_mean(moved.target)).square().mean(),
            "lattice": (_lattice_of(guess) - strained.target).square().mean(),
        }
        total = weights.frac * terms["frac"] + weights.lattice * terms["lattice"]
        if self.config.species == "absorbing":
            logits, target = guess.species.flatten(0, 1), masked.target.flatten()
            surprise = functional.cross_entropy(logits, target, ignore_index=-100, reduction="sum")
            terms["species"] = surprise / (target != -100).sum().clamp_min(1)
            total = total + weights.species * terms["species"]
        return LossTerms(total=total, terms={name: value.detach() for name, value in terms.items()})

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Draw crystals by predictor and corrector (DiffCSP, Algorithm 2), two evaluations a step.

        `rng` lives on the CPU whatever the model's device, so that a seed gives the same noise everywhere.

        Raises:
            RequestError: where species are to be chosen and the model predicts structures alone.
        """
        if self.config.species == "given" and bool((request.species == MASKED).any()):
            raise RequestError("this model predicts structures of given compositions: ask for one with --formula")
        crystals = self._path(request, rng)
        if (test := request.composition_test) is None or not bool((request.species == MASKED).any()):
            return crystals
        for _ in range(test.redraws):
            missed = test.missed(crystals.species.reshape(request.species.shape))
            if not len(missed):
                break
            again = self._path(request.rows(missed), rng)
            place = torch.arange(len(crystals))
            place[missed] = len(crystals) + torch.arange(len(missed))
            crystals = CrystalBatch.concat([crystals, again])[place]
        return crystals

    def _path(self, request: SampleRequest, rng: torch.Generator) -> CrystalBatch:
        device, (size, count) = self.lattice_mean.device, request.species.shape
        asked, palette, noise = self._asked(request), Palette.of(request, device), self.noise
        shape = (size, 3, 3) if self.config.net.lattice == "matrix" else (size, 6)
        state = _State(
            frac=noise.frac.prior((size, count, 3), rng=rng).to(device),
            lattice=noise.cell.prior(shape, rng=rng).to(device),
            species=request.species.to(device),
        )
        bound = LONGEST if self.config.net.lattice == "matrix" else FARTHEST
        masked_at_start = int((state.species == MASKED).sum(1).max()) if size else 0
        revealed = 0
        for step in range(request.steps):
            now = torch.full((size,), step / request.steps, device=device)
            later = torch.full((size,), (step + 1) / request.steps, device=device)
            last = step + 1 == request.steps
            if self.config.corrector:
                score = noise.frac.score_from_target(self._guess(state, now, asked).frac, now)
                frac = noise.frac.correct(state.frac, score, now, step=self.config.corrector, rng=None if last else rng)
                state = replace(state, frac=frac)
            guess = self._guess(state, now, asked)
            score = noise.frac.score_from_target(guess.frac, now)
            frac = noise.frac.reverse(state.frac, score, now, later, rng=rng)
            lattice = noise.cell.reverse(state.lattice, _lattice_of(guess), now, later, rng=rng)
            state = replace(state, frac=frac, lattice=lattice.clamp(-bound, bound))
            due = -(-masked_at_start * (step + 1) // request.steps)
            for _ in range(due - revealed):
                species, palette = palette.reveal(state.species, guess.species, rng=rng)
                state = replace(state, species=species)
            revealed = due
        return self._crystals(state)

    def _guess(self, state: _State, time: Tensor, asked: _Asked) -> Prediction:
        known = (state.species != MASKED).float().mean(1)
        noisy = self._noisy(state, time, known)
        guess = self.net(noisy, asked.full)
        if asked.strength == 1:
            return guess
        return _extrapolate(self.net(noisy, asked.none), guess, asked.strength)

    def _asked(self, request: SampleRequest) -> _Asked:
        conditions, strength = request.conditions.to(self.lattice_mean.device), request.guidance
        nothing = Conditions.unknown(len(conditions), conditions.space_group.device)
        if strength == 0 or not conditions.any_known() or not self.config.net.conditioned:
            conditions, strength = nothing, 1.0
        return _Asked(full=self._context(conditions), none=self._context(nothing), strength=strength)

    def _lattice(self, batch: CrystalBatch) -> Tensor:
        """What is diffused of the cells, float32."""
        if self.config.net.lattice == "matrix":
            return batch.cell.float()
        return ((log_symmetric(batch.cell, batch.num_atoms) - self.lattice_mean) / self.lattice_std).float()

    def _noisy(self, state: _State, time: Tensor, known: Tensor) -> NoisyCrystals:
        if self.config.net.lattice == "matrix":
            cell = state.lattice
            metric = torch.einsum("bij,kij->bk", cell @ cell.mT, SYMMETRIC_BASIS.to(cell))
            lattice = metric / (1 + metric[:, 5:].abs())
        else:
            cell, lattice = self._log_cell(state), state.lattice
        return NoisyCrystals(frac=state.frac, cell=cell, lattice=lattice, species=state.species, time=time, known=known)

    def _log_cell(self, state: _State) -> Tensor:
        """The cell of log-symmetric coordinates, (b, 3, 3)."""
        size, count = state.species.shape
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=state.species.device)
        return cell_from_log_symmetric(state.lattice * self.lattice_std + self.lattice_mean, num_atoms)

    def _crystals(self, state: _State) -> CrystalBatch:
        """Crystals in cells without their rotation, whose stretches are kept within bounds."""
        size, count = state.species.shape
        cell = (state.lattice if self.config.net.lattice == "matrix" else self._log_cell(state)).double()
        values, vectors = torch.linalg.eigh(cell @ cell.mT)
        stretches = values.clamp(SHORTEST**2, LONGEST**2).sqrt()
        return CrystalBatch(
            frac=state.frac.reshape(-1, 3),
            cell=((vectors * stretches[:, None]) @ vectors.mT).to(state.lattice.dtype),
            species=state.species.reshape(-1),
            num_atoms=torch.full((size,), count, dtype=torch.int64, device=state.species.device),
        )

    def _context(self, conditions: Conditions) -> Context:
        return conditions.context(self.property_mean, self.property_std)


def _lattice_of(guess: Prediction) -> Tensor:
    return guess.cell if isinstance(guess, MatrixPrediction) else guess.lattice


def _extrapolate(free: Prediction, guided: Prediction, strength: float) -> Prediction:
    """Classifier-free guidance, free + strength * (guided - free) (Ho and Salimans, 2022, Eq. 6)."""

    def between(one: Tensor, other: Tensor) -> Tensor:
        return one + strength * (other - one)

    changes = {name: between(getattr(free, name), getattr(guided, name)) for name in ("frac", "lattice", "species")}
    if isinstance(free, MatrixPrediction) and isinstance(guided, MatrixPrediction):
        changes["cell"] = between(free.cell, guided.cell)
    return replace(guided, **changes)
