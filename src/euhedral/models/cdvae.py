"""CDVAE: a variational autoencoder whose decoder moves atoms by Langevin dynamics (Xie et al., ICLR 2022).

With conditions read by the decoder it is Cond-CDVAE (Luo et al., 2024), with a diffusion of latents given conditions
besides Con-CDVAE (Ye et al., 2024); see the files under `recipes/`. Reconstruction and the optimisation of a property are in
`models.cdvae_tasks`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.cdvae_heads import Outline
from euhedral.models.cdvae_net import CDVAEConfig, CDVAENet, Posterior
from euhedral.models.conditions import Conditions, PropertyScale
from euhedral.models.guidance import asked_conditions
from euhedral.models.lattice_maps import ParameterMap, bounded_cell
from euhedral.models.palette import Palette
from euhedral.models.redraws import redrawn
from euhedral.noise.cartesian_langevin import CartesianLangevin, widths
from euhedral.noise.masked import MASKED

ELEMENTS = 118
_CERTAIN = 1e3
"""Factor of logits whose largest one is taken, but where two are equal to rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """Latent vectors with what else the decoder is told, (b, l) each.

    Attributes:
        full: with the conditions that are asked.
        none: without them; given species and the atom count are told in both.
        strength: of guidance; 1 evaluates `full` alone.
    """

    full: Tensor
    none: Tensor
    strength: float


