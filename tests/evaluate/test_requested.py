from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import euhedral
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.samples import from_batch
from euhedral.errors import ConfigError, DataError
from euhedral.evaluate.report import Report
from euhedral.evaluate.requested import (
    Requested,
    Target,
    requested_of_run,
    sample_values,
    unsteered_values,
    with_tolerances,
)


def metals() -> CrystalBatch:
    """Copper simple cubic (221), stretched (123), and stretched a little (221 at 0.1 Å, 123 at 0.01 Å)."""
    cells = [torch.diag(torch.tensor([3.0, 3.0, c], dtype=torch.float64)) for c in (3.0, 4.0, 3.02)]
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), [29]) for cell in cells])


def judged(requested: Requested | None, **options: Any) -> Report:
    return euhedral.evaluate(metals(), requested=requested, cache=None, potential=False, **options)


def test_a_space_group_is_met_exactly_or_by_a_supergroup_at_each_tolerance() -> None:
    report = judged(Requested(space_group=123), protocol="request")
    assert report["request.space_group_at_0.01"].value == pytest.approx(2 / 3)
    assert report["request.supergroup_at_0.01"].value == pytest.approx(1 / 3)
    assert report["request.space_group_at_0.1"].value == pytest.approx(1 / 3)
    assert report["request.supergroup_at_0.1"].value == pytest.approx(2 / 3)
    assert "--target" in report.results[0].left_out["targets"]
    # 123 is no supergroup of 221.
    assert judged(Requested(space_group=221), protocol="request")["request.supergroup_at_0.01"].value == 0


def test_errors_of_a_property_beside_an_unsteered_set() -> None:
    requested = Requested(targets={"band_gap": Target(value=2.0, tolerance=0.5)})
    report = judged(
        requested, values={"band_gap": [2.4, 1.0, math.nan]}, unsteered={"band_gap": [0.0, 2.0]}, protocol="request"
    )
    assert report["request.band_gap_mean"].value == pytest.approx(1.7)
    assert report["request.band_gap_mae"].value == pytest.approx(0.7)
    assert report["request.band_gap_within"].value == pytest.approx(1 / 3)  # the unknown one stays in the denominator
    assert report["request.band_gap_unsteered_mae"].value == pytest.approx(1.0)
    assert report["request.band_gap_unsteered_within"].value == pytest.approx(0.5)
    assert [(failure.index, failure.stage) for failure in report.failures] == [(2, "band_gap")]
    (drawn,) = [item for item in report.distributions if item.name == "band_gap"]
    assert sum(drawn.samples) == 2 and drawn.reference is not None and sum(drawn.reference) == 2


def test_without_a_tolerance_no_share_is_made_up() -> None:
    report = judged(Requested(targets={"x": Target(value=1.0)}), values={"x": [1.0, 1.0, 1.0]}, protocol="request")
    assert report["request.x_mae"].value == 0
    with pytest.raises(KeyError):
        report["request.x_within"]


def test_the_protocol_runs_beside_the_usual_one_where_something_was_asked_for() -> None:
    assert [result.protocol for result in judged(Requested(space_group=123)).results] == ["cdvae", "request"]
    assert [result.protocol for result in judged(None).results] == ["cdvae"]
    report = judged(Requested(targets={"x": Target(value=1.0)}))
    assert "--values" in report.results[1].left_out["targets"]


def test_a_run_says_what_it_was_asked_for(tmp_path: Path) -> None:
    request = {"space_group": 225, "properties": {"band_gap": 2.0, "ordering": "FM"}}
    (tmp_path / "summary.json").write_text(json.dumps({"request": request}))
    asked = requested_of_run(tmp_path)
    assert asked == Requested(space_group=225, targets={"band_gap": Target(value=2.0)})
    assert with_tolerances(asked, {"band_gap": 0.25}).targets["band_gap"].tolerance == 0.25
    assert not requested_of_run(tmp_path / "elsewhere") and not requested_of_run(metals())
    (tmp_path / "summary.json").write_text('{"request": {"properties": 3}}')
    with pytest.raises(DataError, match="not the summary of a run"):
        requested_of_run(tmp_path)


def test_values_from_tables_labels_and_arrays(tmp_path: Path) -> None:
    samples = from_batch(metals())
    (tmp_path / "gaps.csv").write_text("index,band_gap\n2,1.5\n0,0.5\n")
    found = sample_values(tmp_path / "gaps.csv", samples, ["band_gap"])
    np.testing.assert_array_equal(found["band_gap"], [0.5, np.nan, 1.5])
    np.testing.assert_array_equal(unsteered_values(tmp_path / "gaps.csv", ["band_gap"])["band_gap"], [1.5, 0.5])
    assert sample_values(None, samples, ["band_gap"]) == {} and unsteered_values(None, ["band_gap"]) == {}
    assert sample_values({"other": [1, 2, 3]}, samples, ["band_gap"]) == {}
    with pytest.raises(DataError, match="2 values of band_gap for 3 samples"):
        sample_values({"band_gap": [1, 2]}, samples, ["band_gap"])
    with pytest.raises(DataError, match="not numbers"):
        sample_values({"band_gap": ["wide", "2", "3"]}, samples, ["band_gap"])


def test_requests_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="1 to 230"):
        Requested(space_group=231)
    with pytest.raises(ConfigError, match="finite"):
        Target(value=math.inf)
    with pytest.raises(ConfigError, match="zero or more"):
        Target(value=1.0, tolerance=-1.0)
    with pytest.raises(ConfigError, match="no target"):
        with_tolerances(Requested(space_group=1), {"band_gap": 0.1})
