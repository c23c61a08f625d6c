"""`HullReference`: energies of known compositions by one method, the most stable of each formula.

The one that the package carries holds CHGNet's energies of MP-20's train and val crystals at their published geometries,
with simple crystals of the elements whose ground state MP-20 lacks; its `provenance` names them.

File: parquet with the columns `composition` (list of [atomic number, count], flat), `energy_per_atom` (eV/atom, float32) and
`id`; the schema's metadata holds the method and the provenance as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from euhedral.crystal.elements import SYMBOLS
from euhedral.crystal.formula import MAX_FORMULA_COUNT, reduced_formula
from euhedral.errors import DataError, EuhedralError, OutputError
from euhedral.screen.method import EnergyMethod

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Composition: TypeAlias = tuple[tuple[int, int], ...]
"""Reduced composition as (atomic number, count) pairs in the order of atomic numbers."""

FORMAT = 1
"""Version of the file."""
METADATA_KEY = b"euhedral-hull"
DEFAULT_FILE = "chgnet_mp20.parquet"
MAX_DENOMINATOR = 1000
"""Amounts that are not whole are read as fractions with at most this denominator."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HullReference:
    """Energies of one method; make it with `make_reference`, `load_reference`, `read_reference` or `default_reference`.

    Attributes:
        compositions: reduced, each once, (entries,).
        energies: the lowest energy of each in eV/atom, (entries,).
        ids: name of the crystal that has it, (entries,).
        method: what the energies are energies of.
        provenance: data and choices behind them, plain JSON values.
    """

    compositions: tuple[Composition, ...]
    energies: NDArray[np.float64]
    ids: tuple[str, ...]
    method: EnergyMethod
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.compositions)

    @cached_property
    def elements(self) -> frozenset[int]:
        """Elements that have an entry of their own, without which no hull of their compounds exists."""
        return frozenset(composition[0][0] for composition in self.compositions if len(composition) == 1)

    @cached_property
    def elements_without_entry(self) -> frozenset[int]:
        """Elements of compounds that have no entry of their own."""
        return frozenset(z for composition in self.compositions for z, _ in composition) - self.elements

    def formula(self, entry: int) -> str:
        """Reduced formula of an entry, e.g. 'Ca3(PO4)2'."""
        return formula_of(self.compositions[entry])


def formula_of(composition: Composition) -> str:
    """Reduced formula of a composition as pymatgen writes it."""
    return reduced_formula([z for z, count in composition for _ in range(count)])


