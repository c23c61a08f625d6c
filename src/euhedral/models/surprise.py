"""Cross entropy of what a network is asked to tell, where the rest is ignored."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from euhedral.noise.d3pm import IGNORED


def summed_surprise(logits: Tensor, target: Tensor, *, ignored: int = IGNORED) -> tuple[Tensor, Tensor]:
    """Cross entropies summed over what is not ignored, and how many these are.

    Args:
        logits: by class, (..., classes).
        target: classes, (...).
        ignored: the target of what is not asked.
    """
    flat = target.flatten()
    total = functional.cross_entropy(logits.flatten(0, -2), flat, ignore_index=ignored, reduction="sum")
    return total, (flat != ignored).sum()


def surprise(logits: Tensor, target: Tensor, *, ignored: int = IGNORED) -> Tensor:
    """Their mean; 0, with a gradient, where everything is ignored. See `summed_surprise`."""
    total, count = summed_surprise(logits, target, ignored=ignored)
    return total / count.clamp_min(1)
