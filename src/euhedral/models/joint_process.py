"""One family for the joint models of the literature: a path for each field of a crystal, one backbone, one loop.

DiffCSP, EquiCSP, MatterGen, FlowMM, CrystalFlow, OMatG, CrysBFN, KLDM and Crystalite are configurations of it; see the
files under `recipes/`, which say what of each is as published.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap
from euhedral.errors import ConfigError
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.conditions import Conditions, PropertyScale
from euhedral.models.guidance import Asked
from euhedral.models.held import Held
from euhedral.models.lattice_field import LatticeField, LatticeFieldConfig
from euhedral.models.lattice_maps import ParameterMap, bounded_cell
from euhedral.models.redraws import redrawn
from euhedral.models.species_classes import AbsorbingSpeciesConfig
from euhedral.models.species_codes import CodedSpecies
from euhedral.models.species_fields import SpeciesFieldConfig, species_field
from euhedral.models.species_state import ShownSpecies, SpeciesState
from euhedral.models.steering import Steering
from euhedral.nets.backbones import BackboneConfig, backbone
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.cspnet import CSPNetConfig, MatrixPrediction
from euhedral.noise.alignment import aligned
from euhedral.noise.bayesian import TorusBayesian, TorusBayesianConfig
from euhedral.noise.diffusion_paths import WrappedNormalPath, WrappedNormalPathConfig
from euhedral.noise.edm import TorusEDM, TorusEDMConfig
from euhedral.noise.flow_paths import TorusFlowPath, TorusFlowPathConfig
from euhedral.noise.interpolant import TorusInterpolant, TorusInterpolantConfig
from euhedral.noise.kinetic import KineticConfig, KineticPath
from euhedral.noise.masked import MASKED
from euhedral.noise.path import Derived, Path
from euhedral.noise.torus import without_mean

FracPathConfig = Annotated[
    WrappedNormalPathConfig
    | TorusFlowPathConfig
    | TorusInterpolantConfig
    | TorusEDMConfig
    | TorusBayesianConfig
    | KineticConfig,
    Field(discriminator="kind"),
]
_FRAC_PATHS: dict[str, Any] = {
    "wrapped_normal": WrappedNormalPath,
    "torus_flow": TorusFlowPath,
    "torus_interpolant": TorusInterpolant,
    "torus_edm": TorusEDM,
    "torus_bayesian": TorusBayesian,
    "kinetic": KineticPath,
}


@dataclass(frozen=True, kw_only=True)
class ProcessWeights:
    """Weights of the parts of the loss, each a mean squared error, but that of predicted classes a cross entropy."""

    frac: float = 1.0
    lattice: float = 1.0
    species: float = 1.0
    axes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class JointProcessConfig:
    """Everything that defines the model.

    Attributes:
        net: the backbone; what it reads and gives follows from the fields.
        frac: path of fractional coordinates.
        lattice: numbers and path of the lattice.
        species: how species are treated.
        prediction_share: share of training crystals whose species are all given, where species are generated.
        condition_keep: probability that a known condition is shown in training (classifier-free guidance).
        alignment: origins tried when noise is paired with the nearest copy of a crystal (`noise.alignment`), for paths
            that take their noise; 0: none.
        solver: `heun` averages two evaluations a step; coordinates, lattice and coded species must then follow ordinary
            differential equations (`noise.path.Derived`), and other species are stepped once.
        weights: parts of the loss; `axes` weighs what the network says of a crystal whose axes were exchanged against
            what it says of the crystal, with the axes exchanged (EquiCSP, Section 4.2), for an evaluation more.
        lattice_mean: mean of the log-symmetric lattice coordinates of the training crystals, six numbers.
        lattice_std: their standard deviation.
        length_mean: mean of log(length / Å) - log(N) / 3 of the training crystals, three numbers.
        length_std: their standard deviation.
        property_mean: mean of each property of `PROPERTIES` in training.
        property_std: its standard deviation.
    """

    net: BackboneConfig = field(default_factory=CSPNetConfig)
    frac: FracPathConfig = field(default_factory=WrappedNormalPathConfig)
    lattice: LatticeFieldConfig = field(default_factory=LatticeFieldConfig)
    species: SpeciesFieldConfig = field(default_factory=AbsorbingSpeciesConfig)
    prediction_share: float = 0.5
    condition_keep: float = 0.5
    alignment: int = 0
    solver: Literal["euler", "heun"] = "euler"
    weights: ProcessWeights = field(default_factory=ProcessWeights)
    lattice_mean: tuple[float, ...] = (0.0,) * 6
    lattice_std: tuple[float, ...] = (1.0,) * 6
    length_mean: tuple[float, ...] = (1.1, 1.2, 1.5)
    length_std: tuple[float, ...] = (0.25, 0.25, 0.35)
    property_mean: tuple[float, ...] = (0.0,) * 3
    property_std: tuple[float, ...] = (1.0,) * 3


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """Samples on their way: values of coordinates (b, n, ...) and lattice (b, ...), and species."""

    frac: Tensor
    lattice: Tensor
    species: SpeciesState


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """What every evaluation of a sampling is told.

    Attributes:
        asked: contexts of the network.
        held: parts that stay as they are.
        steering: a property model that leads the samples.
        start: the noise that the sampling began with, held atoms in their places.
        rng: on the CPU.
    """

    asked: Asked
    held: Held | None
    steering: Steering | None
    start: _State
    rng: torch.Generator


class JointProcess(GenerativeModel):
    """See the module. Loss: the weighted sum of what each field's path asks for, all fields being at one time."""

    holds_parts = True

    def __init__(self, config: JointProcessConfig) -> None:
        super().__init__()
        self.config = config
        self.frac: Path = _FRAC_PATHS[config.frac.kind](config.frac)
        self.lattice = LatticeField(
            config.lattice,
            lattice=torch.tensor([config.lattice_mean, config.lattice_std]),
            lengths=torch.tensor([config.length_mean, config.length_std]),
        )
        self.species = species_field(config.species)
        if self.lattice.path.vectors != 1:
            raise ConfigError("lattice.path must be without a latent: backbones say one thing of a lattice")
        if config.solver == "heun" and not self._derived:
            raise ConfigError("solver heun takes paths of ordinary differential equations: flows, interpolants or EDM")
        if config.weights.axes and not (isinstance(self.lattice.map, ParameterMap) and config.lattice.alike):
            raise ConfigError("weights.axes takes lengths and angles as the lattice, with lattice.alike: true")
        self.net = backbone(
            config.net,
            features=self.frac.features + self.species.features,
            codes=self.species.codes,
            vectors=self.frac.vectors,
            species=self.species.predicts,
            matrix=self.lattice.matrix,
        )
        self.can_be_steered = self.frac.aims and self.lattice.path.aims
        self.reads_properties = self.reads_space_group = self.conditioned
        self.chooses_species = self.species.predicts
        self.scale = PropertyScale(config.property_mean, config.property_std)

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """See the class; the crystals must have one atom count. `rng` lives on the batch's device."""
        count, size = self._equal_count(batch), len(batch)
        device, config = batch.frac.device, self.config
        time = self.frac.draw_time(size, rng=rng)
        species = batch.species.reshape(size, count)
        clean = batch.frac.reshape(size, count, 3).float()
        start = None
        if config.alignment:
            start = self.frac.prior((size, count, 3), rng=rng)
            start = aligned(start, clean, species, rng=rng, origins=config.alignment)
        moved = self.frac.corrupt(clean, time, rng=rng, start=start)
        lattice = self.lattice.encode(batch.cell, batch.num_atoms)
        noise = self.lattice.prior(batch.num_atoms, rng=rng) if config.lattice.informed else None
        strained = self.lattice.path.corrupt(lattice, time, rng=rng, start=noise)
        given = torch.rand(size, generator=rng, device=device) < config.prediction_share
        renamed = self.species.corrupt(species, time, given, rng=rng)
        shown = conditions.drop(config.condition_keep, rng=rng)
        context = self.scale.context(shown)
        noisy = self._noisy(moved.noisy, strained.noisy, renamed.shown, time)
        guess = self.net(noisy, context)
        weights = config.weights
        terms = {
            "frac": (guess.frac - moved.target).square().mean(),
            "lattice": (_lattice_of(guess) - strained.target).square().mean(),
        }
        total = weights.frac * terms["frac"] + weights.lattice * terms["lattice"]
        if self.species.predicts:
            terms["species"] = self.species.loss(guess.species, renamed, time)
            total = total + weights.species * terms["species"]
        if weights.axes:
            terms["axes"] = self._axes(guess, noisy, context, rng)
            total = total + weights.axes * terms["axes"]
        return LossTerms(total=total, terms={name: value.detach() for name, value in terms.items()})

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Draw crystals: correctors, where a path has one, and a step of every field at each time.

        `rng` lives on the CPU whatever the model's device, so that a seed gives the same noise everywhere.

        Raises:
            RequestError: where species are to be chosen and the model predicts structures alone.
        """
        return redrawn(self._path, request, rng=rng)

    def _path(self, request: SampleRequest, rng: torch.Generator) -> CrystalBatch:
        device, (size, count) = self.scale.device, request.species.shape
        num_atoms = torch.full((size,), count, dtype=torch.int64)
        state = _State(
            frac=self.frac.prior((size, count, 3), rng=rng).to(device),
            lattice=self.lattice.prior(num_atoms, rng=rng).to(device),
            species=self.species.start(request, rng=rng, device=device),
        )
        start = state
        if (held := request.held) is not None:
            start = replace(state, frac=torch.cat([held.placed(state.frac[..., :3]), state.frac[..., 3:]], -1))
        task = _Task(
            asked=Asked.of(request, self.scale, conditioned=self.conditioned),
            held=held,
            steering=request.steering,
            start=start,
            rng=rng,
        )
        for step in range(request.steps):
            now = torch.full((size,), step / request.steps, device=device)
            later = torch.full((size,), (step + 1) / request.steps, device=device)
            if self.frac.corrected or self.lattice.path.corrected:
                state = self._corrected(state, now, task, last=step + 1 == request.steps)
            state = self._stepped(state, now, later, task)
        return self._crystals(state, request.held)

    @property
    def conditioned(self) -> bool:
        """Whether the network reads conditions."""
        return getattr(self.config.net, "conditioned", True)

    def _corrected(self, state: _State, now: Tensor, task: _Task, *, last: bool) -> _State:
        state, guess = self._evaluated(state, now, task)
        noise = None if last else task.rng
        lattice = self.lattice.path.correct(state.lattice, _lattice_of(guess), now, rng=noise)
        return replace(
            state,
            frac=self.frac.correct(state.frac, guess.frac, now, rng=noise),
            lattice=self.lattice.bounded(lattice),
        )

    def _stepped(self, state: _State, now: Tensor, later: Tensor, task: _Task) -> _State:
        state, guess = self._evaluated(state, now, task)
        path, rng = self.lattice.path, task.rng
        species = self.species.step(state.species, guess.species, now, later, rng=rng)
        if self.config.solver == "euler" or float(later[0]) >= 1:
            frac = self.frac.step(state.frac, guess.frac, now, later, rng=rng)
            num_atoms = torch.full_like(now, frac.shape[1])
            lattice = self.lattice.step(state.lattice, _lattice_of(guess), now, later, num_atoms, rng=rng)
            return _State(frac=frac, lattice=lattice, species=species)
        assert isinstance(self.frac, Derived)
        assert isinstance(path, Derived)
        first = (
            self.frac.derivative(state.frac, guess.frac, now),
            path.derivative(state.lattice, _lattice_of(guess), now),
        )
        trial = _State(
            frac=self.frac.move(state.frac, first[0], now, later),
            lattice=self.lattice.bounded(path.move(state.lattice, first[1], now, later)),
            species=species,
        )
        trial, again = self._evaluated(trial, later, task)
        frac = (first[0] + self.frac.derivative(trial.frac, again.frac, later)) / 2
        lattice = (first[1] + path.derivative(trial.lattice, _lattice_of(again), later)) / 2
        if isinstance(self.species, CodedSpecies):
            codes = self.species.derivative(state.species, guess.species, now)
            codes = (codes + self.species.derivative(trial.species, again.species, later)) / 2
            species = self.species.move(state.species, codes, now, later, rng=rng)
        return _State(
            frac=self.frac.move(state.frac, frac, now, later),
            lattice=self.lattice.bounded(path.move(state.lattice, lattice, now, later)),
            species=species,
        )

    @property
    def _derived(self) -> bool:
        coded = not isinstance(self.species, CodedSpecies) or isinstance(self.species.path, Derived)
        return isinstance(self.frac, Derived) and isinstance(self.lattice.path, Derived) and coded

    def _evaluated(self, state: _State, time: Tensor, task: _Task) -> tuple[_State, Prediction]:
        """The state with what is held in its place, and what the network says of it."""
        held, target = task.held, None
        if held is not None:
            frac, target = held.impose(state.frac, time, self.frac, task.start.frac, rng=task.rng)
            state = replace(state, frac=frac, lattice=self._held_lattice(state, time, task))
        shown = self.species.show(state.species, time, rng=task.rng)
        guess = task.asked.guess(self.net, self._noisy(state.frac, state.lattice, shown, time))
        species = state.species.species
        if task.steering is not None and float(time[0]) < 1 and bool((species != MASKED).all()):
            guess = self._steered(task.steering, guess, state, species, time)
        if held is not None and target is not None:
            guess = replace(guess, frac=held.centred(guess.frac, target))
        return state, guess

    def _steered(
        self, steering: Steering, guess: Prediction, state: _State, species: Tensor, time: Tensor
    ) -> Prediction:
        """Predictions that mean crystals which a property model likes better; see `Path.aim`."""
        (size, count), said = species.shape, _lattice_of(guess)
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=species.device)
        frac, reach = self.frac.aim(state.frac, time)
        lattice, lattice_reach = self.lattice.path.aim(state.lattice, time)
        along, strained = steering.moves(
            frac + reach * guess.frac,
            (lattice + lattice_reach * said).flatten(1),
            species,
            cell_of=lambda value: self.lattice.cell(value.view_as(said), num_atoms),
            left=1 - float(time[0]),
        )
        moved = said + strained.view_as(said) / lattice_reach
        guess = replace(guess, frac=without_mean(guess.frac + along / reach))
        return replace(guess, cell=moved) if isinstance(guess, MatrixPrediction) else replace(guess, lattice=moved)

    def _held_lattice(self, state: _State, time: Tensor, task: _Task) -> Tensor:
        if task.held is None or task.held.cell is None:
            return state.lattice
        num_atoms = torch.full((len(time),), len(task.held.sites), dtype=torch.int64, device=time.device)
        clean = self.lattice.encode(task.held.cell.to(state.frac), num_atoms).cpu()
        noised = self.lattice.path.corrupt(clean, time.cpu(), rng=task.rng, start=clean)
        return self.lattice.bounded(noised.noisy.to(state.lattice))

    def _noisy(self, frac: Tensor, lattice: Tensor, species: ShownSpecies, time: Tensor) -> NoisyCrystals:
        size, count = species.species.shape
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=frac.device)
        channels = [x for x in (self.frac.features_of(frac, time), species.features) if x is not None]
        return NoisyCrystals(
            frac=self.frac.shown(frac, time),
            cell=self.lattice.cell(lattice, num_atoms),
            lattice=self.lattice.shown(lattice, time, num_atoms),
            species=species.species,
            time=time,
            known=species.known,
            features=torch.cat([x.to(frac.dtype) for x in channels], -1) if channels else None,
        )

    def _axes(self, guess: Prediction, noisy: NoisyCrystals, context: Context, rng: torch.Generator) -> Tensor:
        """How far what is said of crystals with their axes exchanged is from what is said of them, exchanged."""
        order = torch.rand(len(noisy.frac), 3, generator=rng, device=rng.device).argsort(1)

        def exchanged(value: Tensor) -> Tensor:
            index = order.view(-1, *([1] * (value.dim() - 2)), 3).expand(value.shape)
            return value.gather(-1, index)

        def exchanged_six(value: Tensor) -> Tensor:
            return torch.cat([exchanged(value[:, :3]), exchanged(value[:, 3:])], 1)

        rows = order[:, :, None].expand(-1, 3, 3)
        other = replace(
            noisy,
            frac=exchanged(noisy.frac),
            cell=noisy.cell.gather(1, rows),
            lattice=exchanged_six(noisy.lattice),
        )
        said = self.net(other, context)
        return (said.frac - exchanged(guess.frac)).square().mean() + (
            said.lattice - exchanged_six(guess.lattice)
        ).square().mean()

    def _crystals(self, state: _State, held: Held | None) -> CrystalBatch:
        size, count = state.species.species.shape
        device = state.species.species.device
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=device)
        frac = wrap(self.frac.clean(state.frac).nan_to_num(0.0, 0.0, 0.0))
        crystals = CrystalBatch(
            frac=(frac if held is None else held.settled(frac)).reshape(-1, 3),
            cell=bounded_cell(self.lattice.cell(state.lattice, num_atoms)),
            species=state.species.species.reshape(-1),
            num_atoms=num_atoms,
        )
        return crystals if held is None else held.finished(crystals)


def _lattice_of(guess: Prediction) -> Tensor:
    return guess.cell if isinstance(guess, MatrixPrediction) else guess.lattice
