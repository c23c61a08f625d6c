"""Both databases that a catalogue can be kept in: SQLite, and a PostgreSQL server of the test's own where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NOBODY = 65534


def server_binaries() -> Path | None:
    """The newest folder with initdb, pg_ctl and postgres."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)]
    if (postgres := shutil.which("postgres")) is not None:
        found.append(Path(postgres).resolve().parent)
    return next((p for p in found if all((p / name).exists() for name in ("initdb", "pg_ctl", "postgres"))), None)


class Server:
    """A PostgreSQL server on a Unix socket, which serves no network."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._databases = 0
        if os.geteuid() == 0:  # the server refuses to run as root
            os.chown(folder, NOBODY, NOBODY)
        self._run("initdb", "-U", "euhedral", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-k {self._folder} -c listen_addresses='' -c fsync=off"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "stop")

    def new_database(self) -> str:
        """URL of an empty database."""
        import psycopg

        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(host=str(self._folder), user="euhedral", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        return f"postgresql://euhedral@/{name}?host={self._folder}"

    def _run(self, program: str, *words: str) -> None:
        root = os.geteuid() == 0
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if root else {}
        command = [str(self._binaries / program), "-D", str(self._folder / "data"), *words]
        # The server keeps what it inherits open, so that its output must not be a pipe that somebody waits for.
        with (self._folder.parent / f"{self._folder.name}.{program}.log").open("w+") as log:
            done = subprocess.run(command, cwd=self._folder, stdout=log, stderr=log, check=False, **identity)
            log.seek(0)
            said = log.read()
        assert done.returncode == 0, said


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'euhedral[postgres]'")
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("there is no PostgreSQL server here (Debian's package postgresql)")
    # Not pytest's folder: its path is too long for a socket, and closed to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        server = Server(binaries, folder)
    except (AssertionError, OSError) as error:
        pytest.skip(f"a PostgreSQL server cannot be started here: {error}")
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)
    for log in folder.parent.glob(f"{folder.name}.*.log"):
        log.unlink()


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new catalogue can be made."""
    if request.param == "sqlite":
        return str(tmp_path / "catalog.sqlite")
    return request.getfixturevalue("postgres_server").new_database()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of its own with given options; skipped where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("a disk of a test's own cannot be mounted here")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
