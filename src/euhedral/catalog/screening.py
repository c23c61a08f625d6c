"""The walk of a run through the stages of the funnel; whatever was found out is in the catalogue within a second or so.

A process that is killed and started again with the same stages goes on at the first crystal without a result: results are
committed as a stage gives them, and a stage that compares crystals with each other commits all of its results at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from euhedral.catalog.executors import Executor, InProcess
from euhedral.catalog.portions import Portion, records_of
from euhedral.errors import ConfigError
from euhedral.screen import stages as registry
from euhedral.screen.stage import Stage, StageRecord, Value

if TYPE_CHECKING:
    from euhedral.catalog.database import Catalogue

SECONDS_BETWEEN_COMMITS = 0.5
MOST_UNCOMMITTED = 256

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """What a stage did to a run.

    Attributes:
        stage: its name.
        given: crystals that came to it.
        outcomes: how many ended in each way.
        passed: crystals that go on.
        seconds: summed over crystals as the stage counts them; those that shared calls count the whole call each.
    """

    stage: str
    given: int
    outcomes: Mapping[str, int]
    passed: int
    seconds: float


def walk(
    catalogue: Catalogue,
    run: int,
    stages: Sequence[Stage],
    *,
    executor: Executor | None = None,
    workers: int = 0,
    redo: bool = False,
    progress: Progress | None = None,
) -> list[int]:
    """Take a run through stages; what it has been through already is not done again.

    Args:
        catalogue: that has the run.
        run: its id.
        stages: in the order of the funnel.
        executor: where stages work that do not compare crystals with each other; in this process where not given.
        workers: processes of this one, for each stage that works in it; 0 for none.
        redo: forget a stage whose settings or version are not those of its results, and all after it.
        progress: called with stage, crystals done and crystals that came to it.

    Returns:
        Indices of the crystals that no stage stopped.

    Raises:
        ConfigError: where a stage lacks what an earlier one finds, has other settings than its results, or comes before one
            that the run has been through.
        EuhedralError: what a stage raises because of all crystals; what was found before it is kept. What a stage's `check`
            finds missing, or energies that will not belong on the hull, is raised before any works.
    """
    foretold: dict[str, Value] = {}
    for stage in stages:
        stage.check(foretold)
        foretold.update(stage.foretold())
    recorded = _check(catalogue, run, stages, redo)
    chosen = {stage.name: stage for stage in stages}
    alive: list[int] | None = None
    for name in registry.in_order([*recorded, *chosen]):
        if alive is None:
            alive = sorted({*catalogue.unfinished(run, name), *catalogue.outcomes(run, name)})
        if name in chosen:
            stage = chosen[name]
            catalogue.add_stage(
                run, stage=name, version=stage.version, config=asdict(stage.config), columns=stage.columns
            )
            _finish_stage(catalogue, run, stage, alive, executor or InProcess(workers), workers, progress)
        alive = _survivors(catalogue, run, name, alive)
    return alive if alive is not None else catalogue.unfinished(run, "none")


def funnel(catalogue: Catalogue, run: int) -> list[FunnelStep]:
    """What each stage that the run has been through did to it, in order."""
    steps = []
    for found in catalogue.stages(run):
        stops = registry.lookup(found.stage)[1].stops
        steps.append(
            FunnelStep(
                stage=found.stage,
                given=sum(found.outcomes.values()),
                outcomes=found.outcomes,
                passed=sum(count for outcome, count in found.outcomes.items() if outcome not in stops),
                seconds=found.seconds,
            )
        )
    return steps


def _check(catalogue: Catalogue, run: int, stages: Sequence[Stage], redo: bool) -> list[str]:
    """Refuse what cannot be walked; names of the stages that the run has been through."""
    recorded = {found.stage: found for found in catalogue.stages(run)}
    for stage in stages:
        before = recorded.get(stage.name)
        if before is None or not before.outcomes:  # one that was announced and found nothing is bound to no settings
            continue
        config = _plain(asdict(stage.config))
        changed = sorted(key for key in {*config, *before.config} if config.get(key) != before.config.get(key))
        if before.version != stage.version:
            changed.append(f"version {before.version} is now {stage.version}")
        if not changed:
            continue
        if not redo:
            raise ConfigError(
                f"this run has been through {stage.name} with other settings ({', '.join(changed)}); choose another --out, or "
                "--redo to forget it and the stages after it"
            )
        catalogue.forget(run, stage.name)
        recorded = {found.stage: found for found in catalogue.stages(run)}
    order = registry.in_order([*recorded, *(stage.name for stage in stages)])
    last = max((order.index(name) for name in recorded), default=-1)
    for stage in stages:
        if stage.name not in recorded and order.index(stage.name) < last:
            raise ConfigError(
                f"{stage.name} comes before {order[last]}, which this run has been through without it; choose another --out"
            )
    available = {"index"}
    for name in order:
        known = next((stage for stage in stages if stage.name == name), None)
        if known is not None and (missing := [need for need in known.needs if need not in available]):
            raise ConfigError(
                f"stage {name} needs {', '.join(missing)}, which no earlier stage of this run finds; the stages of a funnel: "
                f"{', '.join(registry.names())}"
            )
        available |= set(registry.lookup(name)[1].columns)
    return list(recorded)


def _finish_stage(
    catalogue: Catalogue,
    run: int,
    stage: Stage,
    alive: Sequence[int],
    executor: Executor,
    workers: int,
    progress: Progress | None,
) -> None:
    done = catalogue.outcomes(run, stage.name)
    source = _Waiting(catalogue, run, [index for index in alive if index not in done])
    count = len(alive) - len(source)
    waiting: list[StageRecord] = []

    def keep() -> None:
        nonlocal count
        catalogue.record(run, stage.name, stage.version, waiting)
        count += len(waiting)
        waiting.clear()
        if progress is not None:
            progress(stage.name, count, len(alive))

    keep()
    if stage.together and len(source):
        waiting += records_of(stage, source.take(len(source)), workers=workers)
        keep()
        return
    committed = time.monotonic()
    with contextlib.closing(executor.run(stage, source)) as batches:
        try:
            for batch in batches:
                waiting += batch
                if time.monotonic() - committed > SECONDS_BETWEEN_COMMITS or len(waiting) >= MOST_UNCOMMITTED:
                    keep()
                    committed = time.monotonic()
        finally:
            keep()


class _Waiting:
    """Crystals of a run that a stage has no result of yet, read when they are taken."""

    def __init__(self, catalogue: Catalogue, run: int, indices: Sequence[int]) -> None:
        self._catalogue, self._run, self._indices = catalogue, run, indices
        self._taken = 0

    def __len__(self) -> int:
        return len(self._indices) - self._taken

    def take(self, count: int) -> Portion:
        """See `Source`."""
        indices = self._indices[self._taken : self._taken + count]
        self._taken += len(indices)
        values = self._catalogue.values(self._run, indices)
        return Portion(
            indices=indices,
            crystals=self._catalogue.crystals(self._run, indices),
            earlier=[{**found, "index": index} for index, found in zip(indices, values, strict=True)],
        )


def _survivors(catalogue: Catalogue, run: int, name: str, alive: Sequence[int]) -> list[int]:
    """Crystals that go on; one without a result goes on too, where the stage was left out this time."""
    stops = registry.lookup(name)[1].stops
    outcomes = catalogue.outcomes(run, name)
    return [index for index in alive if outcomes.get(index) not in stops]


def _plain(config: Mapping[str, object]) -> dict[str, object]:
    """As JSON gives it back, to be compared with what the catalogue has."""
    import json

    return json.loads(json.dumps(config))
