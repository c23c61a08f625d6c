"""Conditions and statistics of training crystals, from the labels of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.lattice import log_symmetric, parameters_from_cell
from euhedral.data.store import CrystalStore
from euhedral.errors import DataError
from euhedral.evaluate.validity import composition_validity
from euhedral.models.columns import Column
from euhedral.models.conditions import PROPERTIES, Conditions

SPACE_GROUP = "space_group"
MOST_CLASSES = 200
_CHUNK = 4096
_LATTICE_SAMPLE = 200_000


class LabelTable:
    """Space group and properties of every crystal of a store, in memory (14 bytes a crystal).

    Columns for adapters are read beside them: numbers, or positions of classes.

    A label that the store lacks, or a space group that is none of 1 to 230, is unknown. A number that is not finite in
    float32 is unknown too.
    """

    def __init__(self, store: CrystalStore, columns: Sequence[Column] = ()) -> None:
        known = set(store.numeric_column_names)
        self._extra = np.stack([_values(store, one) for one in columns], 1) if columns else None
        self._space_group = np.zeros(len(store), dtype=np.int16)
        if SPACE_GROUP in known:
            number = store.labels(SPACE_GROUP)
            valid = (number >= 1) & (number <= 230) & (number == np.round(number))
            self._space_group[valid] = number[valid].astype(np.int16)
        self._properties = np.full((len(store), len(PROPERTIES)), np.nan, dtype=np.float32)
        for column, name in enumerate(PROPERTIES):
            if name in known:
                self._properties[:, column] = _numbers(store, name)

    @property
    def space_group(self) -> NDArray[np.int16]:
        """1 to 230, 0 unknown, (crystals,)."""
        return self._space_group

    @property
    def properties(self) -> NDArray[np.float32]:
        """In the order of `PROPERTIES`, NaN unknown, (crystals, 3)."""
        return self._properties

    def conditions(self, indices: NDArray[np.int64], crystals: CrystalBatch) -> Conditions:
        """What is known of the crystals at these positions; their chemical system is read off their species."""
        return Conditions(
            space_group=torch.from_numpy(self._space_group[indices].astype(np.int64)),
            properties=torch.from_numpy(self._properties[indices]),
            chemical_system=chemical_system(crystals),
            extra=None if self._extra is None else torch.from_numpy(self._extra[indices]),
        )


def columns_of(store: CrystalStore, names: Sequence[str]) -> tuple[Column, ...]:
    """Columns of a store by name: texts are classes, numbers have a mean and a standard deviation.

    Raises:
        DataError: for a name that the store lacks, that comes twice or that is a condition of every model, a column of
            which nothing is known or in which nothing differs, or more than `MOST_CLASSES` classes.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"--column names {', '.join(twice)} more than once; give each column once")
    found: list[Column] = []
    for name in names:
        if name in (SPACE_GROUP, *PROPERTIES):
            raise DataError(f"{name} is a condition of the model already; --column takes a column of your own")
        if name in store.numeric_column_names:
            values = store.labels(name)
            values = values[np.isfinite(values)]
            # The deviation of equal numbers is not 0 but what rounding leaves of it.
            if len(values) < 2 or values.min() == values.max():
                raise DataError(f"the column {name} holds {len(values)} numbers, all alike: nothing to learn from")
            found.append(Column(name=name, mean=float(values.mean()), std=float(values.std())))
            continue
        classes = sorted({text for text in store.texts(name) if text is not None})
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise DataError(
                f"the column {name} holds {len(classes)} different texts; classes are 2 to {MOST_CLASSES} of them"
            )
        found.append(Column(name=name, classes=tuple(classes)))
    return tuple(found)


def _values(store: CrystalStore, column: Column) -> NDArray[np.float32]:
    """A column as adapters read it, NaN where unknown, (crystals,)."""
    if column.name not in store.column_names:
        return np.full(len(store), np.nan, dtype=np.float32)
    if not column.classes:
        return _numbers(store, column.name)
    place = {text: float(number) for number, text in enumerate(column.classes)}
    return np.array([place.get(text or "", np.nan) for text in store.texts(column.name)], dtype=np.float32)


def _numbers(store: CrystalStore, name: str) -> NDArray[np.float32]:
    """A numeric label, NaN where it is unknown or not finite in float32, (crystals,)."""
    with np.errstate(over="ignore"):
        values = store.labels(name).astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    return values


def chemical_system(crystals: CrystalBatch) -> torch.Tensor:
    """Elements that occur in each crystal, by atomic number, (crystals, 119), bool."""
    system = torch.zeros(len(crystals), 119, dtype=torch.bool, device=crystals.species.device)
    system[crystals.owner, crystals.species] = True
    return system


