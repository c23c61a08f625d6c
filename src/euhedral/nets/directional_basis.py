"""Radial and angular functions of the vectors between atoms, summed over periodic images, for directional messages.

Messages that depend on the angle between two bonds would take all triplets of atoms. By the addition theorem
P_l(u . v) = sum_m Y_lm(u) Y_lm(v) a sum over the third atom is one over the pairs, at each atom, of harmonics: the cost
grows with n² and not with n³, and all periodic images come in at no cost but that of their harmonics.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

DEGREES = 4
"""Degrees l = 0, 1, 2, 3 of the harmonics."""
DEGREE_OF = tuple(degree for degree in range(DEGREES) for _ in range(2 * degree + 1))
"""Degree of each of the 16 harmonics."""
FEW_ATOMS = 4
"""Cells of at most so many atoms are short, and two images are taken each way."""
_NEAREST = 1e-6


def harmonics(unit: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 16"]:
    """Real spherical harmonics up to degree 3, in Racah's normalisation: their squares sum to one in each degree."""
    x, y, z = unit.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    root3, root15, low, high = math.sqrt(3), math.sqrt(15), math.sqrt(3 / 8), math.sqrt(5 / 8)
    values = [
        torch.ones_like(x),
        *(y, z, x),
        *(root3 * x * y, root3 * y * z, (3 * zz - 1) / 2, root3 * x * z, root3 / 2 * (xx - yy)),
        high * y * (3 * xx - yy),
        root15 * x * y * z,
        low * y * (5 * zz - 1),
        z * (5 * zz - 3) / 2,
        low * x * (5 * zz - 1),
        root15 / 2 * z * (xx - yy),
        high * x * (xx - 3 * yy),
    ]
    return torch.stack(values, -1)


def radial_functions(distance: Tensor, *, cutoff: float, number: int) -> Tensor:
    """The envelope, and Bessel functions sqrt(2 / c) sin(k pi d / c) / d under it, (..., 1 + number).

    All are zero from the cutoff on, with two derivatives (Gasteiger et al., DimeNet, ICLR 2020, Eq. 7 and 8).
    """
    x = (distance / cutoff).clamp(max=1.0)
    envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    waves = torch.arange(1, number + 1, device=x.device, dtype=x.dtype) * math.pi
    bessel = (x[..., None] * waves).sin() / distance[..., None].clamp_min(_NEAREST) * math.sqrt(2 / cutoff)
    return torch.cat([envelope[..., None], bessel * envelope[..., None]], -1)


def pair_basis(
    frac: Float[Tensor, "b n 3"], cell: Float[Tensor, "b 3 3"], *, cutoff: float, number: int
) -> Float[Tensor, "b n n r 16"]:
    """Sums over images of radial functions times harmonics, of the vectors from atom i to atom j.

    The images are those within one cell, two in cells of at most `FEW_ATOMS` atoms, of the nearest fractional
    difference; an atom is not its own neighbour, but its images are.

    Args:
        frac: fractional coordinates.
        cell: rows a, b, c in Å.
        cutoff: distance in Å from which all is zero.
        number: Bessel functions; the envelope is radial function 0.
    """
    with torch.autocast(device_type=frac.device.type, enabled=False):
        frac, cell = frac.float(), cell.float()
        b, n = frac.shape[:2]
        reach = 2 if n <= FEW_ATOMS else 1
        steps = list(itertools.product(range(-reach, reach + 1), repeat=3))
        images = torch.tensor(steps, dtype=frac.dtype, device=frac.device)
        # The other direction of a pair has the same radial functions, and harmonics of odd degree change their sign.
        first, second = torch.triu_indices(n, n, device=frac.device)
        delta = frac[:, second] - frac[:, first]
        shifted = (delta - delta.round())[:, :, None] + images
        vectors = (shifted.reshape(b, -1, 3) @ cell).view(b, first.numel(), len(steps), 3)
        itself = (first == second)[:, None] & (images == 0).all(-1)
        distance = vectors.square().sum(-1).masked_fill(itself, (2 * cutoff) ** 2).clamp_min(_NEAREST**2).sqrt()
        radial = radial_functions(distance, cutoff=cutoff, number=number)
        angular = harmonics(vectors / distance[..., None])
        half = radial.transpose(-1, -2) @ angular
        whole = half.new_empty(b, n, n, number + 1, len(DEGREE_OF))
        parity = torch.tensor([(-1.0) ** degree for degree in DEGREE_OF], device=half.device)
        whole[:, second, first] = half * parity
        whole[:, first, second] = half
        return whole
