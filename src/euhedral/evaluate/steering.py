"""How well a property of generated crystals meets its target, beside the same for a set that was not steered.

The property of each crystal comes from outside (a calculation, a surrogate, a file). A crystal without it is a failure
with its reason: it is never within the tolerance, and it is in no mean of errors, which says over how many it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

UNKNOWN_PROPERTY = "property is unknown"


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetErrors:
    """Distance of each crystal's property from its target, in the property's unit.

    Attributes:
        errors: value minus target, (crystals,), NaN where the value is unknown.
        within: whether |error| is at most `tolerance`, (crystals,), False where it is unknown.
        reasons: why a value is unknown, or None; one a crystal.
        tolerance: in the property's unit.
    """

    errors: NDArray[np.float64]
    within: NDArray[np.bool_]
    reasons: tuple[str | None, ...]
    tolerance: float

    @property
    def mean_absolute_error(self) -> float:
        """Mean |value - target| over the crystals with a value; NaN if there are none."""
        known = self.errors[~np.isnan(self.errors)]
        return float(np.abs(known).mean()) if len(known) else math.nan

    @property
    def known(self) -> int:
        """Crystals with a value."""
        return int((~np.isnan(self.errors)).sum())

    @property
    def share_within(self) -> float:
        """Share of all crystals, failures included, within the tolerance; NaN if there are none."""
        return float(self.within.mean()) if len(self.within) else math.nan


@dataclass(frozen=True, kw_only=True)
class Steering:
    """A steered set against its targets, and an unsteered set against the same ones.

    Attributes:
        steered: the crystals that were asked to meet the targets.
        unsteered: crystals of the same model without a target, or None.
    """

    steered: TargetErrors
    unsteered: TargetErrors | None = None

    @property
    def gain(self) -> float:
        """Share within the tolerance over that of the unsteered set; infinite if that is 0, NaN if there is nothing."""
        if self.unsteered is None or not (self.unsteered.share_within > 0 or self.steered.share_within > 0):
            return math.nan
        base = self.unsteered.share_within
        return self.steered.share_within / base if base != 0 else math.inf


def target_errors(
    values: ArrayLike, target: ArrayLike, *, tolerance: float, reasons: Sequence[str | None] | None = None
) -> TargetErrors:
    """Errors of a property against its target.

    Args:
        values: property of each crystal, (crystals,); NaN or infinite is unknown.
        target: one number for all, or one a crystal, (crystals,).
        tolerance: largest |error| that counts as met, in the property's unit.
        reasons: why a value is unknown; a value with a reason is not used.

    Raises:
        ConfigError: on shapes that do not fit, a target that is not finite or a tolerance below zero.
    """
    found = np.array(values, dtype=np.float64)
    wanted = np.asarray(target, dtype=np.float64)
    given = list(reasons) if reasons is not None else [None] * found.size
    if found.ndim != 1 or wanted.shape not in ((), found.shape) or len(given) != len(found):
        raise ConfigError(
            f"expected values (crystals,), one target or one a crystal, and one reason a crystal; got {found.shape}, "
            f"{wanted.shape} and {len(given)}"
        )
    if not np.isfinite(wanted).all():
        raise ConfigError("a target is not finite; leave crystals without a target out")
    if not tolerance >= 0:
        raise ConfigError(f"the tolerance must be zero or more, not {tolerance}")
    unknown = ~np.isfinite(found)
    full = tuple(why or (UNKNOWN_PROPERTY if bad else None) for why, bad in zip(given, unknown, strict=True))
    found[[why is not None for why in full]] = math.nan
    errors = found - wanted
    return TargetErrors(errors=errors, within=np.abs(errors) <= tolerance, reasons=full, tolerance=tolerance)


def steering(
    values: ArrayLike,
    target: ArrayLike,
    *,
    tolerance: float,
    unsteered: ArrayLike | None = None,
    reasons: Sequence[str | None] | None = None,
    unsteered_reasons: Sequence[str | None] | None = None,
) -> Steering:
    """Steered crystals against their targets and, if given, unsteered ones against the same.

    With one target a crystal, an unsteered set needs as many crystals as there are targets. Arguments and errors are
    those of `target_errors`.
    """
    steered = target_errors(values, target, tolerance=tolerance, reasons=reasons)
    if unsteered is None:
        return Steering(steered=steered)
    return Steering(
        steered=steered,
        unsteered=target_errors(unsteered, target, tolerance=tolerance, reasons=unsteered_reasons),
    )
