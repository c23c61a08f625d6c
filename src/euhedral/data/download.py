"""`download`: the published benchmark files, checked by SHA-256 and resumed by HTTP Range.

The authors publish no checksums. Where this table has none either, the size and SHA-256 of the first complete download
are recorded in `<file>.sha256.json` beside the file, and later calls are checked against that record: it guards against
damage and change from then on, not against a wrong first download.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from euhedral.errors import DataError, OutputError

_CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/main/data"
_DIFFCSP = "https://raw.githubusercontent.com/jiaor17/DiffCSP/main/data"
SPLITS = ("train", "val", "test")
# Xie et al., CDVAE, ICLR 2022 (mp_20, perov_5, carbon_24); Jiao et al., DiffCSP, NeurIPS 2023 (mpts_52).
DATASETS: dict[str, str] = {
    "mp_20": f"{_CDVAE}/mp_20",
    "perov_5": f"{_CDVAE}/perov_5",
    "carbon_24": f"{_CDVAE}/carbon_24",
    "mpts_52": f"{_DIFFCSP}/mpts_52",
}
# (data set, split) -> SHA-256 of the published file, where it could be verified.
CHECKSUMS: dict[tuple[str, str], str] = {}

BLOCK = 1 << 18
ATTEMPTS = 5
MAX_FILE_BYTES = 20 * 2**30

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class DownloadedFile:
    """One file on the disk.

    Attributes:
        path: where it is.
        bytes: its size.
        sha256: its checksum, hexadecimal.
        verified: whether that was checked against a known or recorded checksum.
        fetched: bytes that came over the network in this call; 0 where the file was there already.
    """

    path: Path
    bytes: int
    sha256: str
    verified: bool
    fetched: int


def download(
    name: str,
    folder: str | Path,
    *,
    base_url: str | None = None,
    splits: Sequence[str] = SPLITS,
    checksums: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    timeout: float = 60.0,
    retry_seconds: float = 1.0,
) -> list[DownloadedFile]:
    """Fetch the CSV files of a data set into `folder/name/`; complete ones are verified and not fetched again.

    Args:
        name: mp_20, perov_5, carbon_24 or mpts_52.
        folder: where the data sets live.
        base_url: a mirror that serves `train.csv`, `val.csv` and `test.csv` under this address.
        splits: which of the three.
        checksums: split -> SHA-256, before what this program knows.
        progress: called with the file name, the bytes there and the bytes in all (None where unknown).
        timeout: seconds without data until a connection counts as lost.
        retry_seconds: pause before the second attempt; doubles with each further one.

    Raises:
        DataError: on an unknown name or split, an answer such as 404, a transfer that stays incomplete, or a checksum
            that is not the expected one (the file is then not kept).
        OutputError: where the file cannot be written, or one of this name is there that was not downloaded.
    """
    if name not in DATASETS:
        raise DataError(f"no data set '{name}'; there are: {', '.join(DATASETS)}")
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise DataError(f"no split '{unknown[0]}'; there are: {', '.join(SPLITS)}")
    address = (base_url or DATASETS[name]).rstrip("/")
    if urlsplit(address).scheme not in ("http", "https"):
        raise DataError(f"expected an http or https address, got '{address}'")
    files = []
    for split in splits:
        expected = (checksums or {}).get(split) or CHECKSUMS.get((name, split))
        transfer = _Transfer(
            url=f"{address}/{split}.csv",
            path=Path(folder) / name / f"{split}.csv",
            expected=expected.lower() if expected else None,
            progress=progress,
            timeout=timeout,
            retry_seconds=retry_seconds,
        )
        try:
            files.append(transfer.run())
        except OSError as error:
            raise OutputError(f"cannot write '{transfer.path}': {error.strerror or error}") from error
    return files


@dataclass(frozen=True)
class _Transfer:
    """One file on its way."""

    url: str
    path: Path
    expected: str | None
    progress: Progress | None
    timeout: float
    retry_seconds: float

    @property
    def record(self) -> Path:
        """What is known of the complete file."""
        return self.path.with_name(f"{self.path.name}.sha256.json")

    @property
    def part(self) -> Path:
        """The incomplete file."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def part_record(self) -> Path:
        """Where the incomplete file came from."""
        return self.path.with_name(f"{self.path.name}.part.json")

    def run(self) -> DownloadedFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            return self._verify_existing()
        fetched = self._fetch()
        size, digest = self.part.stat().st_size, sha256_of(self.part)
        if self.expected is not None and digest != self.expected:
            self._discard_part()
            raise DataError(
                f"{self.url} has SHA-256 {digest}, expected {self.expected}; the download was discarded. "
                "Try again, and if it stays so the published file has changed"
            )
        details = {"url": self.url, "bytes": size, "sha256": digest, "verified": self.expected is not None}
        _write_json(self.record, details)
        os.replace(self.part, self.path)
        self.part_record.unlink(missing_ok=True)
        return DownloadedFile(self.path, size, digest, self.expected is not None, fetched)

    def _verify_existing(self) -> DownloadedFile:
        known = self.expected or _read_json(self.record).get("sha256")
        if known is None:
            raise OutputError(
                f"'{self.path}' exists already and there is no record of its download; move it away to fetch it anew"
            )
        digest = sha256_of(self.path)
        if digest != known:
            raise DataError(
                f"'{self.path}' has SHA-256 {digest}, expected {known}: it was changed or damaged since its download; "
                "delete it to fetch it anew"
            )
        return DownloadedFile(self.path, self.path.stat().st_size, digest, True, 0)

    def _fetch(self) -> int:
        """Bring the part to its full length, resuming after lost connections; gives the bytes that came."""
        fetched, wait = 0, self.retry_seconds
        for attempt in range(1, ATTEMPTS + 1):
            before = self._part_size()
            try:
                self._fetch_rest()
                return fetched + max(0, self._part_size() - before)
            except _Interrupted as error:
                gained = max(0, self._part_size() - before)
                fetched += gained
                if attempt == ATTEMPTS:
                    raise DataError(
                        f"{self.url} could not be fetched in {ATTEMPTS} attempts ({error}); "
                        f"{self._part_size()} bytes are kept, and the same command goes on from there"
                    ) from error
                time.sleep(wait)
                wait *= 2
        raise AssertionError("the loop returns or raises")

    def _fetch_rest(self) -> None:
        have = self._part_size()
        source = _read_json(self.part_record)
        if have and source.get("url") != self.url:
            self._discard_part()
            have = 0
        headers = {"User-Agent": "euhedral", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if source.get("etag"):
                # If the published file has changed meanwhile, the server then sends the whole of it.
                headers["If-Range"] = source["etag"]
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=self.timeout) as got:
                self._receive(got, have)
        except urllib.error.HTTPError as error:
            self._explain(error, have)
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
            raise _Interrupted(str(getattr(error, "reason", error)) or type(error).__name__) from error

    def _receive(self, answer: Any, have: int) -> None:
        resumed = answer.status == 206
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        if resumed and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            self._discard_part()
            raise _Interrupted("the server sent another range than asked for")
        if total is not None and total > MAX_FILE_BYTES:
            raise DataError(f"{self.url} announces {total} bytes, more than the limit of {MAX_FILE_BYTES}")
        etag = answer.headers.get("ETag") or ""
        if not resumed:
            # Only strong validators may be used to resume (RFC 9110, 13.1.5).
            _write_json(self.part_record, {"url": self.url, "etag": etag if etag.startswith('"') else ""})
        with self.part.open("ab" if resumed else "wb") as out:
            there = start
            while block := answer.read(BLOCK):
                out.write(block)
                there += len(block)
                if there > MAX_FILE_BYTES:
                    raise DataError(f"{self.url} is longer than the limit of {MAX_FILE_BYTES} bytes")
                if self.progress is not None:
                    self.progress(self.path.name, there, total)
            out.flush()
            os.fsync(out.fileno())
        if total is not None and there < total:
            raise _Interrupted(f"the connection ended after {there} of {total} bytes")

    def _explain(self, error: urllib.error.HTTPError, have: int) -> None:
        with error:
            if error.code == 416 and have:
                announced = (error.headers.get("Content-Range") or "").rpartition("/")[2]
                if announced.isdigit() and int(announced) == have:
                    return  # killed after the last byte and before the check: the part is whole
                self._discard_part()
                raise _Interrupted("the partial file did not fit the published one; starting anew") from error
            if error.code in (408, 425, 429) or error.code >= 500:
                raise _Interrupted(f"HTTP {error.code} {error.reason}") from error
            raise DataError(
                f"{self.url} answered HTTP {error.code} {error.reason}; the file may have moved: "
                "give its new place with --base-url"
            ) from error

    def _part_size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _discard_part(self) -> None:
        self.part.unlink(missing_ok=True)
        self.part_record.unlink(missing_ok=True)


class _Interrupted(Exception):
    """A transfer that can be tried again."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value) + "\n", "utf-8")
    os.replace(part, path)
