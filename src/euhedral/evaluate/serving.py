"""The worker side of `comparison`: the outcomes of one task after the other."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from euhedral.data.worker_process import reason_of
from euhedral.evaluate.comparison import (
    NO_MATCH,
    Compare,
    Comparison,
    Outcomes,
    PlainCrystal,
    Task,
    Tolerances,
    run_plan,
)


def prepare() -> None:
    """Load what comparisons need, so that the time limit of the first pair does not pay for it."""
    import pymatgen.core.structure_matcher  # noqa: F401
    import scipy.optimize  # noqa: F401

    from euhedral.evaluate import matcher, reduction  # noqa: F401


def compare_task(
    request: tuple[Task, Outcomes],
    tolerances: Tolerances,
    decide: Callable[[tuple[int, int, Comparison] | None], object],
) -> None:
    """Run the plan of a task from where its outcomes end, and call `decide` as `Outcomes.note` takes it for each pair."""
    task, known = request
    passed = 0
    compare_here = _comparing(
        task.crystals, tolerances, rms=task.rms, disorder=task.disorder, rms_of_match=task.rms_of_match
    )

    def compare(i: int, j: int) -> Comparison:
        nonlocal passed
        if passed < known.decided:
            passed += 1
            return known[i, j]
        started = time.perf_counter()
        outcome = compare_here(i, j)
        if outcome == NO_MATCH and task.plan != "pairs":
            decide(None)
        else:
            decide((i, j, replace(outcome, seconds=time.perf_counter() - started)))
        return outcome

    run_plan(task.plan, task.groups, compare)


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
            return reason_of(error)

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
            return Comparison(matched=False, reason=reason_of(error))
        return NO_MATCH if value is None else Comparison(matched=True, rms=value if rms else None)

    return compare
