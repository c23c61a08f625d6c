"""The walk of a run through the stages of the funnel; whatever was found out is in the catalogue within a second or so.

A process that is killed and started again with the same stages goes on at the first crystal without a result: results are
committed as a stage gives them, and a stage that compares crystals with each other commits all of its results at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from euhedral.errors import ConfigError, EuhedralError
from euhedral.screen import stages as registry
from euhedral.screen.stage import FAILED, Stage, StageRecord, Value

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
    workers: int = 0,
    redo: bool = False,
    progress: Progress | None = None,
) -> list[int]:
    """Take a run through stages; what it has been through already is not done again.

    Args:
        catalogue: that has the run.
        run: its id.
        stages: in the order of the funnel.
        workers: processes of each stage; 0 works in this one.
        redo: forget a stage whose settings or version are not those of its results, and all after it.
        progress: called with stage, crystals done and crystals that came to it.

    Returns:
        Indices of the crystals that no stage stopped.

    Raises:
        ConfigError: where a stage lacks what an earlier one finds, has other settings than its results, or comes before one
            that the run has been through.
        EuhedralError: what a stage raises because of all crystals; what was found before it is kept.
    """
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
            _finish_stage(catalogue, run, stage, alive, workers, progress)
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
        if before is None:
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
    catalogue: Catalogue, run: int, stage: Stage, alive: Sequence[int], workers: int, progress: Progress | None
) -> None:
    done = catalogue.outcomes(run, stage.name)
    todo = [index for index in alive if index not in done]
    count = len(alive) - len(todo)

    def tell() -> None:
        if progress is not None:
            progress(stage.name, count, len(alive))

    tell()
    if stage.together and todo:
        catalogue.record(run, stage.name, stage.version, list(_records(catalogue, run, stage, alive, workers)))
        count = len(alive)
        tell()
        return
    for start in range(0, len(todo), stage.chunk):
        waiting: list[StageRecord] = []
        committed = time.monotonic()
        try:
            for record in _records(catalogue, run, stage, todo[start : start + stage.chunk], workers):
                waiting.append(record)
                if time.monotonic() - committed > SECONDS_BETWEEN_COMMITS or len(waiting) >= MOST_UNCOMMITTED:
                    catalogue.record(run, stage.name, stage.version, waiting)
                    count += len(waiting)
                    waiting, committed = [], time.monotonic()
                    tell()
        finally:
            catalogue.record(run, stage.name, stage.version, waiting)
            count += len(waiting)
            tell()


def _records(
    catalogue: Catalogue, run: int, stage: Stage, indices: Sequence[int], workers: int
) -> Iterator[StageRecord]:
    """One record for each crystal, by its index in the run, whatever the stage does."""
    crystals = catalogue.crystals(run, indices)
    earlier: list[dict[str, Value]] = [
        {**values, "index": index} for index, values in zip(indices, catalogue.values(run, indices), strict=True)
    ]
    left = dict.fromkeys(range(len(indices)))

    def taken(record: StageRecord, position: int) -> StageRecord:
        left.pop(position)
        return replace(record, index=indices[position])

    try:
        for record in stage.run(crystals, earlier, workers=workers):
            if record.index in left:
                yield taken(record, record.index)
    except (EuhedralError, MemoryError):
        raise
    # A stage should not raise for one crystal. Where it does, each of those that are left is given to it alone, and those
    # that are compared with each other have all failed.
    except Exception as error:
        for position in list(left):
            alone = _failed(position, error) if stage.together else _alone(stage, crystals, earlier, position, workers)
            yield taken(alone, position)
    for position in list(left):
        yield taken(StageRecord(index=position, outcome=FAILED, reason="the stage said nothing about it"), position)


def _alone(stage: Stage, crystals, earlier, position: int, workers: int) -> StageRecord:
    try:
        return next(iter(stage.run(crystals[position], [earlier[position]], workers=workers)))
    except (EuhedralError, MemoryError):
        raise
    except Exception as error:
        return _failed(position, error)


def _failed(position: int, error: Exception) -> StageRecord:
    return StageRecord(index=position, outcome=FAILED, reason=f"{type(error).__name__}: {error}"[:300])


def _survivors(catalogue: Catalogue, run: int, name: str, alive: Sequence[int]) -> list[int]:
    """Crystals that go on; one without a result goes on too, where the stage was left out this time."""
    stops = registry.lookup(name)[1].stops
    outcomes = catalogue.outcomes(run, name)
    return [index for index in alive if outcomes.get(index) not in stops]


def _plain(config: Mapping[str, object]) -> dict[str, object]:
    """As JSON gives it back, to be compared with what the catalogue has."""
    import json

    return json.loads(json.dumps(config))
