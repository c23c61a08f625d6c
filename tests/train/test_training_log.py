from __future__ import annotations

from pathlib import Path

import pytest

from euhedral.train import log
from euhedral.train.log import TrainingLog, read_log
from euhedral.train.show import duration


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_tensorboard", lambda folder, step: None)


def test_numbers_come_back_to_the_last_digit(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    writer = TrainingLog(tmp_path, step=0, terms=["frac"])
    writer.append({"step": 1, "epoch": 0, "loss": value, "frac": 1e-17})
    (row,) = read_log(tmp_path)
    assert float(row["loss"]) == value and float(row["frac"]) == 1e-17
    assert row["validation_loss"] == ""


def test_reopening_drops_what_comes_after_the_saved_step(tmp_path: Path) -> None:
    writer = TrainingLog(tmp_path, step=0, terms=[])
    for step in range(1, 6):
        writer.append({"step": step, "loss": float(step)})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("6,0,12,0.")  # what a kill in the middle of a line leaves
    assert len(read_log(tmp_path)) == 5
    TrainingLog(tmp_path, step=3, terms=[]).append({"step": 4, "loss": 40.0})
    assert [float(row["loss"]) for row in read_log(tmp_path)] == [1.0, 2.0, 3.0, 40.0]


def test_no_log_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "1 h 00 min"), (11100, "3 h 05 min"), (-5, "0 s")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
