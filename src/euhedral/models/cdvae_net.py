"""The networks of CDVAE and its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from euhedral.errors import ConfigError
from euhedral.models.cdvae_heads import ConditionEmbedding, LatentDiffusion, OutlineHeads, perceptron
from euhedral.models.conditions import PROPERTIES, Conditions
from euhedral.nets.base import NoisyCrystals
from euhedral.nets.cspnet import CSPNet, CSPNetConfig
from euhedral.nets.dimenet import DimeNet, DimeNetConfig
from euhedral.noise.cartesian_langevin import CartesianLangevinConfig


@dataclass(frozen=True, kw_only=True)
class CDVAENetConfig:
    """Sizes; the defaults are those of CDVAE for MP-20, but for the decoder's network.

    Attributes:
        encoder: from a crystal to its latent vector.
        decoder: from noisy atoms and a latent vector to the way back; what it reads and gives follows from the model.
        latent: numbers of a latent vector.
        hidden: hidden channels of the perceptrons.
        head_layers: hidden layers of the perceptrons.
        condition: channels of embedded conditions, where there are any.
        prior_layers: layers of the latent diffusion, where there is one.
    """

    encoder: DimeNetConfig = field(default_factory=DimeNetConfig)
    decoder: CSPNetConfig = field(default_factory=CSPNetConfig)
    latent: int = 256
    hidden: int = 256
    head_layers: int = 1
    condition: int = 128
    prior_layers: int = 3


@dataclass(frozen=True, kw_only=True)
class CDVAEWeights:
    """Weights of the parts of the loss; see the authors' configuration.

    Attributes:
        count: cross entropy of the atom count.
        composition: cross entropy of the composition.
        lattice: mean squared error of standardised lengths and angles.
        frac: half of the squared error of the way back of each atom.
        species: cross entropy of species, over the width of their noise.
        property: mean squared error of standardised properties, where known.
        divergence: Kullback-Leibler divergence of the latent vector's distribution from a standard normal one.
        prior: mean squared error of the latent diffusion, which learns from latents and moves none.
    """

    count: float = 1.0
    composition: float = 1.0
    lattice: float = 10.0
    frac: float = 10.0
    species: float = 1.0
    property: float = 1.0
    divergence: float = 0.01
    prior: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CDVAEConfig:
    """Everything that defines the model.

    Attributes:
        net: sizes of the networks.
        langevin: noise of coordinates and steps of the decoder.
        species_begin: largest width of the noise of species, a share of the predicted composition.
        species_end: smallest width.
        conditioned: whether decoder and heads read conditions, given species and the atom count beside the latent vector.
        prior: latents are drawn from a normal distribution, or by a diffusion given conditions.
        prior_levels: of the diffusion.
        prior_betas: see `LatentDiffusion`.
        candidates: latents drawn for each crystal, of which one is taken as often as its own atom count and composition
            agree with what is asked; 1: none is refused.
        counts: largest atom count that is told apart.
        prediction_share: share of training crystals whose species are told, where the model is conditioned.
        condition_keep: probability that a known condition is shown in training (classifier-free guidance).
        weights: parts of the loss.
        length_mean: mean of log(length / Å) - log(N) / 3 of the training crystals, three numbers.
        length_std: their standard deviation.
        property_mean: mean of each property of `PROPERTIES` in training.
        property_std: its standard deviation.
    """

    net: CDVAENetConfig = field(default_factory=CDVAENetConfig)
    langevin: CartesianLangevinConfig = field(default_factory=CartesianLangevinConfig)
    species_begin: float = 5.0
    species_end: float = 0.01
    conditioned: bool = False
    prior: Literal["normal", "diffusion"] = "normal"
    prior_levels: int = 300
    prior_betas: tuple[float, float] = (1e-3, 0.02)
    candidates: int = 64
    counts: int = 64
    prediction_share: float = 0.5
    condition_keep: float = 0.5
    weights: CDVAEWeights = field(default_factory=CDVAEWeights)
    length_mean: tuple[float, ...] = (1.1, 1.2, 1.5)
    length_std: tuple[float, ...] = (0.25, 0.25, 0.35)
    property_mean: tuple[float, ...] = (0.0,) * 3
    property_std: tuple[float, ...] = (1.0,) * 3

    def __post_init__(self) -> None:
        if self.prior == "diffusion" and not self.conditioned:
            raise ConfigError("prior: diffusion is one given conditions, and takes conditioned: true")
        if self.candidates < 1:
            raise ConfigError(f"candidates must be at least 1, got {self.candidates}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """Normal distribution of a crystal's latent vector, independent in each number, (b, latent) each."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, *, rng: torch.Generator) -> Tensor:
        """One vector of each crystal; `rng` on their device or on the CPU."""
        noise = torch.randn(self.mean.shape, generator=rng, device=rng.device).to(self.mean.device)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def divergence(self) -> Tensor:
        """Kullback-Leibler divergence from the standard normal distribution, (b,)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(1)


class CDVAENet(nn.Module):
    """Encoder, heads, decoder, and what conditions take."""

    def __init__(self, config: CDVAEConfig) -> None:
        super().__init__()
        sizes = config.net
        told = sizes.condition if config.conditioned else 0
        self.encoder = DimeNet(sizes.encoder)
        self.mean = nn.Linear(sizes.encoder.out_width, sizes.latent)
        self.log_variance = nn.Linear(sizes.encoder.out_width, sizes.latent)
        self.outline = OutlineHeads(sizes.latent + told, sizes.hidden, sizes.head_layers, config.counts)
        self.property = perceptron(sizes.latent, sizes.hidden, sizes.head_layers, len(PROPERTIES))
        # What conditions are comes with the features; the network has no embedding of them of its own.
        whole = replace(sizes.decoder, space_group=False, conditioned=False, codes=0, vectors=1)
        self.decoder = CSPNet(replace(whole, features=sizes.latent + told, species=True, lattice="none"))
        self.condition = ConditionEmbedding(told, len(PROPERTIES), config.counts) if told else None
        self.prior = None
        if config.prior == "diffusion":
            self.prior = LatentDiffusion(
                sizes.latent,
                told,
                width=2 * sizes.hidden,
                layers=sizes.prior_layers,
                levels=config.prior_levels,
                betas=config.prior_betas,
            )

    def encode(self, frac: Tensor, cell: Tensor, species: Tensor) -> Posterior:
        """The posterior of crystals of one atom count."""
        whole = self.encoder(frac.float(), cell.float(), species)
        # Bounded, so that a variance that runs away is no infinity.
        variance = self.log_variance(whole).float().clamp(-20.0, 10.0)
        return Posterior(mean=self.mean(whole).float(), log_variance=variance)

    def way_back(
        self, frac: Tensor, cell: Tensor, species: Tensor, latent: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cartesian ways back over the width of the noise, (b, n, 3), and logits of species, (b, n, 119).

        Args:
            frac: noisy coordinates, (b, n, 3).
            cell: in Å, (b, 3, 3).
            species: noisy atomic numbers, (b, n).
            latent: latent vector with embedded conditions, (b, l).
            noise: share of the noise levels that is still to come, (b,).
        """
        b, n = species.shape
        noisy = NoisyCrystals(
            frac=frac,
            cell=cell,
            lattice=cell.new_zeros(b, 6),
            species=species,
            time=1 - noise,
            known=torch.ones_like(noise),
            features=latent[:, None].expand(b, n, -1),
        )
        nothing = Conditions.unknown(b, frac.device)
        zero = torch.zeros(len(PROPERTIES), device=frac.device)
        guess = self.decoder(noisy, nothing.context(zero, zero + 1))
        with torch.autocast(device_type=frac.device.type, enabled=False):
            edge = torch.linalg.det(cell.float()).abs() ** (1 / 3)
            back = (guess.frac.float() @ cell.float()) / edge[:, None, None]
        return back, guess.species.float()
