import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from catalog.funnels import TOY, add_run, crystals_of_pairs, rows_of, toy_funnel
from euhedral.catalog import screening
from euhedral.catalog.database import Catalogue
from euhedral.catalog.screening import funnel, walk
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, DataError, EuhedralError, MismatchError
from euhedral.screen import stages as registry
from euhedral.screen.hull_stage import HullConfig, HullStage
from euhedral.screen.novelty_stage import NoveltyConfig, NoveltyStage
from euhedral.screen.relax_stage import RelaxStage, RelaxStageConfig
from euhedral.screen.stage import Column, Stage, StageRecord
from euhedral.screen.synthesis_stage import SynthesisConfig, SynthesisStage
from screen.potentials import DIES, HANGS, RAISES, SAYS_NOTHING, Moody


def test_crystals_walk_until_a_stage_stops_them_and_a_bad_one_stops_alone(tmp_path: Path):
    crystals = crystals_of_pairs(6, first=(RAISES, SAYS_NOTHING))
    crystals = CrystalBatch.concat([crystals, crystals[5]])
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals)
        told: list[tuple[str, int, int]] = []
        alive = walk(catalogue, run, toy_funnel(tmp_path), progress=lambda *state: told.append(state))
        assert alive == [2, 3, 4, 5]
        steps = {step.stage: step for step in funnel(catalogue, run)}
        assert steps["prefilter"].outcomes == {"passed": 6, "rejected": 1}
        assert steps["relax"].outcomes == {"failed": 2, "passed": 4} and steps["relax"].given == 6
        assert steps["hull"].given == steps["novelty"].passed == 4
        assert told[-1] == ("novelty", 4, 4)
        values = catalogue.values(run)
        assert values[6]["duplicate_of"] == 5 and "energy_per_atom" not in values[0]
        assert all("unique" in values[i] and "e_above_hull" in values[i] for i in alive)
        reasons = {(index, stage): reason for index, stage, _, reason in catalogue.failures(run)}
        assert "no idea about lithium" in reasons[0, "relax"] and "nan" in reasons[1, "relax"]
        assert float(catalogue.crystals(run, [2]).volume) != pytest.approx(float(crystals[2].volume), rel=1e-4)


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(4))
        first = walk(catalogue, run, toy_funnel(tmp_path))
        monkeypatch.setattr(Moody, "predict", lambda *_, **__: pytest.fail("it was relaxed again"))
        assert walk(catalogue, run, toy_funnel(tmp_path)) == first


def test_what_is_missing_is_told_before_anything_is_relaxed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Moody, "predict", lambda *_, **__: pytest.fail("it was relaxed"))
    for stage in (HullStage(HullConfig(reference="none.csv")), NoveltyStage(NoveltyConfig(known="none.cif"))):
        with Catalogue(tmp_path / stage.name) as catalogue:
            run = add_run(catalogue, crystals_of_pairs(3))
            with pytest.raises(DataError, match=r"none\."):
                walk(catalogue, run, [*toy_funnel(tmp_path)[:2], stage])
            assert not catalogue.stages(run)


@pytest.mark.parametrize(
    ("hull", "said"),
    [
        (HullConfig(), "energies of 'screen.potentials:Moody' are energies of is not known"),
        (HullConfig(energy_method=TOY), "differ in model, functional"),
        (SynthesisConfig(), "are energies of is not known"),
    ],
)
def test_energies_that_fit_no_hull_are_refused_before_anything_is_relaxed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hull: HullConfig | SynthesisConfig, said: str
):
    monkeypatch.setattr(Moody, "predict", lambda *_, **__: pytest.fail("it was relaxed"))
    stage = HullStage(hull) if isinstance(hull, HullConfig) else SynthesisStage(hull)
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(3))
        with pytest.raises(MismatchError, match=said):
            walk(catalogue, run, [*toy_funnel(tmp_path)[:2], stage])
        assert not catalogue.stages(run)


def test_a_calculator_that_is_not_there_is_told_before_anything_works(tmp_path: Path):
    prefilter, *_ = toy_funnel(tmp_path)
    for calculator, said in (("no.such:thing", "cannot be imported"), (".x:y", "cannot be imported")):
        relax = RelaxStage(RelaxStageConfig(calculator=calculator))
        with Catalogue(tmp_path / calculator.replace(":", "_")) as catalogue:
            run = add_run(catalogue, crystals_of_pairs(3))
            with pytest.raises(EuhedralError, match=said):
                walk(catalogue, run, [prefilter, relax])
            assert not catalogue.stages(run)


def test_other_settings_are_refused_unless_they_are_to_replace_the_old_ones(tmp_path: Path):
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(3))
        walk(catalogue, run, toy_funnel(tmp_path))
        with pytest.raises(ConfigError, match=r"relax with other settings \(max_steps\)"):
            walk(catalogue, run, toy_funnel(tmp_path, max_steps=0))
        assert walk(catalogue, run, toy_funnel(tmp_path, max_steps=0), redo=True) == []
        steps = {step.stage: step for step in funnel(catalogue, run)}
        assert steps["relax"].outcomes == {"step limit": 3} and steps["hull"].given == 0


def test_a_stage_that_found_nothing_is_bound_to_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(3))
        prefilter, broken, *_ = toy_funnel(tmp_path, max_steps=1)

        def refuse(*_: object, **__: object) -> None:
            raise EuhedralError("no such weights")

        with monkeypatch.context() as patched:
            patched.setattr(type(broken), "run", refuse)
            with pytest.raises(EuhedralError, match="no such weights"):
                walk(catalogue, run, [prefilter, broken])
        assert walk(catalogue, run, toy_funnel(tmp_path)) == [0, 1, 2]


