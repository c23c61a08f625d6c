"""What CDVAE reads from a latent vector, what it makes of conditions, and the prior of latents given conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.nets.base import Context
from euhedral.nets.cspnet import time_waves
from euhedral.nets.periodic_transformer import SPACE_GROUPS, SPECIES

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def perceptron(inputs: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """So many hidden layers with ReLU, and a linear one."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [nn.Linear(inputs, hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*modules, nn.Linear(inputs, outputs))


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """What a latent vector says of its crystal as a whole.

    Attributes:
        count: logits of atom counts, (b, counts + 1).
        species: logits of the element of an atom, by atomic number (index 0 unused), (b, 119).
        lattice: standardised lengths and angles, (b, 6).
    """

    count: Float[Tensor, "b c"]
    species: Float[Tensor, "b 119"]
    lattice: Float[Tensor, "b 6"]

    def toward(self, other: Outline, strength: float) -> Outline:
        """This one, extrapolated to another (classifier-free guidance)."""
        return Outline(
            count=torch.lerp(self.count, other.count, strength),
            species=torch.lerp(self.species, other.species, strength),
            lattice=torch.lerp(self.lattice, other.lattice, strength),
        )

    def likelihood(self, atoms: int, species: Int[Tensor, "b n"], allowed: Tensor) -> Float[Tensor, " b"]:
        """Logarithm of the probability of an atom count, of the species that are given, and that the others are allowed ones.

        Args:
            atoms: in each crystal.
            species: atomic numbers, 0 where not given.
            allowed: elements by atomic number, (b, 119).
        """
        count = self.count.float().log_softmax(-1)[:, min(atoms, self.count.shape[1] - 1)]
        chances = self.species[:, 1:].float().log_softmax(-1)
        given = chances.gather(1, (species - 1).clamp_min(0)).masked_fill(species == 0, 0.0).sum(1)
        free = chances.masked_fill(~allowed[:, 1:], float("-inf")).logsumexp(1).clamp_min(-50.0)
        return count + given + free * (species == 0).sum(1)


class OutlineHeads(nn.Module):
    """Atom count, composition and lattice, by a perceptron each (Xie et al., CDVAE, Section 3.2)."""

    def __init__(self, inputs: int, hidden: int, layers: int, counts: int) -> None:
        super().__init__()
        self.count = perceptron(inputs, hidden, layers, counts + 1)
        self.species = perceptron(inputs, hidden, layers, SPECIES)
        self.lattice = perceptron(inputs, hidden, layers, 6)

    def forward(self, latent: Float[Tensor, "b l"]) -> Outline:
        """See `Outline`."""
        return Outline(
            count=self.count(latent).float(), species=self.species(latent).float(), lattice=self.lattice(latent).float()
        )


class ConditionEmbedding(nn.Module):
    """Conditions, the part of the composition that is given, and the atom count, as one vector.

    What is unknown adds nothing that depends on it.
    """

    def __init__(self, width: int, properties: int, counts: int) -> None:
        super().__init__()
        self.space_group = nn.Embedding(SPACE_GROUPS, width)
        self.properties = nn.Linear(2 * properties, width)
        self.chemical_system = nn.Linear(SPECIES, width, bias=False)
        self.composition = nn.Linear(SPECIES, width, bias=False)
        self.count = nn.Embedding(counts + 1, width)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, context: Context, species: Int[Tensor, "b n"]) -> Float[Tensor, "b w"]:
        """Embed; `species` are 0 where they are not given."""
        b, n = species.shape
        has = context.has_property.to(context.properties.dtype)
        properties = torch.cat([context.properties * has, has], -1)
        given = functional.one_hot(species, SPECIES).to(properties.dtype)
        given = torch.cat([torch.zeros_like(given[..., :1]), given[..., 1:]], -1).mean(1)
        count = torch.full((b,), min(n, self.count.num_embeddings - 1), device=species.device)
        whole = self.space_group(context.space_group) + self.properties(properties) + self.count(count)
        whole = whole + self.chemical_system(context.chemical_system.to(properties.dtype)) + self.composition(given)
        return self.mix(whole).float()


class LatentDiffusion(nn.Module):
    """DDPM of latent vectors given a condition (Ye et al., Con-CDVAE, 2024: its Prior block).

    The network is a residual perceptron, where the publication has a U-Net of as many layers.

    Args:
        latent: numbers of a latent vector.
        condition: numbers of an embedded condition.
        width: hidden channels.
        layers: residual layers.
        levels: of noise.
        betas: variance that is added at the first level and at the last one, linear between.
    """

    def __init__(
        self, latent: int, condition: int, *, width: int, layers: int, levels: int, betas: tuple[float, float]
    ) -> None:
        super().__init__()
        self.levels = levels
        self.betas = torch.linspace(*betas, levels)
        self.kept = (1 - self.betas).cumprod(0)
        self.embed = nn.Linear(latent + condition + TIME_WIDTH, width)
        self.layers = nn.ModuleList(perceptron(width, width, 1, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.last = nn.Linear(width, latent)

    def loss(self, latent: Float[Tensor, "b l"], condition: Tensor, *, rng: torch.Generator) -> Tensor:
        """Mean squared error of the predicted noise."""
        level = torch.randint(self.levels, (len(latent),), generator=rng, device=latent.device)
        noise = torch.randn(latent.shape, generator=rng, device=latent.device)
        kept = self.kept.to(latent)[level][:, None]
        guess = self._noise(kept.sqrt() * latent + (1 - kept).sqrt() * noise, level, condition)
        return (guess.float() - noise).square().mean()

    def sample(
        self, full: Tensor, none: Tensor, strength: float, *, numbers: int, rng: torch.Generator
    ) -> Float[Tensor, "b l"]:
        """Latent vectors, ancestral sampling; `rng` on the CPU.

        Args:
            full: embedded condition, (b, c).
            none: the same with nothing asked.
            strength: of guidance; 1 evaluates `full` alone.
            numbers: of a latent vector.
            rng: source of randomness.
        """
        value = torch.randn(len(full), numbers, generator=rng).to(full.device)
        for step in reversed(range(self.levels)):
            level = torch.full((len(full),), step, device=full.device)
            noise = self._noise(value, level, full).float()
            if strength != 1:
                noise = torch.lerp(self._noise(value, level, none).float(), noise, strength)
            beta, kept = float(self.betas[step]), float(self.kept[step])
            value = (value - beta / (1 - kept) ** 0.5 * noise) / (1 - beta) ** 0.5
            if step:
                value = value + beta**0.5 * torch.randn(value.shape, generator=rng).to(value.device)
        return value

    def _noise(self, value: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        clock = time_waves(1 - level.to(value.dtype) / self.levels, TIME_WIDTH)
        hidden = self.embed(torch.cat([value, condition.to(value.dtype), clock], -1))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = hidden + layer(norm(hidden))
        return self.last(hidden)


TIME_WIDTH = 64
"""Channels of the embedded noise level (Con-CDVAE's configuration files)."""
