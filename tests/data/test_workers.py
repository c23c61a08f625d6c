from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from euhedral.data.workers import THREAD_VARIABLES, _Pool, map_chunks


def tenfold(chunk: list[int], factor: int) -> list[int]:
    return [item * factor for item in chunk]


def threads(chunk: list[str]) -> list[str]:
    return [os.environ[name] for name in chunk]


def fail(chunk: list[int]) -> list[int]:
    raise ValueError(f"bad {chunk[0]}")


def fragile(chunk: list[int], factor: int) -> list[int]:
    """Work that takes its process down at one item."""
    if 7 in chunk:
        os.kill(os.getpid(), signal.SIGKILL)
    return [item * factor for item in chunk]


def test_an_item_that_kills_its_worker_takes_no_other_with_it() -> None:
    chunks = [[1, 2], [6, 7, 8], [9], [10, 11]]
    found = list(map_chunks(fragile, chunks, (10,), workers=2, on_death=lambda chunk: [-item for item in chunk]))
    assert [item for part in found for item in part] == [10, 20, 60, -7, 80, 90, 100, 110]


def test_a_pool_that_broke_before_the_work_was_handed_over() -> None:
    pool = _Pool(2)
    try:
        with pytest.raises(BrokenProcessPool):
            pool.submit(fragile, [7], 10).result()
        late = pool.submit(fragile, [1], 10)
        with pytest.raises(BrokenProcessPool):
            late.result()
        pool.renew()
        assert pool.submit(fragile, [1], 10).result() == [10]
    finally:
        pool.close()


def test_a_death_is_raised_where_nothing_stands_in_for_it() -> None:
    with pytest.raises(BrokenProcessPool):
        list(map_chunks(fragile, [[7]], (10,), workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_few_chunks_are_taken_ahead(workers: int) -> None:
    taken: list[int] = []

    def chunks() -> Iterator[list[int]]:
        for i in range(20):
            taken.append(i)
            yield [i]

    ahead = []
    for i, part in enumerate(map_chunks(tenfold, chunks(), (10,), workers=workers)):
        assert part == [10 * i]
        ahead.append(len(taken) - i)
    assert max(ahead) <= 2 * workers + 1


def test_workers_use_one_thread_each() -> None:
    (found,) = map_chunks(threads, [list(THREAD_VARIABLES)], (), workers=2)
    assert found == ["1"] * len(THREAD_VARIABLES)


def test_errors_of_the_function_are_raised() -> None:
    with pytest.raises(ValueError, match="bad 3"):
        list(map_chunks(fail, [[3]], (), workers=2))


def test_a_script_without_a_guard_ends_at_once_and_is_told_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import operator\n"
        "from euhedral.data.workers import map_chunks\n"
        "print(list(map_chunks(operator.mul, [[i] for i in range(100)], (2,), workers=2, on_death=len)))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and ended.stdout == ""
    last = ended.stderr.strip().splitlines()[-1]
    assert "EuhedralError" in last and "__main__" in last and "workers=1" in last
