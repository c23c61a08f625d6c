import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import euhedral
from catalog.funnels import Greedy, GreedyConfig, add_run, crystals_of_pairs, rows_of, toy_funnel
from euhedral.catalog import executors
from euhedral.catalog.database import Catalogue
from euhedral.catalog.executors import DaskExecutor
from euhedral.catalog.portions import Portion
from euhedral.catalog.screening import walk
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import EuhedralError
from euhedral.screen.hull_stage import HullStage
from screen.potentials import DIES, HANGS, RAISES

if TYPE_CHECKING:
    from distributed import Client

SLOW = "catalog.funnels:Unhurried"


@pytest.fixture(scope="module")
def client() -> Iterator["Client"]:
    """Two processes on this machine."""
    from distributed import Client

    from euhedral.catalog.cluster import local_cluster

    with local_cluster(2) as cluster, Client(cluster) as client:
        yield client


def _allow_failures(client: "Client", number: int) -> None:
    client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", number))


def _same(found: list[dict], expected: list[dict]) -> bool:
    """Numbers within rounding, which depends on the crystals that share a call; all else exactly."""
    return len(found) == len(expected) and all(
        row.keys() == other.keys()
        and all(
            value == pytest.approx(other[key], rel=1e-9, abs=1e-9) if isinstance(value, float) else value == other[key]
            for key, value in row.items()
        )
        for row, other in zip(found, expected, strict=True)
    )


def test_a_worker_killed_in_the_midst_changes_nothing_in_the_catalogue(tmp_path: Path, client: "Client"):
    crystals = crystals_of_pairs(24, first=(RAISES,))
    stages = toy_funnel(tmp_path, calculator=SLOW)
    with Catalogue(tmp_path / "whole") as whole:
        run = add_run(whole, crystals)
        walk(whole, run, stages)
        expected = rows_of(whole, run)
    pids = client.run(os.getpid)
    killed: list[int] = []

    def kill_one(stage: str, done: int, total: int) -> None:
        if stage == "relax" and 0 < done < total and not killed:
            killed.append(next(iter(pids.values())))
            os.kill(killed[0], signal.SIGKILL)

    told: list[tuple[str, int, int]] = []
    with Catalogue(tmp_path / "killed") as catalogue:
        run = add_run(catalogue, crystals)
        walk(
            catalogue,
            run,
            toy_funnel(tmp_path, calculator=SLOW),
            executor=DaskExecutor(client),
            progress=lambda *state: (told.append(state), kill_one(*state)),
        )
        assert killed and _same(rows_of(catalogue, run), expected)
    assert [done for stage, done, _ in told if stage == "relax"][-1] == 24
    assert sum(1 for stage, done, _ in told if stage == "relax" and 0 < done < 24) > 1


def test_a_crystal_that_kills_its_workers_fails_and_takes_no_other_with_it(tmp_path: Path, client: "Client"):
    _allow_failures(client, 0)
    crystals = crystals_of_pairs(8, first=(RAISES, DIES))
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals)
        relax = toy_funnel(tmp_path)[1:2]
        assert walk(catalogue, run, relax, executor=DaskExecutor(client)) == list(range(2, 8))
        assert catalogue.outcomes(run, "relax") == {0: "failed", 1: "failed", **dict.fromkeys(range(2, 8), "passed")}
        reasons = {index: reason for index, _, _, reason in catalogue.failures(run)}
        assert "killed each worker" in reasons[1] and "killed" not in reasons[0]
    _allow_failures(client, 3)


def test_a_worker_that_hangs_is_started_again_and_its_crystal_has_its_time_limit(
    tmp_path: Path, client: "Client", monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(executors, "SECONDS_OF_GRACE", 2.0)
    told: list[str] = []
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(4, first=(HANGS,)))
        relax = toy_funnel(tmp_path, max_seconds=1.0)[1:2]
        assert walk(catalogue, run, relax, executor=DaskExecutor(client, tell=told.append)) == [1, 2, 3]
        assert catalogue.outcomes(run, "relax")[0] == "time limit"
    assert any("hangs" in text for text in told)


def test_what_concerns_all_crystals_is_raised_here(tmp_path: Path, client: "Client"):
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(4))
        relax = toy_funnel(tmp_path, calculator="no.such:Module")[1:2]
        with pytest.raises(EuhedralError, match="cannot be imported"):
            walk(catalogue, run, relax, executor=DaskExecutor(client))
        assert not catalogue.outcomes(run, "relax")


class _Trivial:
    """Many crystals, and how many portions were under way at most."""

    def __init__(self, number: int) -> None:
        self.left, self.first, self.most = number, crystals_of_pairs(1), 0
        self.out: dict[int, range] = {}
        self.sizes: list[int] = []

    def __len__(self) -> int:
        return self.left

    def take(self, count: int) -> Portion:
        count = min(count, self.left)
        indices = range(self.left - count, self.left)
        self.left -= count
        self.out.update((index, indices) for index in indices)
        self.most = max(self.most, len(set(self.out.values())))
        self.sizes.append(count)
        return Portion(
            indices=indices,
            crystals=CrystalBatch.concat([self.first] * count),
            earlier=[{"index": index, "calculator": "toy", "energy_per_atom": -20.0} for index in indices],
        )


def test_few_portions_are_under_way_and_they_grow(tmp_path: Path, client: "Client"):
    source, found = _Trivial(2000), []
    for records in DaskExecutor(client).run(toy_funnel(tmp_path)[2], source):
        for record in records:
            del source.out[record.index]
        found += records
    assert sorted(record.index for record in found) == list(range(2000))
    assert all(record.outcome == "passed" for record in found)
    assert source.most <= 2 * executors.PORTIONS_PER_THREAD
    assert source.sizes[0] == 1 and max(source.sizes) == 256 and source.sizes[-1] < 256


def test_a_reference_is_found_from_any_folder(tmp_path: Path, client: "Client", monkeypatch: pytest.MonkeyPatch):
    stage = toy_funnel(tmp_path)[2]
    monkeypatch.chdir(tmp_path)
    relative = HullStage(replace(stage.config, reference="reference.csv"))
    found = [record for records in DaskExecutor(client).run(relative, _Trivial(3)) for record in records]
    assert [record.outcome for record in found] == ["passed"] * 3


def test_what_has_not_the_memory_is_tried_crystal_by_crystal(client: "Client"):
    found = [record for records in DaskExecutor(client).run(Greedy(GreedyConfig()), _Trivial(40)) for record in records]
    failed = {record.index: record.reason for record in found if record.outcome == "failed"}
    assert len(found) == 40 and failed == {5: "memory ran out: no room"}


def test_a_stage_that_the_workers_do_not_have_is_told(client: "Client", monkeypatch: pytest.MonkeyPatch):
    here = ModuleType("only_here")
    here.Missing = type("Missing", (Greedy,), {"__module__": "only_here"})  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "only_here", here)
    with pytest.raises(EuhedralError, match=r"could not run stage greedy.*only_here.*same packages"):
        list(DaskExecutor(client).run(here.Missing(GreedyConfig()), _Trivial(3)))


def test_another_release_on_the_workers_is_refused(tmp_path: Path, client: "Client"):
    client.run(lambda: setattr(__import__("euhedral"), "__version__", "0.0.0"))
    try:
        with pytest.raises(EuhedralError, match=r"a worker has euhedral 0\.0\.0"):
            list(DaskExecutor(client).run(toy_funnel(tmp_path)[2], _Trivial(3)))
    finally:
        client.run(lambda version: setattr(__import__("euhedral"), "__version__", version), euhedral.__version__)
