"""Fingerprints of structures and compositions, as the published generation benchmarks compare them.

A structure's is the mean over its sites of matminer's CrystalNNFingerprint.from_preset("ops"), a composition's is
ElementProperty.from_preset("magpie") (CDVAE, Xie et al., ICLR 2022). Both are computed here, many sites at a time, and
equal those of matminer to 1e-6 but for ties: where neighbours of a site of coordination 8 are alike by symmetry,
matminer's body-centred cubic parameter depends on rounding errors (`order_parameters`). A crystal with a site that has
no fingerprint has none, as in the published evaluation; the reason says which site and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import Crew, ask_each, filled_chunks
from euhedral.errors import ConfigError
from euhedral.evaluate.crystal_nn import fingerprint_labels, site_fingerprints
from euhedral.evaluate.magpie import magpie_fingerprint, magpie_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch

Progress = Callable[[int, int], None]
"""Called with (done, total) as crystals end."""

FINGERPRINT_VERSION = 1
"""Changes whenever the numbers do; belongs into the key of a cache."""
STRUCTURE_NUMBERS = 61
COMPOSITION_NUMBERS = 132

_CRYSTALS_AT_ONCE = 32
_ATOMS_AT_ONCE = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureFingerprints:
    """Structure fingerprints of a batch.

    Attributes:
        values: mean over the sites, NaN where there is none, (crystals, 61); `fingerprint_labels` names the columns.
        coordination: CrystalNN coordination number of each atom, NaN where it has none, (atoms,).
        reasons: why a crystal has no fingerprint, or None, one a crystal.
    """

    values: NDArray[np.float64]
    coordination: NDArray[np.float64]
    reasons: tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CompositionFingerprints:
    """Composition fingerprints of a batch.

    Attributes:
        values: NaN where there is none, (crystals, 132); `magpie_labels` names the columns.
        reasons: why a crystal has no fingerprint, or None, one a crystal.
    """

    values: NDArray[np.float64]
    reasons: tuple[str | None, ...]


def structure_fingerprints(
    batch: CrystalBatch, *, workers: int = 1, seconds_per_crystal: float = 30.0, progress: Progress | None = None
) -> StructureFingerprints:
    """Fingerprint of each structure: the mean over its sites of the CrystalNN order parameters.

    Args:
        batch: crystals; those that cannot be built get a reason.
        workers: processes, one thread each.
        seconds_per_crystal: a crystal that takes longer is ended and gets that reason.
        progress: called with (done, total) in the calling thread.

    Raises:
        ConfigError: on no workers or a time limit that is not positive.
        EuhedralError: if worker processes cannot be started.
    """
    from euhedral.evaluate.validity import construction_problems

    if not seconds_per_crystal > 0:
        raise ConfigError(f"seconds_per_crystal must be positive, not {seconds_per_crystal}")
    total = len(batch)
    values = np.full((total, STRUCTURE_NUMBERS), np.nan)
    coordination = np.full(len(batch.species), np.nan)
    reasons = construction_problems(batch)
    prepared = _Prepared.of(batch)
    for i, sound in enumerate(prepared.reduced.tolist()):
        if not sound:
            reasons[i] = reasons[i] or "cell cannot be reduced"
    tried = [i for i, reason in enumerate(reasons) if reason is None]
    limits = {"crystals_at_once": _CRYSTALS_AT_ONCE, "atoms_at_once": _ATOMS_AT_ONCE}
    chunks = list(filled_chunks(tried, prepared.atoms.tolist(), **limits))
    jobs = [partial(_ask, prepared, chunk, seconds_per_crystal) for chunk in chunks]
    done = total - sum(len(chunk) for chunk in chunks)
    with Crew(partial(Worker, _fingerprint_crystals), workers) as crew:
        for position, answers in crew.run(jobs):
            for i, answer in zip(chunks[position], answers, strict=True):
                if isinstance(answer, Unanswered):
                    reasons[i] = str(answer)
                    continue
                coordination[prepared.place(i)] = answer["coordination"]
                reasons[i] = answer["reason"]
                if reasons[i] is None:
                    values[i] = answer["values"]
            done += len(answers)
            if progress is not None:
                progress(done, total)
    return StructureFingerprints(values=values, coordination=coordination, reasons=tuple(reasons))


def composition_fingerprints(batch: CrystalBatch) -> CompositionFingerprints:
    """Fingerprint of each composition: Magpie statistics of the elements.

    Raises:
        ConfigError: if matminer, whose table is read, is not installed.
    """
    from euhedral.evaluate.validity import composition_counts

    values = np.full((len(batch), COMPOSITION_NUMBERS), np.nan)
    reasons: list[str | None] = [None] * len(batch)
    known = lru_cache(maxsize=None)(magpie_fingerprint)
    for i, counts in enumerate(composition_counts(batch)):
        if not counts:
            reasons[i] = "no atoms"
        elif not all(1 <= number <= 118 for number, _ in counts):
            reasons[i] = "unknown element"
        else:
            values[i] = known(counts)
    return CompositionFingerprints(values=values, reasons=tuple(reasons))


_Crystal = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.int64]", float]
"""Reduced cell, coordinates, species, and the longest diagonal of the cell that the crystal came in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """A batch in reduced cells as arrays, with the longest diagonals of the cells it came in."""

    cell: NDArray[np.float64]
    frac: NDArray[np.float64]
    species: NDArray[np.int64]
    atoms: NDArray[np.int64]
    first: NDArray[np.int64]
    diagonal: NDArray[np.float64]
    reduced: NDArray[np.bool_]

    @classmethod
    def of(cls, batch: CrystalBatch) -> _Prepared:
        import torch

        from euhedral.crystal.geometry import minkowski_transform, wrap

        batch = batch.to("cpu").to(torch.float64)
        transform, inverse = minkowski_transform(batch.cell)
        corners = torch.tensor([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]], dtype=torch.float64)
        frac = torch.einsum("ai,aij->aj", batch.frac, inverse[batch.owner])
        return cls(
            cell=(transform @ batch.cell).numpy(),
            frac=wrap(frac).numpy(),
            species=batch.species.numpy(),
            atoms=batch.num_atoms.numpy(),
            first=batch.first_atom.numpy(),
            diagonal=torch.linalg.norm(corners @ batch.cell, dim=-1).amax(-1).numpy(),
            reduced=torch.isfinite(transform).flatten(1).all(1).numpy(),
        )

    def place(self, index: int) -> slice:
        """Where the atoms of a crystal are."""
        return slice(int(self.first[index]), int(self.first[index] + self.atoms[index]))

    def crystal(self, index: int) -> _Crystal:
        """One crystal."""
        place = self.place(index)
        return self.cell[index], self.frac[place], self.species[place], float(self.diagonal[index])


def _ask(prepared: _Prepared, chunk: list[int], seconds: float, worker: Worker) -> list[dict[str, Any] | Unanswered]:
    return ask_each(worker, [prepared.crystal(i) for i in chunk], seconds)


def _fingerprint_crystals(crystals: list[_Crystal]) -> list[dict[str, Any]]:
    """Body of a worker process: fingerprints of a chunk of crystals."""
    found = site_fingerprints(crystals)
    answers, first = [], 0
    for _, _, species, _ in crystals:
        sites = range(first, first + len(species))
        first += len(species)
        failed = [site for site in sites if site in found.reasons]
        answers.append(
            {
                "values": found.values[sites.start : sites.stop].mean(0),
                "coordination": found.coordination[sites.start : sites.stop].copy(),
                "reason": f"site {failed[0] - sites.start}: {found.reasons[failed[0]]}" if failed else None,
            }
        )
    return answers


__all__ = [
    "CompositionFingerprints",
    "StructureFingerprints",
    "composition_fingerprints",
    "fingerprint_labels",
    "magpie_labels",
    "structure_fingerprints",
]
