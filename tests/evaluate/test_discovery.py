from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euhedral.errors import ConfigError
from euhedral.evaluate.discovery import UNKNOWN_ENERGY, Discovery, judge_discovery

ENERGIES = [-0.02, 0.0, 0.05, 0.1, 0.1001, math.nan, -0.5, 0.02]
UNIQUE = [True, True, True, False, True, True, True, True]
NOVEL = [True, False, True, True, True, True, True, False]


def judged(**changes: object) -> Discovery:
    given = {"e_above_hull": ENERGIES, "unique": UNIQUE, "novel": NOVEL, **changes}
    return judge_discovery(given.pop("e_above_hull"), given.pop("unique"), given.pop("novel"), **given)  # type: ignore[arg-type]


def test_each_stage_of_a_hand_made_set() -> None:
    found = judged()
    assert found.stable.tolist() == [True, True, False, False, False, False, True, False]
    assert found.metastable.tolist() == [True, True, True, True, False, False, True, True]
    assert found.sun_mask.tolist() == [True, False, False, False, False, False, True, False]
    assert found.msun_mask.tolist() == [True, False, True, False, False, False, True, False]
    assert (found.sun, found.msun) == (2 / 8, 3 / 8)
    assert found.stages == {
        "energy known": 7 / 8,
        "stable": 3 / 8,
        "metastable": 6 / 8,
        "unique": 7 / 8,
        "novel": 6 / 8,
        "unique and novel": 5 / 8,
        "stable and unique": 3 / 8,
        "metastable and unique": 5 / 8,
        "stable, unique and novel": 2 / 8,
        "metastable, unique and novel": 3 / 8,
    }


def test_an_unknown_energy_has_a_reason_and_is_never_stable() -> None:
    reasons: list[str | None] = [None] * 8
    reasons[0] = "relaxation did not converge"
    found = judged(reasons=reasons, e_above_hull=[*ENERGIES[:6], -math.inf, ENERGIES[7]])
    assert found.reasons[0] == "relaxation did not converge" and math.isnan(found.e_above_hull[0])
    assert found.reasons[5] == found.reasons[6] == UNKNOWN_ENERGY
    assert not found.stable[[0, 5, 6]].any() and not found.metastable[[0, 5, 6]].any()
    assert found.failures == {UNKNOWN_ENERGY: 2, "relaxation did not converge": 1}
    assert found.sun == 0.0


def test_the_input_is_left_as_it_was() -> None:
    energies = np.array([0.0, math.inf])
    judge_discovery(energies, [True, True], [True, True])
    assert energies.tolist() == [0.0, math.inf]


@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_stages_only_lose_crystals_and_order_does_not_matter(crystals: list[tuple[float, bool, bool]]) -> None:
    energies, unique, novel = (list(column) for column in zip(*crystals, strict=True))
    found = judge_discovery(energies, unique, novel)
    assert found.sun <= found.msun <= found.stages["metastable and unique"] <= found.stages["metastable"]
    assert found.sun <= found.stages["stable and unique"] <= found.stages["stable"] <= found.stages["metastable"]
    turned = judge_discovery(energies[::-1], unique[::-1], novel[::-1])
    assert (turned.sun, turned.msun) == (found.sun, found.msun)


def test_other_thresholds() -> None:
    assert judged(stable_at=0.1).sun == judged().msun
    assert judged(stable_at=-1.0, metastable_at=-0.1).msun == 1 / 8


def test_no_crystals() -> None:
    nothing = judge_discovery([], [], [])
    assert math.isnan(nothing.sun) and math.isnan(nothing.stages["stable"]) and nothing.failures == {}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="one entry a crystal"):
        judged(unique=UNIQUE[:7])
    with pytest.raises(ConfigError, match="one entry a crystal"):
        judged(reasons=[None])
    with pytest.raises(ConfigError, match="one entry a crystal"):
        judge_discovery([[0.0]], [True], [True])
    with pytest.raises(ConfigError, match="'novel' must be one boolean"):
        judged(novel=[1] * 8)
    with pytest.raises(ConfigError, match="must not be above"):
        judged(stable_at=0.2)
    with pytest.raises(ConfigError, match="must not be above"):
        judged(stable_at=math.nan)
