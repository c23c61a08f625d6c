from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from euhedral.errors import ConfigError, EuhedralError
from euhedral.evaluate import processes
from euhedral.evaluate.processes import Reply, TaskProcess, run_tasks

FUNCTION = "evaluate_bodies:body"


@pytest.fixture(scope="module", autouse=True)
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module with the body of the worker processes, where they find it."""
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "evaluate_bodies.py").write_text(
        "import os, time\n"
        "def body(request):\n"
        "    if request == 'raise': raise ValueError('odd cell')\n"
        "    if request == 'die': os._exit(3)\n"
        "    if request == 'hang': time.sleep(600)\n"
        "    if request == 'print': print('a library that prints')\n"
        "    if request == 'pid': return os.getpid()\n"
        "    return [request, None]\n"
    )
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def process(bodies: None) -> Iterator[TaskProcess]:
    process = TaskProcess(FUNCTION)
    yield process
    process.close()
    with pytest.raises(EuhedralError, match="closed"):
        process.ask(1, 60)


def test_an_answer_comes_back_and_what_is_printed_does_not_disturb_it(process: TaskProcess) -> None:
    assert process.ask({"a": [1.5, None]}, 60) == Reply(answer=[{"a": [1.5, None]}, None])
    assert process.ask("print", 60).answer == ["print", None]


def test_what_the_function_raises_is_the_reason(process: TaskProcess) -> None:
    before = process.ask("pid", 60).answer
    assert process.ask("raise", 60) == Reply(reason="ValueError: odd cell")
    assert process.ask("pid", 60).answer == before


def test_a_late_request_is_ended_and_the_next_one_answered(process: TaskProcess) -> None:
    process.ask("ready", 60)
    assert process.ask("hang", 0.2) == Reply(reason="not decided within 0.2 s")
    assert process.ask(1, 60).answer == [1, None]


def test_a_process_that_dies_is_a_reason_and_is_replaced(process: TaskProcess) -> None:
    before = process.ask("pid", 60).answer
    assert process.ask("die", 60) == Reply(reason="the process ended (memory?)")
    assert process.ask("pid", 60).answer not in (before, None)


def test_closing_ends_a_request_in_progress() -> None:
    process = TaskProcess(FUNCTION)
    process.ask(1, 60)
    closer = threading.Timer(0.2, process.close)
    closer.start()
    assert process.ask("hang", 60) == Reply(reason="cancelled")
    closer.join()


def test_jobs_share_the_processes_and_come_with_their_position() -> None:
    found = dict(run_tasks(FUNCTION, [lambda process, i=i: process.ask(i, 60).answer[0] for i in range(7)], workers=2))
    assert found == {i: i for i in range(7)}
    assert list(run_tasks(FUNCTION, [], workers=1)) == []


def test_leaving_early_ends_the_processes() -> None:
    pids: list[int] = []

    def job(process: TaskProcess) -> None:
        pids.append(process.ask("pid", 60).answer)

    before = time.perf_counter()
    for _ in run_tasks(FUNCTION, [job] * 100_000, workers=1):
        break
    assert time.perf_counter() - before < 60
    assert len(pids) < 100_000
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_process_that_cannot_start_says_why() -> None:
    with pytest.raises(EuhedralError, match="no_such_module"):
        list(run_tasks("no_such_module:body", [lambda process: process.ask(1, 60)], workers=1))


def test_workers_are_at_least_one() -> None:
    with pytest.raises(ConfigError, match="workers"):
        list(run_tasks(FUNCTION, [], workers=0))


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; import euhedral.evaluate.fingerprints, euhedral.evaluate.processes; "
        "print('torch' in sys.modules, 'pymatgen' in sys.modules, 'matminer' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(processes.__file__).parents[2],
    )
    assert answer.stdout.split() == ["False", "False", "False"]
