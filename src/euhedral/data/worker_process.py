"""The inside of the process of a `worker.Worker`: it answers one request after the other, and imports nothing heavy itself.

Requests and answers are frames on its standard streams: eight bytes of length, then a pickle, which either end reads
from the other alone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import IO, Any

from euhedral.errors import EuhedralError

MEMORY_LIMIT = 8 * 2**30
"""Address space in bytes that a process may take beyond what its libraries have mapped, where the system can limit it."""


def serve() -> None:
    """Body of a process: prepares, says that it is ready, then answers requests until there are no more.

    The first frame is (function, further arguments, whether it streams, preparation or None). A function that streams
    gets one more argument, a function that sends an item on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends this process itself
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints, from C too, must not break the protocol
    sys.stdout = sys.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function, arguments, streams, prepare = receive(requests)
        if prepare is not None:
            prepare()
        if streams:
            arguments = (*arguments, lambda item: send(answers, ("item", item)))
        _limit_memory()
        send(answers, ("ready", None))
        with contextlib.suppress(EOFError):
            while True:
                _answer(function, _frame(requests), arguments, answers)


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


def _answer(function: Callable[..., Any], request: bytes, arguments: tuple[Any, ...], answers: IO[bytes]) -> None:
    try:
        send(answers, ("answer", function(pickle.loads(request), *arguments)))
    # Whatever the function raises is the outcome of this request, for the parent to judge.
    except Exception as error:
        error.add_note(f"In a worker process: {traceback.format_exc()}")
        send(answers, ("error", (f"{type(error).__name__}: {error}"[:300], _portable(error))))


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
