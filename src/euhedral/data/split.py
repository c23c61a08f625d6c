"""`split`: a data set into parts that share no group, so that a test set measures what it says.

A random split of crystals puts polymorphs, duplicates and neighbours of one composition on both sides. Here a group (all
crystals of a reduced formula, a chemical system, a space group or a year) stays whole. Groups are put in an order, by a
hash of seed and name or by time, and that order is cut where the parts come closest to the fractions asked for: no part
differs from its fraction by more than the largest group, unless it would have been left without any. The hash depends
on neither the order of the rows nor on the other groups.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from euhedral.data.groups import chemical_system_keys, formula_keys, space_groups_of_rows
from euhedral.data.subset import open_as_store, write_rows
from euhedral.errors import ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.data.convert import ConversionReport
    from euhedral.data.store import CrystalStore

By: TypeAlias = Literal["composition", "chemical-system", "space-group", "time", "random"]
Progress: TypeAlias = Callable[[int, int], None]
NAMES = {2: ("train", "test"), 3: ("train", "val", "test")}
SUMMARY_FILE = "split.json"
SUMMARY_VERSION = 1
_CHUNK = 16_384
_SYMMETRY_CHUNK = 256
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ].*)?)?)?")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a split.

    Attributes:
        name: such as "train".
        file: its store, relative to the folder of the split.
        crystals: how many.
        share: of all crystals that were split.
        groups: how many groups; all of them are whole.
        first: earliest value of the time column, None for other splits.
        last: latest one.
    """

    name: str
    file: str
    crystals: int
    share: float
    groups: int
    first: float | str | None = None
    last: float | str | None = None


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """What a split did and with what, which is also written beside the stores.

    Attributes:
        source: what was split.
        folder: where the parts are.
        by: what makes a group.
        fractions: asked for.
        seed: of the order of groups; without effect on a split by time.
        column: of the time, else None.
        symprec: tolerance of the space groups in Å, else None.
        crystals: split in all.
        groups: how many there are.
        largest_group: name and size of the largest.
        unreadable: rows of the source that could not be read; the reasons are in `source.report.jsonl`.
        without_time: crystals left out because their time is unknown.
        parts: in order.
    """

    source: Path
    folder: Path
    by: By
    fractions: tuple[float, ...]
    seed: int
    column: str | None
    symprec: float | None
    crystals: int
    groups: int
    largest_group: tuple[str, int]
    unreadable: int
    without_time: int
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(self) | {"source": str(self.source), "folder": str(self.folder)}
        return {"schema_version": SUMMARY_VERSION, **plain}


def split(
    source: str | Path,
    out: str | Path,
    *,
    by: By,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    names: Sequence[str] | None = None,
    seed: int = 0,
    column: str = "year",
    drop_unknown: bool = False,
    symprec: float = 0.01,
    workers: int = 1,
    progress: Progress | None = None,
) -> SplitSummary:
    """Split a data set into stores `NAME.arrow` in a new folder, with all ids and labels, and a summary `split.json`.

    Args:
        source: a store, or anything that `convert` reads (its crystals become Niggli-reduced primitive cells).
        out: the folder to make; it appears whole or not at all.
        by: what stays together: `composition` (reduced formula, so all polymorphs), `chemical-system`, `space-group`,
            `time` (the values of `column`, later ones in later parts), or `random` (nothing).
        fractions: of the crystals, one a part; they add up to 1.
        names: of the parts; train, test or train, val, test where there are two or three.
        seed: of the order of groups.
        column: number or ISO date to order by in a split by time.
        drop_unknown: leave out crystals whose time is unknown, which are an error otherwise.
        symprec: tolerance in Å for a split by space group.
        workers: processes that read and find symmetry.
        progress: called with (done, total).

    Raises:
        ConfigError: on fractions, names or a seed that make no split, or fewer groups than parts.
        DataError: where the source cannot be read or has no such column.
        OutputError: where the folder exists already or cannot be written.
    """
    source, out = Path(source), Path(out)
    names = _checked(by, fractions, names, seed, out)
    with _unfinished(out) as folder:
        store, report = open_as_store(source, folder, workers=workers)
        with store:
            keys, rows, times = _keys(store, by, column, drop_unknown, symprec, workers, progress)
            members = partition(keys, fractions, seed=None if by == "time" else seed)
            parts = _write_parts(store.path, folder, names, members, keys, rows, times)
            without_time = len(store) - len(rows)
        summary = SplitSummary(
            source=source,
            folder=out,
            by=by,
            fractions=tuple(fractions),
            seed=seed,
            column=column if by == "time" else None,
            symprec=symprec if by == "space-group" else None,
            crystals=len(keys),
            groups=len(set(keys)),
            largest_group=("", 1) if by == "random" else _largest(keys),
            unreadable=report.failed if report else 0,
            without_time=without_time,
            parts=parts,
        )
        return _finish(folder, out, summary, report)


