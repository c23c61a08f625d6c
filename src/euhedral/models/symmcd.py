"""SymmCD: diffusion of asymmetric units with their site symmetries (Levy et al., ICLR 2025)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from euhedral.crystal.asymmetric_unit import OrbitTemplate
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.crystal_family import family_subspace, onto_family
from euhedral.crystal.lattice import cell_from_log_symmetric
from euhedral.crystal.orbits import Orbits
from euhedral.crystal.wyckoff import LETTERS
from euhedral.errors import ConfigError
from euhedral.models.atom_order import order_as_given
from euhedral.models.base import LossTerms, SampleRequest
from euhedral.models.conditions import Conditions
from euhedral.models.fillings import makes_group
from euhedral.models.guidance import Asked, extrapolate
from euhedral.models.palette import Palette
from euhedral.models.redraws import redrawn
from euhedral.models.site_filling import Owed, SiteFilling
from euhedral.models.site_places import place_orbits
from euhedral.models.sites import Cells, Sites, kind_logits, sites_of, symbols_of
from euhedral.models.surprise import summed_surprise
from euhedral.models.template_model import LatticePath, TemplateModel, lattice_process
from euhedral.models.templates import Drawn, wanted_crystals
from euhedral.nets.site_net import NoisySites, SiteNet, SiteNetConfig, SitePrediction
from euhedral.noise.d3pm import IGNORED, AbsorbingSpecies
from euhedral.noise.gaussian import VariancePreservingConfig
from euhedral.noise.joint import JointNoise
from euhedral.noise.masked import MASKED
from euhedral.noise.wrapped_normal import WrappedNormal, WrappedNormalConfig

UNKNOWN = -1
"""Site symmetry of an orbit that has none yet."""
WIDTHS = (2, 4, 6, 9, 14)
"""Crystals of as many orbits at most are drawn together; those of more with each other."""
_FILLER = 1
"""Species of places that are no orbit, so that none of them counts as masked."""


@dataclass(frozen=True, kw_only=True)
class SymmCDWeights:
    """Weights of the parts of the loss, each a mean squared error of order one or a cross entropy."""

    frac: float = 1.0
    lattice: float = 1.0
    species: float = 1.0
    sites: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SymmCDConfig:
    """Everything that defines the model; the sizes are those of SymmCD for MP-20.

    Attributes:
        net: the backbone.
        frac: widths of the noise of points, in fractions of the conventional cell.
        cell: schedule of the noise of the lattice.
        lattice_path: of the lattice within its crystal family; `gaussian_flow` has no schedule.
        settled: time at which all species and site symmetries are known; before it they are with a probability in
            proportion to the time.
        prediction_share: share of training crystals whose species are all given.
        corrector: step of the Langevin corrector of points in units of sigma / sigma_min squared; 0 leaves the corrector
            out, and with it half of the evaluations.
        redraws: how often a crystal is drawn again whose positions and elements have the symmetry of a supergroup.
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

    net: SiteNetConfig = field(default_factory=SiteNetConfig)
    frac: WrappedNormalConfig = field(default_factory=WrappedNormalConfig)
    cell: VariancePreservingConfig = field(default_factory=VariancePreservingConfig)
    lattice_path: LatticePath = "variance_preserving"
    settled: float = 1.0
    prediction_share: float = 0.0
    corrector: float = 1e-5
    redraws: int = 3
    condition_keep: float = 0.5
    weights: SymmCDWeights = field(default_factory=SymmCDWeights)
    symprec: float = 0.1
    lattice_mean: tuple[float, ...] = (0.0,) * 6
    lattice_std: tuple[float, ...] = (1.0,) * 6
    property_mean: tuple[float, ...] = (0.0,) * 3
    property_std: tuple[float, ...] = (1.0,) * 3
    templates: int = 0
    orbits: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """Noisy asymmetric units of up to k orbits.

    Attributes:
        points: one of each orbit, (b, k, 3).
        lattice: standardised, (b, 6).
        species: `MASKED` where not known, `_FILLER` at places that are no orbit, (b, k).
        kinds: site symmetries, `UNKNOWN` where not known, 0 at places that are no orbit, (b, k).
        present: which places are orbits, (b, k).
    """

    points: Tensor
    lattice: Tensor
    species: Tensor
    kinds: Tensor
    present: Tensor


