"""Noise paired with data up to symmetry: the same crystal, seen from another origin and with like atoms renumbered."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ORIGINS = 4
FORBIDDEN = 1e3  # cost of pairing atoms of two elements: more than any displacement on the torus costs


def aligned(start: Tensor, clean: Tensor, species: Tensor, *, rng: torch.Generator, origins: int = ORIGINS) -> Tensor:
    """Coordinates of `start` shifted as a whole and with atoms of one element exchanged, close to `clean`.

    Uniform noise stays uniform under both, and neither changes a crystal, so that training may pair each crystal with
    the nearest of these copies (equivariant optimal transport: Klein, Kraemer and Noe, NeurIPS 2023, Section 4; Song
    et al., NeurIPS 2023). Paths become shorter and cross less; above all, the side from which an atom goes round the
    torus no longer hangs on where the origin of the noise happens to lie. The search is a heuristic: from each of
    `origins` shifts that lay one atom on a like one, two rounds of optimal assignment and of moving the mean
    displacement to zero; the best is taken.

    Args:
        start: noise in fractional coordinates, (crystals, atoms, 3).
        clean: the crystals, of the same shape.
        species: true atomic numbers of both, (crystals, atoms).
        rng: draws the origins; on any device.
        origins: shifts tried for each crystal.

    Returns:
        Coordinates of the shape, dtype and device of `start`, not wrapped.
    """
    from scipy.optimize import linear_sum_assignment  # here, since it takes longer to load than crystals need it for

    size, count, _ = start.shape
    picks = torch.randint(0, count, (size, origins), generator=rng, device=rng.device).cpu().numpy()
    like = torch.randint(0, 1 << 30, (size, origins), generator=rng, device=rng.device).cpu().numpy()
    noise, data = start.double().cpu().numpy(), clean.double().cpu().numpy()
    same = (species[:, :, None] == species[:, None]).cpu().numpy()
    rows = np.arange(size)[:, None]
    partner = _choose(same[rows, picks], like)
    shift = data[rows, partner] - noise[rows, picks]
    order = np.zeros((size, origins, count), dtype=np.int64)
    for _ in range(2):
        moved = noise[:, None] + shift[:, :, None]
        apart = data[:, None, :, None] - moved[:, :, None]
        apart -= np.round(apart)
        cost = np.einsum("bkijx,bkijx->bkij", apart, apart) + np.where(same, 0.0, FORBIDDEN)[:, None]
        for b in range(size):
            for k in range(origins):
                order[b, k] = linear_sum_assignment(cost[b, k])[1]
        apart = np.take_along_axis(apart, order[..., None, None], axis=3)[:, :, :, 0]
        shift = shift + apart.mean(2)
    apart = apart - apart.mean(2, keepdims=True)
    best = (apart**2).sum((2, 3)).argmin(1)
    index = np.arange(size)
    found = noise[index[:, None], order[index, best]] + shift[index, best][:, None]
    return torch.from_numpy(found).to(start.device, start.dtype)


def _choose(allowed: np.ndarray, random: np.ndarray) -> np.ndarray:
    """One of the places allowed along the last axis (b, k, n), by random integers (b, k)."""
    ranked = np.cumsum(allowed, -1)
    wanted = random % ranked[..., -1] + 1
    return (ranked >= wanted[..., None]).argmax(-1)
