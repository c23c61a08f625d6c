"""References of the user's own: pymatgen entries and phase diagrams in JSON, tables in CSV, files of `save_reference`.

JSON is read as plain values: the classes that it names are neither imported nor called. The method is read from what
entries say of themselves (`run_type`, the classes of their energy adjustments) and must be given where they say nothing.
Entries of several methods are refused, and so is a method given that contradicts them.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from euhedral.crystal.elements import ATOMIC_NUMBERS
from euhedral.crystal.formula import parse_formula
from euhedral.errors import DataError, MismatchError, RequestError
from euhedral.screen.method import MP2020, NO_CORRECTIONS, PBE, PBE_U, EnergyMethod
from euhedral.screen.reference import HullReference, load_reference, make_reference

COLUMNS = ("formula", "energy_per_atom")
ID_COLUMNS = ("id", "material_id", "entry_id")
MP_MIXING = "MaterialsProjectDFTMixingScheme"
_UNNAMED = "unnamed"
_FUNCTIONALS = {"GGA": "PBE", "GGA+U": "PBE+U", "R2SCAN": "r2SCAN"}
# Schemes whose purpose is to bring energies of several functionals onto one scale, and the functional that results.
_SCHEMES = {
    MP2020: ({PBE, "PBE+U"}, PBE_U),
    "MaterialsProjectCompatibility": ({PBE, "PBE+U"}, PBE_U),
    MP_MIXING: ({PBE, "PBE+U", "r2SCAN"}, "PBE/PBE+U/r2SCAN"),
}


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One entry as the file has it; what it says of its method is None or empty where it says nothing."""

    amounts: dict[int, float]
    energy: float
    id: str
    functional: str | None = None
    corrections: frozenset[str] = frozenset()


