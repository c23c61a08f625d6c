from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from euhedral.data import worker as worker_module
from euhedral.data import worker_process
from euhedral.data.worker import THREAD_VARIABLES, Unanswered, Worker
from euhedral.errors import ConfigError, EuhedralError


class Awkward(Exception):
    """An error that pickle cannot make again from its arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def act(request: Any, *_: object) -> Any:
    """The body of the processes."""
    if request == "raise":
        raise ConfigError("odd cell")
    if request == "awkward":
        raise Awkward("odd", "cell")
    if request == "unpicklable":
        return lambda: None
    if request == "die":
        os._exit(3)
    if request == "hang":
        time.sleep(600)
    if request == "alarm":
        os.kill(os.getpid(), worker_process.ALARM)
    if request == "outputs":
        return [os.readlink(f"/proc/self/fd/{stream}") for stream in (1, 2)]
    if request == "print":
        print("a library that prints")
        os.write(1, b"and one that does so in C\n")
    if request == "pid":
        return os.getpid()
    if request == "environment":
        return {name: os.environ.get(name) for name in (*THREAD_VARIABLES, "PREPARED")}
    if request == "allocate":
        return len(bytearray(2 * worker_process.MEMORY_LIMIT))
    return [request, None]


def prepare() -> None:
    os.environ["PREPARED"] = "yes"


def count(seconds: list[float], send: Callable[[float], object]) -> str:
    for wait in seconds:
        time.sleep(wait)
        send(wait)
    return "done"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(act, prepare=prepare)
    yield worker
    worker.close()
    with pytest.raises(EuhedralError, match="closed"):
        worker.ask(1, 60)


def test_an_answer_comes_back_and_what_is_printed_does_not_disturb_it(worker: Worker) -> None:
    assert worker.ask({"a": [1.5, None]}, 60) == [{"a": [1.5, None]}, None]
    assert worker.ask("print") == ["print", None]


def test_what_the_function_raises_is_told(worker: Worker) -> None:
    before = worker.ask("pid", 60)
    with pytest.raises(Unanswered, match="ConfigError: odd cell") as told:
        worker.ask("raise", 60)
    assert isinstance(told.value.error, ConfigError) and not told.value.late
    with pytest.raises(Unanswered, match="Awkward: odd cell") as told:
        worker.ask("awkward", 60)
    assert type(told.value.error) is EuhedralError and "Awkward: odd cell" in str(told.value.error)
    with pytest.raises(Unanswered, match="pickle"):
        worker.ask("unpicklable", 60)
    assert worker.ask("pid", 60) == before


def test_a_late_request_is_ended_and_the_next_one_answered(worker: Worker) -> None:
    worker.ask("ready", 60)
    with pytest.raises(Unanswered, match=r"not decided within 0\.2 s") as told:
        worker.ask("hang", 0.2)
    assert told.value.late
    assert worker.ask(1, 60) == [1, None]


def test_a_process_that_dies_is_a_reason_and_is_replaced(worker: Worker) -> None:
    before = worker.ask("pid", 60)
    with pytest.raises(Unanswered, match=r"^the worker process ended \(memory\?\)") as told:
        worker.ask("die", 60)
    assert told.value.error is None and not told.value.late
    assert worker.ask("pid", 60) != before


def test_a_process_prepares_itself_and_uses_one_thread(worker: Worker) -> None:
    assert worker.ask("environment", 60) == {**dict.fromkeys(THREAD_VARIABLES, "1"), "PREPARED": "yes"}


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux")
def test_memory_is_limited(worker: Worker) -> None:
    with pytest.raises(Unanswered, match=r"^not decided for want of memory: MemoryError"):
        worker.ask("allocate", 60)
    assert worker.ask(1, 60) == [1, None]


def test_items_renew_the_time_and_come_before_the_answer() -> None:
    worker = Worker(count, streams=True)
    items: list[float] = []
    try:
        assert worker.ask([0.0] * 3, 60, items.append) == "done"
        assert worker.ask([0.4] * 3, 1.0, items.append) == "done"
        with pytest.raises(Unanswered, match="within 1 s"):
            worker.ask([0.1, 60.0], 1.0, items.append)
    finally:
        worker.close()
    assert items == [0.0] * 3 + [0.4] * 3 + [0.1]


def test_an_answer_that_nobody_waited_for_is_not_given_to_the_next() -> None:
    worker = Worker(count, streams=True)

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            worker.ask([0.0, 0.0], 60, stop)
        items: list[float] = []
        assert worker.ask([0.1], 60, items.append) == "done" and items == [0.1]
    finally:
        worker.close()


def test_closing_ends_a_request_in_progress() -> None:
    worker = Worker(act)
    worker.ask(1, 60)
    closer = threading.Timer(0.2, worker.close)
    closer.start()
    with pytest.raises(EuhedralError, match="closed"):
        worker.ask("hang", 60)
    closer.join()


_FORSAKEN = """
import itertools, os, signal, time
from euhedral.data import worker_process
from euhedral.data.worker import Worker

