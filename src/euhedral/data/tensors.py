"""`.pt` files of the CDVAE and DiffCSP line: tensors of generated crystals, read without running what a pickle holds.

| key | shape | meaning |
|---|---|---|
| `frac_coords` | (atoms, 3) | fractional coordinates |
| `atom_types` | (atoms,) | atomic numbers |
| `num_atoms` | (crystals,) | atoms in each crystal |
| `lengths`, `angles` | (crystals, 3) | cell parameters in Å and degrees; or `lattices` (crystals, 3, 3), rows in Å |

Each may have a leading axis of k draws for the same references, or be a list of one tensor a batch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap
from euhedral.crystal.lattice import cell_from_parameters
from euhedral.errors import DataError

TENSOR_ENDINGS = (".pt", ".pth")
_ATOM_KEYS = {"frac_coords": 1, "atom_types": 0}
_CRYSTAL_KEYS = {"num_atoms": 0, "lengths": 1, "angles": 1, "lattices": 2}


def read_tensors(path: Path) -> list[CrystalBatch]:
    """The crystals of a `.pt` file, one batch for each draw, as they are: NaN and empty crystals are left in.

    Raises:
        DataError: where it cannot be read without running code, or holds no crystals or tensors that do not fit together.
    """
    document = _load(path)
    if not isinstance(document, dict):
        raise DataError(
            f"'{path}' holds a {type(document).__name__}; expected a dict with {', '.join(_ATOM_KEYS)}, ..."
        )
    missing = [key for key in ("frac_coords", "atom_types", "num_atoms") if key not in document]
    if "lattices" not in document:
        missing += [key for key in ("lengths", "angles") if key not in document]
    if missing:
        raise DataError(
            f"'{path}' has no {', '.join(missing)}; it has: {', '.join(map(str, list(document)[:20])) or 'nothing'}"
        )
    fields = {
        key: _stacked(document[key], trailing, key, path)
        for key, trailing in {**_ATOM_KEYS, **_CRYSTAL_KEYS}.items()
        if key in document
    }
    draws = {len(value) for value in fields.values()}
    if len(draws) != 1:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in fields.items())
        raise DataError(f"'{path}': the tensors have different numbers of draws: {shapes}")
    return [_one_draw({key: value[d] for key, value in fields.items()}, path) for d in range(draws.pop())]


def _load(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"no file '{path}'")
    if path.stat().st_size == 0:
        raise DataError(f"'{path}' is empty")
    try:
        # The settings that the published scripts put beside the tensors are a Namespace, a plain bag of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch gives errors of many kinds for what it does not read; all mean that there are no tensors for us.
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise DataError(
                f"'{path}' holds Python objects beside tensors, which only running its code could read; it was not read. "
                "If you trust it, keep the tensors alone, where its own program is installed: "
                "d = torch.load('in.pt', weights_only=False); torch.save({k: d[k] for k in ('frac_coords', "
                "'atom_types', 'num_atoms', 'lengths', 'angles')}, 'out.pt')"
            ) from None
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"'{path}' is not a file that torch.save wrote, or is damaged: {reason}") from None


def _stacked(value: Any, trailing: int, key: str, path: Path) -> Tensor:
    """The field with a leading axis of draws, lists of batches joined, (draws, items, ...)."""
    pieces = list(value) if isinstance(value, list | tuple) else [value]
    if not pieces or not all(isinstance(piece, Tensor) for piece in pieces):
        raise DataError(f"'{path}': '{key}' is not a tensor or a list of tensors")
    dims = {piece.dim() for piece in pieces}
    if len(dims) != 1 or (dim := dims.pop()) not in (1 + trailing, 2 + trailing):
        shapes = [tuple(piece.shape) for piece in pieces[:3]]
        raise DataError(
            f"'{path}': '{key}' has shapes {shapes}; expected (items{', 3' * trailing}), or that with draws first"
        )
    with_draws = [piece if dim == 2 + trailing else piece[None] for piece in pieces]
    if len({len(piece) for piece in with_draws}) != 1:
        raise DataError(f"'{path}': the batches of '{key}' have different numbers of draws")
    joined = torch.cat(with_draws, dim=1)
    if any(size != 3 for size in joined.shape[2:]):
        raise DataError(f"'{path}': '{key}' has shape {tuple(joined.shape)}; its last axes must be 3")
    return joined


def _one_draw(fields: dict[str, Tensor], path: Path) -> CrystalBatch:
    counts, species = _whole(fields["num_atoms"], "num_atoms", path), _whole(fields["atom_types"], "atom_types", path)
    if "lattices" in fields:
        cell = fields["lattices"].double()
    else:
        lengths, angles = fields["lengths"].double(), fields["angles"].double()
        if lengths.shape != angles.shape:
            raise DataError(f"'{path}': lengths {tuple(lengths.shape)} and angles {tuple(angles.shape)} do not fit")
        cell = cell_from_parameters(lengths, angles)
    atoms = int(counts.sum())
    if (
        bool((counts < 0).any())
        or len(cell) != len(counts)
        or len(species) != atoms
        or len(fields["frac_coords"]) != atoms
    ):
        raise DataError(
            f"'{path}': num_atoms adds up to {atoms} atoms of {len(counts)} crystals, but there are "
            f"{len(fields['frac_coords'])} coordinates, {len(species)} species and {len(cell)} cells"
        )
    return CrystalBatch(frac=wrap(fields["frac_coords"].double()), cell=cell, species=species, num_atoms=counts)


def _whole(values: Tensor, key: str, path: Path) -> Tensor:
    whole = values.to(torch.int64)
    if values.is_floating_point() and not bool((whole == values).all()):
        raise DataError(f"'{path}': '{key}' holds numbers that are not whole")
    return whole