def read_reference(path: str | Path, *, method: EnergyMethod | None = None) -> HullReference:
    """Read a reference from a file.

    Formats, the texts also gzipped: `.json` with a list of pymatgen ComputedEntry, ComputedStructureEntry or PDEntry dicts
    (or a dict that holds it under `entries`, or maps names to them), or with a PhaseDiagram; `.csv` with the columns
    `formula`, `energy_per_atom` (eV/atom) and perhaps `id`; `.parquet` of `save_reference`.

    Args:
        path: the file.
        method: of its energies; needed where the file does not say it, checked where it does.

    Raises:
        DataError: where the file cannot be read, or holds no entries or bad ones; the message names the entry.
        MismatchError: where entries differ in functional or corrections, or contradict `method`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file '{path}'")
    names = path.name.lower().removesuffix(".gz")
    if names.endswith(".parquet"):
        reference = load_reference(path)
        if method is not None and (names := reference.method.differences(method)):
            raise MismatchError(f"'{path}' holds energies of {reference.method}, not of {method} ({', '.join(names)})")
        return reference
    if names.endswith(".csv"):
        entries = list(_csv_entries(path))
    elif names.endswith(".json"):
        entries = [_json_entry(item, name, path) for name, item in _json_items(path)]
    else:
        raise DataError(f"'{path}': a reference is read from .json, .csv (both also .gz) or .parquet")
    if not entries:
        raise DataError(f"'{path}' holds no entries; a hull needs at least those of the elements")
    found = _method_of(entries, method, path)
    try:
        return make_reference(
            [entry.amounts for entry in entries],
            [entry.energy for entry in entries],
            [entry.id for entry in entries],
            method=found,
            provenance={"file": path.name, "entries": len(entries)},
        )
    except DataError as error:
        raise DataError(f"'{path}': {error}") from None


def _open_text(path: Path) -> IO[str]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return cast(IO[str], opener(path, "rt", encoding="utf-8-sig", newline=""))


def _csv_entries(path: Path) -> Iterator[_Entry]:
    try:
        with _open_text(path) as stream:
            table = csv.DictReader(stream)
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
                raise DataError(
                    f"'{path}' has no column {' or '.join(map(repr, missing))}; it has: {', '.join(table.fieldnames or ())}"
                )
            for number, row in enumerate(table, start=1):
                yield _csv_entry(row, number, path)
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error) as error:
        raise DataError(f"'{path}' is not a CSV that can be read: {error}") from None


def _csv_entry(row: Mapping[str, str | None], number: int, path: Path) -> _Entry:
    formula, energy = (row[name] or "" for name in COLUMNS)
    given = next((row[name] for name in ID_COLUMNS if row.get(name)), None)
    name = given or f"{path.name}:{number}"
    try:
        return _Entry(amounts=dict(parse_formula(formula)), energy=float(energy), id=name)
    except RequestError as error:
        raise DataError(f"'{path}', row {number}: {error}") from None
    except ValueError:
        raise DataError(
            f"'{path}', row {number}: the energy per atom of {formula} is not a number: {energy!r}"
        ) from None


def _json_items(path: Path) -> list[tuple[str, Any]]:
    try:
        with _open_text(path) as stream:
            document = json.load(stream)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(f"'{path}' is not JSON, or is cut off: {error}") from None
    if isinstance(document, Mapping):
        computed = document.get("computed_data")
        inner = computed if isinstance(computed, Mapping) else document
        lists = [inner.get(key) or document.get(key) for key in ("all_entries", "entries", "data")]
        if "energy" in document and "composition" in document:
            return [(path.name, document)]
        if found := next((items for items in lists if isinstance(items, list)), None):
            document = found
        elif document and all(isinstance(item, Mapping) and "energy" in item for item in document.values()):
            return [(str(name), item) for name, item in document.items()]
    if not isinstance(document, list):
        raise DataError(
            f"'{path}' holds no entries: expected a list of pymatgen ComputedEntry dicts or a PhaseDiagram, "
            f"got {type(document).__name__}"
        )
    return [(f"{path.name}:{number}", item) for number, item in enumerate(document)]


def _json_entry(item: Any, name: str, path: Path) -> _Entry:
    if not isinstance(item, Mapping) or not isinstance(item.get("composition"), Mapping):
        raise DataError(f"'{path}': '{name}' is no entry; expected a dict with 'composition' and 'energy'")
    given = item.get("entry_id")
    name = str(given) if given not in (None, "") else name
    amounts: dict[int, float] = {}
    for symbol, amount in item["composition"].items():
        # A composition of ions has keys such as 'Fe3+'.
        element = ATOMIC_NUMBERS.get(symbol.rstrip("0123456789.+-"))
        if element is None:
            raise DataError(f"'{path}', entry '{name}': there is no element '{symbol}'")
        amounts[element] = amounts.get(element, 0.0) + _number(amount, f"amount of {symbol}", name, path)
    atoms = sum(amounts.values())
    if not atoms > 0:
        raise DataError(f"'{path}', entry '{name}' has no atoms")
    adjustments = item.get("energy_adjustments") or []
    correction = _number(item.get("correction") or 0.0, "correction", name, path)
    energy = _number(item.get("energy"), "energy", name, path) + correction
    return _Entry(
        amounts=amounts,
        energy=energy / atoms,
        id=name,
        functional=_functional_of(item),
        corrections=_corrections_of(adjustments, correction),
    )


def _number(value: Any, what: str, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"'{path}', entry '{name}': the {what} is not a number: {value!r}")
    return float(value)


def _functional_of(item: Mapping[str, Any]) -> str | None:
    for source in (item.get("parameters"), item.get("data"), item.get("attribute")):
        if isinstance(source, Mapping) and source.get("run_type"):
            run_type = str(source["run_type"])
            return _FUNCTIONALS.get(run_type.upper(), run_type)
    return None


def _corrections_of(adjustments: Any, correction: float) -> frozenset[str]:
    """Schemes by which an entry was corrected; one without a name counts only if it changes the energy."""
    schemes = set()
    for adjustment in adjustments if isinstance(adjustments, list) else []:
        scheme = adjustment.get("cls") if isinstance(adjustment, Mapping) else None
        scheme = scheme.get("@class") if isinstance(scheme, Mapping) else scheme
        if isinstance(scheme, str) and scheme:
            schemes.add(scheme)
    return frozenset(schemes or ({_UNNAMED} if correction else ()))


def _method_of(entries: list[_Entry], given: EnergyMethod | None, path: Path) -> EnergyMethod:
    """The one method of all entries, by what they say and what the user says; or a refusal."""
    functionals = {entry.functional for entry in entries if entry.functional}
    schemes = frozenset().union(*(entry.corrections for entry in entries))
    named = schemes - {_UNNAMED}
    if (len(named) > 1 and MP_MIXING not in named) or (named and _UNNAMED in schemes):
        raise MismatchError(
            f"'{path}' mixes entries corrected by different schemes ({', '.join(sorted(schemes))}); process all of them with "
            "one, for example pymatgen's MaterialsProject2020Compatibility"
        )
    corrections = MP_MIXING if MP_MIXING in named else next(iter(named), None)
    covered, joint = _SCHEMES.get(corrections or "", (set(), ""))
    functional = joint if functionals and functionals <= covered else next(iter(functionals), None)
    if len(functionals) > 1 and not functionals <= covered:
        raise MismatchError(
            f"'{path}' mixes energies of different functionals ({', '.join(sorted(functionals))}) without a correction that "
            f"joins them (found: {corrections or NO_CORRECTIONS}); give entries of one, or correct them first"
        )
    if given is None:
        if functional is None or _UNNAMED in schemes:
            lacking = "functional (run_type)" if functional is None else "name of its corrections"
            raise DataError(
                f"'{path}' does not say the {lacking} of its energies, and nothing is assumed; say it with method=, for "
                "example 'model=DFT, functional=PBE, corrections=none'"
            )
        return EnergyMethod(model="DFT", functional=functional, corrections=corrections or NO_CORRECTIONS)
    for name, said, told in (
        ("functional", functional, given.functional),
        ("corrections", corrections, given.corrections),
    ):
        if said is not None and said.casefold() != told.casefold():
            raise MismatchError(f"'{path}' holds energies of {name} '{said}', but '{told}' was given; which is right?")
    if _UNNAMED in schemes and given.corrections.casefold() == NO_CORRECTIONS:
        raise MismatchError(
            f"'{path}' holds energies with corrections, but corrections=none was given; name the scheme"
        )
    return given
