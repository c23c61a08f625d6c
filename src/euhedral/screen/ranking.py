"""In which order an experimentalist should read the crystals that are left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from euhedral.screen.stage import Value

IMBALANCE = 0.05
"""What a composition without neutral oxidation states costs, eV/atom."""
FORMULA = (
    f"score = e_above_hull + {IMBALANCE:g} eV/atom where no oxidation states are neutral; the lowest first, equal ones and "
    "those without an energy above the hull by index"
)
"""The ranking in words."""

DOUBTED_BELOW = -0.1
"""Energy above the hull that is doubted rather than believed, eV/atom: phases that everybody knows are missing from a
reference, or the potential is wrong, far more often than a crystal is that stable."""


def score(values: Mapping[str, Value]) -> float | None:
    """e_above_hull + IMBALANCE [composition_valid is False] in eV/atom; None without an energy above the hull."""
    above = values.get("e_above_hull")
    if isinstance(above, bool) or not isinstance(above, int | float) or not math.isfinite(above):
        return None
    return float(above) + IMBALANCE * (values.get("composition_valid") is False)


def ranked(rows: Sequence[Mapping[str, Value]]) -> list[int]:
    """Positions of the rows, the best first."""
    scores = [score(row) for row in rows]
    return sorted(range(len(rows)), key=lambda i: (math.inf if (found := scores[i]) is None else found, i))


def doubt(rows: Sequence[Mapping[str, Value]]) -> str | None:
    """A warning of crystals further below the hull than is likely, or None."""
    found = [row for row in rows if isinstance(above := row.get("e_above_hull"), float) and above < DOUBTED_BELOW]
    if not found:
        return None
    named = ", ".join(f"{row.get('formula')} ({row.get('index')})" for row in found[:3])
    return (
        f"to be doubted, since more than {-DOUBTED_BELOW:g} eV/atom below the hull: {named}"
        f"{f' and {len(found) - 3:,} more' if len(found) > 3 else ''}; the reference may lack a phase, or the potential err"
    )
