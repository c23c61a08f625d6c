from __future__ import annotations

import csv
import io

import pytest

from euhedral.contest.settings import ContestSettings
from euhedral.contest.standing import Standing, beats, ordered, to_csv, to_markdown
from euhedral.contest.trivial import RANDOM, TEMPLATE
from euhedral.errors import ConfigError
from euhedral.train.config import About, Recipe


def standing(name: str, rate: float | None, **changes: object) -> Standing:
    return Standing(name=name, figures={"match.rate": rate, "symmetry.p1": 0.25}, **changes)  # type: ignore[arg-type]


BASELINES = [standing(RANDOM, 0.02), standing(TEMPLATE, 0.2)]


@pytest.mark.parametrize(("rate", "expected"), [(0.3, "templates"), (0.2, "random"), (0.02, "neither"), (None, "")])
def test_what_is_beaten(rate: float | None, expected: str) -> None:
    assert beats(standing("one", rate), BASELINES) == expected


def test_nothing_is_said_without_both_baselines() -> None:
    assert beats(standing("one", 0.3), BASELINES[:1]) == ""
    assert beats(BASELINES[0], BASELINES) == ""


def test_the_best_stand_first_and_those_without_a_rate_last() -> None:
    names = [one.name for one in ordered([standing("none", None), standing("low", 0.0), *BASELINES])]
    assert names == [TEMPLATE, RANDOM, "low", "none"]


def test_json_and_back() -> None:
    one = standing("one", 0.3, problems=("training failed: x",), trained=100, training_seconds=4.0)
    assert Standing.from_json(one.to_json()) == one
    assert one.trained_per_second == 25.0


def test_tables() -> None:
    entrants = [*BASELINES, standing("one", 0.3, family="f", parameters=2_500_000, evaluations=7, problems=("p: why",))]
    lines = to_markdown(entrants).splitlines()
    assert lines[2].startswith("| one | 30.0 |  |  | templates |") and "| 25.0 | 2.50 | 7 |" in lines[2]
    assert lines[-1] == "- one: p: why"
    rows = list(csv.DictReader(io.StringIO(to_csv(entrants))))
    assert rows[0]["name"] == "one" and rows[0]["match.rate"] == "0.3" and rows[0]["problems"] == "p: why"
    assert rows[1]["match.rmse"] == ""


@pytest.mark.parametrize(
    ("own", "most", "steps", "evaluations"),
    [((1000, 2000), 200, 100, 200), ((7, 48), 200, 7, 48), ((1000, 2000), 0, 1000, 2000), ((0, 0), 200, 7, 0)],
)
def test_steps_are_cut_to_the_evaluations(own: tuple[int, int], most: int, steps: int, evaluations: int) -> None:
    recipe = Recipe(about=About(steps=own[0], evaluations=own[1]))
    settings = ContestSettings(evaluations=most)
    assert (settings.steps_of(recipe), settings.evaluations_of(recipe)) == (steps, evaluations)


@pytest.mark.parametrize("wrong", [{"minutes": 0.0}, {"minutes": float("nan")}, {"samples": 0}, {"evaluations": -1}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"must be (at least|a positive)"):
        ContestSettings(**wrong)  # type: ignore[arg-type]
