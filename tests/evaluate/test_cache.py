from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.worker import Worker
from euhedral.data.worker_process import MEMORY_LIMIT, reason_of
from euhedral.data.workers import ask_each
from euhedral.errors import OutputError
from euhedral.evaluate import cache as cache_module
from euhedral.evaluate.cache import FILE_NAME, ResultCache, content_keys, default_folder, joined_key


def crystals(count: int = 4) -> CrystalBatch:
    return CrystalBatch.from_crystals(
        [
            (
                torch.eye(3, dtype=torch.float64) * (3 + i),
                torch.rand(i + 1, 3, dtype=torch.float64),
                torch.arange(1, i + 2),
            )
            for i in range(count)
        ]
    )


def test_the_key_is_the_content_and_nothing_else() -> None:
    batch = crystals()
    keys = content_keys(batch)
    assert len(set(keys)) == 4
    assert content_keys(batch[[2, 0]]) == [keys[2], keys[0]]
    moved = CrystalBatch(frac=batch.frac.clone(), cell=batch.cell, species=batch.species, num_atoms=batch.num_atoms)
    moved.frac[1, 0] += 1e-12
    assert [a == b for a, b in zip(content_keys(moved), keys, strict=True)] == [True, False, True, True]
    assert joined_key(keys) != joined_key(keys[::-1])


def test_an_empty_crystal_has_a_key() -> None:
    empty = CrystalBatch(
        frac=torch.zeros(0, 3),
        cell=torch.zeros(1, 3, 3),
        species=torch.zeros(0, dtype=torch.int64),
        num_atoms=torch.tensor([0]),
    )
    assert len(content_keys(empty)) == 1


def test_results_come_back_for_the_same_metric_version_and_settings_only(tmp_path: Path) -> None:
    keys = content_keys(crystals())
    with ResultCache(tmp_path) as cache:
        cache.put("density", 1, {"a": 1}, {keys[0]: b"x", keys[1]: b""})
    with ResultCache(tmp_path) as cache:
        assert cache.get("density", 1, {"a": 1}, keys) == {keys[0]: b"x", keys[1]: b""}
        assert cache.hits == 2
        for other in (("density", 2, {"a": 1}), ("density", 1, {"a": 2}), ("volume", 1, {"a": 1})):
            assert cache.get(*other, keys) == {}
        cache.put("density", 1, {"a": 1}, {keys[0]: b"y"})
        assert cache.get("density", 1, {"a": 1}, keys[:1]) == {keys[0]: b"y"}


@pytest.mark.parametrize(
    "reason",
    [
        "not decided within 0.1 s",
        "the process ended (memory?)",
        "site 3: _ArrayMemoryError: Unable to allocate 9 GiB",
        reason_of(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")),
        reason_of(RuntimeError("CUDA out of memory.")),
    ],
)
def test_what_another_try_could_change_is_not_kept(tmp_path: Path, reason: str) -> None:
    keys = content_keys(crystals())
    with ResultCache(tmp_path) as cache:
        cache.put("match", 1, {}, {keys[0]: b"[null]" + reason.encode(), keys[1]: b"no match"})
        assert cache.get("match", 1, {}, keys) == {keys[1]: b"no match"}


def allocate(sizes: list[int]) -> list[int]:
    """Body of a worker process."""
    import numpy as np

    return [len(np.empty(size, dtype=np.uint8)) for size in sizes]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux")
def test_a_crystal_for_which_a_worker_lacked_memory_is_tried_again(tmp_path: Path) -> None:
    keys = content_keys(crystals(2))
    worker = Worker(allocate)
    try:
        answers = ask_each(worker, [2 * MEMORY_LIMIT, 8], 60)
    finally:
        worker.close()
    assert "Unable to allocate" in str(answers[0]) and answers[1] == 8
    with ResultCache(tmp_path) as cache:
        cache.put("m", 1, {}, {key: str(answer).encode() for key, answer in zip(keys, answers, strict=True)})
        assert cache.get("m", 1, {}, keys) == {keys[1]: b"8"}


def test_more_keys_than_one_query_takes(tmp_path: Path) -> None:
    keys = [i.to_bytes(16, "little") for i in range(1700)]
    with ResultCache(tmp_path) as cache:
        cache.put("m", 1, {}, {key: key for key in keys})
        assert cache.get("m", 1, {}, keys) == {key: key for key in keys}


def test_without_a_folder_nothing_is_kept() -> None:
    with ResultCache(None) as cache:
        cache.put("m", 1, {}, {b"k": b"v"})
        assert cache.get("m", 1, {}, [b"k"]) == {} and cache.problem is None


def test_the_file_keeps_its_limit_and_forgets_what_was_not_used_for_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr(cache_module.time, "time", lambda: now[0])
    keys = [i.to_bytes(16, "little") for i in range(200)]
    with ResultCache(tmp_path, limit=400_000) as cache:
        for start in range(0, 200, 20):
            now[0] += 10 * 24 * 3600
            cache.put("m", 1, {}, {key: bytes(4000) for key in keys[start : start + 20]})
            cache.get("m", 1, {}, keys[:20])
        kept = cache.get("m", 1, {}, keys)
        assert set(keys[:20]) <= kept.keys() and set(keys[180:]) <= kept.keys()
        assert 20 < len(kept) < 120


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this is no database" * 200)
    with ResultCache(tmp_path) as cache:
        assert cache.problem is not None and "damaged" in cache.problem
        cache.put("m", 1, {}, {b"k": b"v"})
        assert cache.get("m", 1, {}, [b"k"]) == {b"k": b"v"}
    assert (tmp_path / f"{FILE_NAME}.damaged").is_file()


def test_another_layout_is_begun_anew(tmp_path: Path) -> None:
    with ResultCache(tmp_path) as cache:
        cache.put("m", 1, {}, {b"k": b"v"})
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with ResultCache(tmp_path) as cache:
        assert cache.get("m", 1, {}, [b"k"]) == {} and cache.problem is None


def test_a_locked_file_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_SECONDS_OF_PATIENCE", 0.05)
    with ResultCache(tmp_path) as cache:
        other = sqlite3.connect(tmp_path / FILE_NAME)
        other.execute("BEGIN EXCLUSIVE")
        cache.put("m", 1, {}, {b"k": b"v"})
        assert cache.problem is not None and "locked" in cache.problem
        assert cache.get("m", 1, {}, [b"k"]) == {}
        other.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--no-cache"):
        ResultCache(tmp_path / "file" / "cache")


def test_what_was_put_before_a_kill_is_there(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from euhedral.evaluate.cache import ResultCache\n"
        f"cache = ResultCache(Path({str(tmp_path)!r}))\n"
        "for i in range(100000):\n"
        "    cache.put('m', 1, {}, {i.to_bytes(16, 'little'): bytes(100), (i + 10**6).to_bytes(16, 'little'): b''})\n"
        "    print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = -1
    for line in process.stdout:
        last = int(line)
        if last >= 20:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with ResultCache(tmp_path) as cache:
        keys = [i.to_bytes(16, "little") for i in range(last + 1)]
        assert len(cache.get("m", 1, {}, keys)) == last + 1
        assert cache.problem is None


def test_the_default_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "euhedral"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "euhedral"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_folder() == Path.home() / "Library" / "Caches" / "euhedral"
