"""A function of crystals over worker processes, where there are enough crystals to be worth their start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

CHUNK = 128
WORTH_A_PROCESS = 1024
"""Fewer crystals are done in this process before others have started."""

CrystalFunction = Callable[..., Sequence[bytes]]
"""A function of a module, from a batch and further arguments to one result a crystal."""


def map_crystals(
    function: CrystalFunction,
    batch: CrystalBatch,
    arguments: tuple[Any, ...],
    *,
    workers: int,
    lost: bytes,
    progress: Callable[[int, int], None] | None = None,
) -> list[bytes]:
    """`function(part, *arguments)` for parts of a batch, joined in order.

    Args:
        function: of a module, so that workers find it.
        batch: crystals.
        arguments: the same for all.
        workers: processes, one thread each.
        lost: result of a crystal that ended its process.
        progress: called with (done, total).
    """
    from euhedral.data.workers import map_chunks

    total = len(batch)
    results: list[bytes] = []
    processes = workers if total >= WORTH_A_PROCESS else 1
    chunks = _chunks(batch)
    for part in map_chunks(
        _apply, chunks, (function, arguments), workers=processes, on_death=lambda items: [lost] * len(items)
    ):
        results += part
        if progress is not None:
            progress(len(results), total)
    return results


def _chunks(batch: CrystalBatch) -> Iterator[list[Any]]:
    """Crystals as arrays, since tensors would travel between processes as open files."""
    cells, fracs, species = (tensor.cpu().numpy() for tensor in (batch.cell, batch.frac, batch.species))
    first, chunk = 0, []
    for cell, atoms in zip(cells, batch.num_atoms.tolist(), strict=True):
        chunk.append((cell, fracs[first : first + atoms], species[first : first + atoms]))
        first += atoms
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _apply(items: list[Any], function: CrystalFunction, arguments: tuple[Any, ...]) -> list[bytes]:
    import torch

    from euhedral.crystal.batch import CrystalBatch

    batch = CrystalBatch(
        frac=torch.cat([torch.from_numpy(frac) for _, frac, _ in items]),
        cell=torch.stack([torch.from_numpy(cell) for cell, _, _ in items]),
        species=torch.cat([torch.from_numpy(species) for _, _, species in items]),
        num_atoms=torch.tensor([len(species) for _, _, species in items], dtype=torch.int64),
    )
    return list(function(batch, *arguments))
