"""What a catalogue says when its database is not there, not one, full, locked, read-only or lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.batches import add, crystals, record
from catalog.conftest import Server
from euhedral.catalog import database_engine
from euhedral.catalog.database import Catalogue
from euhedral.catalog.database_engine import FILE, place_of
from euhedral.catalog.tables import SCHEMA_VERSION
from euhedral.errors import DataError, OutputError


def write_some(catalogue: Catalogue, count: int = 3) -> int:
    batch = crystals(count)
    run = add(catalogue, batch)
    catalogue.record(run, "relax", 1, [record(0, batch[0])])
    return run


def recorded(file: Path | str) -> tuple[int, list[int]]:
    """Crystals in the first run, and those of them that the stage has not seen."""
    with Catalogue(file, create=False) as catalogue:
        return len(catalogue.crystals(1)), catalogue.unfinished(1, "relax")


def test_places(tmp_path: Path) -> None:
    assert place_of(tmp_path).file == tmp_path / FILE
    assert place_of(tmp_path / "new").file == tmp_path / "new" / FILE
    assert place_of(tmp_path / "x.db").file == tmp_path / "x.db"
    assert place_of(f"sqlite:///{tmp_path}/x.db").file == tmp_path / "x.db"
    place = place_of("postgresql://me:secret@host/name")
    assert place.file is None and place.url.drivername == "postgresql+psycopg"
    assert "secret" not in str(place)
    for wrong, said in (("mysql://host/x", "not in mysql"), ("://", "not the URL"), ("sqlite://", "needs a file")):
        with pytest.raises(DataError, match=said):
            place_of(wrong)


def test_made_in_a_folder_that_is_not_there_yet_with_a_log(tmp_path: Path) -> None:
    with Catalogue(tmp_path / "deep" / "run?#1%20") as catalogue:
        write_some(catalogue)
    file = tmp_path / "deep" / "run?#1%20" / FILE
    assert file.is_file()
    assert sqlite3.connect(file).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert recorded(file) == (3, [1, 2])


def test_missing_where_none_is_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no catalogue at .*euhedral catalog import"):
        Catalogue(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_other_databases_and_files(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("CREATE TABLE things (x)").connection.close()
    with pytest.raises(DataError, match="without a catalogue"):
        Catalogue(other, create=False)
    text = tmp_path / "notes.sqlite"
    text.write_text("these are notes, not tables\n" * 100)
    with pytest.raises(DataError, match="damaged or is no database"):
        Catalogue(text)
    assert text.read_text().startswith("these are notes")
    with pytest.raises(OutputError, match="cannot write the catalogue"):
        Catalogue(text / "below" / FILE)


def test_another_schema_version(target: str) -> None:
    with Catalogue(target) as catalogue:
        write_some(catalogue)
        with catalogue._database.writing() as connection:
            connection.exec_driver_sql("UPDATE schema_version SET version = 99")
    with pytest.raises(DataError, match=f"have version 99, this program knows version {SCHEMA_VERSION}"):
        Catalogue(target)
    assert recorded_version(target) == 99


def recorded_version(target: str) -> int:
    engine = database_engine._server_engine(place_of(target).url) if "://" in target else None
    if engine is None:
        return sqlite3.connect(target).execute("SELECT version FROM schema_version").fetchone()[0]
    with engine.connect() as connection:
        version = connection.exec_driver_sql("SELECT version FROM schema_version").scalar_one()
    engine.dispose()
    return version


def test_tables_without_a_version(tmp_path: Path) -> None:
    with Catalogue(tmp_path / FILE) as catalogue:
        write_some(catalogue)
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("DROP TABLE schema_version").connection.close()
    with pytest.raises(DataError, match="have no version"):
        Catalogue(tmp_path)


def test_two_open_a_new_catalogue_at_once(target: str) -> None:
    errors: list[BaseException] = []

    def make(number: int) -> None:
        try:
            with Catalogue(target) as catalogue:
                add(catalogue, crystals(5, seed=number % 2))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Catalogue(target, create=False) as catalogue:
        assert [run.crystals for run in catalogue.runs()] == [5, 5]


def test_damage_in_the_middle(tmp_path: Path) -> None:
    file = tmp_path / FILE
    with Catalogue(file) as catalogue:
        add(catalogue, crystals(2_000))
    content = bytearray(file.read_bytes())
    content[8192 : len(content) - 8192] = b"\xa5" * (len(content) - 16384)
    file.write_bytes(content)
    with (
        pytest.raises(DataError, match=r"damaged.*\.recover"),
        Catalogue(file, create=False) as catalogue,
    ):
        catalogue.crystals(1)
        catalogue.table()


def test_a_file_cut_short(tmp_path: Path) -> None:
    file = tmp_path / FILE
    with Catalogue(file) as catalogue:
        add(catalogue, crystals(500))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DataError, match="damaged"), Catalogue(file, create=False) as catalogue:
        catalogue.crystals(1)


def test_locked_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_engine, "SECONDS_TO_WAIT", 0.1)
    batch = crystals(3)
    with Catalogue(tmp_path) as catalogue:
        run = write_some(catalogue)
        other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutputError, match="another process has been writing"):
            catalogue.record(run, "relax", 1, [record(1, batch[1])])
        assert catalogue.unfinished(run, "relax") == [1, 2]  # readers do not wait
        other.execute("ROLLBACK")
        catalogue.record(run, "relax", 1, [record(1, batch[1])])
        assert catalogue.unfinished(run, "relax") == [2]
        other.close()


def test_removed_or_replaced_in_the_middle(tmp_path: Path) -> None:
    batch = crystals(3)
    with Catalogue(tmp_path / "a.sqlite") as catalogue:
        run = write_some(catalogue)
        kept = tmp_path / "kept.sqlite"
        (tmp_path / "a.sqlite").rename(kept)
        with pytest.raises(OutputError, match="gone: its file was removed"):
            catalogue.record(run, "relax", 1, [record(1, batch[1])])
        with pytest.raises(OutputError, match="gone"):
            catalogue.runs()
        shutil.copy(kept, tmp_path / "a.sqlite")
        with pytest.raises(OutputError, match="was replaced while it was in use"):
            catalogue.record(run, "relax", 1, [record(1, batch[1])])


def test_a_full_database_keeps_what_was_there(tmp_path: Path) -> None:
    with Catalogue(tmp_path) as catalogue:
        run = write_some(catalogue)
        pages = sqlite3.connect(tmp_path / FILE).execute("PRAGMA page_count").fetchone()[0]

        with catalogue._database.writing() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 10}")
        with pytest.raises(OutputError, match="the disk is full; everything recorded before is whole"):
            add(catalogue, crystals(5_000, seed=4))
        assert [found.id for found in catalogue.runs()] == [run]
    assert recorded(tmp_path) == (3, [1, 2])


def test_a_full_disk(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=1m")
    batch = crystals(2_000)
    with Catalogue(disk) as catalogue:
        run = add(catalogue, batch)
        with pytest.raises(OutputError, match=r"cannot use the catalogue .*(full|refuses)"):
            for start in range(0, 2_000, 50):
                part = [record(i, batch[i]) for i in range(start, start + 50)]
                catalogue.record(run, "relax", 1, part)
                done = start + 50
    count, left = recorded(disk)
    assert count == 2_000 and left == list(range(done, 2_000))


def test_a_read_only_disk(small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    disk = small_disk("size=4m")
    with Catalogue(disk) as catalogue:
        run = write_some(catalogue)
    os.system(f"mount -o remount,ro {disk}")
    assert recorded(disk) == (3, [1, 2])
    with Catalogue(disk, create=False) as catalogue:
        assert catalogue.table(run, "num_atoms > 1").num_rows == 3
        with pytest.raises(OutputError, match="it is read-only"):
            catalogue.record(run, "relax", 1, [record(1, crystals(3)[1])])
    with pytest.raises(OutputError, match="cannot"):
        Catalogue(disk / "other.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes wherever it likes")
def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Catalogue(folder) as catalogue:
        write_some(catalogue)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555)
    assert recorded(folder) == (3, [1, 2])
    with pytest.raises(OutputError, match="read-only"), Catalogue(folder) as catalogue:
        add(catalogue, crystals(1, seed=3))
    folder.chmod(0o755)


def test_a_server_that_goes_away_and_comes_back(postgres_server: Server) -> None:
    target, batch = postgres_server.new_database(), crystals(3)
    with Catalogue(target) as catalogue:
        run = write_some(catalogue)
        postgres_server.stop()
        try:
            with pytest.raises(OutputError, match=r"cannot be reached.*run the same command again"):
                catalogue.record(run, "relax", 1, [record(1, batch[1])])
            with pytest.raises(OutputError, match="cannot be reached"):
                Catalogue(target)
        finally:
            postgres_server.start()
        catalogue.record(run, "relax", 1, [record(1, batch[1])])
        assert catalogue.unfinished(run, "relax") == [2]
    assert recorded(target) == (3, [2])


def test_a_database_that_is_not_on_the_server(postgres_server: Server) -> None:
    target = postgres_server.new_database().replace("/test_", "/no_such_")
    with pytest.raises(OutputError, match=r"cannot be reached.*does not exist"):
        Catalogue(target)


def test_a_connection_cut_within_a_transaction(postgres_server: Server) -> None:
    target = postgres_server.new_database()
    with Catalogue(target) as catalogue, Catalogue(target) as other:
        run = write_some(catalogue)
        with (
            pytest.raises(OutputError, match="cannot be reached"),
            catalogue._database.writing() as connection,
        ):
            connection.exec_driver_sql("DELETE FROM stage_results")
            with other._database.writing() as second:
                second.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            connection.exec_driver_sql("DELETE FROM crystals")
        assert catalogue.unfinished(run, "relax") == [1, 2]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("postgresql://me:secret@no%20such%20host.invalid/all", "no host of this name"),
        ("postgresql://me:secret@127.0.0.1:1/all", "nothing listens"),
        ("postgresql://me@/all?host=/nowhere", "no server listens on this machine's socket"),
    ],
)
def test_a_url_that_leads_nowhere_is_to_be_checked(target: str, reason: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(OutputError, match=rf"'postgresql://me.*cannot be reached: {reason}.*check the URL") as told:
        Catalogue(target)
    assert "psycopg" not in str(told.value) and "secret" not in str(told.value)