def test_a_stage_without_what_it_needs_and_one_that_comes_too_late_are_refused(tmp_path: Path):
    prefilter, relax, hull, _ = toy_funnel(tmp_path)
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(2))
        with pytest.raises(ConfigError, match="hull needs energy_per_atom"):
            walk(catalogue, run, [hull])
        walk(catalogue, run, [relax])
        with pytest.raises(ConfigError, match="prefilter comes before relax"):
            walk(catalogue, run, [prefilter])
        assert walk(catalogue, run, [hull]) == [0, 1]


@dataclass(frozen=True, kw_only=True)
class _OddConfig:
    pass


class _Odd(Stage):
    """Raises at the second crystal, repeats the third, and forgets the last."""

    name = "odd"
    version = 1
    columns: Mapping[str, Column] = {"odd_value": Column(meaning="its atoms")}

    def run(self, crystals, earlier, *, workers) -> Iterator[StageRecord]:
        for i, crystal in enumerate(crystals):
            number = earlier[i]["index"]
            if number == 1:
                raise ZeroDivisionError("odd")
            if number == 3:
                return
            yield StageRecord(index=i, outcome="passed", values={"odd_value": len(crystal.species)})
            yield StageRecord(index=i, outcome="failed")


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Stage:
    table = {"odd": (f"{__name__}:_OddConfig", f"{__name__}:_Odd"), **registry.STAGES}
    monkeypatch.setattr(registry, "STAGES", table)
    return _Odd(_OddConfig())


def test_whatever_a_stage_does_there_is_one_record_a_crystal(tmp_path: Path, odd: Stage):
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(4))
        walk(catalogue, run, [odd])
        assert catalogue.outcomes(run, "odd") == {0: "passed", 1: "failed", 2: "passed", 3: "failed"}
        assert {index: reason for index, _, _, reason in catalogue.failures(run)}[1] == "ZeroDivisionError: odd"


def test_what_concerns_all_crystals_is_raised_and_what_came_before_it_is_kept(
    tmp_path: Path, odd: Stage, monkeypatch: pytest.MonkeyPatch
):
    def run_until(self, crystals, earlier, *, workers):
        yield StageRecord(index=0, outcome="passed")
        raise EuhedralError("no licence")

    monkeypatch.setattr(_Odd, "run", run_until)
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals_of_pairs(3))
        with pytest.raises(EuhedralError, match="no licence"):
            walk(catalogue, run, [odd])
        assert catalogue.outcomes(run, "odd") == {0: "passed"}


class Slow(Moody):
    """Takes a while, and notes what it is asked about."""

    log: Path

    def predict(self, batch, *, keys=None):
        time.sleep(0.004)
        with self.log.open("a") as file:
            file.writelines(f"{z}\n" for z in batch.species[batch.first_atom].tolist())
        return super().predict(batch, keys=keys)


def test_killed_at_any_moment_it_goes_on_with_none_lost_and_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Twenty processes are killed; processes are forked, since the import of torch in each would take a minute."""
    log = tmp_path / "log"
    monkeypatch.setattr(screening, "SECONDS_BETWEEN_COMMITS", 0.0)
    monkeypatch.setattr(Slow, "log", log, raising=False)
    monkeypatch.setattr(RelaxStage, "chunk", 4)
    crystals = crystals_of_pairs(16, first=(RAISES,))
    first_atoms = crystals.species[crystals.first_atom].tolist()
    prefilter, relax, hull, novelty = toy_funnel(tmp_path)
    slow = RelaxStage(replace(relax.config, calculator=f"{__name__}:Slow"))
    stages = [prefilter, slow, hull, novelty]

    def start(folder: Path) -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(
                    1
                )  # the threads of this process are not there after a fork, and would be waited for
                with Catalogue(folder) as catalogue:
                    walk(catalogue, add_run(catalogue, crystals), stages)
                status = 0
            finally:
                os._exit(status)
        return child

    def finished(folder: Path) -> set[str]:
        """First atoms of the crystals that are relaxed, as the log has them."""
        with Catalogue(folder) as catalogue:
            return {str(first_atoms[index]) for index in catalogue.outcomes(add_run(catalogue, crystals), "relax")}

    started = time.perf_counter()
    with Catalogue(tmp_path / "whole") as whole:
        run = add_run(whole, crystals)
        walk(whole, run, stages)
        expected = rows_of(whole, run)
    longest = 1.2 * (time.perf_counter() - started)
    random.seed(0)
    kills = folders = midway = tries = 0
    while kills < 20 or folders < 2:
        tries += 1
        assert tries <= 200, f"{kills} kills, and {folders} runs came to their end"
        folder = tmp_path / f"killed-{folders}"
        done = finished(folder)
        midway += 0 < len(done) < len(crystals)
        log.write_text("")
        child = start(folder)
        time.sleep(random.uniform(0.01, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert not done & set(log.read_text().split())
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        assert os.waitstatus_to_exitcode(status) == 0
        folders += 1
        with Catalogue(folder) as killed:
            assert len(killed.runs()) == 1 and rows_of(killed, 1) == expected
    assert midway, "no process was killed while some crystals were relaxed and others not"


def test_a_calculator_that_hangs_or_dies_is_an_outcome_of_its_crystal(tmp_path: Path):
    """Starts two processes and waits for the time limit."""
    crystals = crystals_of_pairs(4, first=(HANGS, DIES))
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals)
        assert walk(catalogue, run, toy_funnel(tmp_path, max_seconds=1.5)[1:2], workers=1) == [2, 3]
        assert catalogue.outcomes(run, "relax") == {0: "time limit", 1: "failed", 2: "passed", 3: "passed"}
        assert all("gave no answer" in reason for _, _, _, reason in catalogue.failures(run))