def hurry():
    worker_process.GRACE = 0.1

def stay(how, say):
    os.open(os.environ["LIFELINE"], os.O_WRONLY)
    say("begun")
    time.sleep(600) if how == "asleep" else sum(itertools.repeat(0))

def ask(how, seconds):
    Worker(stay, streams=True, prepare=hurry).ask(how, seconds, lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither alarms nor a changing parent")
@pytest.mark.parametrize(("how", "seconds"), [("asleep", None), ("in compiled code that keeps the interpreter", 0.5)])
def test_a_process_whose_parent_was_killed_ends(tmp_path: Path, how: str, seconds: float | None) -> None:
    (tmp_path / "forsaken.py").write_text(_FORSAKEN)
    os.mkfifo(tmp_path / "lifeline")
    held = os.open(tmp_path / "lifeline", os.O_RDONLY | os.O_NONBLOCK)
    try:
        parent = subprocess.run(
            [sys.executable, "-c", f"import forsaken; forsaken.ask({how!r}, {seconds})"],
            env={**os.environ, "PYTHONPATH": str(tmp_path), "LIFELINE": str(tmp_path / "lifeline")},
            timeout=60,
        )
        assert parent.returncode == -signal.SIGKILL
        ended, _, _ = select.select([held], [], [], 60)
        assert ended and os.read(held, 1) == b""
    finally:
        os.close(held)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no alarms")
def test_a_process_that_ended_itself_was_late(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    before = worker.ask("pid", 60)
    monkeypatch.setattr(worker_module._TimeLimit, "_watch", lambda _: None)
    with pytest.raises(Unanswered, match=r"not decided within 0\.1 s") as told:
        worker.ask("alarm", 0.1)
    assert told.value.late and worker.ask("pid", 60) != before


def test_a_time_that_is_over_as_the_answer_comes_is_noticed(worker: Worker) -> None:
    class Slow(worker_module._TimeLimit):
        def _watch(self) -> None:
            self._stopped.wait()
            time.sleep(0.2)
            self.late = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "_TimeLimit", Slow)
        before = worker.ask("pid", 60)
    assert worker.ask("pid", 60) != before  # the time was over at the last moment, so that the process was replaced


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_what_is_printed_is_kept_nowhere(worker: Worker) -> None:
    assert worker.ask("outputs", 60) == [os.devnull, os.devnull]


def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_COMMAND", ("-c", "raise SystemExit('no such luck')"))
    with pytest.raises(EuhedralError, match="for act did not start: no such luck"):
        Worker(act).ask(1, 60)


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; import euhedral.evaluate.fingerprints, euhedral.evaluate.serving, euhedral.data.workers; "
        "print([name for name in ('torch', 'pymatgen', 'matminer', 'scipy', 'pyarrow') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["[]"]


def test_a_module_of_the_folder_does_not_stand_before_one_of_python(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong module')\n")
    code = "import euhedral.data.worker as w, operator; print(w.Worker(operator.neg).ask(1, 60))"
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert answer.stdout.split() == ["-1"], answer.stderr
