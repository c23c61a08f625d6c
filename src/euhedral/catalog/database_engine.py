"""How a catalogue is opened: SQLite without any set-up or PostgreSQL by URL, and what is said when it fails.

SQLite is set to a write-ahead log, so that readers do not wait for a writer, and to hand every commit to the disk.
Writers take the lock when they begin, since a transaction that reads first and then wants to write would be refused.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, inspect, make_url, select

from euhedral.catalog.tables import SCHEMA_VERSION, metadata, schema_version
from euhedral.errors import DataError, EuhedralError, OutputError

FILE = "catalog.sqlite"
"""Name of the database in a run folder."""
SECONDS_TO_WAIT = 30.0
"""For another process that writes, before the catalogue counts as locked."""
_WRITING = "euhedral_writing"
_FULL = "the disk is full"
_WHOLE = "everything recorded before is whole: make room and run the same command again to go on"
# What a driver says, in part, and what to tell of it.
_REFUSALS = (
    (("is full", "No space left", "could not extend file"), f"{_FULL}; {_WHOLE}"),
    (("readonly", "read-only"), "it is read-only, or its file was moved; what was recorded before is whole"),
    (
        ("database is locked", "database table is locked"),
        f"another process has been writing for {SECONDS_TO_WAIT:.0f} s; try again when it is done",
    ),
    (
        ("deadlock detected", "could not serialize"),
        "another process wrote the same crystals at this moment; run the same command again",
    ),
    (("unable to open database file",), "it cannot be opened or made there: is the folder writable?"),
    (
        ("disk I/O error", "disk i/o error"),
        "the disk refuses to read or write it; what was recorded before stands in the file",
    ),
)
_UNREACHED = (
    (("failed to resolve host", "could not translate host name"), "no host of this name is known"),
    (("Connection refused",), "nothing listens at its host and port"),
    (
        ("No such file or directory",),
        "no server listens on this machine's socket; a host is missing in the URL, or it does not run",
    ),
    (("timeout expired", "timed out", "Network is unreachable", "No route to host"), "its host does not answer"),
    (("password",), "it refuses the user or the password"),
)
_DAMAGE = ("malformed", "file is not a database", "database corrupt", "invalid page", "file is encrypted")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a catalogue is.

    Attributes:
        url: for SQLAlchemy.
        file: of SQLite; None on a server.
    """

    url: URL
    file: Path | None

    def __str__(self) -> str:
        if self.file is not None:
            return str(self.file)
        return self.url.set(drivername="postgresql").render_as_string(hide_password=True)


def place_of(target: str | Path) -> Place:
    """A folder (its `catalog.sqlite`), a file, or a URL such as postgresql://user@host/name.

    Raises:
        DataError: on a URL that cannot be read, or a database other than SQLite and PostgreSQL.
    """
    text = str(target)
    if "://" not in text:
        path = Path(text)
        file = (path / FILE if path.is_dir() or not path.suffix else path).absolute()
        return Place(url=URL.create("sqlite", database=str(file)), file=file)
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise DataError("this is not the URL of a database: expected e.g. postgresql://user@host/name") from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise DataError("a catalogue needs a file: give its path, or sqlite:////absolute/path")
        return place_of(url.database)
    if backend not in ("postgresql", "postgres"):
        raise DataError(f"a catalogue is kept in SQLite (a path) or PostgreSQL (a URL), not in {backend}")
    return Place(url=url.set(drivername="postgresql+psycopg"), file=None)


class Database:
    """A catalogue's database, open.

    Args:
        target: as `place_of` takes it.
        create: make the database where it is missing; else it is opened for reading if it cannot be written.

    Raises:
        DataError: where there is none and none is to be made, it is damaged, no catalogue, or of another version.
        OutputError: where it cannot be made or reached.
    """

    def __init__(self, target: str | Path, *, create: bool) -> None:
        self.place = place_of(target)
        file = self.place.file
        if file is not None and not create and not file.is_file():
            raise DataError(
                f"no catalogue at '{file}'; one is made by: euhedral catalog import RUN, or euhedral screen"
            )
        with _refusals(self.place, opening=True):
            if file is not None and create:
                file.parent.mkdir(parents=True, exist_ok=True)
            self.engine = _server_engine(self.place.url) if file is None else _sqlite_engine(file)
            try:
                _check_schema(self.engine, self.place, create=create)
                self._identity = self._file_identity()
            except BaseException:
                self.engine.dispose()
                raise

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that writes: all of it is kept, or nothing.

        Raises:
            OutputError: where the database is read-only, full, locked, lost or unreachable.
            DataError: where it is damaged.
        """
        with _refusals(self.place):
            self._check_file()
            with self.engine.connect().execution_options(**{_WRITING: True}) as connection, connection.begin():
                yield connection
            self._check_file()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that reads one state of the database. Raises as `writing`."""
        with _refusals(self.place):
            self._check_file()
            with self.engine.connect() as connection:
                if self.place.file is None:  # else every statement would see what others have committed since
                    connection.execution_options(isolation_level="REPEATABLE READ")
                with connection.begin():
                    yield connection

    def _file_identity(self) -> tuple[int, int] | None:
        if self.place.file is None:
            return None
        status = self.place.file.stat()
        return status.st_dev, status.st_ino

    def _check_file(self) -> None:
        """A file that was removed could still be written, and all of it would be lost at the end."""
        try:
            replaced = self._file_identity() != self._identity
        except FileNotFoundError:
            raise OutputError(
                f"the catalogue '{self.place}' is gone: its file was removed while it was in use"
            ) from None
        if replaced:
            raise OutputError(
                f"the file of the catalogue '{self.place}' was replaced while it was in use; open it again"
            )


