"""The tasks of CDVAE beside generation: crystals decoded from their own latent vectors, and vectors moved to a property.

Xie et al., ICLR 2022, Sections 5.1 and 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import RequestError
from euhedral.models.base import SampleRequest
from euhedral.models.cdvae import CDVAE
from euhedral.models.conditions import PROPERTIES


def reconstruct(
    model: CDVAE, crystals: CrystalBatch, *, rng: torch.Generator, steps: int = 500, species: bool = True
) -> CrystalBatch:
    """Crystals decoded from the means of their latent vectors, with their true atom counts, in order.

    Args:
        model: trained.
        crystals: of any atom counts.
        rng: on the CPU.
        steps: of Langevin dynamics.
        species: give the true species (as the paper does for match rates); else they are decoded too.
    """
    with torch.no_grad():
        latent = model.encode(crystals).mean
    parts: list[CrystalBatch] = []
    order: list[Tensor] = []
    for count in crystals.num_atoms.unique().tolist():
        index = torch.nonzero(crystals.num_atoms == count)[:, 0]
        some = crystals[index]
        given = some.species.view(len(some), count)
        request = SampleRequest.of(given.cpu() if species else torch.zeros(given.shape, dtype=torch.int64), steps=steps)
        parts.append(model.decode(latent[index], request, rng=rng))
        order.append(index)
    return CrystalBatch.concat(parts)[torch.cat(order).argsort()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimised:
    """What moving latent vectors has changed.

    Attributes:
        latent: the vectors, (b, latent).
        before: the property that the model predicts of the first ones, in its unit, (b,).
        after: of the moved ones.
    """

    latent: Tensor
    before: Tensor
    after: Tensor


def optimise(
    model: CDVAE, latent: Tensor, name: str, *, target: float | None = None, steps: int = 5000, rate: float = 1e-3
) -> Optimised:
    """Latent vectors moved by gradient descent (Adam) on the property that the model predicts of them.

    Args:
        model: trained with this property.
        latent: where to start, (b, latent).
        name: one of `PROPERTIES`.
        target: value to reach, in the property's unit; None makes it as small as it gets.
        steps: of descent; the paper takes 5000 and keeps ten of them.
        rate: of Adam.

    Raises:
        RequestError: for a property that models do not know.
    """
    if name not in PROPERTIES:
        raise RequestError(f"no property {name!r}; known: {', '.join(PROPERTIES)}")
    place = PROPERTIES.index(name)
    moved = latent.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], lr=rate)
    with torch.no_grad():
        before = model.predict_properties(latent)[:, place]
    with torch.enable_grad():
        for _ in range(steps):
            value = model.predict_properties(moved)[:, place]
            aim = value if target is None else (value - target).square()
            (gradient,) = torch.autograd.grad(aim.sum(), [moved])
            moved.grad = gradient
            optimizer.step()
    moved = moved.detach()
    with torch.no_grad():
        return Optimised(latent=moved, before=before, after=model.predict_properties(moved)[:, place])
