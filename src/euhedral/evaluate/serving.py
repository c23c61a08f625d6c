"""The worker side of `comparison`: one task a line on stdin, one outcome a line on stdout."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

from euhedral.evaluate.comparison import NO_MATCH, Compare, Comparison, PlainCrystal, Tolerances, run_plan
from euhedral.evaluate.processes import limit_memory, say


def serve() -> None:
    """Body of a worker process: tolerances on the first line of stdin, then one task a line; answers on stdout."""
    import signal
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends this process itself
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # a library that prints must not break the protocol
    limit_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Loaded before the process says that it is ready, so that the time limit of the first pair does not pay for it.
        import scipy.optimize  # noqa: F401
        from pymatgen.optimization import neighbors  # noqa: F401

        from euhedral.evaluate import matcher, reduction  # noqa: F401

        tolerances = Tolerances(**json.loads(sys.stdin.readline()))
        say(answers, {"ready": True})
        for line in sys.stdin:
            _do_task(json.loads(line), tolerances, answers)


def _do_task(request: dict[str, Any], tolerances: Tolerances, answers: IO[str]) -> None:
    """Run the plan of a task; one line a pair: '.' for no match, else the outcome; 'end' after the last."""
    crystals = [PlainCrystal(**crystal) for crystal in request["crystals"]]
    known = {(i, j): Comparison(**outcome) for i, j, outcome in request["known"]}
    remaining = request["decided"]
    wanted = {name: request[name] for name in ("rms", "disorder", "rms_of_match")}
    compare_here = _comparing(crystals, tolerances, **wanted)

    def compare(i: int, j: int) -> Comparison:
        nonlocal remaining
        if remaining:
            remaining -= 1
            return known.get((i, j), NO_MATCH)
        started = time.perf_counter()
        outcome = compare_here(i, j)
        if outcome == NO_MATCH and request["plan"] != "pairs":
            answers.write(".\n")
            answers.flush()
        else:
            seconds = time.perf_counter() - started
            say(answers, [i, j, {**asdict(outcome), "seconds": seconds}])
        return outcome

    run_plan(request["plan"], request["groups"], compare)
    answers.write("end\n")
    answers.flush()


def _comparing(
    crystals: Sequence[PlainCrystal], tolerances: Tolerances, *, rms: bool, disorder: bool, rms_of_match: bool
) -> Compare:
    """Comparison of crystals by position, each reduced at its first use only."""

    from euhedral.evaluate.matcher import distance
    from euhedral.evaluate.reduction import ReducedCrystal, reduce_crystal

    @functools.cache
    def reduced(i: int) -> ReducedCrystal | str:
        crystal = crystals[i]
        try:
            return reduce_crystal(crystal.cell, crystal.frac, crystal.species)
        # Whatever the reduction raises on an odd cell is the outcome of all its pairs, with its reason.
        except Exception as error:
            return _in_words(error)

    def compare(i: int, j: int) -> Comparison:
        first, second = reduced(i), reduced(j)
        for problem in (first, second):
            if isinstance(problem, str):
                return Comparison(matched=False, reason=problem)
        assert not isinstance(first, str) and not isinstance(second, str)
        try:
            value = distance(first, second, tolerances, rms=rms)
            if value is None and disorder:
                from euhedral.evaluate.disorder import match_disordered

                if match_disordered(crystals[i], crystals[j], tolerances):
                    return Comparison(matched=True)
            if value is not None and rms_of_match:
                return Comparison(matched=True, rms=distance(first, second, tolerances, rms=True))
        except Exception as error:
            return Comparison(matched=False, reason=_in_words(error))
        return NO_MATCH if value is None else Comparison(matched=True, rms=value if rms else None)

    return compare


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
