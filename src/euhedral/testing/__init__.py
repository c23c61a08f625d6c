"""Shipped contract suites: plain functions that any registry entry passes, without need of a test runner.

Each `check_*` function returns nothing and raises AssertionError with a message that says what was expected and what
came. A third party's process, backbone or model family is tested by calling the function of its contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def require(condition: object, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds (also under `python -O`)."""
    if not bool(condition):
        raise AssertionError(message)


def require_close(actual: Tensor, expected: Tensor, *, tolerance: float, what: str) -> None:
    """Raise AssertionError unless shapes agree, all is finite and no entry differs by more than the tolerance."""
    require(
        actual.shape == expected.shape, f"{what}: expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}"
    )
    if actual.numel() == 0:
        return
    require(actual.isfinite().all(), f"{what}: {int((~actual.isfinite()).sum())} values are not finite")
    gap = float((actual.double() - expected.double()).abs().max())
    require(gap <= tolerance, f"{what}: largest difference {gap:.3g}, allowed {tolerance:.3g}")
