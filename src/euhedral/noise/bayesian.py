"""Periodic Bayesian flow (Wu et al., CrysBFN, ICLR 2025): a belief about the data, sharpened by noisy measurements of it.

What a network reads is the belief; what it predicts is the data. Between two times a measurement of some accuracy is
taken of the prediction, and Bayes' rule updates the belief. Nothing has to be integrated in small steps.

With `end_back`, as the authors sample, the belief at the later time is instead drawn anew from the prediction, as in
training, and the last prediction is what is given: steps forget what was measured before, and crystals come out closer to
what the network holds likely.

On the torus a belief is a von Mises distribution, kept as the sum of the unit vectors of all measurements, each times
its accuracy; its direction is the mean and its length the concentration, which is random too (Section 4.2). A
measurement of accuracy a is von Mises with concentration a. Of the published `levels` small measurements the sum is
drawn at once: their number makes it normal, with the exact first two moments of von Mises distributions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap, wrap_centered
from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.path import Path, normal_like
from euhedral.noise.torus import UNIFORM, without_mean

TURN = 2 * math.pi


@dataclass(frozen=True, kw_only=True)
class TorusBayesianConfig:
    """Accuracy of the measurements of coordinates.

    Attributes:
        concentration: of the belief at t = 1, in angles of 2 pi a cell.
        levels: measurements in all.
        end_back: see the module.
    """

    concentration: float = 1e3
    levels: int = 1000
    end_back: bool = False
    kind: Literal["torus_bayesian"] = "torus_bayesian"


class TorusBayesian(Path):
    """Values are coordinates x of the belief's mean and its evidence, (crystals, atoms, 6): x, and the length in one cell.

    The mean evidence at time t is the concentration whose entropy lies at t on the line from that of no evidence to that
    of all (the linear accuracy schedule of Section 4.3). The target is the way from the mean to the nearest image of the
    data, without its mean over the atoms, over the root mean square that it has at this time; so weighted, times count
    as their information does.
    """

    features = 3
    aims = True

    def __init__(self, config: TorusBayesianConfig) -> None:
        self.config = config
        along = _entropy_schedule(config.concentration, config.levels)
        accuracy = _accuracies(np.diff(along))
        first, second = _bessel_ratio(1, accuracy), _bessel_ratio(2, accuracy)
        parallel = accuracy**2 * ((1 + second) / 2 - first**2)
        across = accuracy**2 * (1 - second) / 2
        moments = np.stack([accuracy * first, parallel, across])
        self._moments = torch.from_numpy(np.concatenate([np.zeros((3, 1)), np.cumsum(moments, 1)], 1))

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """No evidence, and a mean that says nothing."""
        frac = torch.rand(shape, generator=rng, device=rng.device)
        return torch.cat([frac, torch.zeros(shape, device=rng.device)], -1)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """Beliefs at time t, and the scaled way from their mean to the data; `start` is not used."""
        vector = self._evidence(clean, torch.zeros_like(t), t, rng)
        value = _belief(vector)
        # Where there is no evidence the direction of nothing would be that of the rounding.
        blank = self.prior(tuple(clean.shape), rng=rng).to(clean)
        value = torch.where(expand_time(t == 0, value).bool(), blank, value)
        way = without_mean(wrap_centered(clean - value[..., :3]))
        return Corrupted(noisy=value, target=way / expand_time(self._reach(t), clean))

    def step(self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Measure the predicted data, and update, or draw the belief anew."""
        mean, evidence = value.split(3, -1)
        predicted = wrap(mean + guess * expand_time(self._reach(t), guess))
        if self.config.end_back:
            anew = _belief(self._evidence(predicted, torch.zeros_like(t), later, rng))
            return torch.where(expand_time(later < 1, anew).bool(), anew, torch.cat([predicted, anew[..., 3:]], -1))
        angle = TURN * mean
        vector = torch.stack([evidence * angle.cos(), evidence * angle.sin()], -1)
        return _belief(vector + self._evidence(predicted, t, later, rng))

    def field_of(self, value: Tensor) -> Tensor:
        """The mean of the belief."""
        return value[..., :3]

    def features_of(self, value: Tensor, t: Tensor) -> Tensor:
        """The logarithm of the evidence, from -1 to 1."""
        return (1e-7 + value[..., 3:]).log() / math.log(1e7)

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the belief and the scaled way from it."""
        mean = value[..., :3]
        return mean, expand_time(self._reach(t), mean)

    def _evidence(self, data: Tensor, t: Tensor, later: Tensor, rng: torch.Generator) -> Tensor:
        """Sum of the measurements between two times, as vectors (..., 2)."""
        mean, parallel, across = (expand_time(now, data) for now in self._table(later) - self._table(t))
        along = mean + parallel.clamp_min(0).sqrt() * normal_like(data, rng)
        aside = across.clamp_min(0).sqrt() * normal_like(data, rng)
        cos, sin = (TURN * data).cos(), (TURN * data).sin()
        return torch.stack([along * cos - aside * sin, along * sin + aside * cos], -1)

    def _reach(self, t: Tensor) -> Tensor:
        """About the root mean square of the way from the belief's mean to the data."""
        mean, _, across = self._table(t)
        reach = (across.sqrt() / mean.clamp_min(1e-9) / TURN).clamp_max(UNIFORM)
        return torch.where(mean > 0, reach, torch.full_like(reach, UNIFORM))

    def _table(self, t: Tensor) -> Tensor:
        """Mean, and variances along and across it, of the evidence until a time, (3, crystals)."""
        table = self._moments.to(t.device)
        place = t.double() * self.config.levels
        low = place.floor().long().clamp(0, self.config.levels - 1)
        return torch.lerp(table[:, low], table[:, low + 1], (place - low)[None])


