"""What crystals were asked to have, a space group or values of properties, and the values that they turned out to have.

The values of properties come from outside (a calculation, a surrogate of your choice), as a table, an array or labels of
the samples: a generator's own word for them would be no judgement.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from euhedral.data.samples import Samples

SUMMARY = "summary.json"
"""What a run of `euhedral generate` says of itself."""
LAST_SPACE_GROUP = 230

Values = Any
"""Path of a table with columns id or index and one a property, or a mapping from property to an array."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A value that a property was asked to have.

    Attributes:
        value: in the property's unit.
        tolerance: largest |value - target| that counts as met; None where only errors are wanted.
    """

    value: float
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ConfigError(f"a target must be a finite number, not {self.value}")
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise ConfigError(f"a tolerance must be zero or more, not {self.tolerance}")


@dataclass(frozen=True, kw_only=True)
class Requested:
    """What every crystal of a set was asked to have.

    Attributes:
        space_group: number 1 to 230, or None.
        targets: by property.
    """

    space_group: int | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.space_group is not None and not 1 <= self.space_group <= LAST_SPACE_GROUP:
            raise ConfigError(f"space groups have numbers 1 to {LAST_SPACE_GROUP}, not {self.space_group}")

    def __bool__(self) -> bool:
        return self.space_group is not None or bool(self.targets)


def requested_of_run(source: Any) -> Requested:
    """What a run folder of `euhedral generate` was asked for; nothing where the source is something else.

    Classes, which have no error, are left out.

    Raises:
        DataError: where the folder's summary is damaged.
    """
    if not isinstance(source, str | Path) or not (summary := Path(source) / SUMMARY).is_file():
        return Requested()
    try:
        request = json.loads(summary.read_text()).get("request", {})
        numbers = {name: x for name, x in (request.get("properties") or {}).items() if not isinstance(x, str)}
        targets = {name: Target(value=float(value)) for name, value in numbers.items()}
        return Requested(space_group=request.get("space_group"), targets=targets)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"'{summary}' is not the summary of a run: {error}") from None


def with_tolerances(requested: Requested, tolerances: Mapping[str, float]) -> Requested:
    """The same targets, those named here with a tolerance.

    Raises:
        ConfigError: on a tolerance of a property without a target.
    """
    if unknown := [name for name in tolerances if name not in requested.targets]:
        raise ConfigError(f"there is a tolerance for '{unknown[0]}' but no target")
    targets = {
        name: Target(value=target.value, tolerance=tolerances.get(name, target.tolerance))
        for name, target in requested.targets.items()
    }
    return Requested(space_group=requested.space_group, targets=targets)


def sample_values(values: Values, samples: Samples, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """Properties of the samples by name, (samples,) each with NaN where unknown; those that nothing is known of are left out.

    Args:
        values: see `Values`; None for the labels of the samples alone.
        samples: whose they are.
        names: properties that are wanted.

    Raises:
        DataError: where a table cannot be read or an array does not fit.
    """
    from euhedral.data.values import read_values, values_of_labels

    found: dict[str, NDArray[np.float64]] = {}
    for name in names:
        if isinstance(values, str | Path):
            found[name] = read_values(values, samples.ids, name)
        elif values is not None and name in values:
            found[name] = _array(values[name], name)
            if len(found[name]) != len(samples):
                raise DataError(f"there are {len(found[name])} values of {name} for {len(samples)} samples")
        elif (labels := values_of_labels(samples.labels, name)) is not None:
            found[name] = labels
    return found


def unsteered_values(values: Values, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """Properties of crystals that were not asked for anything, of any number; arguments and errors as `sample_values`."""
    from euhedral.data.values import read_column

    if values is None:
        return {}
    if isinstance(values, str | Path):
        return {name: read_column(values, name) for name in names}
    return {name: _array(values[name], name) for name in names if name in values}


def _array(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise DataError(f"the values of {name} are not numbers") from None
