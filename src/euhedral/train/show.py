"""What a user sees of a running training: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from euhedral.train.state import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Progress with loss, crystals/s and the time that is left.

    Args:
        console: where to, or None to be silent.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._began = (time.monotonic(), 0.0)
        self._line_at = -math.inf

    def start(self, share: float) -> None:
        """Begin at a share of the run that is done already."""
        self._began = (time.monotonic(), share)
        if self._console is None or not self._console.is_terminal:
            return
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f}%  {task.description}"),
            console=self._console,
            transient=False,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=1.0, completed=0)
        self._bar.update(self._task, completed=share)

    def update(self, share: float, progress: Progress, values: Mapping[str, float], *, row: bool = False) -> None:
        """Show where the run is; `row` where the values are new."""
        if self._console is None:
            return
        text = self._text(share, progress, values)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=min(share, 1.0), description=text)
        elif row and time.monotonic() - self._line_at >= SECONDS_BETWEEN_LINES:
            self._line_at = time.monotonic()
            self._console.print(f"{100 * share:5.1f}%  {text}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line."""
        if self._console is not None:
            self._console.print(text, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _text(self, share: float, progress: Progress, values: Mapping[str, float]) -> str:
        parts = [f"epoch {progress.epoch}", f"step {progress.step}"]
        if "loss" in values:
            parts.append(f"loss {values['loss']:.4f}")
        if "validation_loss" in values:
            parts.append(f"validation {values['validation_loss']:.4f}")
        if "crystals_per_second" in values:
            parts.append(f"{values['crystals_per_second']:.0f} crystals/s")
        began, share_then = self._began
        if share > share_then:
            left = (time.monotonic() - began) * (1 - share) / (share - share_then)
            parts.append(f"{duration(left)} left")
        if progress.skipped:
            parts.append(f"{progress.skipped} steps skipped (not finite)")
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """A span of time for people: '45 s', '12 min', '3 h 05 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
