from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euhedral.errors import ConfigError
from euhedral.evaluate.steering import UNKNOWN_PROPERTY, steering, target_errors


def test_errors_of_one_target_for_all() -> None:
    found = target_errors([1.0, 1.5, math.nan, 3.0], 1.25, tolerance=0.25)
    assert found.errors[[0, 1, 3]].tolist() == [-0.25, 0.25, 1.75] and math.isnan(found.errors[2])
    assert found.within.tolist() == [True, True, False, False]
    assert found.mean_absolute_error == 0.75 and found.known == 3  # over the three that are known
    assert found.share_within == 0.5  # of all four
    assert found.reasons == (None, None, UNKNOWN_PROPERTY, None)


def test_a_target_for_each_crystal_and_a_reason() -> None:
    found = target_errors([1.0, 2.0], [1.0, 5.0], tolerance=0.0, reasons=[None, "no band gap"])
    assert found.within.tolist() == [True, False] and found.known == 1 and found.mean_absolute_error == 0.0
    assert found.reasons == (None, "no band gap")


def test_against_an_unsteered_set() -> None:
    found = steering([1.0, 1.1, 4.0, 0.9], 1.0, tolerance=0.2, unsteered=[1.0, 3.0, 7.0, math.nan])
    assert found.unsteered is not None
    assert (found.steered.share_within, found.unsteered.share_within, found.gain) == (0.75, 0.25, 3.0)
    assert found.unsteered.mean_absolute_error == pytest.approx(8 / 3)


def test_the_gain_at_its_edges() -> None:
    assert math.isnan(steering([1.0], 1.0, tolerance=0.1).gain)
    assert steering([1.0], 1.0, tolerance=0.1, unsteered=[9.0]).gain == math.inf
    assert math.isnan(steering([9.0], 1.0, tolerance=0.1, unsteered=[9.0]).gain)
    assert steering([9.0], 1.0, tolerance=0.1, unsteered=[1.0]).gain == 0.0
    assert math.isnan(steering([1.0], 1.0, tolerance=0.1, unsteered=[]).gain)


def test_nothing_known() -> None:
    found = target_errors([], 1.0, tolerance=1.0)
    assert math.isnan(found.mean_absolute_error) and math.isnan(found.share_within) and found.known == 0
    found = target_errors([math.inf], 1.0, tolerance=1.0)
    assert math.isnan(found.mean_absolute_error) and found.share_within == 0.0


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(-1e3, 1e3), st.floats(-10, 10))
def test_a_common_shift_changes_nothing(values: list[float], target: float, shift: float) -> None:
    plain = target_errors(values, target, tolerance=1.0)
    moved = target_errors(np.array(values) + shift, target + shift, tolerance=1.0)
    assert moved.errors == pytest.approx(plain.errors, abs=1e-9)
    assert plain.mean_absolute_error == pytest.approx(np.abs(np.array(values) - target).mean())


def test_what_does_not_fit_is_refused() -> None:
    for wrong in (([[1.0]], 1.0), ([1.0, 2.0], [1.0])):
        with pytest.raises(ConfigError, match="one target or one a crystal"):
            target_errors(*wrong, tolerance=1.0)
    with pytest.raises(ConfigError, match="one reason a crystal"):
        target_errors([1.0], 1.0, tolerance=1.0, reasons=[])
    with pytest.raises(ConfigError, match="not finite"):
        target_errors([1.0], math.nan, tolerance=1.0)
    for tolerance in (-0.1, math.nan):
        with pytest.raises(ConfigError, match="tolerance"):
            target_errors([1.0], 1.0, tolerance=tolerance)
