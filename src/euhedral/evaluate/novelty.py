"""Which crystals are already known: each against the references of its reduced composition.

`ReferenceIndex` sorts references by a hash of their reduced composition, which two crystals that match must share.
Only references of the compositions that are asked about are ever reduced and compared, so a large index costs little.
A crystal is known if the rules of pymatgen's StructureMatcher map it onto a reference (its default tolerances, as
MatterGen uses them); with rule 'disordered' also if it does so once elements that can share a site are spread over each
other's sites (`disorder`). As in MatterGen's code, the crystal is the matcher's first and the reference its second, which
can decide a pair near the tolerances. Unlike there, the ordered comparison is made whatever the space groups are (there
it is left out where they differ), so that somewhat fewer crystals are novel here. Its `fit` asks for the largest displacement
to be within the tolerances; the rms that is given is the least over all mappings.
A crystal that could not be decided is never novel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from euhedral.errors import ConfigError, CrystalError, DataError, OutputError
from euhedral.evaluate.comparison import (
    NO_MATCH,
    Comparison,
    LocalTask,
    Outcomes,
    PlainCrystal,
    Progress,
    Tolerances,
    comparison_pool,
    local_task,
    plain_crystals,
)
from euhedral.evaluate.uniqueness import CRYSTALS_AT_ONCE, UNIQUE_TOLERANCES
from euhedral.evaluate.validity import composition_counts, construction_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch

NoveltyRule = Literal["ordered", "disordered"]
"""Whether a crystal that is a reference with elements exchanged on disordered sites counts as known."""
FORMAT = 1
"""Version of the file that `save` writes."""


@dataclass(frozen=True, kw_only=True)
class NoveltyRecord:
    """Whether one crystal is known.

    Attributes:
        index: position of the crystal.
        reference: id of the first reference that it matches, or None.
        rms: rms displacement over (V/N)^(1/3); None where nothing matched, or only with disorder.
        reason: why it could not be decided, or None.
        compared: references of its reduced composition.
    """

    index: int
    reference: str | None
    rms: float | None
    reason: str | None
    compared: int

    @property
    def novel(self) -> bool:
        """True if the crystal was decided to match no reference."""
        return self.reference is None and self.reason is None


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceIndex:
    """References sorted by the hash of their reduced composition.

    Attributes:
        keys: hash of each reference, ascending, (references,).
        ids: name of each reference, (references,).
        cell: lattice vectors as rows in Å, (references, 3, 3).
        frac: fractional coordinates, (atoms, 3).
        species: atomic numbers, (atoms,).
        first_atom: of each reference, and the number of atoms at the end, (references + 1,).
    """

    keys: NDArray[np.uint64]
    ids: NDArray[np.str_]
    cell: NDArray[np.float64]
    frac: NDArray[np.float64]
    species: NDArray[np.uint8]
    first_atom: NDArray[np.int64]

    @classmethod
    def build(cls, batch: CrystalBatch, ids: Sequence[str] | None = None) -> ReferenceIndex:
        """Index of the crystals of a batch, named by their positions unless ids are given.

        Crystals that cannot be built (NaN, no volume, unknown element) match nothing and are left out.

        Raises:
            CrystalError: if there are not as many ids as crystals.
        """
        names = [str(i) for i in range(len(batch))] if ids is None else list(ids)
        if len(names) != len(batch):
            raise CrystalError(f"an index needs an id for each reference, but {len(names)} came for {len(batch)}")
        sound = [i for i, problem in enumerate(construction_problems(batch)) if problem is None]
        counts = composition_counts(batch)
        keys = np.array([composition_key(counts[i]) for i in sound], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        chosen = batch[[sound[k] for k in order]]
        return cls(
            keys=keys[order],
            ids=np.array([names[sound[k]] for k in order], dtype=np.str_),
            cell=chosen.cell.double().cpu().numpy(),
            frac=chosen.frac.double().cpu().numpy(),
            species=chosen.species.cpu().numpy().astype(np.uint8),
            first_atom=np.concatenate([[0], np.cumsum(chosen.num_atoms.cpu().numpy())]).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def save(self, path: str | Path) -> None:
        """Write the index as plain arrays (npz, no pickle).

        Raises:
            OutputError: if the file exists or cannot be written.
        """
        try:
            with Path(path).open("xb") as file:
                np.savez(file, format=np.array(FORMAT), **vars(self))
        except FileExistsError:
            raise OutputError(f"{path} exists; choose another name or remove it") from None
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}") from None

    @classmethod
    def open(cls, path: str | Path) -> ReferenceIndex:
        """Read an index that `save` wrote.

        Raises:
            DataError: if it is missing, damaged or of another version.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if int(arrays["format"]) != FORMAT:
                    raise DataError(
                        f"{path} is an index of version {int(arrays['format'])}, not {FORMAT}; build it anew"
                    )
                index = cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise DataError(f"{path} is not an index of references: {error}; build it anew") from None
        if len(index.first_atom) != len(index) + 1 or index.first_atom[-1] != len(index.species):
            raise DataError(f"{path} is damaged: its atoms do not fit its references; build it anew")
        return index

    def candidates(self, counts: tuple[tuple[int, int], ...]) -> range:
        """Positions of the references with the hash of a reduced composition."""
        key = composition_key(counts)
        return range(int(np.searchsorted(self.keys, key)), int(np.searchsorted(self.keys, key, side="right")))

    def crystal(self, position: int) -> PlainCrystal:
        """One reference."""
        atoms = slice(self.first_atom[position], self.first_atom[position + 1])
        return PlainCrystal(
            cell=self.cell[position].tolist(), frac=self.frac[atoms].tolist(), species=self.species[atoms].tolist()
        )

    def find(
        self,
        batch: CrystalBatch,
        *,
        rule: NoveltyRule = "ordered",
        workers: int = 1,
        seconds_per_pair: float = 60.0,
        tolerances: Tolerances = UNIQUE_TOLERANCES,
        progress: Progress | None = None,
    ) -> list[NoveltyRecord]:
        """Look each crystal up among the references.

        Args:
            batch: generated crystals.
            rule: 'ordered', or 'disordered' to count a crystal with exchanged elements as known too.
            workers: processes, one thread each.
            seconds_per_pair: a pair that takes longer is undecided.
            tolerances: of the matcher.
            progress: called with (crystals done, crystals that have references to compare with).

        Returns:
            One record a crystal, in order.

        Raises:
            ConfigError: on an unknown rule, no workers or a time limit that is not positive.
        """
        if rule not in get_args(NoveltyRule):
            raise ConfigError(f"there is no novelty rule '{rule}'; use 'ordered' or 'disordered'")
        problems, counts = construction_problems(batch), composition_counts(batch)
        queries = plain_crystals(batch)
        found = {i: range(0) if problems[i] else self.candidates(counts[i]) for i in range(len(batch))}
        asked = sorted((i for i in found if len(found[i])), key=lambda i: found[i].start)
        positions = sorted({p for i in asked for p in found[i]})
        where = {p: len(queries) + k for k, p in enumerate(positions)}
        crystals = queries + [self.crystal(p) for p in positions]
        groups = [[i, *(where[p] for p in found[i])] for i in asked]
        limits = {"tolerances": tolerances, "seconds_per_pair": seconds_per_pair, "workers": workers}
        verdicts = _search(crystals, groups, disorder=rule == "disordered", progress=progress, **limits)
        records = []
        for i in range(len(batch)):
            match, undecided, rms = verdicts.get(i, (None, None, None))
            reason = problems[i]
            if undecided is not None:
                other, why = undecided
                reason = f"against reference {self.ids[positions[other - len(queries)]]}: {why}"
            name = None if match is None else str(self.ids[positions[match - len(queries)]])
            records.append(NoveltyRecord(index=i, reference=name, rms=rms, reason=reason, compared=len(found[i])))
        return records


