"""The default model: one network for crystal structure prediction and de novo generation, by joint flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.lattice import cell_from_log_symmetric, log_symmetric
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.conditions import Conditions, PropertyScale
from euhedral.models.guidance import asked_conditions
from euhedral.models.held import Held
from euhedral.models.palette import Palette
from euhedral.models.redraws import redrawn
from euhedral.models.steering import Steering
from euhedral.models.surprise import surprise
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.periodic_transformer import PeriodicTransformer, PeriodicTransformerConfig
from euhedral.noise.alignment import aligned
from euhedral.noise.flow_paths import annealed
from euhedral.noise.gaussian_flow import GaussianFlow
from euhedral.noise.joint import JointNoise
from euhedral.noise.masked import MASKED, MaskedSpecies
from euhedral.noise.torus import TorusFlow, without_mean


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the parts of the loss; the velocity of aligned coordinates has a variance of 1/30, hence its weight."""

    frac: float = 30.0
    lattice: float = 1.0
    species: float = 0.2
    space_group: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """How trajectories are integrated.

    Attributes:
        frac_annealing: the velocity of coordinates is scaled by 1 + this * t (OMatG and FlowMM anneal likewise), but
            never moves them beyond the crystal that it points at.
        lattice_annealing: the same for the lattice.
        species_guidance: velocities are extrapolated from those of the same crystal with its species hidden:
            hidden + this * (shown - hidden), which is classifier-free guidance (Ho and Salimans, 2022, Eq. 6) toward
            the composition. 1 is off and costs one evaluation a step, else two.
        guidance_until: time after which species guidance is not applied.
        space_group_first: where no space group is asked for, one is drawn from the network's own prediction before
            anything else, and asked for (as in MaskGXT).
        space_group_temperature: divides the logits of that prediction where all species are given; where the model
            chooses species, space groups are drawn as they are predicted.
        species_lead: share of the path after which all species are known; 0 draws them before the path, one an
            evaluation, so that the rest is structure prediction.
        species_temperature: divides the logits of species.
        schedule_power: time of step k of K is (k / K) ** this; below 1 spends the steps late.
        candidates: structures drawn for each crystal whose species are known before the path; the one kept is the one
            that the model itself denoises best (see `JointFlow.denoising_error`). More of them with fewer steps each
            match more often than one with many.
        decorations: candidates where a composition is shared out over a structure that is held whole. Of 150 crystals of
            MP-20 val 1, 3 and 8 of them bring 59, 71 and 80 % back.
        decoration_time: time that the network is told then: one at which positions are hardly noisy. At the times of a
            path, with 3 candidates, 46 % come back.
        selection_draws: noise draws of that error, one evaluation each.
        selection_time: time of the noise.
    """

    frac_annealing: float = 10.0
    lattice_annealing: float = 0.0
    species_guidance: float = 1.5
    guidance_until: float = 1.0
    space_group_first: bool = True
    space_group_temperature: float = 0.3
    species_lead: float = 0.0
    species_temperature: float = 1.0
    schedule_power: float = 1.0
    candidates: int = 3
    decorations: int = 8
    decoration_time: float = 0.95
    selection_draws: int = 1
    selection_time: float = 0.7


@dataclass(frozen=True, kw_only=True)
class JointFlowConfig:
    """Everything that defines the model.

    Attributes:
        net: the backbone.
        lattice_mean: mean of the log-symmetric lattice coordinates of the training crystals, six numbers.
        lattice_std: their standard deviation.
        property_mean: mean of each property of `PROPERTIES` in training.
        property_std: its standard deviation.
        prediction_share: share of training crystals whose species are all given (structure prediction).
        start_share: share of training crystals at t = 0 exactly, where the space group is predicted from the species.
        open_start_share: the same share among crystals whose species are not all given: all species are drawn at t = 0
            when `SamplingDefaults.species_lead` is 0, so that this is where a composition is learned.
        condition_keep: probability that a known condition is shown in training (classifier-free guidance).
        alignment: origins tried when noise is paired with the nearest copy of a crystal (`noise.alignment`); 0: none.
        weights: parts of the loss.
        sampling: how trajectories are integrated unless a request says otherwise.
    """

    net: PeriodicTransformerConfig = field(default_factory=PeriodicTransformerConfig)
    lattice_mean: tuple[float, ...] = (0.0,) * 6
    lattice_std: tuple[float, ...] = (1.0,) * 6
    property_mean: tuple[float, ...] = (0.0,) * 3
    property_std: tuple[float, ...] = (1.0,) * 3
    prediction_share: float = 0.6
    start_share: float = 0.08
    open_start_share: float = 0.7
    condition_keep: float = 0.5
    alignment: int = 4
    weights: LossWeights = field(default_factory=LossWeights)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """Conditions of every evaluation: with what the user asked for, and with the model's own choices alone."""

    full: Context
    own: Context
    none: Context
    strength: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """Crystals of one atom count as the model sees them: (b, n, 3), standardised lattice (b, 6), species (b, n)."""

    frac: Tensor
    lattice: Tensor
    species: Tensor


