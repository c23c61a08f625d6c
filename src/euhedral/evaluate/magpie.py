"""Composition fingerprints: six statistics of 22 properties of the elements, weighted by composition.

The table is the Magpie set that matminer ships (Ward, Agrawal, Choudhary and Wolverton, npj Comput. Mater. 2, 16028,
2016), where an element without a value gets the mean of those that have one. The files are read directly: importing
matminer takes seconds.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROPERTIES = (
    "Number",
    "MendeleevNumber",
    "AtomicWeight",
    "MeltingT",
    "Column",
    "Row",
    "CovalentRadius",
    "Electronegativity",
    "NsValence",
    "NpValence",
    "NdValence",
    "NfValence",
    "NValence",
    "NsUnfilled",
    "NpUnfilled",
    "NdUnfilled",
    "NfUnfilled",
    "NUnfilled",
    "GSvolume_pa",
    "GSbandgap",
    "GSmagmom",
    "SpaceGroupNumber",
)
"""Properties in the order of the fingerprint, by the names of their files."""
STATISTICS = ("minimum", "maximum", "range", "mean", "avg_dev", "mode")
"""Statistics of each property in the order of the fingerprint."""

_ELEMENTS = 118


def magpie_labels() -> tuple[str, ...]:
    """Names of the 132 numbers, as matminer has them: 'MagpieData minimum Number', ..."""
    return tuple(f"MagpieData {statistic} {name}" for name in PROPERTIES for statistic in STATISTICS)


def magpie_fingerprint(counts: tuple[tuple[int, int], ...]) -> NDArray[np.float64]:
    """The fingerprint of a composition, (132,).

    Args:
        counts: (atomic number 1 to 118, atoms) of each element.

    Raises:
        ConfigError: if matminer is not installed.
    """
    values = magpie_table()[:, [number for number, _ in counts]]
    amounts = np.array([amount for _, amount in counts], dtype=float)
    shares = amounts / amounts.sum()
    low, high = values.min(1), values.max(1)
    mean = values @ shares
    deviation = np.abs(values - mean[:, None]) @ shares
    mode = values[:, np.isclose(shares, shares.max())].min(1)
    return np.stack([low, high, high - low, mean, deviation, mode], axis=1).reshape(-1)


@lru_cache(maxsize=1)
def magpie_table() -> NDArray[np.float64]:
    """Properties of the elements, (22, 119); column = atomic number, column 0 is NaN.

    Raises:
        ConfigError: if matminer is not installed.
    """
    folder = _folder()
    table = np.full((len(PROPERTIES), _ELEMENTS + 1), np.nan)
    for row, name in enumerate(PROPERTIES):
        lines = (folder / f"{name}.table").read_text(encoding="utf-8").splitlines()[:_ELEMENTS]
        table[row, 1 : len(lines) + 1] = [_number(line) for line in lines]
    missing = np.isnan(table)
    missing[:, 0] = False
    return np.where(missing, np.nanmean(table[:, 1:], axis=1)[:, None], table)


def _folder() -> Path:
    from importlib.util import find_spec

    found = find_spec("matminer")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "composition fingerprints read the element table of matminer, which is missing: "
            'install it with `pip install "euhedral[evaluate]"`'
        )
    return Path(found.submodule_search_locations[0]) / "utils" / "data_files" / "magpie_elementdata"


def _number(line: str) -> float:
    try:
        return float(line)
    except ValueError:  # "Missing[NotAvailable]" and the like
        return float("nan")
