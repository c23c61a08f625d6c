"""Diffusion of Euclidean values, variance-preserving (Ho et al., NeurIPS 2020) and -exploding (Song et al., ICLR 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from euhedral.errors import ConfigError
from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.path import normal_like


@dataclass(frozen=True, kw_only=True)
class VariancePreservingConfig:
    """Schedule of the process.

    Attributes:
        levels: discrete noise levels T; level k of them is the time t = 1 - k / T.
        offset: s of the cosine schedule (Nichol and Dhariwal, ICML 2021, Eq. 17).
        smallest_beta: lower bound of the variance added between two levels, as a share of the whole.
        largest_beta: upper bound of it.
        schedule: `cosine`, or `linear` for the stochastic differential equation whose rate rises from 0.1 to 20 (Song et
            al., ICLR 2021, Eq. 33), of which the levels are steps.
    """

    levels: int = 1000
    offset: float = 0.008
    smallest_beta: float = 1e-4
    largest_beta: float = 0.9999
    schedule: Literal["cosine", "linear"] = "cosine"


_FIRST_RATE, _LAST_RATE = 0.1, 20.0


class VariancePreserving:
    """x_t = sqrt(a) x + sqrt(1 - a) e with e ~ N(0, 1); a rises from about 0 at t = 0 (noise) to 1 at t = 1.

    a is the product of 1 - beta over the levels (DDPM, Eq. 4), betas being those of the schedule within their bounds;
    between levels log a is interpolated. The target of training is the noise e.
    """

    def __init__(self, config: VariancePreservingConfig | None = None) -> None:
        self.config = config = config or VariancePreservingConfig()
        level = torch.arange(config.levels + 1, dtype=torch.float64) / config.levels
        if config.schedule == "cosine":
            signal = torch.cos((level + config.offset) / (1 + config.offset) * math.pi / 2).square()
        else:
            signal = torch.exp(-(_FIRST_RATE * level + (_LAST_RATE - _FIRST_RATE) * level.square() / 2))
        beta = (1 - signal[1:] / signal[:-1]).clamp(config.smallest_beta, config.largest_beta)
        self._log_signal = torch.cat([torch.zeros(1, dtype=torch.float64), (1 - beta).log().cumsum(0)])

    def signal(self, t: Tensor) -> Tensor:
        """The share a of the variance that is signal, for clean values of variance one; shape of `t`, float64."""
        table = self._log_signal.to(t.device)
        place = ((1 - t.double()) * self.config.levels).clamp(0, self.config.levels)
        low = place.floor().long().clamp_max(self.config.levels - 1)
        return torch.lerp(table[low], table[low + 1], place - low).exp()

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal values."""
        return torch.randn(shape, generator=rng, device=device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Noisy values at time t, and the noise in them."""
        noise = torch.randn(clean.shape, generator=rng, device=clean.device, dtype=clean.dtype)
        kept, lost = self._scales(t, clean)
        return Corrupted(noisy=kept * clean + lost * noise, target=noise)

    def clean_from_noise(self, noisy: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x = (x_t - sqrt(1 - a) e) / sqrt(a)."""
        kept, lost = self._scales(t, noisy)
        return (noisy - lost * noise) / kept

    def noise_from_clean(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """e = (x_t - sqrt(a) x) / sqrt(1 - a), for t < 1."""
        kept, lost = self._scales(t, noisy)
        return (noisy - kept * clean) / lost

    def score_from_noise(self, noise: Tensor, t: Tensor) -> Tensor:
        """Score of the marginal at time t < 1: -E[e | x_t] / sqrt(1 - a)."""
        return -noise / self._scales(t, noise)[1]

    def noise_from_score(self, score: Tensor, t: Tensor) -> Tensor:
        """Inverse of `score_from_noise`."""
        return -score * self._scales(t, score)[1]

    def reverse(self, noisy: Tensor, noise: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Draw from p(x_later | x_t), given the expected noise in x_t: the ancestral step (DDPM, Algorithm 2).

        From one level to the next it is exactly that of DDPM with its smaller variance; over several levels, the beta
        of the longer step takes its place, within the same upper bound, since the first step would else divide by
        next to nothing. At later = 1 nothing random is added.
        """
        signal, beta, spread = self._step(noisy, t, later)
        mean = (noisy - beta / (1 - signal).sqrt() * noise) / (1 - beta).sqrt()
        return mean + spread * normal_like(noisy, rng)

    def deterministic(self, noisy: Tensor, noise: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """The step without randomness (Song et al., DDIM, ICLR 2021, Eq. 12 with sigma = 0)."""
        kept, lost = self._scales(later, noisy)
        return kept * self.clean_from_noise(noisy, noise, t) + lost * noise

    def _scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        signal = self.signal(t)
        return expand_time(signal.sqrt(), like), expand_time((1 - signal).clamp_min(0).sqrt(), like)

    def _step(self, noisy: Tensor, t: Tensor, later: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Signal at t, beta of the step, and the standard deviation that is added."""
        now, then = self.signal(t), self.signal(later)
        beta = (1 - now / then).clamp_max(self.config.largest_beta)
        spread = (beta * (1 - then) / (1 - now).clamp_min(1e-30)).clamp_min(0).sqrt()
        return expand_time(now, noisy), expand_time(beta, noisy), expand_time(spread, noisy)


@dataclass(frozen=True, kw_only=True)
class VarianceExplodingConfig:
    """Widths of the noise, for clean values of order one.

    Attributes:
        levels: discrete noise levels T; level k of them is the time t = 1 - k / T.
        sigma_min: width at level 1.
        sigma_max: width at level T, t = 0; about the largest distance between clean values (Song and Ermon, NeurIPS 2020).
    """

    levels: int = 1000
    sigma_min: float = 0.01
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        if self.levels < 2 or not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ConfigError(
                "widths need levels of 2 or more and 0 < sigma_min < sigma_max, not "
                f"levels {self.levels}, sigma_min {self.sigma_min} and sigma_max {self.sigma_max}"
            )


class VarianceExploding:
    """x_t = x + s e with e ~ N(0, 1); log s falls linearly from t = 0 to level 1, then s to 0. The target is the noise e.

    Song et al., ICLR 2021, Eq. 9 and Appendix C (SMLD).
    """

    def __init__(self, config: VarianceExplodingConfig | None = None) -> None:
        self.config = config or VarianceExplodingConfig()

    def sigma(self, t: Tensor) -> Tensor:
        """Width of the noise at time t; shape of `t`, float64."""
        config = self.config
        return geometric_width(t, levels=config.levels, least=config.sigma_min, most=config.sigma_max)

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Normal values of the largest width."""
        return self.config.sigma_max * torch.randn(shape, generator=rng, device=device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Noisy values at time t, and the noise in them."""
        noise = torch.randn(clean.shape, generator=rng, device=clean.device, dtype=clean.dtype)
        return Corrupted(noisy=clean + expand_time(self.sigma(t), clean) * noise, target=noise)

    def clean_from_noise(self, noisy: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x = x_t - s e."""
        return noisy - expand_time(self.sigma(t), noisy) * noise

    def noise_from_clean(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """e = (x_t - x) / s, for t < 1."""
        return (noisy - clean) / expand_time(self.sigma(t), noisy)

    def score_from_noise(self, noise: Tensor, t: Tensor) -> Tensor:
        """Score of the marginal at time t < 1: -E[e | x_t] / s."""
        return -noise / expand_time(self.sigma(t), noise)

    def noise_from_score(self, score: Tensor, t: Tensor) -> Tensor:
        """Inverse of `score_from_noise`."""
        return -score * expand_time(self.sigma(t), score)

    def reverse(self, noisy: Tensor, noise: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """The predictor: see `exploding_step`."""
        return exploding_step(noisy, self.score_from_noise(noise, t), self.sigma(t), self.sigma(later), rng=rng)

    def deterministic(self, noisy: Tensor, noise: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """Euler's step of the probability-flow equation in the width, dx = e ds (Song et al., ICLR 2021, Eq. 13)."""
        return noisy + expand_time(self.sigma(later) - self.sigma(t), noisy) * noise


def noise_within(
    process: VariancePreserving | VarianceExploding,
    noisy: Tensor,
    noise: Tensor,
    t: Tensor,
    bounded: Callable[[Tensor], Tensor],
) -> Tensor:
    """The noise whose clean value is the bounded one of this noise, for t < 1."""
    return process.noise_from_clean(noisy, bounded(process.clean_from_noise(noisy, noise, t)), t)


def geometric_width(t: Tensor, *, levels: int, least: float, most: float) -> Tensor:
    """Widths whose logarithm falls linearly from `most` at t = 0 to `least` at level 1, then to 0; shape of `t`, float64."""
    level = (1 - t.double()) * levels
    share = ((level - 1) / max(levels - 1, 1)).clamp(0, 1)
    low, high = math.log(least), math.log(most)
    return torch.exp(low + share * (high - low)) * level.clamp(0, 1)


def exploding_step(noisy: Tensor, score: Tensor, now: Tensor, then: Tensor, *, rng: torch.Generator) -> Tensor:
    """An ancestral step of the reverse of a variance-exploding process (Song et al., ICLR 2021, Eq. 47).

    x + (s^2 - r^2) score + r sqrt(s^2 - r^2) / s e for widths s now and r < s then, (crystals,); nothing random is left
    where r = 0.
    """
    added = (now.square() - then.square()).clamp_min(0)
    spread = then * added.sqrt() / now.clamp_min(1e-12)
    return noisy + expand_time(added, noisy) * score + expand_time(spread, noisy) * normal_like(noisy, rng)
