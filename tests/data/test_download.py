from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from euhedral.data import download as module
from euhedral.data.download import DATASETS, DownloadedFile, download
from euhedral.errors import DataError, OutputError

CONTENT = bytes(range(256)) * 3000


class Server(ThreadingHTTPServer):
    """Serves `content` with Range support; can break off, refuse, ignore ranges or lie."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = {f"/{split}.csv": CONTENT for split in ("train", "val", "test")}
        self.break_after: list[int] = []
        self.codes: list[int] = []
        self.ranges = True
        self.etag = '"v1"'
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        if self.server.codes:
            self.send_error(self.server.codes.pop(0))
            return
        content = self.server.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        condition = self.headers.get("If-Range", self.server.etag)
        if asked and self.server.ranges and condition == self.server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = self.server.break_after.pop(0) if self.server.break_after else len(content)
        self.wfile.write(content[start : start + stop])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, **options: object) -> list[DownloadedFile]:
    return download("mp_20", folder, **{"base_url": server.url, "splits": ["train"], "retry_seconds": 0.01, **options})  # type: ignore[arg-type]


def test_all_splits_arrive_and_are_recorded(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    files = download("mp_20", tmp_path, base_url=server.url + "/", progress=lambda *step: seen.append(step))
    assert [f.path for f in files] == [tmp_path / "mp_20" / f"{s}.csv" for s in ("train", "val", "test")]
    for file in files:
        assert file.path.read_bytes() == CONTENT
        assert (file.bytes, file.fetched, file.verified) == (len(CONTENT), len(CONTENT), False)
        record = json.loads(file.path.with_name(file.path.name + ".sha256.json").read_text())
        assert record["sha256"] == file.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert record["verified"] is False
    assert seen[-1] == ("test.csv", len(CONTENT), len(CONTENT))
    assert not list(tmp_path.rglob("*.part*"))


def test_a_second_call_verifies_and_fetches_nothing(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    count = len(server.requests)
    (again,) = fetch(server, tmp_path)
    assert again.verified and again.fetched == 0
    assert len(server.requests) == count


def test_a_file_changed_since_is_named(server: Server, tmp_path: Path) -> None:
    (file,) = fetch(server, tmp_path)
    file.path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DataError, match="changed or damaged"):
        fetch(server, tmp_path)


def test_lost_connections_are_resumed_by_range(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000, 50_000]
    (file,) = fetch(server, tmp_path)
    assert file.path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=150000-"]
    assert file.fetched == len(CONTENT)


def test_what_came_survives_a_failed_call_and_the_next_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.break_after = [123_456]
    with pytest.raises(DataError, match="123456 bytes are kept"):
        fetch(server, tmp_path)
    assert not (tmp_path / "mp_20" / "train.csv").exists()
    (file,) = fetch(server, tmp_path)
    assert server.requests[-1] == "bytes=123456-"
    assert file.fetched == len(CONTENT) - 123_456
    assert file.path.read_bytes() == CONTENT


def test_a_part_of_an_older_version_is_not_continued(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.break_after = [1000]
    with pytest.raises(DataError):
        fetch(server, tmp_path)
    server.etag, server.content["/train.csv"] = '"v2"', CONTENT[::-1]
    (file,) = fetch(server, tmp_path)
    assert file.path.read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.break_after = False, [1000]
    (file,) = fetch(server, tmp_path)
    assert file.path.read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_finished(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.break_after = [1000]
    with pytest.raises(DataError):
        fetch(server, tmp_path)
    (tmp_path / "mp_20" / "train.csv.part").write_bytes(CONTENT)
    (file,) = fetch(server, tmp_path)
    assert file.fetched == 0 and file.path.read_bytes() == CONTENT


@pytest.mark.parametrize("good", [True, False])
def test_known_checksums_decide(server: Server, tmp_path: Path, good: bool) -> None:
    checksum = hashlib.sha256(CONTENT if good else b"").hexdigest().upper()
    if good:
        assert fetch(server, tmp_path, checksums={"train": checksum})[0].verified
        return
    with pytest.raises(DataError, match="discarded"):
        fetch(server, tmp_path, checksums={"train": checksum})
    assert not [path for path in (tmp_path / "mp_20").iterdir() if path.is_file()]


def test_server_errors_are_tried_again_and_404_is_not(server: Server, tmp_path: Path) -> None:
    server.codes = [503, 429]
    fetch(server, tmp_path)
    assert len(server.requests) == 3
    del server.content["/val.csv"]
    with pytest.raises(DataError, match="HTTP 404"):
        fetch(server, tmp_path, splits=["val"])
    assert len(server.requests) == 4


def test_a_file_that_was_not_downloaded_is_not_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mp_20").mkdir()
    (tmp_path / "mp_20" / "train.csv").write_text("mine")
    with pytest.raises(OutputError, match="no record"):
        fetch(server, tmp_path)
    assert (tmp_path / "mp_20" / "train.csv").read_text() == "mine"


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    with pytest.raises(DataError, match="2 attempts"):
        download("mp_20", tmp_path, base_url="http://127.0.0.1:9", splits=["val"], retry_seconds=0.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mp_21", {}, "mp_20, perov_5, carbon_24, mpts_52"),
        ("mp_20", {"splits": ["dev"]}, "no split 'dev'"),
        ("mp_20", {"base_url": "file:///etc"}, "http"),
    ],
)
def test_unknown_names_and_addresses(tmp_path: Path, name: str, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        download(name, tmp_path, **options)


def test_output_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mp_20").write_text("a file where the folder should be")
    with pytest.raises(OutputError):
        fetch(server, tmp_path)


def test_the_table_names_the_four_benchmarks() -> None:
    assert set(DATASETS) == {"mp_20", "perov_5", "carbon_24", "mpts_52"}
    assert all(url.startswith("https://") and url.endswith(name) for name, url in DATASETS.items())
