from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from euhedral.data.worker import THREAD_VARIABLES, Unanswered, Worker
from euhedral.data.workers import Crew, ask_each, filled_chunks, map_chunks
from euhedral.errors import ConfigError
from euhedral.evaluate import embedding, fingerprints


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
    found = list(map_chunks(fragile, chunks, (10,), workers=2, on_loss=lambda chunk, _: [-item for item in chunk]))
    assert [item for part in found for item in part] == [10, 20, 60, -7, 80, 90, 100, 110]


def test_one_worker_with_a_time_limit_is_a_process_too() -> None:
    lost: list[Unanswered] = []

    def note(chunk: list[int], failure: Unanswered) -> list[int]:
        lost.append(failure)
        return [0] * len(chunk)

    assert list(map_chunks(slow, [[1, 7]], (), workers=1, seconds=1.0, on_loss=note)) == [[-1], [0]]
    assert [failure.late for failure in lost] == [True]


def hungry(chunk: list[int]) -> list[int]:
    """Work that needs too much memory for one item."""
    if 7 in chunk:
        raise MemoryError("no more")
    return chunk


def test_want_of_memory_is_a_loss_and_no_error() -> None:
    assert list(map_chunks(hungry, [[1, 7]], (), workers=2, on_loss=lambda chunk, _: [0])) == [[1], [0]]
    with pytest.raises(Unanswered, match="not decided for want of memory: MemoryError: no more"):
        list(map_chunks(hungry, [[7]], (), workers=2))


def test_a_death_is_raised_where_nothing_stands_in_for_it() -> None:
    with pytest.raises(Unanswered, match="ended"):
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


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import operator\n"
        "from euhedral.data.workers import map_chunks\n"
        "print('begun')\n"
        "print(list(map_chunks(operator.mul, [[i] for i in range(5)], (2,), workers=2)))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines() == ["begun", "[[0, 0], [1, 1], [2, 2], [3, 3], [4, 4]]"], ended.stderr


def test_a_function_that_workers_cannot_find_is_told(tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(
        "from euhedral.data.workers import map_chunks\n"
        "def own(chunk): return chunk\n"
        "print(list(map_chunks(own, [[1]], (), workers=2)))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "worker process for own did not start" in ended.stderr


def process_ids(chunk: list[int]) -> list[int]:
    return [os.getpid()] * len(chunk)


def slow(chunk: list[int]) -> list[int]:
    """Work that takes far too long at one item."""
    if 7 in chunk:
        time.sleep(600)
    return [-item for item in chunk]


def test_an_item_that_takes_too_long_takes_no_other_with_it() -> None:
    with Crew(partial(Worker, slow), 1) as crew:
        ((_, answers),) = crew.run([partial(ask_each, items=[1, 7, 3], seconds=1.0)])
    assert (answers[0], answers[2]) == (-1, -3)
    assert isinstance(answers[1], Unanswered) and str(answers[1]) == "not decided within 1 s"


def test_jobs_share_the_members_and_come_with_their_position() -> None:
    with Crew(partial(Worker, tenfold, 10), 2) as crew:
        assert dict(crew.run([lambda worker, i=i: worker.ask([i], 60) for i in range(7)])) == {
            i: [10 * i] for i in range(7)
        }
        assert list(crew.run([])) == []


def test_leaving_early_ends_the_processes_and_drops_the_other_jobs() -> None:
    found: list[int] = []

    def job(worker: Worker) -> None:
        found.extend(worker.ask([0], 60))

    with pytest.raises(KeyboardInterrupt), Crew(partial(Worker, process_ids), 1) as crew:
        for _ in crew.run([job] * 1000):
            raise KeyboardInterrupt
    assert len(found) < 1000
    with pytest.raises(ProcessLookupError):
        os.kill(found[0], 0)


def test_a_chunk_in_the_midst_is_ended_where_no_more_are_wanted() -> None:
    begun = time.monotonic()
    chunks = map_chunks(slow, [[1], [7], [2]], (), workers=2)
    assert next(chunks) == [-1]
    chunks.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 300


def test_workers_are_at_least_one() -> None:
    with pytest.raises(ConfigError, match="workers"):
        Crew(partial(Worker, tenfold), 0)


@pytest.mark.parametrize(
    ("atoms", "limits", "sizes"),
    [
        ([1] * 66 + [2000, 600, 600, 400], (embedding.CRYSTALS_PER_CHUNK, embedding.ATOMS_PER_CHUNK), [64, 2, 1, 1, 2]),
        (
            [1] * 70 + [500, 300, 200],
            (fingerprints._CRYSTALS_AT_ONCE, fingerprints._ATOMS_AT_ONCE),
            [32, 32, 6, 1, 1, 1],
        ),
    ],
)
def test_chunks_hold_few_crystals_and_few_atoms(atoms: list[int], limits: tuple[int, int], sizes: list[int]) -> None:
    chunks = list(filled_chunks(range(len(atoms)), atoms, crystals_at_once=limits[0], atoms_at_once=limits[1]))
    assert [len(chunk) for chunk in chunks] == sizes
    assert [i for chunk in chunks for i in chunk] == list(range(len(atoms)))
