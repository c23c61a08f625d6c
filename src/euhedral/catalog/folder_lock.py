"""One process at a time works in a folder; the lock of a process that has died holds nobody up."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from euhedral.catalog.run_folder import refused_writes
from euhedral.errors import OutputError

LOCK = ".lock"
"""Name of the file that is locked; it stays, since removing it would let two others in at once."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process.

    The system lets go of the lock (`flock`) when the process ends in any way. Where the system knows no such locks
    (Windows) nothing is locked.

    Raises:
        OutputError: where another process has it, named by what it wrote into the file, or the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with refused_writes(folder):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with refused_writes(folder):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                raise OutputError(
                    f"{folder} is in use by {holder}; wait until it has ended, or choose another --out"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