class JointFlow(GenerativeModel):
    """Flow on the torus for coordinates and on the symmetric log-lattice, masked discrete process for species.

    Species and structure have independent times in training (as in MCFlow), so that at sampling all species known
    from the start is structure prediction, and revealing them along the way is de novo generation. Loss:
    w_f |v_f - u_f|^2 + w_l |v_l - u_l|^2 - w_s log p(species masked) - w_g log p(space group, where not shown).
    """

    holds_parts = True
    can_be_steered = True
    steps = 7

    def __init__(self, config: JointFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.species_first = config.sampling.species_lead == 0
        self.net = PeriodicTransformer(config.net)
        self.noise = JointNoise(frac=TorusFlow(), cell=GaussianFlow(), species=MaskedSpecies())
        self.scale = PropertyScale(config.property_mean, config.property_std)
        for name in ("lattice_mean", "lattice_std"):
            self.register_buffer(name, torch.tensor(getattr(config, name)), persistent=False)
        self.lattice_mean: Tensor
        self.lattice_std: Tensor

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """See the class; the crystals must have one atom count. `rng` lives on the batch's device."""
        count, size, device = self._equal_count(batch), len(batch), batch.frac.device
        lattice = (log_symmetric(batch.cell, batch.num_atoms) - self.lattice_mean) / self.lattice_std
        frac, species = batch.frac.reshape(size, count, 3), batch.species.reshape(size, count)
        # The inverted crystal has the same metric and energy: twice the data for crystals without a centre.
        mirror = torch.where(torch.rand(size, 1, 1, generator=rng, device=device) < 0.5, -1.0, 1.0)
        known = torch.rand(size, generator=rng, device=device)
        given = torch.rand(size, generator=rng, device=device) < self.config.prediction_share
        known = torch.where(given, torch.ones_like(known), known)
        time = torch.rand(size, generator=rng, device=device)
        starts = torch.where(given, self.config.start_share, self.config.open_start_share)
        time = time * (torch.rand(size, generator=rng, device=device) >= starts)
        frac = mirror * frac
        start = torch.rand(frac.shape, generator=rng, device=device)
        if self.config.alignment:
            start = aligned(start, frac, species, rng=rng, origins=self.config.alignment)
        moved = self.noise.frac.corrupt(frac, time, rng=rng, start=start)
        strained = self.noise.cell.corrupt(lattice, time, rng=rng)
        masked = self.noise.species.corrupt(species, known, rng=rng)
        shown = conditions.drop(self.config.condition_keep, rng=rng)
        noisy = self._noisy(moved.noisy, strained.noisy, masked.noisy, time, known)
        prediction = self.net(noisy, self.scale.context(shown))
        hidden = torch.where(shown.space_group > 0, torch.zeros_like(shown.space_group), conditions.space_group)
        return self._combine(
            {
                "frac": (prediction.frac - moved.target).square().mean(),
                "lattice": (prediction.lattice - strained.target).square().mean(),
                "species": surprise(prediction.species, masked.target),
                "space_group": surprise(prediction.space_group, hidden, ignored=0),
            }
        )

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Draw crystals: species, then structures by Euler steps with annealed velocities; see `SamplingDefaults`.

        `rng` lives on the CPU whatever the model's device, so that a seed gives the same noise everywhere. Where sites
        are held, species are revealed along the path, so that they are chosen for their places.
        """
        options, held = self.config.sampling, request.held
        lead = options.species_lead if held is None or not bool(held.sites.any()) else 1.0
        if lead == 0:
            # What follows is structure prediction: the space group is drawn again, for the composition.
            request = replace(request, species=self._draw_species(request, rng))
        return redrawn(partial(self._draw_structures, lead), request, rng=rng)

    def _draw_structures(self, lead: float, request: SampleRequest, rng: torch.Generator) -> CrystalBatch:
        """Of several candidates for each crystal of a given composition, the one that the model itself takes to be best."""
        options, held = self.config.sampling, request.held
        asked, palette = self._asked(request, rng), Palette.of(request, self.lattice_mean.device)
        species = request.species.to(self.lattice_mean.device)
        best = self._path(species, palette, asked, request, rng, lead)
        if bool((species == MASKED).any()) and not request.shares_out:
            return self._crystals(best, held)
        candidates = options.candidates if held is None or not held.whole else options.decorations
        if candidates == 1:
            return self._crystals(best, held)
        least = self._selection_error(best, rng)
        for _ in range(candidates - 1):
            other = self._path(species, palette, self._asked(request, rng), request, rng, lead)
            error = self._selection_error(other, rng)
            better = (error < least) | ~least.isfinite()
            least = torch.where(better, error, least)
            best = _Drawn(
                frac=torch.where(better[:, None, None], other.frac, best.frac),
                lattice=torch.where(better[:, None], other.lattice, best.lattice),
                species=torch.where(better[:, None], other.species, best.species),
            )
        return self._crystals(best, held)

    @torch.no_grad()
    def denoising_error(self, crystals: CrystalBatch, time: float, *, rng: torch.Generator) -> Tensor:
        """How far the velocities of crystals of one atom count, noised to `time`, are from what the model predicts.

        One draw of the terms `frac` and `lattice` of the loss, weighted as there, nothing being asked for; (crystals,).
        It bounds the likelihood of a crystal from above, so that of two structures of a composition the likelier one
        has the smaller error (as a diffusion classifier compares classes: Li et al., ICCV 2023, Eq. 5). `rng` lives
        on the CPU.
        """
        size, count = len(crystals), int(crystals.num_atoms[0])
        lattice = (log_symmetric(crystals.cell, crystals.num_atoms) - self.lattice_mean) / self.lattice_std
        frac, species = crystals.frac.reshape(size, count, 3), crystals.species.reshape(size, count)
        return self._denoising_error(_Drawn(frac=frac, lattice=lattice, species=species), time, rng)

    def _denoising_error(self, drawn: _Drawn, time: float, rng: torch.Generator) -> Tensor:
        device, weights, (size, count) = drawn.frac.device, self.config.weights, drawn.species.shape
        start = self.noise.frac.prior((size, count, 3), rng=rng).to(device)
        if self.config.alignment:
            start = aligned(start, drawn.frac, drawn.species, rng=rng, origins=self.config.alignment)
        now = torch.full((size,), time, device=device)
        moved = self.noise.frac.corrupt(drawn.frac, now, rng=rng, start=start)
        origin = self.noise.cell.prior((size, 6), rng=rng).to(device)
        target = drawn.lattice - origin
        noisy = self._noisy(moved.noisy, origin + time * target, drawn.species, now, torch.ones_like(now))
        guess = self.net(noisy, self.scale.context(Conditions.unknown(size, device)))
        return weights.frac * (guess.frac - moved.target).square().mean((1, 2)) + weights.lattice * (
            guess.lattice - target
        ).square().mean(1)

    def _selection_error(self, drawn: _Drawn, rng: torch.Generator) -> Tensor:
        options = self.config.sampling
        known = replace(drawn, frac=drawn.frac.nan_to_num(0, 0, 0), lattice=drawn.lattice.nan_to_num(0, 0, 0))
        draws = [self._denoising_error(known, options.selection_time, rng) for _ in range(options.selection_draws)]
        # Conditions far from all data lead out of the numbers; such a candidate is never the better one.
        finite = drawn.frac.isfinite().all(2).all(1) & drawn.lattice.isfinite().all(1)
        return torch.where(finite, torch.stack(draws).mean(0), torch.inf)

    def _path(
        self,
        species: Tensor,
        palette: Palette,
        asked: _Asked,
        request: SampleRequest,
        rng: torch.Generator,
        lead: float,
    ) -> _Drawn:
        """Integrate the flow from fresh noise, revealing species that are still masked on the way."""
        options, device, (size, count) = self.config.sampling, species.device, species.shape
        held, steps = request.held, request.steps
        frac = self.noise.frac.prior((size, count, 3), rng=rng).to(device)
        lattice = self.noise.cell.prior((size, 6), rng=rng).to(device)
        strain = self._held_lattice(held, count)
        if held is not None and strain is not None and held.whole:
            return self._reveal_all(
                _Drawn(frac=held.placed(frac), lattice=strain, species=species),
                options.decoration_time,
                palette,
                asked,
                rng,
            )
        masked_at_start, revealed = int((species == MASKED).sum(1).max()) if size else 0, 0
        times = torch.linspace(0, 1, steps + 1) ** options.schedule_power
        for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            time = torch.full((size,), now, device=device)
            if held is not None:
                # What is held stands in its place from the beginning, on a path of no length; where it is led to its place
                # from elsewhere, the others decide before it is there.
                frac = held.placed(frac)
                lattice = lattice if strain is None else strain
            guess = self._guided(self._noisy(frac, lattice, species, time, _known_share(species)), asked)
            if request.steering is not None and bool((species != MASKED).all()):
                guess = self._steered(request.steering, guess, frac, lattice, species, now)
            if held is not None:
                guess = replace(guess, frac=held.centred(guess.frac, torch.zeros_like(held.frac).to(frac)))
            here, there = torch.tensor([now, then], dtype=torch.float64)
            frac_step = float(annealed(here, there, options.frac_annealing))
            frac = self.noise.frac.advance(frac, guess.frac, torch.full_like(time, frac_step))
            lattice_step = float(annealed(here, there, options.lattice_annealing))
            lattice = self.noise.cell.advance(lattice, guess.lattice, torch.full_like(time, lattice_step))
            if revealed < masked_at_start:
                due = min(masked_at_start, -int(-masked_at_start * then // lead))
                for _ in range(due - revealed):
                    species, palette = self._reveal(species, guess.species, palette, rng)
                revealed = max(revealed, due)
        return _Drawn(
            frac=frac if held is None else held.placed(frac),
            lattice=lattice if strain is None else strain,
            species=species,
        )

    def _steered(
        self, steering: Steering, guess: Prediction, frac: Tensor, lattice: Tensor, species: Tensor, now: float
    ) -> Prediction:
        """Velocities that lead to crystals which a property model likes better."""
        left, count = 1 - now, species.shape[1]
        num_atoms = torch.full((len(species),), count, dtype=torch.int64, device=species.device)
        along, strained = steering.moves(
            frac + left * guess.frac,
            lattice + left * guess.lattice,
            species,
            cell_of=lambda value: cell_from_log_symmetric(value * self.lattice_std + self.lattice_mean, num_atoms),
            left=left,
        )
        return replace(guess, frac=without_mean(guess.frac + along / left), lattice=guess.lattice + strained / left)

    def _held_lattice(self, held: Held | None, count: int) -> Tensor | None:
        """The standardised coordinates of a lattice that is held, (b, 6)."""
        if held is None or held.cell is None:
            return None
        num_atoms = torch.full((len(held.cell),), count, dtype=torch.int64)
        values = log_symmetric(held.cell.float(), num_atoms).to(self.lattice_mean)
        return (values - self.lattice_mean) / self.lattice_std

    def _crystals(self, drawn: _Drawn, held: Held | None) -> CrystalBatch:
        size, count = drawn.species.shape
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=drawn.species.device)
        cell = cell_from_log_symmetric(drawn.lattice * self.lattice_std + self.lattice_mean, num_atoms)
        crystals = CrystalBatch(
            frac=drawn.frac.reshape(-1, 3), cell=cell, species=drawn.species.reshape(-1), num_atoms=num_atoms
        )
        return crystals if held is None else held.finished(crystals)

    @torch.no_grad()
    def space_group_logits(self, species: Tensor, conditions: Conditions, *, rng: torch.Generator) -> Tensor:
        """Logits of the space group of crystals of which nothing but species (b, n; 0 unknown) and conditions is known.

        From the network at t = 0; (b, 231), index 0 unused.
        """
        device = self.lattice_mean.device
        size, count = species.shape
        noisy = self._noisy(
            self.noise.frac.prior((size, count, 3), rng=rng).to(device),
            self.noise.cell.prior((size, 6), rng=rng).to(device),
            species.to(device),
            torch.zeros(size, device=device),
            _known_share(species).to(device),
        )
        return self.net(noisy, self.scale.context(conditions.to(device))).space_group

    def _asked(self, request: SampleRequest, rng: torch.Generator) -> _Asked:
        options, device = self.config.sampling, self.lattice_mean.device
        conditions, nothing, strength = asked_conditions(request, device)
        own = nothing
        given = not bool((request.species == MASKED).any())
        if options.space_group_first and not bool((conditions.space_group > 0).any()):
            temperature = options.space_group_temperature if given else 1.0
            logits = self.space_group_logits(request.species, conditions, rng=rng)[:, 1:].double().cpu()
            groups = 1 + _draw(logits, temperature, rng).to(device)
            conditions, own = replace(conditions, space_group=groups), replace(own, space_group=groups)
        return _Asked(
            full=self.scale.context(conditions),
            own=self.scale.context(own),
            none=self.scale.context(nothing),
            strength=strength,
        )

    def _noisy(self, frac: Tensor, lattice: Tensor, species: Tensor, time: Tensor, known: Tensor) -> NoisyCrystals:
        size, count = species.shape
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=species.device)
        cell = cell_from_log_symmetric(lattice * self.lattice_std + self.lattice_mean, num_atoms)
        return NoisyCrystals(frac=frac, cell=cell, lattice=lattice, species=species, time=time, known=known)

    def _toward_request(self, noisy: NoisyCrystals, asked: _Asked) -> Prediction:
        """Prediction with what the user asked for, guided by its strength; what the model chose itself is kept."""
        guess = self.net(noisy, asked.full)
        if asked.strength == 1:
            return guess
        return _extrapolate(self.net(noisy, asked.own), guess, asked.strength, species=True)

    def _guided(self, noisy: NoisyCrystals, asked: _Asked) -> Prediction:
        """Prediction guided toward what the user asked for, then toward the composition; see `SamplingDefaults`."""
        guess, options = self._toward_request(noisy, asked), self.config.sampling
        if options.species_guidance == 1 or float(noisy.time[0]) >= options.guidance_until:
            return guess
        blank = replace(noisy, species=torch.full_like(noisy.species, MASKED), known=torch.zeros_like(noisy.known))
        return _extrapolate(self.net(blank, asked.none), guess, options.species_guidance, species=False)

    def _draw_species(self, request: SampleRequest, rng: torch.Generator) -> Tensor:
        """All species at t = 0, one atom of each crystal an evaluation; again where a test is missed."""
        species = request.species.to(self.lattice_mean.device)
        if not bool((species == MASKED).any()):
            return species
        (size, count), asked = species.shape, self._asked(request, rng)
        noise = _Drawn(
            frac=self.noise.frac.prior((size, count, 3), rng=rng).to(species.device),
            lattice=self.noise.cell.prior((size, 6), rng=rng).to(species.device),
            species=species,
        )
        species = self._reveal_all(noise, 0.0, Palette.of(request, species.device), asked, rng).species
        if (test := request.composition_test) is not None:
            for _ in range(test.redraws):
                missed = test.missed(species)
                if not len(missed):
                    break
                again = replace(request.rows(missed), composition_test=None)
                species[missed.to(species.device)] = self._draw_species(again, rng)
        return species

    def _reveal_all(self, drawn: _Drawn, now: float, palette: Palette, asked: _Asked, rng: torch.Generator) -> _Drawn:
        """All species, one atom of each crystal an evaluation, for a structure that stays as it is at time `now`."""
        species = drawn.species
        time = torch.full((len(species),), now, device=species.device)
        while bool((species == MASKED).any()):
            noisy = self._noisy(drawn.frac, drawn.lattice, species, time, _known_share(species))
            species, palette = self._reveal(species, self._toward_request(noisy, asked).species, palette, rng)
        return replace(drawn, species=species)

    def _reveal(
        self, species: Tensor, logits: Tensor, palette: Palette, rng: torch.Generator
    ) -> tuple[Tensor, Palette]:
        return palette.reveal(species, logits / self.config.sampling.species_temperature, rng=rng)

    def _combine(self, terms: Mapping[str, Tensor]) -> LossTerms:
        weights = self.config.weights
        total = sum(
            (getattr(weights, name) * value for name, value in terms.items()),
            start=next(iter(terms.values())).new_zeros(()),
        )
        return LossTerms(total=total, terms={name: value.detach() for name, value in terms.items()})


def _extrapolate(free: Prediction, guided: Prediction, strength: float, *, species: bool) -> Prediction:
    """free + strength * (guided - free), of species too or of the structure alone."""
    return Prediction(
        frac=without_mean(free.frac + strength * (guided.frac - free.frac)),
        lattice=free.lattice + strength * (guided.lattice - free.lattice),
        species=free.species + strength * (guided.species - free.species) if species else guided.species,
        space_group=guided.space_group,
    )


def _draw(logits: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    """One class of each row; the most probable at temperature 0."""
    if temperature == 0:
        return logits.argmax(1)
    return torch.multinomial((logits / temperature).softmax(1), 1, generator=rng)[:, 0]


def _known_share(species: Tensor) -> Tensor:
    return (species != MASKED).float().mean(1)


def with_sampling(config: JointFlowConfig, **changes: float) -> JointFlowConfig:
    """The same model with other `SamplingDefaults`; numbers become what the field holds (4.0 candidates are 4)."""
    typed = {name: type(getattr(config.sampling, name))(value) for name, value in changes.items()}
    return replace(config, sampling=replace(config.sampling, **typed))
