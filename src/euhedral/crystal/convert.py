"""Conversion of crystals: pymatgen, ASE, CIF text, and files."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from euhedral.crystal.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from euhedral.crystal.elements import ATOMIC_NUMBERS, SYMBOLS
from euhedral.crystal.formula import cell_formula, reduced_formula
from euhedral.crystal.geometry import wrap
from euhedral.crystal.lattice import cell_from_parameters, parameters_from_cell
from euhedral.errors import CrystalError, OutputError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

DEFAULT_LIMIT_ATOMS = 10_000
SMALLEST_VOLUME = 0.1
COINCIDENT = 0.05
HYDROGEN_ISOTOPES = {"D": 1, "T": 1}


def from_pymatgen(structures: Sequence[Structure]) -> CrystalBatch:
    """Ordered pymatgen structures as a float64 batch. Raises CrystalError on partial occupancy or dummy species."""
    crystals = []
    for index, structure in enumerate(structures):
        if not structure.is_ordered:
            raise CrystalError(
                f"structure {index} has partially occupied sites; order it first (pymatgen transformations)"
            )
        species = [int(getattr(site.specie, "Z", 0)) for site in structure]
        if not all(1 <= z <= MAX_ATOMIC_NUMBER for z in species):
            raise CrystalError(f"structure {index} holds a species that is not an element")
        crystals.append((structure.lattice.matrix.copy(), structure.frac_coords.copy(), species))
    return _checked(crystals)


def to_pymatgen(batch: CrystalBatch) -> list[Structure]:
    """One pymatgen Structure a crystal."""
    from pymatgen.core import Lattice, Structure

    return [Structure(Lattice(cell.numpy()), species.tolist(), frac.numpy()) for cell, frac, species in _plain(batch)]


def from_ase(atoms: Sequence[Atoms]) -> CrystalBatch:
    """ASE atoms that are periodic in three directions as a float64 batch. Raises CrystalError otherwise."""
    crystals = []
    for index, one in enumerate(atoms):
        if not bool(one.pbc.all()):
            raise CrystalError(f"atoms {index} are not periodic in three directions (pbc = {one.pbc.tolist()})")
        if abs(float(one.cell.volume)) <= SMALLEST_VOLUME:
            raise CrystalError(f"atoms {index} have a cell of no volume (at most {SMALLEST_VOLUME} Å³)")
        crystals.append((one.cell.array.copy(), one.get_scaled_positions(wrap=False), one.numbers.tolist()))
    return _checked(crystals)


def to_ase(batch: CrystalBatch) -> list[Atoms]:
    """One ASE Atoms a crystal, periodic in three directions."""
    from ase import Atoms

    return [
        Atoms(numbers=species.numpy(), scaled_positions=frac.numpy(), cell=cell.numpy(), pbc=True)
        for cell, frac, species in _plain(batch)
    ]


def to_cif(crystal: CrystalBatch, name: str = "") -> str:
    """CIF text of one crystal in P1, with every digit of its numbers."""
    if len(crystal) != 1:
        raise CrystalError(f"a CIF block holds one crystal, not {len(crystal)}; write them one by one")
    species = crystal.species.tolist()
    lengths, angles = parameters_from_cell(crystal.cell[0].double())
    block = "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or reduced_formula(species)
    lines = [f"data_{block}", "_symmetry_space_group_name_H-M 'P 1'", "_symmetry_Int_Tables_number 1"]
    lines += [f"_cell_length_{axis} {value!r}" for axis, value in zip("abc", lengths.tolist(), strict=True)]
    names = ("alpha", "beta", "gamma")
    lines += [f"_cell_angle_{axis} {value!r}" for axis, value in zip(names, angles.tolist(), strict=True)]
    lines += [f"_cell_volume {float(crystal.volume.double()[0])!r}", f"_chemical_formula_sum '{cell_formula(species)}'"]
    lines += ["loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'", "loop_"]
    fields = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
    lines += [f"_atom_site_{field}" for field in fields]
    for i, (z, xyz) in enumerate(zip(species, crystal.frac.double().tolist(), strict=True)):
        lines.append(f"{SYMBOLS[z]}{i + 1} {SYMBOLS[z]} {xyz[0]!r} {xyz[1]!r} {xyz[2]!r} 1")
    return "\n".join(lines) + "\n"


def from_cif(text: str, *, limit_atoms: int = DEFAULT_LIMIT_ATOMS) -> CrystalBatch:
    """Read the first crystal of a CIF text (float64), its symmetry operations applied; deuterium becomes hydrogen.

    Raises:
        CrystalError: on text that is not a CIF, a missing or impossible cell, unknown elements, coordinates that are not
            finite, partial occupancy, or more than `limit_atoms` atoms.
    """
    import gemmi

    try:
        document = gemmi.cif.read_string(text)
        block = next((b for b in document if b.find_value("_cell_length_a") is not None), None)
        if block is None:
            raise CrystalError("there is no cell in the CIF (_cell_length_a is missing)")
        structure = gemmi.make_small_structure_from_block(block)
    except (RuntimeError, ValueError, UnicodeError) as error:
        raise CrystalError(f"this is not a CIF that can be read: {str(error).splitlines()[0][:200]}") from None
    cell = _cif_cell(block)
    sites = list(structure.sites)
    if not sites:
        raise CrystalError("the CIF has no atom sites with coordinates")
    if len(sites) > limit_atoms:
        raise CrystalError(f"the CIF lists {len(sites)} atoms, more than the limit of {limit_atoms}")
    species = [_cif_element(site) for site in sites]
    frac = torch.tensor([[s.fract.x, s.fract.y, s.fract.z] for s in sites], dtype=torch.float64)
    if not bool(torch.isfinite(frac).all()):
        raise CrystalError("the CIF has a coordinate that is missing or not a finite number")
    partial = [s.label for s in sites if not abs(s.occ - 1) < 1e-3]
    if partial:
        raise CrystalError(f"site {partial[0]} is partially occupied; only ordered crystals can be read")
    rotations, shifts = _cif_operations(block, structure)
    if len(rotations) * len(sites) > limit_atoms * 200:
        raise CrystalError(f"the CIF describes {len(rotations)} x {len(sites)} positions, too many to expand")
    if len(rotations) > 1:
        frac, species = _expanded(frac, species, cell, rotations, shifts)
    if len(species) > limit_atoms:
        raise CrystalError(f"the cell has {len(species)} atoms, more than the limit of {limit_atoms}")
    return _checked([(cell, frac, species)])


def write(batch: CrystalBatch, path: Path) -> list[Path]:
    """Write crystals; see `CrystalBatch.write`. The parquet columns are formula, num_atoms and cif."""
    if path.exists():
        raise OutputError(f"{path} exists; choose another name or remove it first")
    try:
        if path.suffix == ".cif":
            return [_put(path, "".join(to_cif(c, f"{i:06d}") for i, c in enumerate(batch)).encode())]
        if path.suffix in (".extxyz", ".xyz"):
            return [_put(path, _extxyz(batch).encode())]
        if path.suffix == ".parquet":
            return [_put(path, _parquet(batch))]
        if path.suffix:
            raise OutputError(f"cannot write {path.suffix} files; use .cif, .extxyz, .parquet or a folder name")
        path.mkdir(parents=True)
        formulas = [reduced_formula(c.species.tolist()) for c in batch]
        names = [f"{i:06d}_{formula}" for i, formula in enumerate(formulas)]
        return [_put(path / f"{n}.cif", to_cif(c, n).encode()) for n, c in zip(names, batch, strict=True)]
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def _put(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path


def _extxyz(batch: CrystalBatch) -> str:
    from ase.io import write as ase_write

    text = io.StringIO()
    for atoms in to_ase(batch):
        ase_write(text, atoms, format="extxyz")
    return text.getvalue()


def _parquet(batch: CrystalBatch) -> bytes:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "formula": [reduced_formula(c.species.tolist()) for c in batch],
        "num_atoms": batch.num_atoms.tolist(),
        "cif": [to_cif(c, f"{i:06d}") for i, c in enumerate(batch)],
    }
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _plain(batch: CrystalBatch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return [(c.cell[0].double().cpu(), c.frac.double().cpu(), c.species.cpu()) for c in batch]


def _checked(crystals: Sequence[tuple[Any, Any, Any]]) -> CrystalBatch:
    """A validated batch; the handedness of the cells is kept."""
    converted = [
        (torch.as_tensor(cell).double(), wrap(torch.as_tensor(frac).double()), torch.as_tensor(species))
        for cell, frac, species in crystals
    ]
    return CrystalBatch.from_crystals(converted).validate()


def _cif_cell(block: Any) -> torch.Tensor:
    """Cell of a block; read here, since gemmi takes 1 Å for a length that is not known. Angles left out are 90 degrees."""
    import gemmi

    tags = [f"_cell_length_{axis}" for axis in "abc"] + [f"_cell_angle_{name}" for name in ("alpha", "beta", "gamma")]
    found = [block.find_value(tag) for tag in tags]
    values = [
        90.0 if text is None and "angle" in tag else gemmi.cif.as_number(text or "?")
        for tag, text in zip(tags, found, strict=True)
    ]
    parameters = torch.tensor(values, dtype=torch.float64)
    usable = bool((parameters[:3] > 0).all() and ((parameters[3:] > 0) & (parameters[3:] < 180)).all())
    cell = cell_from_parameters(parameters[:3], parameters[3:])
    volume = float(torch.linalg.det(cell)) if usable and bool(torch.isfinite(cell).all()) else math.nan
    if not volume > SMALLEST_VOLUME:
        given = ", ".join(text or "missing" for text in found)
        raise CrystalError(f"the cell {given} has no volume, is not known, or cannot be closed")
    return cell


def _cif_element(site: Any) -> int:
    symbol = site.element.name
    number = HYDROGEN_ISOTOPES.get(symbol, ATOMIC_NUMBERS.get(symbol, 0))
    if number == 0:
        raise CrystalError(f"site {site.label or site.type_symbol!r} is of no known element")
    return number


def _cif_operations(block: Any, structure: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations (m, 3, 3) and shifts (m, 3) listed in the CIF, else those of its named space group, else the identity."""
    import gemmi

    listed: list[str] = []
    for tag in ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz"):
        listed = listed or [gemmi.cif.as_string(value) for value in block.find_values(tag)]
    try:
        if listed:
            operations = [gemmi.Op(text) for text in listed]
        else:
            name = structure.spacegroup_hm
            group = gemmi.find_spacegroup_by_name(name) if name else None
            operations = list(group.operations()) if group is not None else [gemmi.Op("x,y,z")]
    except (RuntimeError, ValueError) as error:
        raise CrystalError(f"a symmetry operation of the CIF cannot be read: {str(error).splitlines()[0]}") from None
    if len(operations) > 192:
        raise CrystalError(f"the CIF lists {len(operations)} symmetry operations; a space group has at most 192")
    rotations = torch.tensor([op.rot for op in operations], dtype=torch.float64) / gemmi.Op.DEN
    shifts = torch.tensor([op.tran for op in operations], dtype=torch.float64) / gemmi.Op.DEN
    return rotations, shifts


def _expanded(
    frac: torch.Tensor, species: list[int], cell: torch.Tensor, rotations: torch.Tensor, shifts: torch.Tensor
) -> tuple[torch.Tensor, list[int]]:
    """Apply the operations to each site and keep images that are more than 0.05 Å from those kept of the same site."""
    kept_frac: list[torch.Tensor] = []
    kept_species: list[int] = []
    for site, z in zip(frac, species, strict=True):
        images = wrap(torch.einsum("mij,j->mi", rotations, site) + shifts)
        difference = images[:, None] - images[None]
        difference = difference - difference.round()
        close = torch.linalg.norm(difference @ cell, dim=-1) < COINCIDENT
        # The first of each group of coincident images stays.
        first = close.int().argmax(1) == torch.arange(len(images))
        kept_frac.append(images[first])
        kept_species += [z] * int(first.sum())
    return torch.cat(kept_frac), kept_species
