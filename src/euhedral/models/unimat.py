"""UniMat: Gaussian diffusion of a crystal as a tensor over the periodic table (Yang et al., ICLR 2024).

See `models.periodic_table` for the tensor. Coordinates f enter as 2 f - 1, the null value of -1 with them as -3, and the
lattice as six standardised numbers. The expected clean value of a place is p x + (1 - p) null, p being the probability
that it holds an atom and x the coordinates that it then has: one network reads the whole table and gives p, the other
reads the occupied places alone and gives x, so that the many empty places cost next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap
from euhedral.errors import ConfigError
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.conditions import Conditions, PropertyScale
from euhedral.models.given_species import draw_given
from euhedral.models.guidance import Asked
from euhedral.models.lattice_maps import ParameterMap, bounded_cell
from euhedral.models.palette import Palette
from euhedral.models.periodic_table import ELEMENTS, counts, occupied, places
from euhedral.models.redraws import redrawn
from euhedral.models.unimat_net import AtomNet, Noisy, TableNet, UniMatConfig
from euhedral.noise.base import expand_time
from euhedral.noise.gaussian import VariancePreserving
from euhedral.noise.masked import MASKED

NULL = -3.0
"""What the null value of -1 of each coordinate becomes."""
FARTHEST_FRAC, FARTHEST_LATTICE = 1.5, 8.0
"""Bounds of expected clean values, beyond which there are no crystals."""
STEADY = 5.0
"""Largest weight of the squared error of a clean value (compare Hang et al., Min-SNR, ICCV 2023)."""
_FULL = 1e3
"""Taken off the logit of a box without a place left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """Samples whose occupied places are not settled: the tensor (b, 118, depth, 3), lattice (b, 6), and what is fixed.

    Attributes:
        given: atomic numbers that are given, 0 where open, (b, n).
        usable: places that may hold an atom, (b, 118, depth).
        held: places of atoms that are given, (b, 118, depth).
    """

    values: Tensor
    lattice: Tensor
    given: Tensor
    usable: Tensor
    held: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Atoms:
    """Samples whose occupied places are settled: frac (b, n, 3), lattice (b, 6), species and places (b, n)."""

    frac: Tensor
    lattice: Tensor
    species: Tensor
    place: Tensor


