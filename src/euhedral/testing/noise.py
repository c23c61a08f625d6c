"""Contract of noise processes: what `NoiseProcess`, `FlowProcess` and `MaskedSpecies` promise, checked by sampling.

A `Difference` says how far two values are apart in the eyes of a process: `euclidean_difference`, or
`torus_difference`, which does not see a shift of the whole crystal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap_centered
from euhedral.noise.base import FlowProcess, NoiseProcess
from euhedral.noise.masked import MASKED, MaskedSpecies
from euhedral.testing import require, require_close

Difference = Callable[[Tensor, Tensor], Tensor]
IGNORED = -100
SIGNIFICANCE = 1e-4


def euclidean_difference(value: Tensor, other: Tensor) -> Tensor:
    """value - other."""
    return value - other


def torus_difference(value: Tensor, other: Tensor) -> Tensor:
    """Difference of fractional coordinates (crystals, atoms, 3), seen from the first atom, in [-1/2, 1/2)."""
    apart = value - other
    return wrap_centered(apart - apart[..., :1, :])


def check_noise_process(process: NoiseProcess, clean: Tensor, *, seed: int = 0) -> None:
    """Shapes, dtype and device are kept, inputs are not written to, and a seed decides the outcome.

    Args:
        process: what is tested.
        clean: clean values, (crystals, ...), at least two crystals.
        seed: of the random numbers.
    """
    require(isinstance(process, NoiseProcess), f"{type(process).__name__} lacks `prior` or `corrupt`")
    shape = tuple(clean.shape)
    prior = process.prior(shape, rng=_rng(seed))
    require(tuple(prior.shape) == shape, f"prior: expected shape {shape}, got {tuple(prior.shape)}")
    require(torch.equal(prior, process.prior(shape, rng=_rng(seed))), "prior: the same seed gave other values")
    before = clean.clone()
    t = torch.linspace(0, 1, shape[0])
    first, again = (process.corrupt(clean, t, rng=_rng(seed)) for _ in range(2))
    other = process.corrupt(clean, t, rng=_rng(seed + 1))
    require(torch.equal(clean, before), "corrupt: wrote into the clean values")
    for name in ("noisy", "target"):
        value = getattr(first, name)
        require(tuple(value.shape) == shape, f"corrupt: {name} has shape {tuple(value.shape)}, expected {shape}")
        require(value.dtype == clean.dtype, f"corrupt: {name} has dtype {value.dtype}, expected {clean.dtype}")
        require(torch.equal(value, getattr(again, name)), f"corrupt: the same seed gave another {name}")
    require(not torch.equal(first.noisy, other.noisy), "corrupt: another seed gave the same values")


def check_ends(process: NoiseProcess, clean: Tensor, difference: Difference, *, seed: int = 0) -> None:
    """`corrupt` gives the prior at t = 0, whatever the clean value, and the clean value at t = 1.

    The values at t = 0 are compared with the prior by a two-sample Kolmogorov-Smirnov test; give some thousand values.
    """
    from scipy.stats import ks_2samp

    size = clean.shape[0]
    start = process.corrupt(clean, torch.zeros(size), rng=_rng(seed)).noisy
    prior = process.prior(tuple(clean.shape), rng=_rng(seed + 1)).to(start.dtype)
    chance = float(ks_2samp(start.flatten().numpy(), prior.flatten().numpy()).pvalue)  # type: ignore
    require(chance > SIGNIFICANCE, f"corrupt at t = 0 is not the prior (Kolmogorov-Smirnov p = {chance:.2g})")
    other = process.corrupt(clean.flip(0), torch.zeros(size), rng=_rng(seed)).noisy
    require_close(other, start, tolerance=0.0, what="corrupt at t = 0 depends on the clean value")
    end = process.corrupt(clean, torch.ones(size), rng=_rng(seed)).noisy
    apart = difference(end, clean)
    require_close(apart, torch.zeros_like(apart), tolerance=_accuracy(clean), what="corrupt at t = 1 against clean")
    # Each crystal has its own time: half of them at the start, half at the end.
    mixed = process.corrupt(clean, (torch.arange(size) % 2).float(), rng=_rng(seed)).noisy
    require_close(mixed[0::2], start[0::2], tolerance=0.0, what="a crystal at t = 0 beside others at t = 1")
    require_close(mixed[1::2], end[1::2], tolerance=0.0, what="a crystal at t = 1 beside others at t = 0")


def check_flow_process(process: FlowProcess, clean: Tensor, difference: Difference, *, seed: int = 0) -> None:
    """Velocity and clean value are two views of one path: round trips, straight paths, arrival.

    Args:
        process: what is tested.
        clean: clean values, (crystals, ...).
        difference: see the module.
        seed: of the random numbers.
    """
    require(isinstance(process, FlowProcess), f"{type(process).__name__} lacks a method of FlowProcess")
    size, accuracy = clean.shape[0], _accuracy(clean)
    # Times in the precision of the values, or t + step would round away what a float64 check can see.
    t = torch.linspace(0.05, 0.9, size, dtype=clean.dtype)
    step = torch.linspace(0.0, 0.1, size, dtype=clean.dtype)
    now = process.corrupt(clean, t, rng=_rng(seed))
    later = process.corrupt(clean, t + step, rng=_rng(seed))
    apart = difference(process.advance(now.noisy, now.target, step), later.noisy)
    require_close(apart, torch.zeros_like(apart), tolerance=accuracy, what="advance along the target of corrupt")
    apart = difference(process.clean_from_velocity(now.noisy, now.target, t), clean)
    require_close(apart, torch.zeros_like(apart), tolerance=accuracy, what="clean_from_velocity of the target")
    velocity = process.velocity_from_clean(now.noisy, clean, t)
    arrived = process.advance(now.noisy, velocity, 1 - t)
    apart = difference(arrived, clean)
    require_close(apart, torch.zeros_like(apart), tolerance=accuracy, what="advance along velocity_from_clean")
    slow = 0.4 * (torch.rand(clean.shape, generator=_rng(seed), dtype=clean.dtype) - 0.5)
    again = process.velocity_from_clean(now.noisy, process.clean_from_velocity(now.noisy, slow, t), t)
    require_close(again, slow, tolerance=20 * accuracy, what="velocity -> clean -> velocity")
    still = process.advance(now.noisy, now.target, torch.zeros_like(step))
    require_close(still, now.noisy, tolerance=accuracy, what="advance by no time")


def check_arrives(
    process: FlowProcess, clean: Tensor, difference: Difference, *, steps: int = 7, seed: int = 0
) -> None:
    """Integrating `velocity_from_clean` from the prior in Euler steps ends at the clean value: paths are straight."""
    value = process.prior(tuple(clean.shape), rng=_rng(seed)).to(clean.dtype)
    times = torch.linspace(0, 1, steps + 1) ** 1.5
    for now, then in itertools.pairwise(times):
        t = now.expand(clean.shape[0])
        velocity = process.velocity_from_clean(value, clean, t)
        value = process.advance(value, velocity, (then - now).expand(clean.shape[0]))
    apart = difference(value, clean)
    require_close(apart, torch.zeros_like(apart), tolerance=10 * _accuracy(clean), what=f"end after {steps} steps")


def check_masked_species(process: MaskedSpecies, clean: Tensor, *, seed: int = 0) -> None:
    """Noisy species are masked or clean, targets are the masked ones, and the share of known species is t.

    Args:
        process: what is tested.
        clean: atomic numbers, (crystals, atoms), some thousand of them.
        seed: of the random numbers.
    """
    size, atoms = clean.shape
    prior = process.prior((size, atoms), rng=_rng(seed))
    require((prior == MASKED).all(), "prior: expected every species masked")
    for share in (0.0, 0.3, 0.8, 1.0):
        given = process.corrupt(clean, torch.full((size,), share), rng=_rng(seed))
        known = given.noisy != MASKED
        require(torch.equal(given.noisy[known], clean[known]), "corrupt: a species that is known is not the clean one")
        require((given.target[known] == IGNORED).all(), f"corrupt: target of a known species is not {IGNORED}")
        require(torch.equal(given.target[~known], clean[~known]), "corrupt: target of a masked species is not clean")
        sigma = (share * (1 - share) / clean.numel()) ** 0.5
        found = float(known.float().mean())
        require(abs(found - share) <= 4 * sigma, f"corrupt at t = {share}: a share of {found:.4f} is known")


def check_reveal(process: MaskedSpecies, *, crystals: int = 64, atoms: int = 6, seed: int = 0) -> None:
    """`reveal` makes exactly `count` masked species known (or all that are left), never one of logit -inf.

    Species that are known already stay; a crystal without masked species is left alone.
    """
    rng = _rng(seed)
    noisy = torch.randint(1, 119, (crystals, atoms), generator=rng)
    masked = torch.arange(crystals) % (atoms + 1)
    order = torch.rand(crystals, atoms, generator=rng).argsort(1).argsort(1)
    noisy = noisy.masked_fill(order < masked[:, None], MASKED)
    logits = 30 * torch.randn(crystals, atoms, 119, generator=rng)
    forbidden = torch.rand(crystals, atoms, 119, generator=rng) < 0.9
    forbidden[..., MASKED] = True
    forbidden[..., 1:].scatter_(-1, torch.randint(0, 118, (crystals, atoms, 1), generator=rng), False)
    # The forbidden ones would win by far if the mask were not obeyed.
    logits = torch.where(forbidden, torch.full_like(logits, float("-inf")), logits - 1000)
    for count in range(atoms + 2):
        after = process.reveal(noisy, logits, count, rng=rng)
        known = noisy != MASKED
        require(torch.equal(after[known], noisy[known]), f"reveal of {count} changed a species that was known")
        new = (after != MASKED) & ~known
        expected = masked.clamp_max(count)
        require(
            torch.equal(new.sum(1), expected), f"reveal of {count}: not every crystal got {count} (or what was left)"
        )
        chosen = forbidden.gather(-1, after[..., None])[..., 0]
        require(not (chosen & new).any(), f"reveal of {count} chose a species of logit -inf")


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _accuracy(like: Tensor) -> float:
    return 2e-6 if like.dtype == torch.float32 else 1e-12