@dataclass(frozen=True, kw_only=True)
class DataStatistics:
    """What a model needs to know of the crystals that it learns from.

    Attributes:
        crystals: how many there are.
        elements: atomic numbers that occur.
        num_atoms: crystals by atom count.
        num_atoms_by_space_group: the same within each space group that is known.
        lattice_mean: of the log-symmetric coordinates, six numbers.
        lattice_std: their standard deviation.
        length_mean: of log(length / Å) - log(N) / 3, three numbers.
        length_std: their standard deviation.
        property_mean: of each property of `PROPERTIES`; 0 where it is never known.
        property_std: standard deviation; 1 where it is never known or constant.
        property_known: crystals of which each property is known.
        neutral_share: share of crystals that pass the charge-neutrality rule (`evaluate.validity`).
    """

    crystals: int
    elements: tuple[int, ...]
    num_atoms: dict[int, int]
    num_atoms_by_space_group: dict[int, dict[int, int]]
    lattice_mean: tuple[float, ...]
    lattice_std: tuple[float, ...]
    length_mean: tuple[float, ...]
    length_std: tuple[float, ...]
    property_mean: tuple[float, ...]
    property_std: tuple[float, ...]
    property_known: dict[str, int]
    neutral_share: float

    def config_values(self) -> dict[str, tuple[float, ...]]:
        """The values that a model's configuration holds."""
        names = ("lattice_mean", "lattice_std", "length_mean", "length_std", "property_mean", "property_std")
        return {name: getattr(self, name) for name in names}

    def to_meta(self) -> dict[str, Any]:
        """For a checkpoint, under the key `statistics`; requests are checked against it."""
        return {
            "crystals": self.crystals,
            "elements": list(self.elements),
            "num_atoms": {str(n): count for n, count in self.num_atoms.items()},
            "num_atoms_by_space_group": {
                str(group): {str(n): count for n, count in counts.items()}
                for group, counts in self.num_atoms_by_space_group.items()
            },
            "property_known": dict(self.property_known),
            "neutral_share": self.neutral_share,
        }


def statistics_of(store: CrystalStore, labels: LabelTable, *, max_atoms: int) -> DataStatistics:
    """Statistics of the crystals of at most `max_atoms` atoms; lattices and compositions of at most 200,000 of them, evenly
    spread.

    Raises:
        DataError: where no crystal is left, or a cell has no finite logarithm.
    """
    sizes = np.asarray(store.num_atoms)
    used = np.flatnonzero(sizes <= max_atoms)
    if not len(used):
        raise DataError(f"'{store.path}' has no crystal of at most {max_atoms} atoms; raise max_atoms in the recipe")
    chosen = used[np.linspace(0, len(used) - 1, min(len(used), _LATTICE_SAMPLE)).astype(np.int64)]
    lattice = np.concatenate([_log_lattice(store, chosen[i : i + _CHUNK]) for i in range(0, len(chosen), _CHUNK)])
    if not np.isfinite(lattice).all():
        raise DataError(f"'{store.path}' holds a cell of no volume; convert its source again")
    lengths = np.concatenate([_log_lengths(store, part) for part in _chunks(chosen)])
    properties = labels.properties[used].astype(np.float64)
    known = np.isfinite(properties)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, properties, 0.0).sum(0) / count
    variance = np.where(known, (properties - mean) ** 2, 0.0).sum(0) / count
    return DataStatistics(
        crystals=len(used),
        elements=tuple(int(z) for z in _elements(store, used)),
        num_atoms=_counted(sizes[used]),
        num_atoms_by_space_group=_by_group(sizes[used], labels.space_group[used]),
        lattice_mean=tuple(lattice.mean(0).tolist()),
        lattice_std=tuple(_scale(lattice.std(0)).tolist()),
        length_mean=tuple(lengths.mean(0).tolist()),
        length_std=tuple(_scale(lengths.std(0)).tolist()),
        property_mean=tuple(mean.tolist()),
        property_std=tuple(_scale(np.sqrt(variance)).tolist()),
        property_known={name: int(known[:, i].sum()) for i, name in enumerate(PROPERTIES)},
        neutral_share=_neutral_share(store, chosen),
    )


def _scale(std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviations to divide by: 1 where there is no spread, as in a data set of one crystal."""
    return np.where(std > 1e-6, std, 1.0)


def _log_lattice(store: CrystalStore, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    crystals = store.crystals(indices)
    return log_symmetric(crystals.cell.double(), crystals.num_atoms).numpy()


def _log_lengths(store: CrystalStore, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    crystals = store.crystals(indices)
    lengths, _ = parameters_from_cell(crystals.cell.double())
    return (lengths.log() - crystals.num_atoms.double().log()[:, None] / 3).numpy()


def _neutral_share(store: CrystalStore, indices: NDArray[np.int64]) -> float:
    verdicts = [verdict.valid for part in _chunks(indices) for verdict in composition_validity(store.crystals(part))]
    return sum(verdicts) / len(verdicts)


def _elements(store: CrystalStore, used: NDArray[np.int64]) -> NDArray[np.int64]:
    seen = np.zeros(119, dtype=bool)
    for part in _chunks(used):
        seen[store.crystals(part).species.numpy()] = True
    return np.flatnonzero(seen)


def _chunks(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(indices), _CHUNK):
        yield indices[start : start + _CHUNK]


def _counted(sizes: NDArray[np.integer]) -> dict[int, int]:
    values, counts = np.unique(sizes, return_counts=True)
    return {int(n): int(count) for n, count in zip(values, counts, strict=True)}


def _by_group(sizes: NDArray[np.integer], groups: NDArray[np.integer]) -> dict[int, dict[int, int]]:
    return {int(group): _counted(sizes[groups == group]) for group in np.unique(groups) if group > 0}