def composition_key(counts: tuple[tuple[int, int], ...]) -> int:
    """64-bit hash of a reduced composition; equal for equal compositions on every machine."""
    return int.from_bytes(blake2b(repr(counts).encode(), digest_size=8).digest(), "little")


def novel_share(records: Sequence[NoveltyRecord]) -> float:
    """Novel crystals over all crystals, those that could not be decided included; NaN where there are none."""
    return sum(record.novel for record in records) / len(records) if records else math.nan


_Verdict = tuple[int | None, tuple[int, str] | None, float | None]
"""The position that a crystal matches, one that it could not be compared with and why, and the rms of the match."""


def _search(
    crystals: Sequence[PlainCrystal],
    groups: Sequence[Sequence[int]],
    *,
    disorder: bool,
    tolerances: Tolerances,
    seconds_per_pair: float,
    workers: int,
    progress: Progress | None,
) -> dict[int, _Verdict]:
    """The first crystal of each group against the others until one matches."""
    parts: list[list[Sequence[int]]] = []
    gathered = CRYSTALS_AT_ONCE
    for group in groups:
        if gathered + len(group) > CRYSTALS_AT_ONCE:
            parts.append([])
            gathered = 0
        parts[-1].append(group)
        gathered += len(group)
    tasks = [local_task("first", crystals, part, rms=False, disorder=disorder, rms_of_match=True) for part in parts]
    verdicts: dict[int, _Verdict] = {}
    done = 0
    with comparison_pool(tolerances, seconds_per_pair=seconds_per_pair, workers=workers) as pool:
        for position, outcomes in pool.run([task.job for task in tasks]):
            verdicts.update(_verdicts(tasks[position], outcomes))
            done += len(tasks[position].task.groups)
            if progress is not None:
                progress(done, len(groups))
    return verdicts


def _verdicts(local: LocalTask, outcomes: Outcomes) -> dict[int, _Verdict]:
    where = local.positions
    verdicts: dict[int, _Verdict] = {}
    for query, *others in local.task.groups:
        results: list[tuple[int, Comparison]] = [(where[k], outcomes[query, k]) for k in others]
        match, rms = next(((k, outcome.rms) for k, outcome in results if outcome.matched), (None, None))
        undecided = next(((k, o.reason) for k, o in results if o.reason not in (None, NO_MATCH.reason)), None)
        verdicts[where[query]] = (match, undecided if match is None else None, rms)  # pyright: ignore[reportArgumentType]
    return verdicts
