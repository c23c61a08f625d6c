"""From the text or record of one crystal to a `CrystalBatch` of one, one function a format.

All of them raise CrystalError (or ValueError, KeyError from a library underneath), which `readers.parse` turns into the
reason of a failed row.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import ATOMIC_NUMBERS
from euhedral.errors import CrystalError

HYDROGEN_ISOTOPES = {"D": 1, "T": 1}
_BLOCK_START = re.compile(r"data_\S+", re.IGNORECASE)


def crystal_from_arrays(cell: Any, frac: Any, species: Any) -> CrystalBatch:
    """One crystal of float64 from cell (3, 3), fractional coordinates (n, 3) and atomic numbers (n,)."""
    matrix = np.asarray(cell, dtype=np.float64)
    coordinates = np.asarray(frac, dtype=np.float64)
    numbers = np.asarray(species, dtype=np.int64).reshape(-1)
    if matrix.shape != (3, 3) or coordinates.shape != (len(numbers), 3):
        raise CrystalError(
            f"expected a cell of (3, 3) and {len(numbers)} coordinates of 3, got {matrix.shape} and {coordinates.shape}"
        )
    return CrystalBatch.from_crystals(
        [(torch.from_numpy(matrix), torch.from_numpy(coordinates), torch.from_numpy(numbers))]
    )


def crystal_from_positions(cell: Any, positions: Any, species: Any) -> CrystalBatch:
    """One crystal from Cartesian positions in Å, (n, 3); raises CrystalError where the cell has no volume."""
    matrix, cartesian = np.asarray(cell, dtype=np.float64), np.asarray(positions, dtype=np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) <= 0.1:
        raise CrystalError("the cell has no volume (at most 0.1 Å³) or is not finite; expected three lattice vectors")
    if cartesian.ndim != 2 or cartesian.shape[1] != 3:
        raise CrystalError(f"expected positions of (atoms, 3), got {cartesian.shape}")
    return crystal_from_arrays(matrix, np.linalg.solve(matrix.T, cartesian.T).T, species)


def atomic_number(symbol: str) -> int:
    """Z of an element symbol; deuterium and tritium count as hydrogen."""
    number = ATOMIC_NUMBERS.get(symbol) or HYDROGEN_ISOTOPES.get(symbol)
    if not number:
        raise CrystalError(f"unknown element '{symbol}'")
    return number


def parse_cif(text: str, *, limit_atoms: int) -> CrystalBatch:
    """Read one CIF data block, with its symmetry expanded."""
    from euhedral.crystal.convert import from_cif

    return from_cif(text, limit_atoms=limit_atoms)


def cif_blocks(text: str) -> list[tuple[str, str]]:
    """Split a CIF into `(block name, text)`, leaving out blocks without a cell where others have one.

    A `data_` inside a multi-line text field (between lines that start with a semicolon) starts no block.
    """
    blocks: list[tuple[str, list[str]]] = []
    inside_text = False
    for line in text.splitlines(keepends=True):
        if line.startswith(";"):
            inside_text = not inside_text
        elif not inside_text and (match := _BLOCK_START.match(line)):
            blocks.append((match.group()[5:], []))
        if blocks:
            blocks[-1][1].append(line)
    joined = [(name, "".join(lines)) for name, lines in blocks]
    with_cell = [
        block for block in joined if "_cell_length_a" in block[1].lower() or "_cell.length_a" in block[1].lower()
    ]
    return with_cell or [("", text)]


def parse_poscar(text: str, *, limit_atoms: int) -> CrystalBatch:
    """Read a VASP POSCAR or CONTCAR, version 5 and later, or version 4 with the elements in the comment line.

    The scale is one factor, minus the volume in Å³, or three factors (VASP 6).
    """
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) < 7:
        raise CrystalError(f"a POSCAR has at least 8 lines, this has {len(lines)}")
    scale = np.array([float(word) for word in lines[1].split()])
    cell = np.array([[float(word) for word in line.split()[:3]] for line in lines[2:5]])
    if scale.shape not in {(1,), (3,)} or cell.shape != (3, 3):
        raise CrystalError("expected a scale of one or three numbers and three lattice vectors in lines 2 to 5")
    if scale.shape == (1,) and scale[0] < 0:
        scale = np.cbrt(-scale / abs(np.linalg.det(cell)))
    symbols, counts, start = _poscar_species(lines, limit_atoms)
    if start < len(lines) and lines[start][:1].lower() == "s":
        start += 1
    if start >= len(lines):
        raise CrystalError("the POSCAR ends before its coordinates")
    cartesian = lines[start][:1].lower() in {"c", "k"}
    rows = lines[start + 1 : start + 1 + sum(counts)]
    if len(rows) < sum(counts):
        raise CrystalError(f"the POSCAR promises {sum(counts)} atoms and has {len(rows)} lines of coordinates")
    coordinates = np.array([[float(word) for word in row.split()[:3]] for row in rows])
    species = np.repeat([atomic_number(s) for s in symbols], counts)
    if cartesian:
        return crystal_from_positions(cell * scale, coordinates * scale, species)
    return crystal_from_arrays(cell * scale, coordinates, species)


def _poscar_species(lines: Sequence[str], limit_atoms: int) -> tuple[list[str], list[int], int]:
    """Symbols, counts, and the number of the line after them."""
    words = lines[5].split()
    if words and words[0].isdigit():
        symbols, counts, after = lines[0].split(), words, 6
    else:
        # Potential labels such as "Fe_pv" or "O/0a1b" follow the symbol in files that VASP itself writes.
        symbols, counts, after = [re.split(r"[_/]", word)[0] for word in words], lines[6].split(), 7
    numbers = [int(word) for word in counts if word.isdigit()]
    if not numbers or len(symbols) != len(numbers) or any(s not in ATOMIC_NUMBERS for s in symbols):
        raise CrystalError(
            f"expected one element symbol for each atom count, got symbols {symbols[:8]} and counts {counts[:8]}"
        )
    if sum(numbers) > limit_atoms:
        raise CrystalError(f"{sum(numbers)} atoms, more than the limit of {limit_atoms}")
    return symbols, numbers, after


def parse_extxyz(text: str) -> tuple[CrystalBatch, dict[str, Any]]:
    """Read one extended XYZ frame; also gives its scalar properties."""
    from ase.io import read

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms = read(io.StringIO(text), format="extxyz")
    if isinstance(atoms, list):
        raise CrystalError(f"expected one frame, got {len(atoms)}")
    if not atoms.pbc.all():
        raise CrystalError('not periodic in three directions; expected a Lattice and pbc="T T T"')
    crystal = crystal_from_positions(atoms.cell.array, atoms.positions, atoms.numbers)
    results = atoms.calc.results if atoms.calc is not None else {}
    return crystal, with_energy_per_atom({**atoms.info, **results}, len(atoms))


def parse_pymatgen(item: Mapping[str, Any]) -> CrystalBatch:
    """Read the dict of a pymatgen Structure; raises CrystalError on partial occupancy."""
    species, frac = [], []
    for site in item["sites"]:
        occupants = site["species"]
        if len(occupants) != 1 or abs(float(occupants[0].get("occu", 1)) - 1) > 1e-8:
            raise CrystalError("a site is partly occupied; expected an ordered structure")
        symbol = str(occupants[0]["element"])
        species.append(atomic_number(re.sub(r"[\d.]*[+-]$", "", symbol)))
        frac.append(site["abc"])
    if not species:
        raise CrystalError("the structure has no sites")
    return crystal_from_arrays(item["lattice"]["matrix"], frac, species)


def parse_ase_row(item: Mapping[str, Any]) -> CrystalBatch:
    """Read a row of an ASE database: `cell`, `positions`, `numbers` and `pbc`."""
    if not np.all(np.asarray(item.get("pbc", True), dtype=bool)):
        raise CrystalError("not periodic in three directions")
    return crystal_from_positions(
        plain_array(item["cell"]), plain_array(item["positions"]), plain_array(item["numbers"])
    )


def plain_array(value: Any) -> np.ndarray:
    """An array from nested lists, or from the `__ndarray__` and `array` forms that ASE writes into JSON."""
    if isinstance(value, Mapping):
        if "__ndarray__" in value:
            shape, dtype, flat = value["__ndarray__"]
            return np.asarray(flat, dtype=np.dtype(str(dtype))).reshape(shape)
        if "array" in value:
            return plain_array(value["array"])
        raise CrystalError(f"expected an array, got an object with {sorted(value)[:5]}")
    return np.asarray(value)


def scalars(mapping: Mapping[str, Any], *, prefix: str = "") -> dict[str, float | str]:
    """The numbers, truth values and short texts of a mapping; arrays, lists and nested objects are left out."""
    found: dict[str, float | str] = {}
    for name, value in mapping.items():
        if isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
            try:
                found[f"{prefix}{name}"] = float(value)
            except OverflowError:
                continue
        elif isinstance(value, str) and value and len(value) <= 1000:
            found[f"{prefix}{name}"] = value
    return found


def with_energy_per_atom(mapping: Mapping[str, Any], num_atoms: int) -> dict[str, float | str]:
    """`scalars`, and from a total `energy` the `energy_per_atom`, which does not change with the choice of cell."""
    found = scalars(mapping)
    energy = found.get("energy")
    if isinstance(energy, float) and num_atoms and "energy_per_atom" not in found:
        found["energy_per_atom"] = energy / num_atoms
    return found


def extxyz_frames(lines: Iterator[str], *, limit_atoms: int) -> Iterator[tuple[str, str | None]]:
    """`(frame, error)` for every frame of an extended XYZ file.

    A frame with too many atoms is passed over; after a line that should be a count and is not, the file ends.
    """
    for line in lines:
        if not line.strip():
            continue
        count = int(line) if re.fullmatch(r"\s*\d{1,12}\s*", line) else 0
        if count < 1:
            yield "", f"expected the number of atoms of a frame, got {line.strip()[:40]!r}; the rest was not read"
            return
        if count > limit_atoms:
            deque(islice(lines, count + 1), maxlen=0)
            yield "", f"{count} atoms, more than the limit of {limit_atoms}"
            continue
        frame = [line, *islice(lines, count + 1)]
        if len(frame) < count + 2:
            yield "", f"the file ends inside a frame of {count} atoms"
            return
        yield "".join(frame), None
