"""The inside of a worker process of `workers`: it answers one request after the other, and imports nothing heavy itself.

Requests and answers are frames on its standard streams: eight bytes of length, then a pickle, which is read only from
the process at the other end.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from typing import IO, Any, Literal

from euhedral.errors import EuhedralError

MEMORY_LIMIT = 8 * 2**30
"""Address space in bytes that a process may take beyond what its libraries have mapped, where the system can limit it."""

Kind = Literal["ready", "item", "answer", "error"]


def serve() -> None:
    """Body of a process: prepares, says that it is ready, and answers requests until there are no more.

    The first frame is (function, further arguments, preparation or None). A function that is a generator gives its
    items one by one, as they come, before its answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends this process itself
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints, in C too, must not break the protocol
    sys.stdout = sys.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function, arguments, prepare = pickle.loads(receive(requests))
        if prepare is not None:
            prepare()
        _limit_memory()
        send(answers, ("ready", None))
        while True:
            try:
                request = receive(requests)
            except EOFError:
                return
            send(answers, *_reply(function, request, arguments, answers))


def send(stream: IO[bytes], message: tuple[Kind, Any] | Any) -> None:
    """Write one frame."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Read one frame.

    Raises:
        EOFError: where the other end was closed, or ended within a frame.
    """
    length = stream.read(8)
    content = stream.read(int.from_bytes(length, "little")) if len(length) == 8 else b""
    if len(length) < 8 or len(content) < int.from_bytes(length, "little"):
        raise EOFError
    return content
