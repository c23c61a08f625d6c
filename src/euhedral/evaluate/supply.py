"""Supply of the elements in generated crystals: market concentration, radioactive and toxic elements.

The Herfindahl-Hirschman index (HHI) of an element is the sum of the squared market shares, in percent, of the countries
that produce it or hold its reserves; 10,000 is a monopoly. That of a crystal is the mean over its elements, weighted by
mass (Gaultois et al., Chem. Mater. 2013, 25, 2911). The table is the one that pymatgen ships (smact ships the same
numbers); it has no entry for H, most noble gases, Tc and the elements after Bi, so their crystals have no index, with that
reason, and are in no mean.

No prices: there is no table of them here whose licence allows it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.elements import ATOMIC_NUMBERS, SYMBOLS
from euhedral.errors import ConfigError
from euhedral.evaluate.distribution import element_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch

RADIOACTIVE: frozenset[int] = frozenset({43, 61, *range(84, 119)})
"""Elements without a stable isotope: Tc, Pm and Po to Og, Th and U among them (Holden et al., Pure Appl. Chem. 2018, 90,
1833). Bi, whose only natural isotope outlives the universe a billion times, is left out by convention."""
TOXIC: frozenset[int] = frozenset(ATOMIC_NUMBERS[symbol] for symbol in ("Be", "As", "Cd", "Hg", "Tl", "Pb"))
"""Elements that are hazardous in nearly every compound, a convention: As, Cd, Hg and Pb (class 1 of ICH Q3D(R2), 2022),
Tl (an oral limit as low as theirs there), and Be, which is with As and Cd in group 1 of IARC in all its compounds. Left
out are elements whose hazard depends on the compound, such as Cr, of which one oxidation state is hazardous, Ni and Co."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Supply:
    """Supply of each crystal's elements.

    Attributes:
        hhi_production: index by production, (crystals,), NaN if an element has none.
        hhi_reserve: index by reserves, (crystals,), NaN if an element has none.
        radioactive: holds a radioactive element, (crystals,).
        toxic: holds a toxic element, (crystals,).
        reasons: why a crystal has no index, or None; one a crystal.
    """

    hhi_production: NDArray[np.float64]
    hhi_reserve: NDArray[np.float64]
    radioactive: NDArray[np.bool_]
    toxic: NDArray[np.bool_]
    reasons: tuple[str | None, ...]

    @property
    def mean_hhi_production(self) -> float:
        """Mean index by production over the crystals that have one; NaN if there are none."""
        return _mean_of_known(self.hhi_production)

    @property
    def mean_hhi_reserve(self) -> float:
        """Mean index by reserves over the crystals that have one; NaN if there are none."""
        return _mean_of_known(self.hhi_reserve)

    @property
    def share_radioactive(self) -> float:
        """Share of all crystals that hold a radioactive element; NaN if there are none."""
        return float(self.radioactive.mean()) if len(self.radioactive) else math.nan

    @property
    def share_toxic(self) -> float:
        """Share of all crystals that hold a toxic element; NaN if there are none."""
        return float(self.toxic.mean()) if len(self.toxic) else math.nan


def judge_supply(
    batch: CrystalBatch, *, radioactive: Collection[int] = RADIOACTIVE, toxic: Collection[int] = TOXIC
) -> Supply:
    """Index and hazards of each crystal; only the elements matter, not the structure.

    Args:
        batch: crystals.
        radioactive: atomic numbers that count as radioactive.
        toxic: atomic numbers that count as toxic.

    Raises:
        ConfigError: on a number in the lists that is no element.
    """
    for name, numbers in (("radioactive", radioactive), ("toxic", toxic)):
        if wrong := sorted(z for z in numbers if not 1 <= z < len(SYMBOLS)):
            raise ConfigError(f"{name}: {wrong[0]} is not an atomic number; they go from 1 to {len(SYMBOLS) - 1}")
    counts = element_table(batch)
    production, reserve, masses = _tables()
    present = counts > 0
    reasons = tuple(_why_no_index(row, production) for row in present)
    weights = counts * masses
    with np.errstate(invalid="ignore"):
        shares = weights / weights.sum(1, keepdims=True)
    known = np.array([reason is None for reason in reasons], dtype=bool)
    return Supply(
        hhi_production=np.where(known, shares @ np.nan_to_num(production), math.nan),
        hhi_reserve=np.where(known, shares @ np.nan_to_num(reserve), math.nan),
        radioactive=np.atleast_1d(present[:, sorted(radioactive)].any(1)),
        toxic=np.atleast_1d(present[:, sorted(toxic)].any(1)),
        reasons=reasons,
    )


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """HHI by production, by reserve (NaN without an entry) and atomic mass in u of each atomic number, each (119,)."""
    from pymatgen.analysis.hhi import HHIModel
    from pymatgen.core import Element

    production, reserve = np.full(len(SYMBOLS), math.nan), np.full(len(SYMBOLS), math.nan)
    for symbol, (by_production, by_reserve) in HHIModel().symbol_hhip_hhir.items():
        production[ATOMIC_NUMBERS[symbol]], reserve[ATOMIC_NUMBERS[symbol]] = by_production, by_reserve
    # pymatgen's own masses, so that the index equals its HHIModel to every digit.
    masses = np.array([0.0, *(float(Element.from_Z(z).atomic_mass) for z in range(1, len(SYMBOLS)))])
    return production, reserve, masses


def _why_no_index(present: NDArray[np.bool_], production: NDArray[np.float64]) -> str | None:
    if not present.any():
        return "no atoms"
    if present[0]:
        return "unknown element"
    missing = np.flatnonzero(present & np.isnan(production))
    return f"no index for {', '.join(SYMBOLS[z] for z in missing)}" if len(missing) else None


def _mean_of_known(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