@dataclass(frozen=True, kw_only=True)
class GaussianBayesianConfig:
    """Bayesian flow of Euclidean values (Graves et al., 2023, Section 4).

    Attributes:
        sigma: standard deviation of the belief at t = 1.
        end_back: see the module.
    """

    sigma: float = 0.0316
    end_back: bool = False
    kind: Literal["gaussian_bayesian"] = "gaussian_bayesian"


class GaussianBayesian(Path):
    """Values are the mean m of a belief whose variance 1 - g is known, g = 1 - sigma^(2 t).

    The target is (x - m) / sqrt(1 - g), of order one at all times for data of variance one; its square weighs an error of
    x by the accuracy that the belief has, as the published loss does.
    """

    aims = True

    def __init__(self, config: GaussianBayesianConfig) -> None:
        self.config = config

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Zero: the belief before any measurement."""
        return torch.zeros(shape, device=rng.device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """Beliefs at time t (Eq. 77); `start` is not used."""
        left = expand_time(self.variance(t), clean)
        noisy = self._drawn(clean, left, rng)
        return Corrupted(noisy=noisy, target=(clean - noisy) / left.sqrt())

    def step(self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Measure the predicted data with the accuracy in between, and update (Eq. 49 to 52), or draw the belief anew."""
        now, then = (expand_time(self.variance(time), value) for time in (t, later))
        if self.config.end_back:
            predicted = value + now.sqrt() * guess
            return torch.where(expand_time(later < 1, value).bool(), self._drawn(predicted, then, rng), predicted)
        accuracy = 1 / then - 1 / now
        measured = value + now.sqrt() * guess + normal_like(value, rng) / accuracy.sqrt()
        return then * (value / now + accuracy * measured)

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """m + sqrt(1 - g) times the prediction."""
        return value, expand_time(self.variance(t), value).sqrt()

    def _drawn(self, data: Tensor, left: Tensor, rng: torch.Generator) -> Tensor:
        """Beliefs of a variance about data."""
        return (1 - left) * data + (left * (1 - left)).sqrt() * normal_like(data, rng)

    def variance(self, t: Tensor) -> Tensor:
        """1 - g at time t."""
        return torch.exp(2 * math.log(self.config.sigma) * t)


def _belief(vector: Tensor) -> Tensor:
    """Coordinates of the direction, and the length, of evidence (..., 3, 2), as (..., 6)."""
    angle = torch.atan2(vector[..., 1], vector[..., 0])
    return torch.cat([wrap(angle / TURN), vector.square().sum(-1).sqrt()], -1)


def _entropy_schedule(concentration: float, levels: int) -> np.ndarray:
    """Concentrations at `levels` + 1 times whose entropies lie on a line, from 0 to `concentration`."""
    grid = np.concatenate([[0.0], np.geomspace(1e-4, concentration, 4000)])
    # Entropy of von Mises: log(2 pi I0(k)) - k I1(k) / I0(k).
    from scipy.special import ive

    entropy = np.log(TURN * ive(0, grid)) + grid - grid * ive(1, grid) / ive(0, grid)
    wanted = np.linspace(entropy[0], entropy[-1], levels + 1)
    return np.interp(-wanted, -entropy, grid)


def _accuracies(gains: np.ndarray) -> np.ndarray:
    """Accuracies a of measurements that add a I1(a) / I0(a) to the mean evidence, by bisection."""
    low, high = np.zeros_like(gains), np.sqrt(2 * gains) + 2 * gains + 1
    for _ in range(80):
        middle = (low + high) / 2
        below = middle * _bessel_ratio(1, middle) < gains
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _bessel_ratio(order: int, value: np.ndarray) -> np.ndarray:
    """I_order / I_0."""
    from scipy.special import ive

    return ive(order, value) / ive(0, value)
