"""Results of single crystals, kept between evaluations and found again by content.

The key is a hash of the crystal's numbers, the name and version of the metric, and its settings: the same crystal in
another file or at another position is found, and a changed setting or a new version of a metric is not. Values are
bytes that the metric reads and writes itself (arrays, JSON), in one SQLite file that survives a kill at any moment.
A result that a time limit or the memory of the machine decided is not kept: the next evaluation may end otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.data.worker_process import UNDECIDED
from euhedral.errors import OutputError

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

FILE_NAME = "evaluate.sqlite"
LAYOUT = 1
DEFAULT_LIMIT = 4 * 2**30
"""Largest size of the file in bytes; beyond it the results that were not used for longest are removed."""

UNSETTLED = (UNDECIDED.encode(), b"(memory?)", b"MemoryError", b"cancelled")
"""What the reasons of results that another try could change contain, in whatever form a metric keeps them."""

_SECONDS_OF_PATIENCE = 20.0
_KEYS_AT_ONCE = 500
_USED_STEP = 24 * 3600


def default_folder() -> Path:
    """Where caches of this platform live; `XDG_CACHE_HOME` is respected."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "euhedral"


def content_keys(batch: CrystalBatch) -> list[bytes]:
    """Hash of the numbers of each crystal (cell, coordinates, species) in float64, in the order given, 16 bytes each."""
    cells = batch.cell.double().cpu().contiguous().numpy()
    fracs = batch.frac.double().cpu().contiguous().numpy()
    species = batch.species.cpu().contiguous().numpy()
    keys, start = [], 0
    for cell, atoms in zip(cells, batch.num_atoms.tolist(), strict=True):
        end = start + atoms
        digest = hashlib.blake2b(cell.tobytes(), digest_size=16)
        digest.update(species[start:end].tobytes())
        digest.update(fracs[start:end].tobytes())
        keys.append(digest.digest())
        start = end
    return keys


def joined_key(keys: Sequence[bytes]) -> bytes:
    """One key of several crystals in their order, for a result that belongs to all of them."""
    digest = hashlib.blake2b(len(keys).to_bytes(8, "little"), digest_size=16)
    for key in keys:
        digest.update(key)
    return digest.digest()


class ResultCache:
    """Results by metric and content; without a folder it remembers nothing.

    A cache that is damaged is set aside and begun anew; one that another process keeps locked is done without, since
    a lost cache costs time and never a result. `problem` says so.

    Args:
        folder: where its file is, made if need be; None for no cache.
        limit: largest size of the file in bytes.

    Raises:
        OutputError: if the folder cannot be made or written to.
    """

    def __init__(self, folder: Path | None, *, limit: int = DEFAULT_LIMIT) -> None:
        self.problem: str | None = None
        self.hits = 0
        self._limit = limit
        self._connection: sqlite3.Connection | None = None
        if folder is None:
            return
        file = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = _opened(file)
        except sqlite3.OperationalError as error:
            if not os.access(folder, os.W_OK):
                raise OutputError(
                    f"the cache folder {folder} cannot be written to; pass another or --no-cache"
                ) from None
            self.problem = f"the cache {file} could not be used ({error}); nothing is kept"
        except sqlite3.DatabaseError as error:
            self._begin_anew(file, error)
        except OSError as error:
            raise OutputError(
                f"the cache folder {folder} cannot be made: {error.strerror or error}; pass another or --no-cache"
            ) from None

    def _begin_anew(self, file: Path, error: Exception) -> None:
        aside = file.with_name(f"{file.name}.damaged")
        os.replace(file, aside)
        for ending in ("-wal", "-shm"):
            file.with_name(file.name + ending).unlink(missing_ok=True)
        self.problem = f"the cache was damaged ({error}) and is now {aside}; a new one was begun"
        self._connection = _opened(file)

    def __enter__(self) -> ResultCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, metric: str, version: int, settings: Mapping[str, Any], keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The results that are there, by content key."""
        if self._connection is None or not keys:
            return {}
        context = _context(metric, version, settings)
        full = {_full_key(context, key): key for key in keys}
        found: dict[bytes, bytes] = {}
        wanted, now = list(full), int(time.time())
        try:
            for start in range(0, len(wanted), _KEYS_AT_ONCE):
                part = wanted[start : start + _KEYS_AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(f"SELECT key, value FROM results WHERE key IN ({marks})", part)
                found.update((full[key], value) for key, value in rows)
                # Not at every reading: the order of days is enough to know what was not used for longest.
                self._connection.execute(
                    f"UPDATE results SET used = ? WHERE used < ? AND key IN ({marks})", [now, now - _USED_STEP, *part]
                )
            self._connection.commit()
        except sqlite3.Error as error:
            self._give_up(error)
            return {}
        self.hits += len(found)
        return found

    def put(self, metric: str, version: int, settings: Mapping[str, Any], results: Mapping[bytes, bytes]) -> None:
        """Keep results by content key, but for UNSETTLED ones; all of one call or, after a kill, none."""
        settled = {key: value for key, value in results.items() if not any(part in value for part in UNSETTLED)}
        if self._connection is None or not settled:
            return
        context, now = _context(metric, version, settings), int(time.time())
        rows = [(_full_key(context, key), value, now) for key, value in settled.items()]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)
            self._shrink()
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        """Let go of the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _shrink(self) -> None:
        """Remove the tenth of the results that was not used for longest, until the file keeps its limit."""
        connection = self._connection
        assert connection is not None
        while _bytes_used(connection) > self._limit:
            with connection:
                removed = connection.execute(
                    "DELETE FROM results WHERE key IN (SELECT key FROM results ORDER BY used, rowid LIMIT "
                    "(SELECT MAX(1, COUNT(*) / 10) FROM results))"
                ).rowcount
            if not removed:
                return

    def _give_up(self, error: sqlite3.Error) -> None:
        self.problem = f"the cache stopped working ({error}); what follows is not kept"
        self.close()


def _opened(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_SECONDS_OF_PATIENCE)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] not in (0, LAYOUT):
                connection.execute("DROP TABLE IF EXISTS results")
            connection.execute(f"PRAGMA user_version = {LAYOUT}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS results (key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, used INTEGER NOT NULL)"
            )
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _bytes_used(connection: sqlite3.Connection) -> int:
    """Size of the pages that hold something; freed pages are filled again before the file grows."""
    size, count, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    return size * (count - free)


def _context(metric: str, version: int, settings: Mapping[str, Any]) -> bytes:
    return json.dumps([metric, version, settings], sort_keys=True).encode()


def _full_key(context: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(key + context, digest_size=16).digest()