def partition(
    keys: Sequence[str] | Sequence[float], fractions: Sequence[float], *, seed: int | None
) -> list[NDArray[np.int64]]:
    """Positions of each part, ascending; equal keys are never in different parts.

    Args:
        keys: group of each crystal.
        fractions: of the crystals, one a part.
        seed: of the order of groups; None orders them by their keys, smaller ones in earlier parts.

    Raises:
        ConfigError: where there are fewer groups than parts.
    """
    names, group, sizes = np.unique(np.asarray(keys), return_inverse=True, return_counts=True)
    if len(names) < len(fractions):
        raise ConfigError(
            f"{len(keys)} crystals in {len(names)} group{'s' * (len(names) != 1)} cannot fill {len(fractions)} parts "
            "without tearing a group apart; ask for fewer parts or group by something finer, such as composition"
        )
    order = np.arange(len(names))
    if seed is not None:
        digests = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest() for name in names.tolist()]
        order = np.array(sorted(range(len(names)), key=digests.__getitem__))
    cuts = [0, *_cuts(sizes[order], fractions), len(names)]
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    part = np.searchsorted(cuts, place[group.reshape(-1)], side="right") - 1
    return [np.flatnonzero(part == k) for k in range(len(fractions))]


def _cuts(sizes: NDArray[np.int64], fractions: Sequence[float]) -> list[int]:
    """How many groups come before each inner boundary: the nearest whole group, and one group a part at least."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    cuts: list[int] = []
    for k, target in enumerate(np.cumsum(fractions)[:-1] * ends[-1]):
        nearest = int(np.abs(ends - target).argmin())
        smallest = (cuts[-1] if cuts else 0) + 1
        cuts.append(min(max(nearest, smallest), len(sizes) - (len(fractions) - 1 - k)))
    return cuts


def _keys(
    store: CrystalStore,
    by: By,
    column: str,
    drop_unknown: bool,
    symprec: float,
    workers: int,
    progress: Progress | None,
) -> tuple[list[Any], NDArray[np.int64], list[Any] | None]:
    """Group of each crystal, the rows they are of, and their times in a split by time."""
    if not len(store):
        raise DataError(f"'{store.path}' holds no crystals to split")
    everything = np.arange(len(store))
    if by == "random":
        return store.ids(), everything, None
    if by == "time":
        times = _times(store, column)
        known = np.array([value is not None for value in times])
        if not known.all() and not drop_unknown:
            first = int(np.flatnonzero(~known)[0])
            raise DataError(
                f"{int((~known).sum())} of {len(store)} crystals have no '{column}', the first is "
                f"'{store.ids(first)[0]}'; leave them out with drop_unknown (--drop-unknown)"
            )
        kept = [value for value in times if value is not None]
        return kept, everything[known], kept
    if by == "space-group":
        from euhedral.data.workers import map_chunks

        rows = everything.tolist()
        chunks = [rows[i : i + _SYMMETRY_CHUNK] for i in range(0, len(rows), _SYMMETRY_CHUNK)]
        found: list[str] = []
        for part in map_chunks(space_groups_of_rows, chunks, (store.path, symprec), workers=workers):
            found += part
            if progress is not None:
                progress(len(found), len(rows))
        return found, everything, None
    keys_of = formula_keys if by == "composition" else chemical_system_keys
    keys: list[str] = []
    for start in range(0, len(store), _CHUNK):
        keys += keys_of(store.crystals(slice(start, start + _CHUNK)))
        if progress is not None:
            progress(len(keys), len(store))
    return keys, everything, None


def _write_parts(
    store: Path,
    folder: Path,
    names: Sequence[str],
    members: Sequence[NDArray[np.int64]],
    keys: Sequence[Any],
    rows: NDArray[np.int64],
    times: Sequence[Any] | None,
) -> tuple[Part, ...]:
    """Write a store a part; `members` are positions among `keys`, which stand for the rows `rows` of the store."""
    parts = []
    for name, chosen in zip(names, members, strict=True):
        write_rows(store, rows[chosen], folder / f"{name}.arrow")
        seen = [times[i] for i in chosen] if times is not None else None
        parts.append(
            Part(
                name=name,
                file=f"{name}.arrow",
                crystals=len(chosen),
                share=len(chosen) / len(keys),
                groups=len({keys[i] for i in chosen}),
                first=min(seen) if seen else None,
                last=max(seen) if seen else None,
            )
        )
    return tuple(parts)


def _times(store: CrystalStore, column: str) -> list[Any]:
    """Values of the time column, None where unknown; all numbers, or all ISO dates, which sort as texts."""
    if column not in store.column_names:
        raise DataError(
            f"the crystals have no column '{column}' to split by time; they have: "
            f"{', '.join(store.column_names) or 'none'}. Name one with column (--column)"
        )
    if column in store.numeric_column_names:
        return [None if math.isnan(value) else value for value in store.labels(column).tolist()]
    texts = store.texts(column)
    for text in texts:
        if text is not None and not _DATE.fullmatch(text.strip()):
            raise DataError(
                f"column '{column}' holds '{text[:40]}', which is neither a number nor a date as 2019-05-31"
            )
    return [None if text is None else text.strip() for text in texts]


def _checked(by: str, fractions: Sequence[float], names: Sequence[str] | None, seed: int, out: Path) -> tuple[str, ...]:
    """The names of the parts, once all arguments make sense."""
    if by not in get_args(By):
        raise ConfigError(f"cannot split by '{by}'; choose one of {', '.join(get_args(By))}")
    if len(fractions) < 2 or not all(math.isfinite(f) and f > 0 for f in fractions):
        raise ConfigError(f"a split needs at least two fractions, all above 0, such as 0.8,0.1,0.1; got {[*fractions]}")
    if abs(math.fsum(fractions) - 1) > 1e-6:
        raise ConfigError(f"the fractions add up to {math.fsum(fractions):.6g}; make them add up to 1")
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    names = tuple(names) if names is not None else NAMES.get(len(fractions))
    if names is None:
        raise ConfigError(f"name the {len(fractions)} parts with names (--names); two or three have names of their own")
    if len(names) != len(fractions) or len(set(names)) != len(names):
        raise ConfigError(f"expected {len(fractions)} different names, one a fraction, got {', '.join(names)}")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name == "source":
            raise ConfigError(f"'{name}' cannot name a part: use letters, digits, - and _, and not 'source'")
    if out.exists():
        raise OutputError(f"'{out}' exists already; splits are never overwritten: choose another folder")
    return names


def _largest(keys: Sequence[Any]) -> tuple[str, int]:
    name, size = Counter(keys).most_common(1)[0]
    return str(name), size


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is gone at the end, unless it was given its name."""
    folder = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise OutputError(f"cannot write '{out}': {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finish(folder: Path, out: Path, summary: SplitSummary, report: ConversionReport | None) -> SplitSummary:
    """Leave the parts, the summary and, where rows failed, their reasons; then give the folder its name."""
    if report is not None:
        report.store.unlink()
        if not report.failed:
            report.report.unlink()
        else:
            with contextlib.suppress(FileNotFoundError):
                os.replace(report.report, folder / "source.report.jsonl")
    text = json.dumps(summary.to_dict(), indent=1, ensure_ascii=False)
    (folder / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")
    if out.exists():
        raise OutputError(f"'{out}' exists already; splits are never overwritten: choose another folder")
    os.rename(folder, out)
    return summary
