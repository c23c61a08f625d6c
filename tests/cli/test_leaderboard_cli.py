from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from euhedral.cli.app import main
from euhedral.cli.leaderboard import collect, figure_names, to_csv, to_json, to_markdown
from euhedral.errors import ConfigError, DataError
from euhedral.evaluate.report import Figure, ProtocolResult, Report, write_metrics


def result(rate: float | None, rmse: float, *, protocol: str = "csp", version: str = "1.0") -> ProtocolResult:
    figures = (
        Figure(name="match.rate", value=rate, low=0.1, high=0.9, samples=10, better="higher", share=True),
        Figure(name="match.rmse", value=rmse, samples=10, better="lower"),
    )
    return ProtocolResult(protocol=protocol, version=version, figures=figures)


def report(folder: Path, *results: ProtocolResult) -> Path:
    folder.mkdir(parents=True)
    write_metrics(Report(samples=10, references=10, results=results), folder / "metrics.json")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [report(tmp_path / "ours", result(0.7, 0.05)), report(tmp_path / "theirs" / "run", result(0.6, 0.04))]


def test_reports_side_by_side(two: list[Path]) -> None:
    entries = collect([two[0], two[1] / "metrics.json"])
    assert [entry.name for entry in entries] == ["ours", "run"]
    names = figure_names(entries)
    document = to_json(entries, names)
    assert document["reports"][1]["figures"]["match.rate"] == {"value": 0.6, "low": 0.1, "high": 0.9}
    rows = list(csv.DictReader(io.StringIO(to_csv(entries, names))))
    assert rows[0]["match.rate"] == "0.7" and rows[0]["match.rmse.low"] == "" and rows[1]["report"] == "run"
    lines = to_markdown(entries, names).splitlines()
    assert lines[0] == "| csp 1.0 | ours | run |"
    assert "| match.rate | **70.00 %** | 60.00 % |" in lines and "| match.rmse | 0.05 | **0.04** |" in lines


def test_a_figure_that_one_report_lacks(tmp_path: Path, two: list[Path]) -> None:
    alone = ProtocolResult(protocol="csp", version="1.0", figures=(result(None, 0.1).figures[0],))
    entries = collect([two[0], report(tmp_path / "third", alone)])
    assert to_json(entries, figure_names(entries))["reports"][1]["figures"]["match.rmse"] is None
    assert "| match.rate | 70.00 % | – |" in to_markdown(entries, figure_names(entries))


def test_names_are_as_long_as_it_takes(tmp_path: Path) -> None:
    paths = [report(tmp_path / name / "report", result(0.5, 0.1)) for name in ("a", "b")]
    assert [entry.name for entry in collect(paths)] == ["a/report", "b/report"]


def test_names_that_look_like_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [report(tmp_path / name, result(rate, 0.1)) for name, rate in (("a[red]", 0.5), ("b|c", 0.6))]
    entries = collect(paths)
    assert to_markdown(entries, figure_names(entries)).splitlines()[0] == "| csp 1.0 | a[red] | b\\|c |"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["euhedral", "leaderboard", *map(str, paths)])
        main()
    assert ended.value.code == 0 and "a[red]" in capsys.readouterr().out


def test_versions_are_not_mixed_silently(tmp_path: Path, two: list[Path]) -> None:
    newer = report(tmp_path / "newer", result(0.8, 0.03, version="2.0"))
    with pytest.raises(ConfigError, match="different versions of protocol 'csp'"):
        collect([two[0], newer])
    entries = collect([two[0], newer], mix_versions=True)
    assert "versions differ" in to_markdown(entries, figure_names(entries)) and "newer (2.0)" in to_markdown(
        entries, figure_names(entries)
    )


def test_the_protocol_must_be_clear(tmp_path: Path, two: list[Path]) -> None:
    other = report(tmp_path / "other", replace(result(0.5, 0.1), protocol="cdvae"))
    both = report(tmp_path / "both", result(0.5, 0.1), replace(result(0.4, 0.1), protocol="cdvae"))
    with pytest.raises(ConfigError, match="no protocol in common"):
        collect([two[0], other])
    with pytest.raises(ConfigError, match="--protocol"):
        collect([both, both])
    assert collect([two[0], both])[1].result.protocol == "csp"
    assert collect([other, both], "cdvae")[1].result.figures[0].value == 0.4
    with pytest.raises(ConfigError, match="no figures of protocol 'lemat'"):
        collect([two[0]], "lemat")


def test_the_command(two: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["euhedral", "leaderboard", *map(str, two), *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    code, out, _ = run()
    assert code == 0 and "match.rate" in out and "70.00 %" in out
    code, out, _ = run("--json", "--sort", "match.rmse")
    assert code == 0 and [entry["name"] for entry in json.loads(out)["reports"]] == ["run", "ours"]
    code, out, _ = run("--csv", "--sort", "match.rate")
    assert code == 0 and out.splitlines()[1].startswith("ours,csp,1.0,10,0.7")
    assert run("--markdown")[1].startswith("| csp 1.0")
    code, _, err = run("--sort", "match.rat")
    assert code == 2 and "did you mean 'match.rate'" in err
    code, _, err = run("--json", "--csv")
    assert code == 2 and "exclude each other" in err


def test_a_report_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no report"):
        collect([tmp_path])
