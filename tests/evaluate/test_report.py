from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from euhedral.errors import DataError, OutputError
from euhedral.evaluate.report import (
    Anchor,
    Distribution,
    Failure,
    Figure,
    Parity,
    ProtocolResult,
    Report,
    read_metrics,
    write_metrics,
)


def example() -> Report:
    figure = Figure(
        name="validity.both", value=0.9, low=0.8, high=0.95, samples=20, note="x", better="higher", share=True
    )
    empty = Figure(name="match.rmse", value=None, samples=20, note="nothing matched", better="lower")
    result = ProtocolResult(
        protocol="cdvae",
        version="1.0",
        figures=(figure, empty),
        settings={"validity": {"rule": "cdvae", "list": [1, 2]}},
        anchors=(Anchor(system="CDVAE", figure="validity.both", value=0.86, source="CDVAE"),),
        left_out={"novel": "needs known crystals"},
    )
    return Report(
        samples=20,
        references=0,
        results=(result,),
        failures=(Failure(index=3, stage="read", reason="no cell"),),
        distributions=(
            Distribution(name="density", title="Density", unit="g/cm³", edges=(0.0, 1.0, 2.0), samples=(3, 4)),
            Distribution(name="elements", title="Elements", labels=("H", "O"), samples=(1, 2), reference=(0, 2)),
        ),
        parities=(Parity(name="v", title="Volume", wanted=(1.0, 2.0), obtained=(1.5, 2.5)),),
        sources={"samples": "x.csv"},
        versions={"python": "3.11"},
        seconds={"validity": 0.1},
        created="2025-01-01T00:00:00+00:00",
    )


def test_a_report_survives_json() -> None:
    report = example()
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["schema"] == "euhedral-metrics" and document["schema_version"] == 1
    assert Report.from_dict(document) == report


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    write_metrics(example(), tmp_path / "metrics.json")
    assert read_metrics(tmp_path) == read_metrics(tmp_path / "metrics.json") == example()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_numbers_that_are_not_finite_become_none() -> None:
    figure = Figure(name="x", value=math.nan, low=-math.inf, high=2, samples=0)
    assert figure.value is None and figure.low is None and figure.high == 2.0
    assert figure.text(figure.value) == "–" and figure.interval_text == "–"


def test_figures_for_people() -> None:
    share = example()["validity.both"]
    assert share.text(share.value) == "90.00 %" and share.interval_text == "80.00 to 95.00 %"
    density = Figure(name="d", value=0.12345, low=0.1, high=0.2, samples=1, unit="g/cm³")
    assert density.text(density.value) == "0.1235 g/cm³" and density.interval_text == "0.1 to 0.2 g/cm³"


def test_figures_are_found_by_name() -> None:
    report = example()
    assert report["match.rmse"].value is None
    assert report.results[0].figure("validity.both").value == 0.9
    with pytest.raises(KeyError, match=r"it has: match\.rmse, validity\.both"):
        report["validity.nothing"]
    with pytest.raises(KeyError, match="no figure of cdvae"):
        report.results[0].figure("x")


def test_a_distribution_has_one_count_a_bin() -> None:
    with pytest.raises(ValueError, match="2 bins"):
        Distribution(name="x", title="x", edges=(0.0, 1.0, 2.0), samples=(1,))
    with pytest.raises(ValueError, match="2 bins"):
        Distribution(name="x", title="x", labels=("a", "b"), samples=(1, 2), reference=(1,))


def edited(**changes: Any) -> dict[str, Any]:
    return {**example().to_dict(), **changes}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "no metrics"),
        ({}, "no metrics"),
        (edited(schema_version=2), "schema version 2"),
        ({k: v for k, v in example().to_dict().items() if k != "samples"}, "damaged or incomplete"),
        (edited(failures=[{"index": 1}]), "damaged or incomplete"),
        (edited(results=[{"protocol": "cdvae"}]), "damaged or incomplete"),
        (edited(distributions=[{"name": "x", "title": "x", "samples": [1], "surplus": 1}]), "damaged or incomplete"),
    ],
)
def test_other_documents_are_refused(document: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Report.from_dict(document)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no report"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(DataError, match=r"metrics\.json'"):
        read_metrics(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        write_metrics(example(), tmp_path / "missing" / "metrics.json")
