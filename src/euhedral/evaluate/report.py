"""The report of an evaluation: figures with intervals, failures with reasons, distributions; what metrics.json holds.

`Report.to_dict` and `Report.from_dict` are inverse to each other, and the dictionary is the documented schema of
metrics.json (docs/metrics.md). A number that does not exist (nothing matched, no reference) is null, never NaN.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from euhedral.errors import DataError, OutputError

SCHEMA_VERSION = 1
METRICS_FILE = "metrics.json"
SCHEMA_NAME = "euhedral-metrics"

Direction = Literal["higher", "lower", ""]
"""Which values are better; empty where neither is."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a protocol.

    Attributes:
        name: identifier, group and figure joined by a dot, e.g. "validity.structure"; docs/metrics.md defines each.
        value: None where the figure does not exist; the note says why.
        low: lower end of the bootstrap 95 % interval, or None where there is none; the note says why.
        high: upper end.
        samples: the denominator, failures included.
        unit: e.g. "g/cm³"; empty for shares and other pure numbers.
        note: settings or reservations that belong beside the figure.
        better: whether higher or lower is better.
        share: whether the value is a share, 0 to 1, which people read in per cent.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    samples: int
    unit: str = ""
    note: str = ""
    better: Direction = ""
    share: bool = False

    def __post_init__(self) -> None:
        for key in ("value", "low", "high"):
            number = getattr(self, key)
            if number is not None:
                object.__setattr__(self, key, float(number) if math.isfinite(number) else None)

    def text(self, number: float | None) -> str:
        """A value of this figure, its own or a published one, for people."""
        if number is None:
            return "–"
        if self.share:
            return f"{100 * number:.2f} %"
        return f"{number:.4g} {self.unit}".rstrip()

    @property
    def interval_text(self) -> str:
        """The interval for people."""
        if self.low is None or self.high is None:
            return "–"
        unit = "%" if self.share else self.unit
        return f"{self.text(self.low).removesuffix(unit).rstrip()} to {self.text(self.high)}"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A sample that a stage could not judge, or judged to be broken; it stays in every denominator.

    Attributes:
        index: position of the sample.
        stage: e.g. "read", "validity", "fingerprint".
        reason: one line.
    """

    index: int
    stage: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How often values occur among the samples and in the reference, ready for a bar plot.

    Attributes:
        name: e.g. "density", "elements", "space_groups", "num_atoms".
        title: for people, e.g. "Density".
        unit: of the edges.
        edges: bin edges of a histogram, one more than bins; empty for categories.
        labels: names of categories (element symbols, space-group numbers as text); empty for a histogram.
        samples: counts by bin or category.
        reference: counts of the reference, or None where there is none.
    """

    name: str
    title: str
    unit: str = ""
    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    samples: tuple[int, ...]
    reference: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        bins = len(self.labels) or max(len(self.edges) - 1, 0)
        if len(self.samples) != bins or (self.reference is not None and len(self.reference) != bins):
            raise ValueError(f"distribution '{self.name}' has {bins} bins, but other numbers of counts")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Pairs of a wanted and an obtained value, for a parity plot; at most a few thousand points.

    Attributes:
        name: e.g. "volume_per_atom".
        title: for people.
        unit: of both axes.
        wanted: reference or target value of each pair.
        obtained: value of the sample.
    """

    name: str
    title: str
    unit: str = ""
    wanted: tuple[float, ...]
    obtained: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A published value of a figure.

    Attributes:
        system: e.g. "DiffCSP".
        figure: name of the figure that it stands beside.
        value: in the figure's unit; shares from 0 to 1.
        source: where it was published.
        dataset: data that it was measured on, e.g. "MP-20".
        note: in what it differs from the figure here.
    """

    system: str
    figure: str
    value: float
    source: str
    dataset: str = "MP-20"
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ProtocolResult:
    """The figures of one protocol.

    Attributes:
        protocol: identifier, e.g. "cdvae".
        version: of the protocol's definition; figures of different versions are not comparable.
        figures: in the protocol's order.
        settings: tolerances, thresholds and rules by metric, plain values.
        anchors: published figures to stand beside.
        left_out: metrics of the protocol that could not be computed, with the reason.
    """

    protocol: str
    version: str
    figures: tuple[Figure, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    anchors: tuple[Anchor, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def figure(self, name: str) -> Figure:
        """The figure of this name. Raises KeyError where there is none."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"'{name}' is no figure of {self.protocol}; it has: {', '.join(f.name for f in self.figures)}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `euhedral.evaluate` returns.

    Attributes:
        samples: crystals that were judged, unreadable ones included.
        references: crystals of the reference; 0 without one.
        results: one for each protocol.
        failures: of all stages, by sample.
        distributions: for plots.
        parities: for parity plots.
        sources: where samples, reference and train came from.
        versions: of this package and of the tools that figures depend on.
        seconds: time of each stage.
        created: UTC time, ISO 8601.
        complete: False in a file written between two stages, of which a killed evaluation leaves the last.
        schema_version: of this layout.
    """

    samples: int
    references: int
    results: tuple[ProtocolResult, ...]
    failures: tuple[Failure, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    parities: tuple[Parity, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    created: str = ""
    complete: bool = True
    schema_version: int = SCHEMA_VERSION

    def __getitem__(self, name: str) -> Figure:
        """The figure of this name of the first protocol that has it. Raises KeyError where none has."""
        for result in self.results:
            for figure in result.figures:
                if figure.name == name:
                    return figure
        known = sorted({f.name for result in self.results for f in result.figures})
        raise KeyError(f"the report has no figure '{name}'; it has: {', '.join(known)}")

    def __str__(self) -> str:
        """The figures with their intervals, one a line, and how many crystals failed."""
        against = f" against {self.references:,}" if self.references else ""
        lines = [f"{self.samples:,} crystals{against}"]
        for result in self.results:
            lines.append(f"{result.protocol} {result.version}")
            width = max((len(figure.name) for figure in result.figures), default=0)
            for figure in result.figures:
                lines.append(f"  {figure.name:<{width}}  {figure.text(figure.value)} ({figure.interval_text})")
            lines += [f"  left out: {name}: {reason}" for name, reason in result.left_out.items()]
        if failed := len({failure.index for failure in self.failures}):
            lines.append(f"{failed:,} of the crystals failed somewhere: see failures")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries and lists of plain values, as in metrics.json."""
        return {"schema": SCHEMA_NAME, **_plain(asdict(self))}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Report:
        """The report of a dictionary that `to_dict` gave.

        Raises:
            DataError: where it is not one, or of another schema version.
        """
        if not isinstance(document, Mapping) or document.get("schema") != SCHEMA_NAME:
            raise DataError(f"this is no {METRICS_FILE} of euhedral evaluate (no schema '{SCHEMA_NAME}')")
        if (version := document.get("schema_version")) != SCHEMA_VERSION:
            raise DataError(
                f"the report has schema version {version}, this program reads {SCHEMA_VERSION}; evaluate again"
            )
        kept = ("samples", "references", "sources", "versions", "seconds", "created", "complete")
        try:
            return cls(
                **{key: document[key] for key in kept},
                results=tuple(_result(item) for item in document["results"]),
                failures=tuple(Failure(**item) for item in document["failures"]),
                distributions=tuple(_tupled(Distribution, item) for item in document["distributions"]),
                parities=tuple(_tupled(Parity, item) for item in document["parities"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the report is damaged or incomplete: {error}") from None


def write_metrics(report: Report, path: Path) -> Path:
    """Write metrics.json, moved into place whole. Raises OutputError where it cannot be written."""
    text = json.dumps(report.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def read_metrics(path: str | Path) -> Report:
    """The report of a metrics.json, or of the folder that holds one.

    Raises:
        DataError: where there is none, or it cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file = file / METRICS_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"there is no report at '{path}' (no {METRICS_FILE}); make one with: euhedral evaluate SAMPLES --report {path}"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read the report '{path}': {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"'{file}' is not JSON: {error}") from None
    try:
        return Report.from_dict(document)
    except DataError as error:
        raise DataError(f"'{file}': {error}") from None


def _plain(value: Any) -> Any:
    """Tuples as lists, and numbers that are not finite as null, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _result(item: Mapping[str, Any]) -> ProtocolResult:
    return ProtocolResult(
        protocol=item["protocol"],
        version=item["version"],
        figures=tuple(Figure(**figure) for figure in item["figures"]),
        settings=dict(item["settings"]),
        anchors=tuple(Anchor(**anchor) for anchor in item["anchors"]),
        left_out=dict(item["left_out"]),
    )


def _tupled(kind: Any, item: Mapping[str, Any]) -> Any:
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in item.items()})
