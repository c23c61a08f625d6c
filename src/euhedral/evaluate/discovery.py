"""Stable, unique and novel crystals: the S.U.N. and M.S.U.N. rates of discovery.

A crystal is stable if its energy above the convex hull is at most 0 eV/atom, and metastable if it is at most 0.1. What
MatterGen publishes as S.U.N. (Zeni et al., Nature 2025) is the rate at 0.1 eV/atom, M.S.U.N. here; others ask for 0.
A crystal whose energy is unknown is a failure with its reason: it stays in the denominator and counts as not stable.

The rates are shares of all crystals generated, so the energies, the hull and the relaxation behind them, which are not
decided here, belong beside every figure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

STABLE_AT = 0.0
"""Energy above the hull in eV/atom up to which a crystal is stable."""
METASTABLE_AT = 0.1
"""Energy above the hull in eV/atom up to which a crystal is metastable."""
UNKNOWN_ENERGY = "energy above the hull is unknown"


@dataclass(frozen=True, kw_only=True, eq=False)
class Discovery:
    """Which crystals are discoveries, one entry a crystal.

    Attributes:
        e_above_hull: eV/atom, (crystals,), NaN unknown.
        unique: first of its kind among the crystals generated, (crystals,).
        novel: not in the reference, (crystals,).
        reasons: why a crystal's energy is unknown, or None.
        stable_at: threshold of S.U.N. in eV/atom.
        metastable_at: threshold of M.S.U.N. in eV/atom.
    """

    e_above_hull: NDArray[np.float64]
    unique: NDArray[np.bool_]
    novel: NDArray[np.bool_]
    reasons: tuple[str | None, ...]
    stable_at: float = STABLE_AT
    metastable_at: float = METASTABLE_AT

    @property
    def stable(self) -> NDArray[np.bool_]:
        """Energy known and at most `stable_at`, (crystals,)."""
        return self.e_above_hull <= self.stable_at

    @property
    def metastable(self) -> NDArray[np.bool_]:
        """Energy known and at most `metastable_at`, (crystals,); the stable ones are among them."""
        return self.e_above_hull <= self.metastable_at

    @property
    def sun_mask(self) -> NDArray[np.bool_]:
        """Stable, unique and novel, (crystals,)."""
        return self.stable & self.unique & self.novel

    @property
    def msun_mask(self) -> NDArray[np.bool_]:
        """Metastable, unique and novel, (crystals,)."""
        return self.metastable & self.unique & self.novel

    @property
    def sun(self) -> float:
        """Share of stable, unique and novel crystals among all; NaN if there are none."""
        return _share(self.sun_mask)

    @property
    def msun(self) -> float:
        """Share of metastable, unique and novel crystals among all; NaN if there are none."""
        return _share(self.msun_mask)

    @property
    def stages(self) -> dict[str, float]:
        """Share of all crystals that passes each stage, alone and together."""
        known = ~np.isnan(self.e_above_hull)
        return {
            "energy known": _share(known),
            "stable": _share(self.stable),
            "metastable": _share(self.metastable),
            "unique": _share(self.unique),
            "novel": _share(self.novel),
            "unique and novel": _share(self.unique & self.novel),
            "stable and unique": _share(self.stable & self.unique),
            "metastable and unique": _share(self.metastable & self.unique),
            "stable, unique and novel": self.sun,
            "metastable, unique and novel": self.msun,
        }

    @property
    def failures(self) -> dict[str, int]:
        """How often each reason occurs."""
        return dict(Counter(reason for reason in self.reasons if reason is not None).most_common())


def judge_discovery(
    e_above_hull: ArrayLike,
    unique: ArrayLike,
    novel: ArrayLike,
    *,
    reasons: Sequence[str | None] | None = None,
    stable_at: float = STABLE_AT,
    metastable_at: float = METASTABLE_AT,
) -> Discovery:
    """Join energies, uniqueness and novelty of the same crystals.

    Args:
        e_above_hull: eV/atom, (crystals,); NaN or infinite is unknown, and crystals below a hull are negative.
        unique: booleans, (crystals,), e.g. `DuplicateRecord.unique`; an undecided one is False.
        novel: booleans, (crystals,).
        reasons: why an energy is unknown; where none is given, UNKNOWN_ENERGY. The energy of a crystal with a reason is
            not used.
        stable_at: threshold of S.U.N. in eV/atom.
        metastable_at: threshold of M.S.U.N. in eV/atom.

    Raises:
        ConfigError: on lengths that differ, masks that are not boolean, or thresholds out of order.
    """
    energies = np.array(e_above_hull, dtype=np.float64)
    masks = [_as_mask(mask, name) for mask, name in ((unique, "unique"), (novel, "novel"))]
    given = list(reasons) if reasons is not None else [None] * len(energies.reshape(-1))
    if energies.ndim != 1 or not len(energies) == len(masks[0]) == len(masks[1]) == len(given):
        raise ConfigError(
            f"expected one entry a crystal: {energies.shape} energies, {len(masks[0])} unique, {len(masks[1])} novel, "
            f"{len(given)} reasons"
        )
    if not stable_at <= metastable_at:
        raise ConfigError(f"stable_at ({stable_at} eV/atom) must not be above metastable_at ({metastable_at} eV/atom)")
    bad = ~np.isfinite(energies)
    full = tuple(why or (UNKNOWN_ENERGY if unknown else None) for why, unknown in zip(given, bad, strict=True))
    energies[[why is not None for why in full]] = math.nan
    return Discovery(
        e_above_hull=energies,
        unique=masks[0],
        novel=masks[1],
        reasons=full,
        stable_at=stable_at,
        metastable_at=metastable_at,
    )


def _as_mask(mask: ArrayLike, name: str) -> NDArray[np.bool_]:
    values = np.asarray(mask)
    if values.ndim != 1 or (len(values) and values.dtype != np.bool_):
        raise ConfigError(f"'{name}' must be one boolean a crystal, not {values.dtype} of shape {values.shape}")
    return values.astype(np.bool_)


def _share(mask: NDArray[np.bool_]) -> float:
    return float(mask.mean()) if len(mask) else math.nan