def _sqlite_engine(file: Path) -> Engine:
    read_only = not os.access(file if file.exists() else file.parent, os.W_OK)
    options = "mode=ro" if read_only else "mode=rwc"
    log = file.with_name(file.name + "-wal")
    if read_only and not os.access(file.parent, os.W_OK) and not (log.exists() and log.stat().st_size):
        # On a disk that nobody can write, the files that a log needs cannot be made, and nobody can change the database.
        options += "&immutable=1"
    uri = f"file:{quote(str(file))}?{options}"

    def connect() -> sqlite3.Connection:
        # isolation_level None: sqlite3 would begin its transactions late, and never for reading.
        connection = sqlite3.connect(
            uri, uri=True, timeout=SECONDS_TO_WAIT, check_same_thread=False, isolation_level=None
        )
        if not read_only:
            _use_log(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    engine = create_engine(f"sqlite:///{file}", creator=connect)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get(_WRITING, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _use_log(connection: sqlite3.Connection) -> None:
    """Change to a write-ahead log; SQLite does not wait by itself for others that are about to do the same."""
    until = time.monotonic() + SECONDS_TO_WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _server_engine(url: URL) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    except ImportError:
        raise DataError("PostgreSQL needs the package psycopg: pip install 'euhedral[postgres]'") from None


def _check_schema(engine: Engine, place: Place, *, create: bool) -> None:
    with engine.connect() as connection:
        names = set(inspect(connection).get_table_names())
    if not names & set(metadata.tables):
        if not create:
            raise DataError(f"'{place}' is a database without a catalogue in it; import a run first")
        with engine.connect().execution_options(**{_WRITING: True}) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                # Two processes that open an empty database at once would both make the tables.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(760283)")
            metadata.create_all(connection)
            if connection.execute(select(schema_version.c.version)).first() is None:
                connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
        return
    found = None
    if schema_version.name in names:
        with engine.connect() as connection:
            found = connection.execute(select(schema_version.c.version)).scalar()
    if found != SCHEMA_VERSION:
        said = "no version" if found is None else f"version {found}"
        raise DataError(
            f"the tables of '{place}' have {said}, this program knows version {SCHEMA_VERSION}; open it with the release "
            "that wrote it, or import the run into another database"
        )


@contextlib.contextmanager
def _refusals(place: Place, *, opening: bool = False) -> Iterator[None]:
    """Say what a database's refusal means and what to do; one that was never reached may have another URL."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _explained(error, place, opening=opening) from error
    except exc.SQLAlchemyError as error:
        raise OutputError(f"the catalogue '{place}' cannot be used: {_first_line(error)}") from error
    except OSError as error:
        raise OutputError(
            f"cannot write the catalogue '{place}': {error.strerror or error}; what was recorded before is whole"
        ) from error


def _explained(error: exc.DBAPIError, place: Place, *, opening: bool) -> EuhedralError:
    said = str(error.orig)
    if any(word in said for word in _DAMAGE):
        return DataError(
            f"the catalogue '{place}' is damaged or is no database ({_first_line(error.orig)}); recover what is left with "
            "sqlite3 FILE .recover, or import its runs into another one"
        )
    for words, meaning in _REFUSALS:
        if any(word in said for word in words):
            return OutputError(f"cannot use the catalogue '{place}': {meaning}")
    if error.connection_invalidated or (place.file is None and isinstance(error, exc.OperationalError)):
        advice = (
            "check the URL, postgresql://user:password@host:port/name, and that the server runs"
            if opening
            else "what was recorded before is whole: run the same command again when it is back"
        )
        return OutputError(f"the database '{place}' cannot be reached: {_unreached(said)}; {advice}")
    return OutputError(f"the catalogue '{place}' refuses: {_first_line(error.orig)}")


def _unreached(said: str) -> str:
    """Why a server was not reached, from what the driver says, in which names stand as the URL escapes them."""
    for words, meaning in _UNREACHED:
        if any(word in said for word in words):
            return meaning
    return _first_line(said).rpartition("failed: ")[2].removeprefix("FATAL:").strip()


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
