"""The record of a run: `log.csv`, exact to the last digit, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from euhedral.models.checkpoint import replace_file

LOG, TENSORBOARD = "log.csv", "tensorboard"
FIRST_COLUMNS = ("step", "epoch", "crystals", "seconds", "crystals_per_second", "learning_rate")
LAST_COLUMNS = ("gradient_norm", "skipped", "validation_loss")


class TrainingLog:
    """Appends rows to `log.csv`; each is on the disk before training goes on.

    Opening it at a step drops the rows after that step, which a killed run wrote and a resumed one writes again.

    Args:
        folder: of the run.
        step: steps made so far.
        terms: names of the parts of the loss, each with a column of its own after `loss`.
    """

    def __init__(self, folder: Path, *, step: int, terms: Sequence[str]) -> None:
        self.path = folder / LOG
        self._columns = [*FIRST_COLUMNS, "loss", *terms, *LAST_COLUMNS]
        rows = [row for row in read_log(folder) if int(row["step"]) <= step]
        replace_file(self.path, self._text(rows, header=True).encode())
        self._writer = _tensorboard(folder / TENSORBOARD, step)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; columns that it lacks stay empty. Raises OSError where the disk is full."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._text([row], header=False))
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("step", "crystals", "seconds"):
                    self._writer.add_scalar(name, float(value), int(row["step"]))
            self._writer.flush()

    def close(self) -> None:
        """Finish the files."""
        if self._writer is not None:
            self._writer.close()

    def _text(self, rows: Sequence[Mapping[str, Any]], *, header: bool) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, self._columns, restval="", lineterminator="\n", extrasaction="ignore")
        if header:
            writer.writeheader()
        # repr of a float is exact, so that two runs can be compared to the last digit.
        writer.writerows({name: repr(v) if isinstance(v, float) else v for name, v in row.items()} for row in rows)
        return out.getvalue()


def read_log(folder: Path) -> list[dict[str, str]]:
    """The whole rows of a run's log; a last line that a kill cut off is left out."""
    path = folder / LOG
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows = csv.DictReader(line for line in lines if line.endswith("\n"))
    return [row for row in rows if (row.get("step") or "").isdigit() and None not in row.values()]


def _tensorboard(folder: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
