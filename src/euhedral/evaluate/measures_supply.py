"""Figures of the elements that crystals are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from euhedral.evaluate.context import Context, Measured
from euhedral.evaluate.measures_crystal import buildable
from euhedral.evaluate.measures_distribution import stage_failures
from euhedral.evaluate.supply import judge_supply


def measure_supply(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Market concentration, radioactive and toxic elements."""
    found = judge_supply(context.crystals)
    figures = []
    for name, values in (("production", found.hhi_production), ("reserve", found.hhi_reserve)):
        note = (
            "Herfindahl-Hirschman index, 0 to 10,000, weighted by mass; elements without an index leave a crystal out"
        )
        figures.append(context.mean_of_known(f"supply.hhi_{name}", values, note=note, better="lower"))
    # Less is better here, so that a crystal that cannot be built must not count as one without such elements.
    built = buildable(context, context.samples)
    for name, mask, words in (
        ("radioactive", found.radioactive, ""),
        ("toxic", found.toxic, "Be, As, Cd, Hg, Tl or Pb"),
    ):
        note = "; ".join(part for part in (f"of the {len(built)} that can be built", words) if part)
        figures.append(context.share(f"supply.{name}", mask[built], note=note, better="lower"))
    return Measured(
        figures=tuple(figures),
        failures=stage_failures(context, found.reasons, "supply"),
        columns={
            "hhi_production": [float(v) if np.isfinite(v) else None for v in found.hhi_production],
            "hhi_reserve": [float(v) if np.isfinite(v) else None for v in found.hhi_reserve],
            "radioactive": found.radioactive.tolist(),
            "toxic": found.toxic.tolist(),
        },
    )
