"""Gradient guidance: a model of properties leads what is drawn toward values that are asked for.

At each step the generative model says which crystal its samples lead to. That crystal is moved up the gradient of
log p(y | crystal) = -1/2 ((f - y) / (a s))², with the predicted property f, its target y and its standard deviation s, by the
variance that is left at this time, as in guidance by reconstruction (Song et al., PiGDM, ICLR 2023, Eq. 5) but with the
gradient taken at the reconstructed crystal and not through the network (Ye et al., TFG, NeurIPS 2024, mean guidance), so
that a step costs an evaluation of the property model and none of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap

if TYPE_CHECKING:
    from jaxtyping import Float, Int

FARTHEST = 2.0
"""Largest move at one step, in units of the width that is left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Steering:
    """What is wanted, and who says how far a crystal is from it.

    Attributes:
        predict: properties (b, p) of crystals, differentiable by coordinates and cell.
        targets: wanted values, NaN where any will do, (p,).
        scale: standard deviation of each property, (p,).
        strength: multiplies the gradient; 0 is off.
        tolerance: a, in standard deviations of a property.
        reach: width in Å within which atoms may be moved at the beginning.
        strain: the same of the numbers of the lattice.
    """

    predict: Callable[[CrystalBatch], Float[Tensor, "b p"]]
    targets: Float[Tensor, " p"]
    scale: Float[Tensor, " p"]
    strength: float = 1.0
    tolerance: float = 0.25
    reach: float = 0.5
    strain: float = 1.0

    def moves(
        self,
        frac: Float[Tensor, "b n 3"],
        lattice: Float[Tensor, "b k"],
        species: Int[Tensor, "b n"],
        *,
        cell_of: Callable[[Tensor], Tensor],
        left: float,
    ) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b k"]]:
        """How far the crystals are to be moved, in fractional coordinates and numbers of the lattice.

        Args:
            frac: coordinates that the samples lead to.
            lattice: numbers of the lattice that they lead to.
            species: atomic numbers, all known.
            cell_of: cells (b, 3, 3) of such numbers.
            left: share of the path that is left.
        """
        size, count = species.shape
        with torch.enable_grad(), torch.autocast(frac.device.type, enabled=False):
            frac, lattice = frac.detach().float().requires_grad_(), lattice.detach().float().requires_grad_()
            cell = cell_of(lattice)
            crystals = CrystalBatch(
                frac=wrap(frac).reshape(-1, 3),
                cell=cell,
                species=species.reshape(-1),
                num_atoms=torch.full((size,), count, dtype=torch.int64, device=species.device),
            )
            by_frac, by_lattice = torch.autograd.grad(self._likelihood(crystals), (frac, lattice), allow_unused=True)
        cell = cell.detach()
        away = torch.zeros_like(frac) if by_frac is None else by_frac.nan_to_num(0.0, 0.0, 0.0)
        strained = torch.zeros_like(lattice) if by_lattice is None else by_lattice.nan_to_num(0.0, 0.0, 0.0)
        # A cell that is still flat has no inverse: atoms of it stay where they are led.
        inverse, flat = torch.linalg.inv_ex(cell)
        inverse = torch.where((flat == 0)[:, None, None], inverse, torch.zeros_like(inverse))
        along = _bounded(away @ inverse.mT, self.reach * left, self.strength)
        return (along @ inverse).detach(), _bounded(strained, self.strain * left, self.strength).detach()

    def _likelihood(self, crystals: CrystalBatch) -> Tensor:
        found = self.predict(crystals)
        wanted = torch.isfinite(self.targets)
        gap = (found[:, wanted] - self.targets[wanted].to(found)) / (self.tolerance * self.scale[wanted].to(found))
        return -0.5 * gap.square().sum()


def _bounded(gradient: Tensor, width: float, strength: float) -> Tensor:
    """strength * width² * gradient, no longer than `FARTHEST` widths (..., k)."""
    move = strength * width**2 * gradient
    longest = FARTHEST * width
    return move * (longest / move.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
