"""Species that training shows to a model that both predicts structures and generates crystals."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_given(size: int, count: int, share: float, *, rng: torch.Generator) -> Tensor:
    """Which species are given in training, (size, count) bool.

    Args:
        size: crystals.
        count: atoms in each.
        share: of crystals whose species are all given; half of the others have none given, and the rest any share of them.
        rng: on any device, which the result is on.
    """
    kind, drawn = torch.rand(2, size, generator=rng, device=rng.device)
    known = torch.where(kind < share, torch.ones_like(drawn), drawn)
    known = known.masked_fill(kind >= (1 + share) / 2, 0.0)
    return torch.rand(size, count, generator=rng, device=rng.device) < known[:, None]