class UniMat(GenerativeModel):
    """See the module.

    Loss: errors of the velocities sqrt(a) e - sqrt(1 - a) x (Salimans and Ho, ICLR 2022) of coordinates of atoms and of
    the lattice, and the cross entropy of the occupied places where species are open. Where there is little noise, the
    errors of velocities are those of the noise alone, and weigh less: as `STEADY` times the errors of clean values.
    """

    config: UniMatConfig

    def __init__(self, config: UniMatConfig) -> None:
        super().__init__()
        self.config = config
        self.atoms = AtomNet(config.net)
        self.table = TableNet(config.net, config.depth)
        self.noise = VariancePreserving(config.noise)
        lengths = torch.tensor([config.length_mean, config.length_std])
        self.lattice = ParameterMap(lengths[0], lengths[1], "tangent")
        self.scale = PropertyScale(config.property_mean, config.property_std)

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """See the class; the crystals must have one atom count. `rng` lives on the batch's device.

        Raises:
            ConfigError: for more atoms of an element than a box has places.
        """
        config, count, size = self.config, self._equal_count(batch), len(batch)
        species = batch.species.view(size, count)
        self._refuse_too_many(species)
        frac = batch.frac.view(size, count, 3).float()
        if config.shift:
            frac = wrap(frac + torch.rand(size, 1, 3, generator=rng, device=rng.device))
        time = torch.rand(size, generator=rng, device=rng.device)
        given = draw_given(size, count, config.prediction_share, rng=rng)
        clean = 2 * frac - 1, self.lattice.encode(batch.cell, batch.num_atoms)
        noised = [self.noise.corrupt(value, time, rng=rng) for value in clean]
        shown = conditions.drop(config.condition_keep, rng=rng)
        noisy = Noisy(time=time, lattice=noised[1].noisy, context=self.scale.context(shown), given=species)
        guess = self.atoms(noised[0].noisy, species, places(species), noisy)
        terms = {}
        for name, said, value, parts in zip(("frac", "lattice"), guess, clean, noised, strict=True):
            kept, lost = self._scales(time, value)
            error = (said - (kept * parts.target - lost * value)).square()
            terms[name] = (error * (STEADY * lost.square()).clamp_max(1.0)).mean()
        # Where all species are given nothing is to be learned of them; one crystal stays, so that the loss has a gradient.
        learned = (~given.all(1)).index_fill(0, torch.zeros(1, dtype=torch.int64, device=rng.device), True)
        noisy = Noisy(
            time=time[learned],
            lattice=noised[1].noisy[learned],
            context=self.scale.context(shown[learned]),
            given=(species * given)[learned],
        )
        terms["occupied"] = self._occupied_loss(noised[0].noisy[learned], species[learned], noisy, rng)
        total = torch.stack([getattr(config.weights, name) * term for name, term in terms.items()]).sum()
        return LossTerms(total=total, terms={name: term.detach() for name, term in terms.items()})

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Ancestral sampling (DDPM) of the tensor; `rng` lives on the CPU whatever the model's device.

        Places of species that are given hold an atom from the start. Where others are open, the whole tensor is denoised
        until the places are settled: the most probable ones that the request allows. Coordinates and lattice go on.
        """
        return redrawn(self._drawn, request, rng=rng)

    def _refuse_too_many(self, species: Tensor) -> None:
        most = int(counts(species).max())
        if most > self.config.depth:
            raise ConfigError(
                f"a crystal has {most} atoms of one element, for which model.depth must be at least {most}"
            )

    def _occupied_loss(self, frac: Tensor, species: Tensor, noisy: Noisy, rng: torch.Generator) -> Tensor:
        size, count = species.shape
        truth = occupied(species, self.config.depth)
        kept, lost = self._scales(noisy.time, truth.to(frac.dtype))
        # Of three noisy null values the network reads the mean, whose noise is smaller.
        empty = torch.randn(truth.shape, generator=rng, device=rng.device) / 3**0.5
        crystal = torch.arange(size, device=frac.device)[:, None].expand(size, count)
        values = (kept * NULL + lost * empty).index_put((crystal, species - 1, places(species)), frac.mean(-1))
        logits = self.table(values, counts(noisy.given)[:, 1:].to(values.dtype), noisy)
        entropy = functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
        is_open = (noisy.given == MASKED).any(1)
        return (entropy.sum((1, 2)) * is_open).sum() / (count * is_open.sum().clamp_min(1))

    def _drawn(self, request: SampleRequest, rng: torch.Generator) -> CrystalBatch:
        device, (size, count) = self.scale.device, request.species.shape
        asked = Asked.of(request, self.scale)
        given = request.species.to(device)
        lattice = self.noise.prior((size, 6), rng=rng).to(device)
        state: _Table | _Atoms
        if bool((given == MASKED).any()):
            state = self._empty_table(request, lattice, rng)
        else:
            frac = self.noise.prior((size, count, 3), rng=rng).to(device)
            state = _Atoms(frac=frac, lattice=lattice, species=given, place=places(given))
        times = torch.linspace(0, 1, request.steps + 1, device=device)
        for now, later in pairwise(times):
            step = now.expand(size), later.expand(size)
            if isinstance(state, _Table):
                logits = self._logits(state, step[0], asked)
                if float(later) < min(self.config.settled, 1.0):
                    state = self._table_step(state, logits, step, asked, rng)
                    continue
                state = self._settled(state, logits, Palette.of(request, device), rng)
            state = self._atoms_step(state, step, asked, rng)
        assert isinstance(state, _Atoms)
        return self._crystals(state)

    def _empty_table(self, request: SampleRequest, lattice: Tensor, rng: torch.Generator) -> _Table:
        size, depth = len(lattice), self.config.depth
        usable = request.allowed | (request.addable & (request.open_elements > 0)[:, None])
        held = occupied(request.species, depth).to(lattice.device)
        return _Table(
            values=self.noise.prior((size, ELEMENTS, depth, 3), rng=rng).to(lattice.device),
            lattice=lattice,
            given=request.species.to(lattice.device),
            usable=usable[:, 1:, None].to(lattice.device) | held,
            held=held,
        )

    def _logits(self, state: _Table, time: Tensor, asked: Asked) -> Tensor:
        """Logits of each place holding an atom, those that are held or not usable as the network says them."""
        given = counts(state.given)[:, 1:].to(state.values.dtype)
        noisy = Noisy(time=time, lattice=state.lattice, context=asked.full, given=state.given)
        values = state.values.mean(-1)
        logits = self.table(values, given, noisy)
        if asked.strength == 1:
            return logits
        free = self.table(values, given, replace(noisy, context=asked.none))
        return torch.lerp(free, logits, asked.strength)

    def _table_step(
        self, state: _Table, logits: Tensor, step: tuple[Tensor, Tensor], asked: Asked, rng: torch.Generator
    ) -> _Table:
        size, count = state.given.shape
        score = logits.masked_fill(~state.usable, float("-inf")).masked_fill(state.held, float("inf"))
        best = score.flatten(1).topk(count, dim=1).indices
        species, place = best // self.config.depth + 1, best % self.config.depth
        crystal = torch.arange(size, device=best.device)[:, None].expand(size, count)
        index = (crystal, species - 1, place)
        frac = state.values[index]
        atoms = _Atoms(frac=frac, lattice=state.lattice, species=species, place=place)
        clean, lattice = self._clean(atoms, step[0], asked)
        coordinates = torch.zeros_like(state.values).index_put(index, clean)
        expected = NULL + score.sigmoid()[..., None] * (coordinates - NULL)
        return replace(
            state,
            values=self._stepped(state.values, expected, step, rng),
            lattice=self._stepped(state.lattice, lattice, step, rng),
        )

    def _settled(self, state: _Table, logits: Tensor, palette: Palette, rng: torch.Generator) -> _Atoms:
        """The atoms of a table: one place after the other, by its odds, among those that the palette allows."""
        species, depth = state.given, self.config.depth
        size, count = species.shape
        while bool((species == MASKED).any()):
            used = counts(species)[:, 1:]
            following = logits.gather(2, used.clamp_max(depth - 1)[..., None])[..., 0] - _FULL * (used >= depth)
            following = functional.pad(following, (1, 0))
            species, palette = palette.reveal(species, following[:, None].expand(size, count, -1), rng=rng)
        place = places(species)
        crystal = torch.arange(size, device=species.device)[:, None].expand(size, count)
        frac = state.values[crystal, species - 1, place.clamp_max(depth - 1)]
        return _Atoms(frac=frac, lattice=state.lattice, species=species, place=place)

    def _atoms_step(self, state: _Atoms, step: tuple[Tensor, Tensor], asked: Asked, rng: torch.Generator) -> _Atoms:
        frac, lattice = self._clean(state, step[0], asked)
        return replace(
            state,
            frac=self._stepped(state.frac, frac, step, rng),
            lattice=self._stepped(state.lattice, lattice, step, rng),
        )

    def _clean(self, state: _Atoms, time: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
        """Expected clean coordinates and lattice: x = sqrt(a) x_t - sqrt(1 - a) v, within bounds."""
        noisy = Noisy(time=time, lattice=state.lattice, context=asked.full, given=state.species)
        velocities = self.atoms(state.frac, state.species, state.place, noisy)
        if asked.strength != 1:
            free = self.atoms(state.frac, state.species, state.place, replace(noisy, context=asked.none))
            velocities = [torch.lerp(a, b, asked.strength) for a, b in zip(free, velocities, strict=True)]
        found = []
        bounds = FARTHEST_FRAC, FARTHEST_LATTICE
        for value, velocity, bound in zip((state.frac, state.lattice), velocities, bounds, strict=True):
            kept, lost = self._scales(time, value)
            found.append((kept * value - lost * velocity).nan_to_num(0.0).clamp(-bound, bound))
        return found[0], found[1]

    def _stepped(self, value: Tensor, clean: Tensor, step: tuple[Tensor, Tensor], rng: torch.Generator) -> Tensor:
        if float(step[1][0]) >= 1:
            return clean
        noise = self.noise.noise_from_clean(value, clean, step[0])
        return self.noise.reverse(value, noise, *step, rng=rng)

    def _scales(self, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        signal = self.noise.signal(time)
        return expand_time(signal.sqrt(), like), expand_time((1 - signal).clamp_min(0).sqrt(), like)

    def _crystals(self, state: _Atoms) -> CrystalBatch:
        size, count = state.species.shape
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=state.species.device)
        return CrystalBatch(
            frac=wrap((state.frac + 1) / 2).reshape(-1, 3),
            cell=bounded_cell(self.lattice.decode(state.lattice, num_atoms)),
            species=state.species.reshape(-1),
            num_atoms=num_atoms,
        )
