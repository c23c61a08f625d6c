"""Relaxation in processes that are ended when a potential hangs, and replaced when one dies.

A process says which crystals each call of its potential is about, which also shows that it is alive. Where a call does not
come back in time or takes the process with it, the crystals of that call are relaxed again one by one, so that only the
one at fault ends badly.
"""

from __future__ import annotations

import math
import pickle
import queue
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import Crew
from euhedral.errors import ConfigError, EuhedralError
from euhedral.screen.ase_potential import make_potential
from euhedral.screen.relax_loop import RelaxLoop
from euhedral.screen.relaxation import Outcome, RelaxConfig, RelaxedCrystal

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential

PARTS_PER_WORKER = 6
"""Parts that crystals are divided into for each process, so that none is left with much at the end."""
MAX_PART = 256
"""Crystals in a part at most."""


def relax_in_processes(
    crystals: CrystalBatch,
    potential: Any,
    config: RelaxConfig,
    *,
    workers: int,
    on_done: Callable[[RelaxedCrystal], None],
) -> str:
    """Relax crystals in `workers` processes; `on_done` gets each as it ends, in this thread. Gives the potential's name.

    Raises:
        ConfigError: if the potential cannot be copied to a process.
        EuhedralError: if processes cannot be started, or the potential cannot be made in them.
    """
    if not len(crystals):
        return make_potential(potential).name
    servant = _Servant(potential, config)
    try:
        pickle.dumps(servant)
    # Any object may refuse to be copied in its own way.
    except Exception as error:
        raise ConfigError(
            f"the potential cannot be copied to other processes ({error}); give its name, or a function of a module "
            "that makes it, or use workers=0"
        ) from error
    size = min(MAX_PART, math.ceil(len(crystals) / (PARTS_PER_WORKER * workers)))
    parts = [range(start, min(start + size, len(crystals))) for start in range(0, len(crystals), size)]
    heard: queue.SimpleQueue[RelaxedCrystal | str | BaseException] = queue.SimpleQueue()
    name, left = "", len(crystals)
    with Crew(partial(Worker, servant.relax, streams=True, prepare=servant.prepare), min(workers, len(parts))) as crew:
        for part in parts:
            crew.submit(partial(_relax_part, part=part, crystals=crystals, seconds=config.max_seconds, tell=heard.put))
        while left:
            item = heard.get()
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, str):
                name = item
            else:
                left -= 1
                on_done(item)
    return name


class _Servant:
    """What a process does: makes the potential once, and relaxes what it is asked to."""

    def __init__(self, given: Any, config: RelaxConfig) -> None:
        self._given, self._config = given, config
        self._potential: Potential | None = None
        self._error: EuhedralError | None = None

    def prepare(self) -> None:
        """Make the potential; an error is kept for the first request, which can tell it."""
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        try:
            self._potential = make_potential(self._given)
        except EuhedralError as error:
            self._error = error

    def relax(self, request: Sequence[tuple[int, CrystalBatch]], say: Callable[[Any], None]) -> None:
        """Say the potential's name, the crystals of each call before it, and each crystal that has ended."""
        if self._potential is None:
            raise self._error or EuhedralError("the potential was not made")
        say(self._potential.name)
        RelaxLoop(self._potential, self._config).run(request, say, lambda indices: say(tuple(indices)))


def _relax_part(
    worker: Worker,
    *,
    part: Sequence[int],
    crystals: CrystalBatch,
    seconds: float,
    tell: Callable[[RelaxedCrystal | str | BaseException], None],
) -> None:
    """Have a part relaxed, and what its process could not finish again; exceptions are told too."""
    parts = [list(part)]
    try:
        while parts:
            indices = parts.pop(0)
            attempt = _Attempt(tell)
            try:
                worker.ask([(i, crystals[i]) for i in indices], seconds, attempt.hear)
            except Unanswered as failure:
                if failure.error is not None:
                    raise failure.error from failure
                pending = [i for i in indices if i not in attempt.ended]
                suspects = [i for i in pending if i in attempt.called] or pending
                if len(suspects) == 1:
                    (index,) = suspects
                    outcome: Outcome = "time limit" if failure.late else "failed"
                    tell(_lost(index, crystals[index], outcome, f"the potential gave no answer: {failure}"))
                else:
                    parts += [[i] for i in suspects]
                if rest := [i for i in pending if i not in suspects]:
                    parts.insert(0, rest)
    # The thread that waits for all raises it.
    except BaseException as error:
        tell(error)


class _Attempt:
    """What a process has said about the part that it was asked to relax."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self.ended: set[int] = set()
        self.called: tuple[int, ...] = ()
        self._tell = tell

    def hear(self, item: RelaxedCrystal | str | tuple[int, ...]) -> None:
        if isinstance(item, tuple):
            self.called = item
            return
        if isinstance(item, RelaxedCrystal):
            self.ended.add(item.index)
        self._tell(item)


def _lost(index: int, crystal: CrystalBatch, outcome: Outcome, reason: str) -> RelaxedCrystal:
    return RelaxedCrystal(
        index=index,
        crystal=crystal.to("cpu").to(torch.float64),
        energy_per_atom=math.nan,
        start_energy_per_atom=math.nan,
        largest_force=math.nan,
        stress_gpa=torch.full((3, 3), torch.nan, dtype=torch.float64),
        steps=0,
        seconds=math.nan,
        outcome=outcome,
        reason=reason,
        rmsd=0.0,
    )
