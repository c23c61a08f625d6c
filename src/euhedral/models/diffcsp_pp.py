"""DiffCSP++: diffusion of what a space group and its Wyckoff positions leave free (Jiao et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from euhedral.crystal.asymmetric_unit import AsymmetricUnit
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.orbits import Orbits
from euhedral.errors import ConfigError, RequestError
from euhedral.models.atom_order import order_as_given
from euhedral.models.base import LossTerms, SampleRequest
from euhedral.models.conditions import Conditions
from euhedral.models.guidance import Asked
from euhedral.models.palette import Palette
from euhedral.models.redraws import redrawn
from euhedral.models.surprise import surprise
from euhedral.models.template_model import LatticePath, TemplateModel, lattice_process
from euhedral.models.templates import ANY, Drawn, wanted_crystals
from euhedral.nets.base import NoisyCrystals, Prediction
from euhedral.nets.cspnet import CSPNet, CSPNetConfig
from euhedral.nets.periodic_transformer import SPECIES
from euhedral.noise.d3pm import IGNORED, AbsorbingSpecies
from euhedral.noise.gaussian import VariancePreservingConfig
from euhedral.noise.joint import JointNoise
from euhedral.noise.masked import MASKED
from euhedral.noise.torus import without_mean
from euhedral.noise.wrapped_normal import WrappedNormal, WrappedNormalConfig

RELUCTANCE = 1e4
"""Taken from the logits of elements that the colours of a template speak against: they come where nothing else may."""
_FILLER = 1
"""Species of places that are no orbit, so that none of them counts as masked."""


@dataclass(frozen=True, kw_only=True)
class DiffCSPPPWeights:
    """Weights of the parts of the loss, each a mean squared error of order one or a cross entropy."""

    frac: float = 1.0
    lattice: float = 1.0
    species: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DiffCSPPPConfig:
    """Everything that defines the model; the defaults are those of DiffCSP++ for MP-20.

    Attributes:
        net: the backbone; it predicts the lattice by its log-symmetric coordinates.
        frac: widths of the noise of free coordinates, in fractions of the conventional cell.
        cell: schedule of the noise of the lattice.
        lattice_path: of the lattice within its crystal family; `gaussian_flow` has no schedule.
        species: `given` for structure prediction alone; `absorbing` masks the species of orbits with the same time as the rest.
        prediction_share: share of training crystals whose species are all given where species are masked.
        corrector: step of the Langevin corrector of coordinates in units of sigma / sigma_min squared; 0 leaves the
            corrector out, and with it half of the evaluations.
        condition_keep: probability that a known condition is shown in training (classifier-free guidance).
        weights: parts of the loss.
        symprec: tolerance in Å at which the symmetry of training crystals is found.
        lattice_mean: mean of the log-symmetric coordinates of the conventional cells in training, six numbers.
        lattice_std: their standard deviation.
        property_mean: mean of each property of `PROPERTIES` in training.
        property_std: its standard deviation.
        templates: training crystals whose Wyckoff positions are kept; filled in by `informed`.
        orbits: most orbits of one of them; filled in by `informed`.
    """

    net: CSPNetConfig = field(default_factory=lambda: CSPNetConfig(lattice="log_symmetric", species=True))
    frac: WrappedNormalConfig = field(default_factory=WrappedNormalConfig)
    cell: VariancePreservingConfig = field(default_factory=VariancePreservingConfig)
    lattice_path: LatticePath = "variance_preserving"
    species: Literal["given", "absorbing"] = "absorbing"
    prediction_share: float = 0.0
    corrector: float = 1e-5
    condition_keep: float = 0.5
    weights: DiffCSPPPWeights = field(default_factory=DiffCSPPPWeights)
    symprec: float = 0.1
    lattice_mean: tuple[float, ...] = (0.0,) * 6
    lattice_std: tuple[float, ...] = (1.0,) * 6
    property_mean: tuple[float, ...] = (0.0,) * 3
    property_std: tuple[float, ...] = (1.0,) * 3
    templates: int = 0
    orbits: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """Noisy crystals: free coordinates (b, o, 3), standardised lattice (b, 6), species of orbits (b, o)."""

    coordinates: Tensor
    lattice: Tensor
    species: Tensor


class DiffCSPPP(TemplateModel):
    """Wrapped-normal diffusion of the free coordinates, diffusion or flow of the lattice in its family, species masked.

    Noise is added to what the template leaves free and brought to all atoms by the Wyckoff positions; the network sees
    whole crystals, and what it says of the atoms is pulled back on the free coordinates, w_j = A_j^+ v_j (Eq. 8 and 9).
    Loss: mean squares of w_j against the scaled score of the free coordinates, of the lattice's noise or velocity in its free
    coordinates, and the cross entropy of masked species of orbits. A drift of all atoms along a polar axis changes no
    crystal and is taken out of both sides. Cells are primitive ones of the standard setting.
    """

    config: DiffCSPPPConfig

    def __init__(self, config: DiffCSPPPConfig) -> None:
        if (config.species == "absorbing") != config.net.species:
            raise ConfigError("net.species must be true where species is 'absorbing', and false where it is 'given'")
        if config.net.space_group or config.net.lattice != "log_symmetric":
            raise ConfigError("net.space_group must be false and net.lattice 'log_symmetric' in this family")
        super().__init__(config)
        self.reads_properties, self.chooses_species = config.net.conditioned, config.species == "absorbing"
        self.net = CSPNet(config.net)
        self.noise = JointNoise(
            frac=WrappedNormal(config.frac),
            cell=lattice_process(config.lattice_path, config.cell),
            species=AbsorbingSpecies(),
        )

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """See the class; the crystals must have one atom count. `rng` lives on the batch's device."""
        self._equal_count(batch)
        size, device, levels = len(batch), batch.frac.device, self.config.frac.levels
        units = self._units.of(batch)
        orbits = Orbits.of([unit.template for unit in units]).to(device)
        clean = self._clean(units, orbits)
        level = torch.randint(1, levels + 1, (size,), generator=rng, device=device)
        time = 1 - level.float() / levels
        moved = self.noise.frac.corrupt(clean.coordinates, time, rng=rng)
        strained = self.noise.cell.corrupt(clean.lattice, time, rng=rng)
        given = torch.rand(size, generator=rng, device=device) < self.config.prediction_share
        known = torch.where(given | (self.config.species == "given"), torch.ones_like(time), time)
        masked = self.noise.species.corrupt(clean.species, known, rng=rng)
        noisy = torch.where(orbits.is_orbit, masked.noisy, clean.species)
        state = _State(coordinates=moved.noisy, lattice=strained.noisy, species=noisy)
        shown = conditions.drop(self.config.condition_keep, rng=rng)
        guess = self.net(self._noisy(state, orbits, time, known), self.scale.context(shown))
        target = orbits.pull(without_mean(orbits.displace(moved.target * orbits.free)))
        weights = self.config.weights
        terms = {
            "frac": _mean_square(orbits.pull(guess.frac) - target, orbits.at_atoms(orbits.free)),
            "lattice": _mean_square(guess.lattice - strained.target, orbits.lattice_free),
        }
        total = weights.frac * terms["frac"] + weights.lattice * terms["lattice"]
        if self.config.species == "absorbing":
            wanted = torch.where(orbits.is_orbit, masked.target, IGNORED)
            terms["species"] = surprise(orbits.mean(guess.species), wanted)
            total = total + weights.species * terms["species"]
        return LossTerms(total=total, terms={name: value.detach() for name, value in terms.items()})

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Draw crystals by predictor and corrector (DiffCSP++, Algorithm 2), two evaluations a step.

        Templates are drawn first (`models.templates`); where a guidance above 0 asks for a space group, of that group.
        `rng` lives on the CPU whatever the model's device, so that a seed gives the same noise everywhere.

        Raises:
            RequestError: where species are to be chosen and the model predicts structures alone.
        """
        if self.config.species == "given" and bool((request.species == MASKED).any()):
            raise RequestError("this model predicts structures of given compositions: ask for one with --formula")
        return redrawn(self._path, request, rng=rng)

    def _path(self, request: SampleRequest, rng: torch.Generator) -> CrystalBatch:
        device, size = self.lattice_mean.device, len(request.species)
        drawn = self._templates(request, rng)
        orbits = Orbits.of([one.template for one in drawn]).to(device)
        widest = orbits.free.shape[1]
        colours = torch.tensor([one.colours + [ANY] * (widest - len(one.colours)) for one in drawn], device=device)
        species = [one.species + [_FILLER] * (widest - len(one.species)) for one in drawn]
        asked = Asked.of(request, self.scale, conditioned=self.config.net.conditioned)
        palette, noise = Palette.of(request, device), self.noise
        state = _State(
            coordinates=noise.frac.prior(tuple(orbits.free.shape), rng=rng).to(device),
            lattice=noise.cell.prior((size, 6), rng=rng).to(device),
            species=torch.tensor(species, device=device),
        )
        masked_at_start, revealed = int((state.species == MASKED).sum(1).max()), 0
        for step in range(request.steps):
            now = torch.full((size,), step / request.steps, device=device)
            later = torch.full((size,), (step + 1) / request.steps, device=device)
            last = step + 1 == request.steps
            if self.config.corrector:
                score = self._score(self._guess(state, orbits, now, asked), orbits, now)
                moved = noise.frac.correct(
                    state.coordinates, score, now, step=self.config.corrector, rng=None if last else rng
                )
                state = replace(state, coordinates=moved)
            guess = self._guess(state, orbits, now, asked)
            moved = noise.frac.reverse(state.coordinates, self._score(guess, orbits, now), now, later, rng=rng)
            lattice = self._lattice_step(state.lattice, guess.lattice, now, later, rng)
            state = replace(state, coordinates=moved, lattice=lattice)
            due = -(-masked_at_start * (step + 1) // request.steps)
            for _ in range(due - revealed):
                logits = orbits.mean(guess.species) - RELUCTANCE * _out_of_colour(state.species, colours)
                chosen, palette = palette.reveal(state.species, logits, rng=rng)
                state = replace(state, species=chosen)
            revealed = due
        return self._crystals(state, orbits, request.species)

    def _templates(self, request: SampleRequest, rng: torch.Generator) -> list[Drawn]:
        """A template for each crystal."""
        chance = np.random.default_rng(int(torch.randint(0, 2**62, (1,), generator=rng)))
        return [self.book.draw(wanted, chance) for wanted in wanted_crystals(request)]

    def _clean(self, units: list[AsymmetricUnit], orbits: Orbits) -> _State:
        size, widest, _ = orbits.free.shape
        device = orbits.free.device
        coordinates = np.zeros((size, widest, 3), dtype=np.float32)
        species = np.full((size, widest), _FILLER, dtype=np.int64)
        for row, unit in enumerate(units):
            coordinates[row, : len(unit.species)] = unit.coordinates
            species[row, : len(unit.species)] = unit.species
        lattice = torch.from_numpy(np.stack([unit.lattice for unit in units])).float().to(device)
        return _State(
            coordinates=torch.from_numpy(coordinates).to(device),
            lattice=(lattice - self.lattice_mean) / self.lattice_std,
            species=torch.from_numpy(species).to(device),
        )

    def _noisy(self, state: _State, orbits: Orbits, time: Tensor, known: Tensor) -> NoisyCrystals:
        lattice = orbits.lattice(state.lattice * self.lattice_std + self.lattice_mean)
        return NoisyCrystals(
            frac=orbits.expand(state.coordinates),
            cell=orbits.cell(lattice),
            lattice=(lattice - self.lattice_mean) / self.lattice_std,
            species=orbits.at_atoms(state.species),
            time=time,
            known=known,
        )

    def _guess(self, state: _State, orbits: Orbits, time: Tensor, asked: Asked) -> Prediction:
        known = (orbits.at_atoms(state.species) != MASKED).float().mean(1)
        return asked.guess(self.net, self._noisy(state, orbits, time, known))

    def _score(self, guess: Prediction, orbits: Orbits, time: Tensor) -> Tensor:
        """Score of the free coordinates, (b, o, 3)."""
        return self.noise.frac.score_from_target(orbits.collect(guess.frac), time)

    def _crystals(self, state: _State, orbits: Orbits, given: Tensor) -> CrystalBatch:
        """Whole crystals; atoms whose species were given stand in their places."""
        size, count = given.shape
        species = orbits.at_atoms(state.species)
        order = torch.tensor([order_as_given(*pair) for pair in zip(given.tolist(), species.tolist(), strict=True)])
        order = order.to(species.device)
        frac = orbits.expand(state.coordinates).gather(1, order[..., None].expand(-1, -1, 3))
        return CrystalBatch(
            frac=frac.reshape(-1, 3),
            cell=orbits.cell(orbits.lattice(self._lattice_of(state.lattice))),
            species=species.gather(1, order).reshape(-1),
            num_atoms=torch.full((size,), count, dtype=torch.int64, device=species.device),
        )


def _out_of_colour(species: Tensor, colours: Tensor) -> Tensor:
    """Elements that an orbit should not take, (b, o, 119): any but that of its colour, or those of other colours."""
    known = functional.one_hot(species, SPECIES).float() * ((species != MASKED) & (colours != ANY))[..., None]
    told = (colours[:, :, None] != ANY) & (colours[:, None] != ANY)
    same = colours[:, :, None] == colours[:, None]
    with torch.autocast(species.device.type, enabled=False):
        own, others = (told & same).float() @ known > 0, (told & ~same).float() @ known > 0
    return torch.where(own.any(-1, keepdim=True), ~own, others)


def _mean_square(error: Tensor, free: Tensor) -> Tensor:
    """Mean square of what is free, 0 where nothing is."""
    return (error.square() * free).sum() / free.sum().clamp_min(1)
