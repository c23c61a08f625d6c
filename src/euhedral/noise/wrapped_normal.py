"""Variance-exploding diffusion on the torus: the wrapped normal (Jiao et al., DiffCSP, NeurIPS 2023, Section 4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap, wrap_centered
from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.gaussian import exploding_step, geometric_width
from euhedral.noise.path import normal_like

# Below this width the neighbouring images weigh less than exp(-50): the wrapped normal is a normal.
_NARROW = 0.05
# Beyond this width the wrapped normal is uniform but for a wave of one period, whose shape no longer changes.
_FLAT = 0.6


@dataclass(frozen=True, kw_only=True)
class WrappedNormalConfig:
    """Widths of the noise in fractional coordinates.

    Attributes:
        levels: discrete noise levels T; level k of them is the time t = 1 - k / T.
        sigma_min: width at level 1.
        sigma_max: width at level T, t = 0, where the noise is all but uniform.
    """

    levels: int = 1000
    sigma_min: float = 0.005
    sigma_max: float = 0.5


class WrappedNormal:
    """x_t = x + sigma e, wrapped, with e ~ N(0, 1); log sigma falls linearly from t = 0 to level 1, then sigma to 0.

    The target of training is the score of x_t given x over its root mean square, so that all times weigh alike. Values
    have shape (crystals, atoms, 3).
    """

    def __init__(self, config: WrappedNormalConfig | None = None) -> None:
        self.config = config = config or WrappedNormalConfig()
        widths = torch.linspace(math.log(config.sigma_min), math.log(config.sigma_max), config.levels).double().exp()
        self._moments = score_moments(widths)
        flat = score_moments(torch.tensor([_FLAT], dtype=torch.float64))
        self._target_moments = torch.where(widths < _FLAT, self._moments, flat)

    def sigma(self, t: Tensor) -> Tensor:
        """Width of the noise at time t; shape of `t`, float64."""
        config = self.config
        return geometric_width(t, levels=config.levels, least=config.sigma_min, most=config.sigma_max)

    def scale(self, t: Tensor) -> Tensor:
        """Root mean square of the score of x_t given x, for t < 1; shape of `t`, float64."""
        return self._interpolated(self._moments, t) / self.sigma(t).clamp_min(1e-12)

    def _interpolated(self, table: Tensor, t: Tensor) -> Tensor:
        """What a table by level says at time t."""
        table, last = table.to(t.device), self.config.levels - 1
        place = ((1 - t.double()) * self.config.levels - 1).clamp(0, last)
        low = place.floor().long().clamp_max(max(last - 1, 0))
        return torch.lerp(table[low], table[(low + 1).clamp_max(last)], place - low)

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Uniform coordinates in [0, 1)."""
        return torch.rand(shape, generator=rng, device=device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Noisy coordinates at time t, and their score given the clean ones over its root mean square.

        At t = 1 nothing is added; the target is then its limit, -e.
        """
        noise = torch.randn(clean.shape, generator=rng, device=clean.device, dtype=clean.dtype)
        sigma = self.sigma(t)
        width = expand_time(sigma.clamp_min(1e-6), clean)
        moment = self._interpolated(self._target_moments, t).masked_fill(sigma == 0, 1.0)
        # A wide noise's score over its size is that of a less wide one, which does not underflow.
        target = scaled_score(width * noise, width.clamp_max(_FLAT)) / expand_time(moment, clean)
        return Corrupted(noisy=wrap(clean + expand_time(sigma, clean) * noise), target=target)

    def score(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """Exact score of x_t given x, for t < 1, (crystals, atoms, 3)."""
        sigma = expand_time(self.sigma(t), noisy)
        return scaled_score(noisy - clean, sigma) / sigma

    def score_from_target(self, target: Tensor, t: Tensor) -> Tensor:
        """The score that a prediction of the training target stands for."""
        return target * expand_time(self.scale(t), target)

    def target_from_score(self, score: Tensor, t: Tensor) -> Tensor:
        """Inverse of `score_from_target`."""
        return score / expand_time(self.scale(t), score)

    def reverse(self, noisy: Tensor, score: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """The predictor: see `noise.gaussian.exploding_step`; wrapped."""
        return wrap(exploding_step(noisy, score, self.sigma(t), self.sigma(later), rng=rng))

    def correct(self, noisy: Tensor, score: Tensor, t: Tensor, *, step: float, rng: torch.Generator | None) -> Tensor:
        """The corrector: one step of Langevin dynamics at time t, wrapped; its length is step (sigma / sigma_min)^2.

        Without `rng` it goes up the score and adds nothing random, as the last one of a path does.
        """
        length = step * (self.sigma(t) / self.config.sigma_min).square()
        moved = noisy + expand_time(length, noisy) * score
        if rng is not None:
            moved = moved + expand_time((2 * length).sqrt(), noisy) * normal_like(noisy, rng)
        return wrap(moved)


def score_moments(widths: Tensor) -> Tensor:
    """Root mean square of `scaled_score` of displacements drawn with each width, (k,), float64; 1 where it is narrow.

    A flat density is 1 + 2 q cos(2 pi d) with q = exp(-2 pi^2 sigma^2), whose score over all d is in closed form.
    """
    flat = 2 * math.sqrt(2) * math.pi * widths * torch.exp(-2 * (math.pi * widths).square())
    # Smaller ones move nothing, and their products in single precision would lose digits.
    moment = torch.where(widths < _FLAT, torch.ones_like(widths), flat.clamp_min(1e-30))
    # A point of the grid is the middle of its cell; the score is odd, so half of the torus suffices.
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 4000
    for k in ((widths > _NARROW) & (widths < _FLAT)).nonzero().flatten().tolist():
        weight = wrapped_density(grid, widths[k])
        moment[k] = ((weight * scaled_score(grid, widths[k]).square()).sum() / weight.sum()).sqrt()
    return moment


def scaled_score(displacement: Tensor, sigma: Tensor) -> Tensor:
    """Width times the score of the wrapped normal at a displacement from its centre.

    -sum_m w_m (d + m) / sigma over all integers m, with w_m proportional to exp(-(d + m)^2 / 2 sigma^2).

    Args:
        displacement: d, not necessarily wrapped.
        sigma: widths, of a shape that broadcasts with it, positive.
    """
    apart = _images(displacement, sigma) / sigma[..., None]
    return -(torch.softmax(-0.5 * apart.square(), -1) * apart).sum(-1)


def wrapped_density(displacement: Tensor, sigma: Tensor) -> Tensor:
    """Density of the wrapped normal at a displacement from its centre; see `scaled_score`."""
    apart = _images(displacement, sigma) / sigma[..., None]
    return torch.exp(-0.5 * apart.square()).sum(-1) / (sigma * math.sqrt(2 * math.pi))


def _images(displacement: Tensor, sigma: Tensor) -> Tensor:
    # The images beyond eight widths weigh less than exp(-32).
    reach = math.ceil(8 * float(sigma.max()) + 0.5)
    whole = torch.arange(-reach, reach + 1, dtype=displacement.dtype, device=displacement.device)
    return wrap_centered(displacement)[..., None] + whole
