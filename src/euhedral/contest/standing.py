"""What is known of one entrant at the end, and the table of all.

Match rate, RMSE and METRe are those of predicted structures, the others those of crystals of which nothing was given;
docs/metrics.md defines each.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from euhedral.contest.trivial import RANDOM, TEMPLATE

PREDICTION = ("match.rate", "match.rmse", "match.metre")
"""Figures of protocol csp that stand in the table."""
GENERATION = (
    "validity.structure",
    "validity.composition",
    "coverage.recall",
    "coverage.precision",
    "wasserstein.density",
    "wasserstein.num_elements",
    "symmetry.p1",
)
"""Figures of protocol cdvae that stand in the table."""
SHARES = frozenset(name for name in PREDICTION + GENERATION if not name.startswith(("wasserstein", "match.rmse")))

_HEADINGS = {
    "match.rate": "match %",
    "match.rmse": "RMSE",
    "match.metre": "METRe %",
    "validity.structure": "struct %",
    "validity.composition": "comp %",
    "coverage.recall": "COV-R %",
    "coverage.precision": "COV-P %",
    "wasserstein.density": "W dens",
    "wasserstein.num_elements": "W elem",
    "symmetry.p1": "P1 %",
}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One entrant's row.

    Attributes:
        name: of the recipe, or of a trivial baseline.
        family: of its model; empty for a trivial baseline.
        parameters: numbers that it learns.
        trained: crystals that it was trained on, repetitions counted; 0 where it is fitted at once or not at all.
        training_seconds: how long that took.
        steps: steps along the path that it was sampled with.
        evaluations: evaluations of the network a crystal, by what its recipe says of a step.
        predicted_per_second: crystals a second where species are given.
        generated_per_second: crystals a second where nothing is.
        figures: by name, as the evaluator gives them; None where a figure does not exist.
        problems: what failed, and why; the figures that it would have given are missing.
    """

    name: str
    family: str = ""
    parameters: int = 0
    trained: int = 0
    training_seconds: float = 0.0
    steps: int = 0
    evaluations: int = 0
    predicted_per_second: float | None = None
    generated_per_second: float | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def trained_per_second(self) -> float | None:
        """Crystals a second in training, None where there was none."""
        return self.trained / self.training_seconds if self.training_seconds > 0 else None

    def to_json(self) -> dict[str, Any]:
        """As plain values; `Standing(**values)` is the inverse but for `problems`, see `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Standing:
        """The inverse of `to_json`. Raises TypeError, KeyError on other values."""
        return cls(**{**values, "problems": tuple(values["problems"])})


def beats(standing: Standing, baselines: Sequence[Standing]) -> str:
    """Which trivial baselines an entrant's match rate exceeds: "templates", "random", "neither", or empty if unknown."""
    rates = {one.name: one.figures.get("match.rate") for one in baselines}
    own, random, template = standing.figures.get("match.rate"), rates.get(RANDOM), rates.get(TEMPLATE)
    if standing.name in rates or own is None or random is None or template is None:
        return ""
    if own > max(random, template):
        return "templates"
    return "random" if own > random else "neither"


def ordered(standings: Sequence[Standing]) -> list[Standing]:
    """The best match rate first, those without one last."""
    return sorted(standings, key=lambda one: (-(one.figures.get("match.rate") or -1.0), one.name))


Columns = tuple[list[str], list[list[str]]]
"""Headings, and one row an entrant, the best match rate first; an empty cell is a figure that does not exist."""


def prediction(standings: Sequence[Standing]) -> Columns:
    """How well structures are predicted, and which trivial baselines that beats."""
    baselines = [one for one in standings if one.name in (RANDOM, TEMPLATE)]
    rows = [[one.name, *_figures(one, PREDICTION), beats(one, baselines)] for one in ordered(standings)]
    return ["recipe", *(_HEADINGS[name] for name in PREDICTION), "beats"], rows


def generation(standings: Sequence[Standing]) -> Columns:
    """How crystals are of which nothing was given."""
    rows = [[one.name, *_figures(one, GENERATION)] for one in ordered(standings)]
    return ["recipe", *(_HEADINGS[name] for name in GENERATION)], rows


def cost(standings: Sequence[Standing]) -> Columns:
    """What each entrant takes: numbers learned, evaluations a crystal, crystals a second."""
    rows = []
    for one in ordered(standings):
        size = f"{one.parameters / 1e6:.2f}" if one.parameters else ""
        training = one.trained_per_second if one.trained else None
        speeds = [_speed(training), _speed(one.predicted_per_second), _speed(one.generated_per_second)]
        rows.append([one.name, size, str(one.evaluations) if one.family else "", *speeds])
    return ["recipe", "M param", "evaluations", "train/s", "predict/s", "generate/s"], rows


def to_markdown(standings: Sequence[Standing]) -> str:
    """The table, and below it what failed."""
    parts = [prediction(standings), generation(standings), cost(standings)]
    headings = ["recipe", *(heading for part in parts for heading in part[0][1:])]
    rows = [[one.name] for one in ordered(standings)]
    for _, cells in parts:
        rows = [row + more[1:] for row, more in zip(rows, cells, strict=True)]
    lines = ["| " + " | ".join(row) + " |" for row in [headings, *rows]]
    lines.insert(1, "|---|" + "---:|" * (len(headings) - 1))
    problems = [f"- {one.name}: {problem}" for one in ordered(standings) for problem in one.problems]
    return "\n".join([*lines, *(["", *problems] if problems else [])]) + "\n"


def to_csv(standings: Sequence[Standing]) -> str:
    """One row an entrant, figures at full precision."""
    text = io.StringIO()
    plain = ("name", "family", "parameters", "trained", "training_seconds", "steps", "evaluations")
    speeds = ("predicted_per_second", "generated_per_second")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*plain, *speeds, *_HEADINGS, "problems"])
    for one in ordered(standings):
        figures = [one.figures.get(name) for name in _HEADINGS]
        writer.writerow([*(getattr(one, key) for key in plain + speeds), *figures, "; ".join(one.problems)])
    return text.getvalue()


def _figures(one: Standing, names: Sequence[str]) -> list[str]:
    return [_text(one.figures.get(name), share=name in SHARES) for name in names]


def _text(value: float | None, *, share: bool) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if share else f"{value:.3f}"


def _speed(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
