from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from data.crystal_sources import ROCK_SALT, cif, csv_text
from euhedral.cli.app import main


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    """Rock salt, a metal and a row that cannot be read."""
    rows = [("m-0", ROCK_SALT, "0.0"), ("m-1", cif(["Cu"], a=2.6), "0.5"), ("m-2", "no CIF", "")]
    (tmp_path / "crystals.csv").write_text(csv_text(rows, header="material_id,cif,e_above_hull"))
    return tmp_path / "crystals.csv"


def euhedral(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """The command in this process: exit code, standard output and error."""
    monkeypatch.setattr(sys, "argv", ["euhedral", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


Run = pytest.CaptureFixture[str]


def test_one_command_gives_table_json_and_report(
    crystals: Path, tmp_path: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "evaluate",
        str(crystals),
        "--reference",
        str(crystals),
        "--workers",
        "1",
        "--cache",
        str(tmp_path / "cache"),
    )
    code, out, _ = euhedral(capsys, monkeypatch, *words, "--protocol", "csp", "--report", str(tmp_path / "report"))
    assert code == 0
    assert "3 crystals of" in out and "66.67 %" in out
    assert "match.rate_prediction_valid" in out and "published match.rate_both_valid: CDVAE 33.9, DiffCSP 51.49" in out
    assert "1 x read: this is not a CIF" in out
    files = {file.name for file in (tmp_path / "report").iterdir()}
    assert files == {"metrics.json", "records.parquet", "index.html"}
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["complete"] and metrics["samples"] == 3 and metrics["versions"]["pymatgen"]
    assert pq.read_table(tmp_path / "report" / "records.parquet").num_rows == 3
    code, out, err = euhedral(capsys, monkeypatch, *words, "--protocol", "csp", "--json")
    assert code == 0
    again = json.loads(out)
    assert [r["figures"] for r in again["results"]] == [r["figures"] for r in metrics["results"]]
    code, _, err = euhedral(capsys, monkeypatch, *words, "--protocol", "csp", "--report", str(tmp_path / "report"))
    assert code == 2 and "--overwrite" in err


def test_tensors_with_draws(tmp_path: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "frac_coords": torch.zeros(2, 2, 3),
        "atom_types": torch.tensor([[29, 47], [29, 47]]),
        "num_atoms": torch.ones(2, 2, dtype=torch.int64),
        "lengths": torch.full((2, 2, 3), 2.6),
        "angles": torch.tensor([[[90.0] * 3, [60.0] * 3], [[90.0] * 3, [90.0] * 3]]),
    }
    torch.save(document, tmp_path / "pred.pt")
    (tmp_path / "true.csv").write_text(csv_text([(f"m-{i}", _cubic(z), "") for i, z in enumerate(("Cu", "Ag"))]))
    words = ("evaluate", str(tmp_path / "pred.pt"), "--reference", str(tmp_path / "true.csv"), "--no-cache", "--json")
    code, out, err = euhedral(capsys, monkeypatch, *words, "--workers", "1")
    assert code == 0, err
    figures = {figure["name"]: figure["value"] for figure in json.loads(out)["results"][0]["figures"]}
    assert figures["match.rate"] == 0.5 and figures["match.rate_at_2"] == 1.0


def _cubic(symbol: str) -> str:
    text = ROCK_SALT.replace("5.64", "2.6")
    return text[: text.index("Na Na0")] + f"{symbol} {symbol}0 0.0 0.0 0.0 1\n"


def test_bad_input_is_one_line_and_exit_code_2(
    crystals: Path, tmp_path: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tmp_path / "one.csv"
    one.write_text(csv_text([("m-0", ROCK_SALT, "")]))
    header = tmp_path / "header.csv"
    header.write_text("cif\n")
    pickled = tmp_path / "objects.pt"
    torch.save({"structure": Path("x")}, pickled)
    (tmp_path / "energies.csv").write_text("id,e_above_hull\nnobody,0\n")
    here = str(crystals)
    for words, message in (
        ((str(tmp_path / "missing"),), "no file or folder"),
        ((str(header),), "holds no crystals"),
        ((str(pickled),), "keep the tensors alone"),
        ((here, "--protocol", "mattergn"), "did you mean 'mattergen'"),
        ((here, "--protocol", "csp"), "needs a reference"),
        ((here, "--protocol", "csp", "--reference", str(one)), "for 1 references"),
        ((here, "--dataset", "mp"), "there is no data set"),
        ((here, str(one), "--reference", here, "--protocol", "csp"), "for 3 references"),
        ((here, "--report", str(one)), "is a file"),
        ((here, "--report", "/proc/nobody/report"), "cannot write"),
        ((here, "--energies", str(tmp_path / "energies.csv")), "samples that are not there"),
        ((here, "--relaxed", str(one)), "1 and 3 came"),
        ((here, "--time-limit", "0"), "must be a positive number"),
        ((here, "--cache", "x", "--no-cache"), "exclude each other"),
    ):
        cache = () if "--cache" in words else ("--no-cache",)
        code, out, err = euhedral(capsys, monkeypatch, "evaluate", *words, *cache, "--workers", "1", "--no-potential")
        assert code == 2, (words, out, err)
        assert message in " ".join(err.split()), (words, err)
        assert "Traceback" not in err


def test_brackets_in_paths_and_reasons_are_shown() -> None:
    import io

    from rich.console import Console

    from euhedral.cli.evaluate import print_report
    from euhedral.evaluate.report import Failure, ProtocolResult, Report

    left_out = {"energy": "pip install 'euhedral[evaluate]'"}
    report = Report(
        samples=1,
        references=0,
        results=(ProtocolResult(protocol="cdvae", version="1.0", figures=(), left_out=left_out),),
        failures=(Failure(index=0, stage="read", reason="row [red] is broken"),),
        sources={"samples": "run[bold]", "cache": "cache [x] stopped"},
    )
    told = io.StringIO()
    print_report(Console(file=told, width=200), report)
    for text in ("euhedral[evaluate]", "row [red] is broken", "run[bold]", "cache [x] stopped"):
        assert text in told.getvalue()


def test_an_interrupted_evaluation_leaves_whole_files(crystals: Path, tmp_path: Path) -> None:
    words = ("evaluate", str(crystals), "--reference", str(crystals), "--report", "report", "--no-cache")
    command = [sys.executable, "-m", "euhedral.cli.app", *words, "--protocol", "cdvae"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "report" / "metrics.json"
    until = time.monotonic() + 120
    while not metrics.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    document = json.loads(metrics.read_text())
    assert document["schema"] == "euhedral-metrics"
    assert document["results"][0]["figures"][0]["name"] == "validity.structure"
    assert pq.read_table(metrics.with_name("records.parquet")).num_rows == 3


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_protocol_that_can_judge_nothing_is_an_error(
    crystals: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    words = ("evaluate", str(crystals), "--protocol", "request", "--target", "band_gap=1", "--no-cache", *more)
    code, out, err = euhedral(capsys, monkeypatch, *words)
    assert code == 2 and "nothing could be judged by request" in err and "--values" in out


def test_help_names_the_protocols(capsys: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = euhedral(capsys, monkeypatch, "evaluate", "--help")
    assert code == 0 and "mattergen" in out and "--reference" in out


def test_what_was_asked_for_is_judged(
    crystals: Path, tmp_path: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gaps.csv").write_text("id,band_gap\nm-0,5.0\nm-1,0.0\n")
    words = ("evaluate", str(crystals), "--protocol", "request", "--no-cache", "--json", "--space-group", "225")
    words += ("--target", "band_gap=4.8", "--within", "band_gap=0.5", "--values", str(tmp_path / "gaps.csv"))
    code, out, _ = euhedral(capsys, monkeypatch, *words)
    assert code == 0
    figures = {figure["name"]: figure["value"] for figure in json.loads(out)["results"][0]["figures"]}
    assert figures["request.space_group_at_0.01"] == pytest.approx(1 / 3)  # rock salt; unreadable ones count
    assert figures["request.band_gap_within"] == pytest.approx(1 / 3)
    assert figures["request.band_gap_mae"] == pytest.approx((0.2 + 4.8) / 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--space-group", "0"), "1 to 230"),
        (("--target", "band_gap"), "--target takes NAME=VALUE"),
        (("--target", "band_gap=1", "--within", "gap=1"), "no target"),
    ],
)
def test_requests_that_cannot_be_judged(
    crystals: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    code, _, error = euhedral(capsys, monkeypatch, "evaluate", str(crystals), "--no-cache", *words)
    assert code == 2 and message in error


def test_a_cluster_gives_the_figures_of_this_machine(
    crystals: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", str(crystals), "--reference", str(crystals), "--no-cache", "--no-potential", "--workers", "1"]
    figures = []
    for more in ([], ["--cluster", "local"]):
        code, out, _ = euhedral(capsys, monkeypatch, *words, "--protocol", "csp", "--json", *more)
        assert code == 0
        figures.append([{**result, "settings": None} for result in json.loads(out)["results"]])
    assert figures[0] == figures[1] and figures[0][0]["figures"]


def test_a_cluster_that_is_none_is_refused(crystals: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = euhedral(capsys, monkeypatch, "evaluate", str(crystals), "--cluster", "head:8786")
    assert code == 2 and "--cluster takes the address of a scheduler such as tcp://host:8786" in err