class SymmCD(TemplateModel):
    """Wrapped-normal diffusion of one point of each orbit, diffusion or flow of the lattice in its family, the rest masked.

    The space group and the number of orbits are those of training crystals of the atom count that is asked for. Orbits get
    species and site symmetries one by one in random order, the latter among those that the group has and that leave the
    atoms of the cell, and of each element that is given, possible. At the end points are moved to the nearest positions
    with their site symmetry (Section 3.4) and orbits are filled up.

    Loss: mean squares against the scaled score of points and against the lattice's noise or velocity in its free coordinates,
    and cross entropies of masked species and of masked site symmetries over those of the group.
    """

    config: SymmCDConfig

    def __init__(self, config: SymmCDConfig) -> None:
        if not 0 < config.settled <= 1:
            raise ConfigError(f"settled must be above 0 and at most 1, not {config.settled}")
        super().__init__(config)
        self.net = SiteNet(config.net)
        self.noise = JointNoise(
            frac=WrappedNormal(config.frac),
            cell=lattice_process(config.lattice_path, config.cell),
            species=AbsorbingSpecies(),
        )

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """See the class; the crystals must have one atom count. `rng` lives on the batch's device."""
        self._equal_count(batch)
        size, device, levels = len(batch), batch.frac.device, self.config.frac.levels
        level = torch.randint(1, levels + 1, (size,), generator=rng, device=device)
        time = 1 - level.float() / levels
        given = torch.rand(size, generator=rng, device=device) < self.config.prediction_share
        shown = conditions.drop(self.config.condition_keep, rng=rng)
        sums: defaultdict[str, list[Tensor]] = defaultdict(list)
        counts: defaultdict[str, list[Tensor]] = defaultdict(list)
        for sites in sites_of(self._units.of(batch), device):
            parts = self._errors(sites, time[sites.rows], given[sites.rows], shown[sites.rows], rng)
            for name, (total, count) in parts.items():
                sums[name].append(total)
                counts[name].append(count)
        terms = {name: torch.stack(sums[name]).sum() / torch.stack(counts[name]).sum().clamp_min(1) for name in sums}
        weights = self.config.weights
        total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
        return LossTerms(total=total, terms={name: value.detach() for name, value in terms.items()})

    def _errors(
        self, sites: Sites, time: Tensor, given: Tensor, shown: Conditions, rng: torch.Generator
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum and number of the errors of each part of the loss."""
        known = (time / self.config.settled).clamp_max(1)
        moved = self.noise.frac.corrupt(sites.points, time, rng=rng)
        lattice = (sites.lattice - self.lattice_mean) / self.lattice_std
        strained = self.noise.cell.corrupt(lattice, time, rng=rng)
        masked = self.noise.species.corrupt(sites.species, torch.where(given, 1.0, known), rng=rng)
        hidden = torch.rand(sites.kinds.shape, generator=rng, device=time.device) >= known[:, None]
        state = _State(
            points=moved.noisy,
            lattice=strained.noisy,
            species=masked.noisy,
            kinds=sites.kinds.masked_fill(hidden, UNKNOWN),
            present=torch.ones_like(hidden),
        )
        guess = self.net(self._noisy(state, sites.cells, time, known), self.scale.context(shown))
        free = family_subspace(sites.cells.group)[0]
        wanted = sites.kinds.masked_fill(~hidden, IGNORED)
        return {
            "frac": (
                (guess.frac - moved.target).square().sum(),
                torch.tensor(float(moved.target.numel()), device=time.device),
            ),
            "lattice": (((guess.lattice - strained.target).square() * free).sum(), free.sum()),
            "species": summed_surprise(guess.species, masked.target),
            "sites": summed_surprise(kind_logits(guess.symbols, sites.cells.group), wanted),
        }

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Draw crystals by predictor and corrector, two evaluations a step, those of about as many orbits together.

        Where a guidance above 0 asks for a space group, of that group. `rng` lives on the CPU whatever the model's device,
        so that a seed gives the same noise everywhere.
        """
        return redrawn(self._crystals, request, rng=rng)

    def _crystals(self, request: SampleRequest, rng: torch.Generator) -> CrystalBatch:
        """Crystals of a request; those that came out in a supergroup are drawn again with the group and orbits they had."""
        request = _with_systems(request)
        chance = np.random.default_rng(int(torch.randint(0, 2**62, (1,), generator=rng)))
        drawn = [self.book.draw(wanted, chance) for wanted in wanted_crystals(request)]
        found: dict[int, CrystalBatch] = {}
        waiting = list(range(len(drawn)))
        for attempt in range(self.config.redraws + 1):
            members: defaultdict[int, list[int]] = defaultdict(list)
            for row in waiting:
                members[bisect_left(WIDTHS, len(drawn[row].species))].append(row)
            waiting = []
            for _, rows in sorted(members.items()):
                some = request.rows(torch.tensor(rows))
                crystals, whole = self._path(some, [drawn[row] for row in rows], chance, rng)
                for row, crystal, has_group in zip(rows, crystals, whole, strict=True):
                    if has_group or attempt == self.config.redraws:
                        found[row] = crystal
                    else:
                        waiting.append(row)
        return CrystalBatch.concat([found[row] for row in range(len(drawn))])

    def _path(
        self, request: SampleRequest, drawn: list[Drawn], chance: np.random.Generator, rng: torch.Generator
    ) -> tuple[CrystalBatch, list[bool]]:
        """Crystals, and whether each has its space group and no supergroup."""
        device, size = self.lattice_mean.device, len(drawn)
        cells, noise = Cells.of([one.template for one in drawn], device), self.noise
        fillings = [_filling(one, request, row) for row, one in enumerate(drawn)]
        asked = Asked.of(request, self.scale)
        palette = Palette.of(request, device)
        state = self._start(drawn, rng)
        masked_at_start = (state.species == MASKED).sum(1)
        for step in range(request.steps):
            now = torch.full((size,), step / request.steps, device=device)
            later = torch.full((size,), (step + 1) / request.steps, device=device)
            last = step + 1 == request.steps
            if self.config.corrector:
                score = noise.frac.score_from_target(self._guess(state, cells, now, asked).frac, now)
                points = noise.frac.correct(
                    state.points, score, now, step=self.config.corrector, rng=None if last else rng
                )
                state = replace(state, points=points)
            guess = self._guess(state, cells, now, asked)
            state = self._moved(state, guess, now, later, rng)
            share = 1.0 if last else min(1.0, (step + 1) / (request.steps * self.config.settled))
            open_still = masked_at_start - (masked_at_start * share).ceil().long()
            while bool((due := (state.species == MASKED).sum(1) > open_still).any()):
                species, palette = _revealed(state.species, guess.species, due, palette, rng)
                state = replace(state, species=species)
            logits = kind_logits(guess.symbols, cells.group).double().cpu().numpy()
            state = replace(state, kinds=_settled(state.kinds, logits, fillings, share, chance))
        return self._filled(state, [one.template for one in drawn], cells, request.species)

    def _start(self, drawn: list[Drawn], rng: torch.Generator) -> _State:
        """Noise, and the species of orbits that are given."""
        device, orbits = self.lattice_mean.device, [len(one.species) for one in drawn]
        widest = max(orbits)
        present = torch.arange(widest) < torch.tensor(orbits)[:, None]
        species = [one.species + [_FILLER] * (widest - len(one.species)) for one in drawn]
        return _State(
            points=self.noise.frac.prior((len(drawn), widest, 3), rng=rng).to(device),
            lattice=self.noise.cell.prior((len(drawn), 6), rng=rng).to(device),
            species=torch.tensor(species, device=device),
            kinds=torch.where(present, UNKNOWN, 0).to(device),
            present=present.to(device),
        )

    def _moved(self, state: _State, guess: SitePrediction, now: Tensor, later: Tensor, rng: torch.Generator) -> _State:
        """Points and lattice at a later time."""
        noise = self.noise
        score = noise.frac.score_from_target(guess.frac, now)
        points = noise.frac.reverse(state.points, score, now, later, rng=rng)
        return replace(state, points=points, lattice=self._lattice_step(state.lattice, guess.lattice, now, later, rng))

    def _noisy(self, state: _State, cells: Cells, time: Tensor, known: Tensor) -> NoisySites:
        lattice = onto_family(state.lattice * self.lattice_std + self.lattice_mean, cells.group)
        hidden = state.kinds == UNKNOWN
        with torch.autocast(lattice.device.type, enabled=False):
            cell = cell_from_log_symmetric(lattice, cells.conventional)
        return NoisySites(
            frac=state.points,
            cell=cell,
            lattice=(lattice - self.lattice_mean) / self.lattice_std,
            species=state.species,
            time=time,
            known=known,
            symbols=symbols_of(state.kinds.clamp_min(0), cells.group, hidden),
            group=cells.group,
            num_atoms=cells.num_atoms,
            present=state.present,
        )

    def _guess(self, state: _State, cells: Cells, time: Tensor, asked: Asked) -> SitePrediction:
        noisy = self._noisy(state, cells, time, (time / self.config.settled).clamp_max(1))
        guided: SitePrediction = self.net(noisy, asked.full)
        if asked.strength == 1:
            return guided
        free: SitePrediction = self.net(noisy, asked.none)
        symbols = free.symbols + asked.strength * (guided.symbols - free.symbols)
        mixed = extrapolate(free, guided, asked.strength)
        return replace(guided, frac=mixed.frac, lattice=mixed.lattice, species=mixed.species, symbols=symbols)

    def _filled(
        self, state: _State, templates: list[OrbitTemplate], cells: Cells, given: Tensor
    ) -> tuple[CrystalBatch, list[bool]]:
        """Whole crystals, points moved to the nearest positions; atoms whose species were given stand in their places."""
        lattice = onto_family(self._lattice_of(state.lattice), cells.group)
        edges = cell_from_log_symmetric(lattice.double(), cells.conventional.double()).cpu().numpy()
        points, kinds = state.points.double().cpu().numpy(), state.kinds.cpu().numpy()
        present, known = state.present.cpu().numpy(), state.species.cpu()
        places, species = np.zeros_like(points), torch.full_like(known, _FILLER)
        filled, whole = [], []
        for row, template in enumerate(templates):
            held = present[row]
            letters, found = place_orbits(
                template.space_group, kinds[row, held].tolist(), points[row, held], edges[row]
            )
            order = sorted(range(len(letters)), key=lambda orbit: LETTERS.index(letters[orbit]))
            filled.append(replace(template, letters="".join(letters[orbit] for orbit in order)))
            places[row, : len(order)], species[row, : len(order)] = found[order], known[row, order]
            whole.append(makes_group(filled[-1], tuple(species[row, : len(order)].tolist())))
        device = lattice.device
        orbits = Orbits.of(filled).to(device)
        atoms = orbits.at_atoms(species.to(device))
        order = torch.tensor(
            [order_as_given(*pair) for pair in zip(given.tolist(), atoms.tolist(), strict=True)], device=device
        )
        frac = orbits.expand(torch.from_numpy(places).float().to(device))
        crystals = CrystalBatch(
            frac=frac.gather(1, order[..., None].expand(-1, -1, 3)).reshape(-1, 3),
            cell=orbits.cell(lattice),
            species=atoms.gather(1, order).reshape(-1),
            num_atoms=torch.full((len(given),), given.shape[1], dtype=torch.int64, device=device),
        )
        return crystals, whole


def _with_systems(request: SampleRequest) -> SampleRequest:
    """The request with the chemical system of crystals whose species are all given as a condition."""
    complete = (request.species != MASKED).all(1)
    system = functional.one_hot(request.species, request.allowed.shape[1]).bool().any(1) & complete[:, None]
    conditions = replace(request.conditions, chemical_system=request.conditions.chemical_system | system)
    return replace(request, conditions=conditions)


def _filling(drawn: Drawn, request: SampleRequest, row: int) -> SiteFilling:
    given = Counter(z for z in request.species[row].tolist() if z != MASKED)
    complete = given.total() == request.species.shape[1]
    owed = {z: Owed(atoms=k, exact=complete or not bool(request.allowed[row, z])) for z, k in given.items()}
    filling = SiteFilling(drawn.template, drawn.species, owed)
    assert filling.possible(), "the orbits that were drawn hold what is given"
    return filling


def _revealed(
    species: Tensor, logits: Tensor, due: Tensor, palette: Palette, rng: torch.Generator
) -> tuple[Tensor, Palette]:
    """Species with one more of them known in the crystals where one is due."""
    waiting = (species == MASKED) & ~due[:, None]
    after, palette = palette.reveal(species.masked_fill(waiting, _FILLER), logits, rng=rng)
    return after.masked_fill(waiting, MASKED), palette


def _settled(
    kinds: Tensor, logits: np.ndarray, fillings: list[SiteFilling], share: float, chance: np.random.Generator
) -> Tensor:
    """Site symmetries, drawn for orbits in random order until a share of each crystal's have one."""
    after = kinds.cpu().numpy().copy()
    for row, filling in enumerate(fillings):
        waiting = np.flatnonzero(after[row] == UNKNOWN)
        still = filling.orbits - int(np.ceil(filling.orbits * share))
        for orbit in chance.permutation(waiting)[: max(len(waiting) - still, 0)].tolist():
            perturbed = logits[row, orbit, : len(filling.sizes)] + chance.gumbel(size=len(filling.sizes))
            after[row, orbit] = filling.choose(orbit, np.argsort(-perturbed).tolist())
    return torch.from_numpy(after).to(kinds.device)
