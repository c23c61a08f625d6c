"""Sources: which files a path stands for, and the entries of each.

A path is a file of a known format (also gzipped), a zip, or a folder; folders and zips are walked in sorted order and
files of unknown kind are passed over. Zip members are read in memory, never unpacked to disk.
"""

from __future__ import annotations

import gzip
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Literal, TypeAlias, cast

from euhedral.data.databases import lmdb_entries, sqlite_entries
from euhedral.data.entries import DAMAGED, Entry, TextKind, text_entries
from euhedral.errors import DataError

FileKind: TypeAlias = TextKind | Literal["sqlite", "lmdb", "zip"]

ENDINGS: dict[str, FileKind] = {
    ".cif": "cif",
    ".mcif": "cif",
    ".poscar": "poscar",
    ".contcar": "poscar",
    ".vasp": "poscar",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".json": "json",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".aselmdb": "lmdb",
    ".lmdb": "lmdb",
    ".mdb": "lmdb",
    ".zip": "zip",
}
TEXT_KINDS: frozenset[str] = frozenset({"cif", "poscar", "extxyz", "json", "jsonl", "csv"})
# deflate cannot exceed 1032:1, and crystal files compress to a tenth: what lies between is no crystal file.
MAX_ZIP_RATIO = 200


def kind_of(name: str) -> FileKind | None:
    """The format of a file by its name, None where unknown; an ending `.gz` is looked through."""
    base = PurePosixPath(name).name.lower().removesuffix(".gz")
    if base.startswith(("poscar", "contcar")) and PurePosixPath(base).suffix not in ENDINGS:
        return "poscar"
    return ENDINGS.get(PurePosixPath(base).suffix)


def source_entries(path: Path, *, limit_atoms: int) -> Iterator[Entry]:
    """Entries of everything that a path stands for.

    Args:
        path: a file, zip or folder.
        limit_atoms: larger crystals need not be read whole.

    Raises:
        DataError: where the path does not exist, is empty, holds no file of a known format, or cannot be read at all.
    """
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return lmdb_entries(path)
        return _folder_entries(path / "cif" if is_run_folder(path) else path, limit_atoms)
    if not path.exists():
        raise DataError(f"no file or folder '{path}'")
    if not path.is_file():
        raise DataError(f"'{path}' is neither a file nor a folder")
    kind = kind_of(path.name)
    if kind is None:
        raise DataError(f"'{path}' is of no known format; known endings: {', '.join(ENDINGS)} (also with .gz), POSCAR*")
    if path.stat().st_size == 0:
        raise DataError(f"'{path}' is empty")
    return _file_entries(path, kind, _stem(path.name), limit_atoms)


def is_run_folder(path: Path) -> bool:
    """Whether `euhedral generate` wrote it: such a folder holds its crystals three times, and the CIF files are its record."""
    return (path / "summary.json").is_file() and (path / "cif").is_dir()


def _file_entries(path: Path, kind: FileKind, name: str, limit_atoms: int) -> Iterator[Entry]:
    if kind == "zip":
        yield from _zip_entries(path, limit_atoms)
    elif kind == "sqlite":
        yield from sqlite_entries(path)
    elif kind == "lmdb":
        yield from lmdb_entries(path)
    else:
        try:
            packed = path.name.lower().endswith(".gz")
            with cast(IO[bytes], gzip.open(path)) if packed else path.open("rb") as stream:
                yield from text_entries(kind, stream, name, limit_atoms=limit_atoms)
        except OSError as error:
            yield Entry(name, error=f"cannot be read: {error.strerror or error}")


def _folder_entries(folder: Path, limit_atoms: int) -> Iterator[Entry]:
    known = 0
    for path in _walk(folder):
        kind = kind_of(path.name)
        if kind is None:
            continue
        known += 1
        name = _stem(path.relative_to(folder).as_posix())
        try:
            mode = path.stat()
        except OSError as error:
            yield Entry(name, error=f"cannot be read: {error.strerror}")
            continue
        if not stat.S_ISREG(mode.st_mode):
            yield Entry(name, error="not a regular file")
        elif mode.st_size == 0:
            yield Entry(name, error="the file is empty")
        else:
            yield from _reported(_file_entries(path, kind, name, limit_atoms), name)
    if not known:
        raise DataError(f"no crystal files in '{folder}'; known endings: {', '.join(ENDINGS)} (also with .gz), POSCAR*")


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("."))


def _zip_entries(path: Path, limit_atoms: int) -> Iterator[Entry]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"'{path}' is not a zip, or is damaged: {error}") from error
    known = 0
    with archive:
        for member in sorted(archive.infolist(), key=lambda info: info.filename):
            kind = kind_of(member.filename)
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            if member.is_dir() or kind is None or any(p.startswith((".", "__MACOSX")) and p != ".." for p in parts):
                continue
            known += 1
            yield from _reported(_member_entries(archive, member, kind, parts, limit_atoms), member.filename)
    if not known:
        raise DataError(f"no crystal files in '{path}'; known endings: {', '.join(ENDINGS)} (also with .gz), POSCAR*")


def _member_entries(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, kind: FileKind, parts: tuple[str, ...], limit_atoms: int
) -> Iterator[Entry]:
    name = _stem("/".join(parts))
    if problem := _member_problem(member, kind, parts):
        yield Entry(name, error=problem)
        return
    try:
        with archive.open(member) as stream:
            if member.filename.lower().endswith(".gz"):
                with cast(IO[bytes], gzip.open(stream)) as unpacked:
                    yield from text_entries(cast(TextKind, kind), unpacked, name, limit_atoms=limit_atoms)
            else:
                yield from text_entries(cast(TextKind, kind), stream, name, limit_atoms=limit_atoms)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, *DAMAGED) as error:
        yield Entry(name, error=f"the member is damaged or packed in an unknown way: {error}")


def _member_problem(member: zipfile.ZipInfo, kind: FileKind, parts: tuple[str, ...]) -> str | None:
    if ".." in parts or member.filename.startswith(("/", "\\")) or (parts and parts[0].endswith(":")):
        return "the path leads out of the archive; not read"
    if kind not in TEXT_KINDS:
        return f"{kind} inside a zip is not read; unpack it first"
    if member.flag_bits & 0x1:
        return "encrypted"
    if member.file_size == 0:
        return "the file is empty"
    if member.file_size > 2**20 and member.file_size > MAX_ZIP_RATIO * max(member.compress_size, 1):
        return f"unpacks {member.compress_size} bytes to {member.file_size}, as zip bombs do; not read"
    return None


def _reported(entries: Iterator[Entry], name: str) -> Iterator[Entry]:
    """The entries of one file among many: what would end a conversion of the file alone becomes a failed entry."""
    try:
        yield from entries
    except DataError as error:
        yield Entry(name, error=str(error))


def _stem(name: str) -> str:
    """The name without the endings of its format, folders kept: `a/b.cif.gz` is `a/b`."""
    path = PurePosixPath(name)
    if path.suffix.lower() == ".gz":
        path = path.with_suffix("")
    return str(path.with_suffix("") if path.suffix.lower() in ENDINGS else path)