class CDVAE(GenerativeModel):
    """See the module.

    Loss: the weighted sum of CDVAE's (Section 3.4): atom count, composition, lattice and properties of the latent vector;
    the way back of noisy coordinates and the elements of noisy species; the divergence of the latent vector. The decoder
    is given the true lattice in training, and knows the level of the noise.
    """

    config: CDVAEConfig

    def __init__(self, config: CDVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.reads_properties = self.reads_space_group = config.conditioned
        self.net = CDVAENet(config)
        self.langevin = CartesianLangevin(config.langevin)
        self.species_widths = widths(config.species_begin, config.species_end, config.langevin.levels)
        lengths = torch.tensor([config.length_mean, config.length_std])
        self.lattice = ParameterMap(lengths[0], lengths[1], "tangent")
        self.scale = PropertyScale(config.property_mean, config.property_std)

    def encode(self, batch: CrystalBatch) -> Posterior:
        """Distributions of the latent vectors of crystals of any atom counts, in order."""
        parts: list[Posterior] = []
        order: list[Tensor] = []
        for count in batch.num_atoms.unique().tolist():
            index = torch.nonzero(batch.num_atoms == count)[:, 0]
            some = batch[index]
            species = some.species.view(len(some), count)
            parts.append(self.net.encode(some.frac.view(len(some), count, 3), some.cell, species))
            order.append(index)
        place = torch.cat(order).argsort()
        return Posterior(
            mean=torch.cat([part.mean for part in parts])[place],
            log_variance=torch.cat([part.log_variance for part in parts])[place],
        )

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """See the class; the crystals must have one atom count. `rng` lives on the batch's device."""
        count, size = self._equal_count(batch), len(batch)
        config, device = self.config, batch.frac.device
        frac, species = batch.frac.view(size, count, 3).float(), batch.species.view(size, count)
        cell = batch.cell.float()
        posterior = self.net.encode(frac, cell, species)
        latent = posterior.draw(rng=rng)
        told, embedded = latent, None
        if self.net.condition is not None:
            given = torch.rand(size, generator=rng, device=device) < config.prediction_share
            context = self.scale.context(conditions.drop(config.condition_keep, rng=rng))
            embedded = self.net.condition(context, species * given[:, None])
            told = torch.cat([latent, embedded], 1)
        outline = self.net.outline(told)
        terms = self._outline_losses(outline, batch, species)
        terms["property"] = self._property_loss(latent, conditions)
        terms["divergence"] = posterior.divergence().mean()
        level = self.langevin.draw_levels(size, rng=rng)
        moved = self.langevin.corrupt(frac, cell, level, rng=rng)
        width = self.species_widths.to(frac)[
            torch.randint(len(self.species_widths), (size,), generator=rng, device=device)
        ]
        noisy = self._noisy_species(species, outline.species.detach(), width, rng)
        noise = 1 - level.to(frac.dtype) / config.langevin.levels
        back, logits = self.net.way_back(moved.noisy, cell, noisy, told, noise)
        target = moved.target - moved.target.mean(1, keepdim=True)
        terms["frac"] = 0.5 * (back - target).square().sum(-1).mean()
        entropy = functional.cross_entropy(logits.flatten(0, 1), species.flatten(), reduction="none")
        terms["species"] = (entropy.view(size, count) / width[:, None]).mean()
        if self.net.prior is not None and embedded is not None:
            terms["prior"] = self.net.prior.loss(latent.detach(), embedded, rng=rng)
        weights = config.weights
        total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        return LossTerms(total=total, terms={name: term.detach() for name, term in terms.items()})

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Draw latent vectors, then crystals; `rng` lives on the CPU whatever the model's device."""
        return redrawn(self._drawn, request, rng=rng)

    @torch.no_grad()
    def decode(self, latent: Tensor, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """One crystal of each latent vector (b, latent), of the atom count and what else the request says.

        Langevin dynamics as in the authors' code: species are the most probable ones at every step, the lattice stays. The
        last step adds no noise.
        """
        species = request.species.to(latent.device)
        told = self._told(latent, request, species)
        outline = self._outline(told)
        size, count = species.shape
        num_atoms = torch.full((size,), count, dtype=torch.int64, device=latent.device)
        cell = self.lattice.decode(outline.lattice.clamp(-self.lattice.bound, self.lattice.bound), num_atoms)
        palette = Palette.of(request, latent.device)
        usable = palette.allowed | (palette.addable & (palette.opens > 0)[:, None])
        fixed, settled = species != MASKED, False
        now, logits = species, outline.species[:, None].expand(size, count, -1)
        if bool((~fixed).any()):
            now = _revealed(species, logits, palette, rng)
        frac = torch.rand(size, count, 3, generator=rng).to(latent.device)
        levels = self.langevin.levels_of(request.steps)
        for step, level in enumerate(levels):
            back, logits = self._way_back(frac, cell, now, told, level)
            if not settled and not bool(fixed.all()):
                settled = level == levels[-1]
                logits = logits.float().log_softmax(-1)
                if settled:
                    now = _revealed(species, _CERTAIN * logits, palette, rng)
                else:
                    best = logits.masked_fill(~usable[:, None], float("-inf"))[..., 1:].argmax(-1) + 1
                    now = torch.where(fixed, species, best)
            frac = self.langevin.move(frac, back, cell, level, rng=None if step + 1 == len(levels) else rng)
        return CrystalBatch(
            frac=wrap(frac).reshape(-1, 3), cell=bounded_cell(cell), species=now.reshape(-1), num_atoms=num_atoms
        )

    def outline(self, latent: Tensor, request: SampleRequest) -> Outline:
        """What latent vectors say of their crystals, with what the request tells besides."""
        return self._outline(self._told(latent, request, request.species.to(latent.device)))

    def draw_latent(self, request: SampleRequest, *, rng: torch.Generator) -> Tensor:
        """Latent vectors (b, latent) that agree with what is asked.

        One of `candidates` draws is taken with a probability that is proportional to that of the atom count, of the given
        species and of the others being allowed ones: importance resampling from p(z | what is asked). `rng` on the CPU.
        """
        device, number = self.scale.device, self.config.candidates
        size, count = request.species.shape
        many = request.rows(torch.arange(size).repeat_interleave(number))
        many = replace(many, composition_test=None)
        latent = self._draw_prior(many, rng).to(device)
        if number == 1:
            return latent
        outline = self._outline(self._told(latent, many, many.species.to(device)))
        usable = many.allowed | (many.addable & (many.open_elements > 0)[:, None])
        weight = outline.likelihood(count, many.species.to(device), usable.to(device)).view(size, number).cpu()
        noise = torch.rand(size, number, generator=rng, dtype=torch.float64).clamp_min(1e-300)
        chosen = (weight.double() - torch.log(-torch.log(noise))).argmax(1).to(device)
        return latent.view(size, number, -1)[torch.arange(size, device=device), chosen]

    def predict_properties(self, latent: Tensor) -> Tensor:
        """Properties in the units of `UNITS` that the property head reads from latent vectors, (b, p); differentiable."""
        return self.scale.original(self.net.property(latent).float())

    def properties_of(self, crystals: CrystalBatch) -> Tensor:
        """See `models.property_predictor`: read off the means of the latent vectors."""
        return self.predict_properties(self.encode(crystals).mean)

    def _drawn(self, request: SampleRequest, rng: torch.Generator) -> CrystalBatch:
        return self.decode(self.draw_latent(request, rng=rng), request, rng=rng)

    def _draw_prior(self, request: SampleRequest, rng: torch.Generator) -> Tensor:
        size, numbers = len(request.species), self.config.net.latent
        if self.net.prior is None:
            return torch.randn(size, numbers, generator=rng)
        full, none, strength = self._embedded(request, request.species.to(self.scale.device))
        return self.net.prior.sample(full, none, strength, numbers=numbers, rng=rng)

    def _embedded(self, request: SampleRequest, species: Tensor) -> tuple[Tensor, Tensor, float]:
        """Embedded conditions, the same with nothing asked, and the strength of guidance."""
        assert self.net.condition is not None
        conditions, nothing, strength = asked_conditions(request, species.device)
        none = self.net.condition(self.scale.context(nothing), species)
        full = none if conditions is nothing else self.net.condition(self.scale.context(conditions), species)
        return full, none, strength

    def _told(self, latent: Tensor, request: SampleRequest, species: Tensor) -> Told:
        if self.net.condition is None:
            return Told(full=latent, none=latent, strength=1.0)
        full, none, strength = self._embedded(request, species)
        return Told(full=torch.cat([latent, full], 1), none=torch.cat([latent, none], 1), strength=strength)

    def _outline(self, told: Told) -> Outline:
        full = self.net.outline(told.full)
        return full if told.strength == 1 else self.net.outline(told.none).toward(full, told.strength)

    def _way_back(self, frac: Tensor, cell: Tensor, species: Tensor, told: Told, level: int) -> tuple[Tensor, Tensor]:
        noise = frac.new_full((len(frac),), 1 - level / self.config.langevin.levels)
        back, logits = self.net.way_back(frac, cell, species, told.full, noise)
        if told.strength == 1:
            return back, logits
        free, other = self.net.way_back(frac, cell, species, told.none, noise)
        return torch.lerp(free, back, told.strength), torch.lerp(other, logits, told.strength)

    def _outline_losses(self, outline: Outline, batch: CrystalBatch, species: Tensor) -> dict[str, Tensor]:
        counts = batch.num_atoms.clamp_max(self.config.counts)
        chances = outline.species.log_softmax(-1)
        return {
            "count": functional.cross_entropy(outline.count, counts),
            "composition": -chances.gather(1, species).mean(),
            "lattice": (outline.lattice - self.lattice.encode(batch.cell, batch.num_atoms)).square().mean(),
        }

    def _property_loss(self, latent: Tensor, conditions: Conditions) -> Tensor:
        context = self.scale.context(conditions)
        gap = (self.net.property(latent).float() - context.properties).square() * context.has_property
        return gap.sum() / context.has_property.sum().clamp_min(1)

    def _noisy_species(self, species: Tensor, logits: Tensor, width: Tensor, rng: torch.Generator) -> Tensor:
        """Species drawn from the true one and `width` times the predicted composition."""
        chances = width[:, None] * logits[:, 1:].float().softmax(-1)
        size, count = species.shape
        drawn = torch.multinomial(chances, count, replacement=True, generator=rng) + 1
        kept = torch.rand(size, count, generator=rng, device=species.device) * (1 + width[:, None]) < 1
        return torch.where(kept, species, drawn)


def _revealed(species: Tensor, logits: Tensor, palette: Palette, rng: torch.Generator) -> Tensor:
    """Every open species drawn, one after the other so that the palette is obeyed."""
    while bool((species == MASKED).any()):
        species, palette = palette.reveal(species, logits, rng=rng)
    return species