def reduced_composition(amounts: Mapping[int, float] | Composition) -> Composition:
    """Whole counts without a common divisor.

    Args:
        amounts: by atomic number, each once; fractions such as 0.5 or 0.3333333 are read as the ratios that they stand for.

    Raises:
        DataError: on no atoms, an unknown element, an amount that is not positive, or not a ratio of small numbers, and on
            more atoms than MAX_FORMULA_COUNT.
    """
    if not amounts:
        raise DataError("a composition needs at least one element")
    exact: dict[int, int | Fraction] = {}
    for z, amount in dict(amounts).items():
        if not 1 <= z < len(SYMBOLS):
            raise DataError(f"there is no element {z}; atomic numbers run from 1 to {len(SYMBOLS) - 1}")
        if not (math.isfinite(amount) and amount > 0):
            raise DataError(f"the amount of {SYMBOLS[z]} is {amount}; expected a number above 0")
        if amount == int(amount):
            exact[z] = int(amount)
            continue
        ratio = Fraction(amount).limit_denominator(MAX_DENOMINATOR)
        if not ratio or abs(float(ratio) - amount) > 1e-6 * max(1.0, amount):
            raise DataError(
                f"the amount of {SYMBOLS[z]}, {amount}, is not a ratio of whole numbers up to {MAX_DENOMINATOR}"
            )
        exact[z] = ratio
    common = math.lcm(*(ratio.denominator for ratio in exact.values()))
    counts = {z: int(ratio * common) for z, ratio in exact.items()}
    units = math.gcd(*counts.values())
    if sum(counts.values()) // units > MAX_FORMULA_COUNT:
        raise DataError(f"the reduced formula has more than {MAX_FORMULA_COUNT} atoms")
    return tuple((z, counts[z] // units) for z in sorted(counts))


def make_reference(
    compositions: Sequence[Mapping[int, float] | Composition],
    energies: ArrayLike,
    ids: Sequence[str],
    *,
    method: EnergyMethod,
    provenance: Mapping[str, Any] | None = None,
) -> HullReference:
    """Check entries and keep the one of lowest energy of each composition; of equal ones the first.

    Args:
        compositions: amounts by atomic number, (entries,).
        energies: eV/atom, (entries,).
        ids: names, each once, (entries,).
        method: of all the energies.
        provenance: plain JSON values to keep with them.

    Raises:
        DataError: on no entries, lengths that differ, names that occur twice, an energy that is not a finite number, or a
            composition that is none; the message names the entry.
    """
    values = np.asarray(energies, dtype=np.float64)
    if values.ndim != 1 or not len(compositions) == len(values) == len(ids):
        raise DataError(
            f"{len(compositions)} compositions, {values.shape} energies and {len(ids)} ids do not fit together"
        )
    if not len(ids):
        raise DataError("the reference has no entries; a hull needs at least those of the elements")
    _check_names(ids)
    lowest: dict[Composition, int] = {}
    for entry, (amounts, energy) in enumerate(zip(compositions, values.tolist(), strict=True)):
        if not math.isfinite(energy):
            raise DataError(f"reference entry '{ids[entry]}': the energy is {energy}; leave out what has none")
        try:
            composition = reduced_composition(amounts)
        except DataError as error:
            raise DataError(f"reference entry '{ids[entry]}': {error}") from None
        if composition not in lowest or energy < values[lowest[composition]]:
            lowest[composition] = entry
    kept = list(lowest.values())
    return HullReference(
        compositions=tuple(lowest),
        energies=values[kept],
        ids=tuple(str(ids[entry]) for entry in kept),
        method=method,
        provenance=dict(provenance or {}),
    )


def save_reference(reference: HullReference, path: str | Path) -> None:
    """Write a reference, energies in float32 (1e-6 eV/atom at most 16 eV/atom).

    Raises:
        OutputError: where the file exists, or cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if path.exists():
        raise OutputError(f"'{path}' exists; choose another name or remove it")
    header = {"format": FORMAT, "method": reference.method.as_dict(), "provenance": dict(reference.provenance)}
    flat = [[number for pair in composition for number in pair] for composition in reference.compositions]
    table = pa.table(
        {
            "composition": pa.array(flat, pa.list_(pa.int32())),
            "energy_per_atom": pa.array(reference.energies, pa.float32()),
            "id": pa.array(reference.ids, pa.string()),
        }
    ).replace_schema_metadata({METADATA_KEY: json.dumps(header)})
    unfinished = path.with_name(f".{path.name}.part")
    try:
        pq.write_table(table, unfinished, compression="zstd", compression_level=19)
        unfinished.rename(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from None


def load_reference(path: str | Path) -> HullReference:
    """Read what `save_reference` wrote.

    Raises:
        DataError: where there is no such file, or it is damaged, of another kind or of another version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file '{path}'")
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[METADATA_KEY])
        columns = {name: table[name].to_pylist() for name in ("composition", "energy_per_atom", "id")}
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"'{path}' is not a hull reference of this program, or is damaged: {error}") from None
    if header.get("format") != FORMAT:
        raise DataError(f"'{path}' has version {header.get('format')}, this program reads {FORMAT}; make it again")
    try:
        return make_reference(
            [tuple(zip(flat[::2], flat[1::2], strict=True)) for flat in columns["composition"]],
            columns["energy_per_atom"],
            columns["id"],
            method=EnergyMethod(**header["method"]),
            provenance=header["provenance"],
        )
    except (EuhedralError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{path}': {error}") from None


@lru_cache(maxsize=1)
def default_reference() -> HullReference:
    """The reference that the package carries: CHGNet's energies of MP-20's train and val crystals."""
    return load_reference(Path(__file__).with_name(DEFAULT_FILE))


def _check_names(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise DataError(f"the reference has more than one entry called '{name}'; ids must be unique")
        seen.add(name)
