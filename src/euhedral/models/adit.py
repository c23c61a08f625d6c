"""ADiT: flow matching of the latents of atoms, which an autoencoder makes crystals of (Joshi et al., ICML 2025).

Atoms are listed in one order, in training and when sampling, since the networks number them: those whose species are
given first, then by atomic number, those of one element as the data lists them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap
from euhedral.models.adit_net import (
    ADiTNetConfig,
    AtomDecoder,
    AtomEncoder,
    AtomPosterior,
    Decoded,
    LatentTransformer,
    waves,
)
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.conditions import Conditions, PropertyScale
from euhedral.models.given_species import draw_given
from euhedral.models.guidance import Asked
from euhedral.models.lattice_maps import ParameterMap, bounded_cell
from euhedral.models.palette import Palette
from euhedral.models.redraws import redrawn
from euhedral.nets.base import Context
from euhedral.noise.base import expand_time
from euhedral.noise.gaussian_flow import GaussianFlow
from euhedral.noise.masked import MASKED

_CERTAIN = 1e3
"""Factor of logits whose largest one is taken, but where two are equal to rounding."""
_OPEN_LAST = 1000
"""Added to the rank of an atom whose species is open, so that it comes after those that are given."""


@dataclass(frozen=True, kw_only=True)
class ADiTWeights:
    """Weights of the parts of the loss.

    Attributes:
        species: cross entropy of the decoded species.
        frac: mean squared error of the decoded cosines and sines of coordinates.
        lattice: mean squared error of decoded standardised lengths and angles.
        divergence: Kullback-Leibler divergence of an atom's latent from a standard normal one.
        latent: mean squared error of expected clean latents over (1 - t)², which moves the denoiser alone.
    """

    species: float = 1.0
    frac: float = 1.0
    lattice: float = 2.0
    divergence: float = 1e-5
    latent: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ADiTConfig:
    """Everything that defines the model; sizes and noise are by default those of the authors' code.

    Attributes:
        net: sizes of the networks.
        shift: whether training crystals are shifted as a whole by a random vector.
        hidden: share of atoms whose species the encoder is not shown, and of atoms that it is shown displaced.
        displacement: standard deviation of these displacements along each axis, Å.
        first_time: smallest time that is trained and where sampling starts; 1 minus it is the largest that is trained.
        latest_weight: time from which the weight of the latents' error stays.
        remembers: probability that a training batch is shown what the denoiser expected without it.
        prediction_share: share of training crystals whose species are all given; of the others half have some given.
        condition_keep: probability that a known condition is shown in training (classifier-free guidance).
        weights: parts of the loss.
        length_mean: mean of log(length / Å) - log(N) / 3 of the training crystals, three numbers.
        length_std: their standard deviation.
        property_mean: mean of each property of `PROPERTIES` in training.
        property_std: its standard deviation.
    """

    net: ADiTNetConfig = field(default_factory=ADiTNetConfig)
    shift: bool = False
    hidden: float = 0.1
    displacement: float = 0.1
    first_time: float = 0.01
    latest_weight: float = 0.9
    remembers: float = 0.5
    prediction_share: float = 0.5
    condition_keep: float = 0.5
    weights: ADiTWeights = field(default_factory=ADiTWeights)
    length_mean: tuple[float, ...] = (1.1, 1.2, 1.5)
    length_std: tuple[float, ...] = (0.25, 0.25, 0.35)
    property_mean: tuple[float, ...] = (0.0,) * 3
    property_std: tuple[float, ...] = (1.0,) * 3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Crystals:
    """Training crystals of one atom count: frac (b, n, 3), cell (b, 3, 3), lattice (b, 6), species (b, n)."""

    frac: Tensor
    cell: Tensor
    lattice: Tensor
    species: Tensor


class ADiT(GenerativeModel):
    """See the module.

    Loss: that of the autoencoder, which is shown disturbed crystals, and that of the denoiser on latents of undisturbed
    ones, through which no gradient goes back: both are trained at once.
    """

    config: ADiTConfig

    def __init__(self, config: ADiTConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.net
        self.encoder = AtomEncoder(sizes.encoder, sizes.latent)
        self.decoder = AtomDecoder(sizes.decoder, sizes.latent)
        self.denoiser = LatentTransformer(sizes.denoiser, sizes.latent, sizes.counts)
        self.flow = GaussianFlow()
        lengths = torch.tensor([config.length_mean, config.length_std])
        self.lattice = ParameterMap(lengths[0], lengths[1], "tangent")
        self.scale = PropertyScale(config.property_mean, config.property_std)

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """See the class; the crystals must have one atom count. `rng` lives on the batch's device."""
        config = self.config
        given = draw_given(len(batch), self._equal_count(batch), config.prediction_share, rng=rng)
        crystals, given = self._listed(batch, given, rng)
        terms = self._reconstruction(crystals, rng)
        with torch.no_grad():
            latent = self.encoder(crystals.frac, crystals.lattice, crystals.species).draw(rng=rng)
        shown = conditions.drop(config.condition_keep, rng=rng)
        context = self.scale.context(shown)
        terms["latent"] = self._latent_loss(latent, crystals.species * given, context, rng)
        total = torch.stack([getattr(config.weights, name) * term for name, term in terms.items()]).sum()
        return LossTerms(total=total, terms={name: term.detach() for name, term in terms.items()})

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Integrate the flow of latents by Euler's method, then decode; `rng` lives on the CPU whatever the model's device.

        Species that are given are told to the denoiser and kept; the others are the decoder's most probable ones that
        the request allows.
        """
        return redrawn(self._drawn, request, rng=rng)

    @torch.no_grad()
    def reconstruct(self, batch: CrystalBatch) -> CrystalBatch:
        """Crystals of one atom count through encoder (its means) and decoder, atoms in order."""
        count, size = self._equal_count(batch), len(batch)
        species = batch.species.view(size, count)
        order = species.argsort(dim=1, stable=True)
        frac = batch.frac.view(size, count, 3).float().gather(1, order[..., None].expand(-1, -1, 3))
        lattice = self.lattice.encode(batch.cell, batch.num_atoms)
        decoded = self.decoder(self.encoder(frac, lattice, species.gather(1, order)).mean)
        place = order.argsort(1)
        best = (decoded.species[..., 1:].argmax(-1) + 1).gather(1, place)
        return self._crystals(decoded, best, place)

    def _listed(self, batch: CrystalBatch, given: Tensor, rng: torch.Generator) -> tuple[_Crystals, Tensor]:
        """Crystals with their atoms in order, shifted where the configuration has it, and which species are given."""
        size, count = given.shape
        species, cell = batch.species.view(size, count), batch.cell.float()
        order = _order(species, given)
        frac = batch.frac.view(size, count, 3).float().gather(1, order[..., None].expand(-1, -1, 3))
        if self.config.shift:
            frac = wrap(frac + torch.rand(size, 1, 3, generator=rng, device=rng.device))
        lattice = self.lattice.encode(batch.cell, batch.num_atoms)
        listed = _Crystals(frac=frac, cell=cell, lattice=lattice, species=species.gather(1, order))
        return listed, given.gather(1, order)

    def _reconstruction(self, crystals: _Crystals, rng: torch.Generator) -> dict[str, Tensor]:
        posterior = self._disturbed(crystals, rng)
        decoded = self.decoder(posterior.draw(rng=rng))
        return {
            "species": functional.cross_entropy(decoded.species.flatten(0, 1), crystals.species.flatten()),
            "frac": (decoded.waves - waves(crystals.frac)).square().mean(),
            "lattice": (decoded.lattice - crystals.lattice).square().mean(),
            "divergence": posterior.divergence().mean(),
        }

    def _disturbed(self, crystals: _Crystals, rng: torch.Generator) -> AtomPosterior:
        """The encoder's view of crystals of which some species are hidden and some atoms displaced."""
        share, device = self.config.hidden, rng.device
        shape = crystals.species.shape
        hidden = torch.rand(shape, generator=rng, device=device) < share
        moved = (torch.rand(shape, generator=rng, device=device) < share)[..., None]
        steps = self.config.displacement * torch.randn(*shape, 3, generator=rng, device=device)
        frac = wrap(crystals.frac + moved * torch.linalg.solve(crystals.cell, steps, left=False))
        return self.encoder(frac, crystals.lattice, crystals.species.masked_fill(hidden, MASKED))

    def _latent_loss(self, latent: Tensor, species: Tensor, context: Context, rng: torch.Generator) -> Tensor:
        config = self.config
        time = torch.rand(len(latent), generator=rng, device=rng.device)
        time = config.first_time + (1 - 2 * config.first_time) * time
        noisy = self.flow.corrupt(latent, time, rng=rng).noisy
        before = torch.zeros_like(latent)
        if float(torch.rand((), generator=rng, device=rng.device)) < config.remembers:
            with torch.no_grad():
                before = self.denoiser(noisy, time, species, context, before)
        guess = self.denoiser(noisy, time, species, context, before)
        left = 1 - time.clamp_max(config.latest_weight)
        return ((guess - latent) / expand_time(left, latent)).square().mean()

    def _drawn(self, request: SampleRequest, rng: torch.Generator) -> CrystalBatch:
        device, (size, count) = self.scale.device, request.species.shape
        given = request.species.to(device)
        order = _order(given, given != MASKED)
        species = given.gather(1, order)
        asked = Asked.of(request, self.scale)
        value = self.flow.prior((size, count, self.config.net.latent), rng=rng).to(device)
        guess = torch.zeros_like(value)
        times = torch.linspace(self.config.first_time, 1, request.steps + 1, device=device)
        for now, later in pairwise(times):
            time, step = now.expand(size), (later - now).expand(size)
            told = self.denoiser(value, time, species, asked.full, guess)
            if asked.strength != 1:
                told = torch.lerp(self.denoiser(value, time, species, asked.none, guess), told, asked.strength)
            value = self.flow.advance(value, self.flow.velocity_from_clean(value, told, time), step)
            guess = told
        decoded = self.decoder(value)
        place = order.argsort(1)
        logits = decoded.species.log_softmax(-1).gather(1, place[..., None].expand(decoded.species.shape))
        palette = Palette.of(request, device)
        while bool((given == MASKED).any()):
            given, palette = palette.reveal(given, _CERTAIN * logits, rng=rng)
        return self._crystals(decoded, given, place)

    def _crystals(self, decoded: Decoded, species: Tensor, place: Tensor) -> CrystalBatch:
        """Crystals of atoms whose coordinates were decoded in another order: atom i is at `place` i of it."""
        size, count = species.shape
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=species.device)
        frac = decoded.frac.gather(1, place[..., None].expand(-1, -1, 3)).nan_to_num(0.0)
        bound = self.lattice.bound
        cell = self.lattice.decode(decoded.lattice.nan_to_num(0.0).clamp(-bound, bound), num_atoms)
        return CrystalBatch(
            frac=frac.reshape(-1, 3), cell=bounded_cell(cell), species=species.reshape(-1), num_atoms=num_atoms
        )


def _order(species: Tensor, given: Tensor) -> Tensor:
    """Places of atoms in the order of the module, (b, n); where species are open they count as one."""
    return (species + _OPEN_LAST * ~given).argsort(dim=1, stable=True)
