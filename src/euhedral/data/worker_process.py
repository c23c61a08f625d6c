"""The inside of the process of a `worker.Worker`: it answers one request after the other, and imports nothing heavy itself.

Requests and answers are frames on its standard streams: eight bytes of length, then a pickle, which either end reads
from the other alone. A request is two frames, its time limit and what is asked.

The process that asks ends this one when a time is over. Where that one was killed, this one must end by itself: by an
alarm of the kernel, which ends compiled code too, and by watching whether its parent is still the same.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import IO, Any

from euhedral.errors import EuhedralError

MEMORY_LIMIT = 8 * 2**30
"""Address space in bytes that a process may take beyond what its libraries have mapped, where the system can limit it."""
GRACE = 5.0
"""Seconds after its limit at which a process ends itself, which its parent, where there still is one, has done before."""
UNDECIDED = "not decided"
"""What a reason begins with where only the time or the memory did not suffice: another try may end otherwise."""
ALARM: int = getattr(signal, "SIGALRM", 0)
"""The signal that a process ends itself by; 0 on Windows, which has none."""
_SECONDS_BETWEEN_LOOKS = 1.0


def serve(parent: int) -> None:
    """Body of a process: prepares, says that it is ready, then answers requests until there are no more.

    The first request is (function, further arguments, whether it streams, preparation or None). A function that streams
    gets one more argument, a function that sends an item on.

    Args:
        parent: id of the process that asks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends this process itself
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints, from C too, must not break the protocol
    sys.stdout = sys.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit = _Limit(receive(requests))
        function, arguments, streams, prepare = receive(requests)
        if prepare is not None:
            prepare()
        if streams:
            arguments = (*arguments, lambda item: limit.pause(lambda: send(answers, ("item", item))))
        _limit_memory()
        limit.stop()
        send(answers, ("ready", None))
        _drop_output()
        with contextlib.suppress(EOFError):
            while True:
                limit.begin(receive(requests))
                _answer(function, _frame(requests), arguments, answers, limit)


def send(stream: IO[bytes], message: Any) -> None:
    """Write one frame."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one frame.

    Raises:
        EOFError: where the other end has gone, maybe within a frame.
    """
    return pickle.loads(_frame(stream))


def _frame(stream: IO[bytes]) -> bytes:
    head = stream.read(8)
    length = int.from_bytes(head, "little")
    content = stream.read(length) if len(head) == 8 else b""
    if len(head) < 8 or len(content) < length:
        raise EOFError
    return content


class _Limit:
    """The alarm of this process; it does not run while something waits for the parent to read."""

    def __init__(self, seconds: float | None) -> None:
        if ALARM:
            signal.signal(ALARM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {ALARM})
        self.begin(seconds)

    def begin(self, seconds: float | None) -> None:
        """Have the process end when the seconds and some grace are over; None for never."""
        self._seconds = seconds
        self._set(0.0 if seconds is None else seconds + GRACE)

    def stop(self) -> None:
        """Have the process go on for as long as it likes."""
        self._set(0.0)

    def pause(self, act: Callable[[], object]) -> None:
        """Do something that takes no time of the limit, after which the whole time begins anew."""
        self.stop()
        act()
        self.begin(self._seconds)

    def _set(self, seconds: float) -> None:
        if ALARM:
            signal.setitimer(signal.ITIMER_REAL, seconds)


def _end_with(parent: int) -> None:
    """End this process when it has lost its parent, which no alarm does for requests without a limit."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _drop_output() -> None:
    """From here on nobody reads what libraries print, which could fill the disk in the life of a process."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _answer(
    function: Callable[..., Any], request: bytes, arguments: tuple[Any, ...], answers: IO[bytes], limit: _Limit
) -> None:
    try:
        answer = function(pickle.loads(request), *arguments)
        limit.stop()
        send(answers, ("answer", answer))
    # Whatever the function raises is the outcome of this request, for the parent to judge.
    except Exception as error:
        limit.stop()
        error.add_note(f"In a worker process: {traceback.format_exc()}")
        send(answers, ("error", (reason_of(error), _portable(error))))


def reason_of(error: Exception) -> str:
    """The type and message of an exception, at most 300 characters; want of memory begins with `UNDECIDED`."""
    text = f"{type(error).__name__}: {error}"
    # Torch and the system's loader tell it by their messages alone.
    wanting = any(words in text.lower() for words in ("out of memory", "allocate memory", "not enough memory"))
    if wanting or isinstance(error, MemoryError):
        text = f"{UNDECIDED} for want of memory: {text}"
    return text[:300]


def _portable(error: Exception) -> Exception:
    """The error, or its words where it cannot be made again from its arguments."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return EuhedralError(f"{type(error).__name__}: {error}")


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    # CUDA builds of torch map more than the limit when they are imported; what the work takes is what is limited.
    mapped = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + MEMORY_LIMIT
    with contextlib.suppress(ValueError, OSError):  # macOS refuses it
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
