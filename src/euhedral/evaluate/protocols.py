"""Protocols as data: which metrics, in which order, with which settings, under an identifier and a version.

The version goes up with every change of a metric, a setting or a definition that can change a figure; reports of two
versions are not put side by side unless asked for. A metric is the name of an entry in `measures.MEASURES`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from euhedral.errors import ConfigError
from euhedral.evaluate.discovery import METASTABLE_AT, STABLE_AT


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of a protocol.

    Attributes:
        name: entry of `measures.MEASURES`.
        settings: plain values that the metric is given; they are recorded in the report and part of cached results' keys.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A named way of judging crystals.

    Attributes:
        name: identifier.
        version: of the definition.
        title: for people.
        metrics: in the order in which they run and are shown.
        pairs: whether sample i answers reference i, so that their numbers must be equal.
        needs_reference: whether it means nothing without a reference.
        anchored: groups of figures that were published under this protocol, whose anchors stand beside.
    """

    name: str
    version: str
    title: str
    metrics: tuple[Metric, ...]
    pairs: bool = False
    needs_reference: bool = False
    anchored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """What the published evaluation sets by data set.

    Attributes:
        title: as the anchors name it.
        cutoffs: whose cutoffs of coverage hold, a key of `coverage.COVERAGE_CUTOFFS`.
    """

    title: str
    cutoffs: str


DATASETS: Mapping[str, DatasetSettings] = MappingProxyType(
    {
        "mp_20": DatasetSettings(title="MP-20", cutoffs="mp_20"),
        "mpts_52": DatasetSettings(title="MPTS-52", cutoffs="mp_20"),
        "perov_5": DatasetSettings(title="Perov-5", cutoffs="perov_5"),
        "carbon_24": DatasetSettings(title="Carbon-24", cutoffs="carbon_24"),
    }
)


def _tolerances(stol: float, ltol: float, angle_tol: float) -> dict[str, Any]:
    return {"stol": stol, "ltol": ltol, "angle_tol": angle_tol}


REQUEST = "request"
"""The protocol of what was asked for."""
_VALIDITY = Metric(name="validity", settings={"rule": "cdvae", "rules_beside": ["smact"]})
_GENERATED_SYMMETRY = Metric(name="symmetry", settings={"symprec": 0.1})
_NOVEL_ORDERED = {**_tolerances(0.3, 0.2, 5.0), "rule": "ordered"}
_UNIQUE = Metric(name="unique", settings=_NOVEL_ORDERED)
_NOVEL_DISORDERED = {**_tolerances(0.3, 0.2, 5.0), "rule": "disordered"}
_STABLE = {"stable_at": STABLE_AT, "metastable_at": METASTABLE_AT}
_COVERAGE = Metric(name="coverage")
_WASSERSTEIN = Metric(
    name="wasserstein", settings={"quantities": ["density", "num_elements", "coordination"], "rule": "cdvae"}
)
_ENERGY = Metric(name="energy", settings={"rule": "cdvae"})
_MATCH_SETTINGS = {**_tolerances(0.5, 0.3, 10.0), "rule": "cdvae"}

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        name="cdvae",
        version="1.1",
        title="De novo generation by the protocol of CDVAE (Xie et al., ICLR 2022)",
        metrics=(_VALIDITY, _COVERAGE, _WASSERSTEIN, _GENERATED_SYMMETRY, _ENERGY),
        anchored=("validity", "coverage", "wasserstein"),
    ),
    Protocol(
        name="csp",
        version="1.0",
        title="Prediction of a crystal from its composition (match rate, RMSE, METRe, cRMSE)",
        metrics=(
            _VALIDITY,
            Metric(name="match", settings=_MATCH_SETTINGS),
            Metric(name="match_everyone", settings=_tolerances(0.5, 0.3, 10.0)),
        ),
        pairs=True,
        anchored=("match",),
        needs_reference=True,
    ),
    Protocol(
        name="mattergen",
        version="1.2",
        title="Discovery by the protocol of MatterGen (Zeni et al., Nature 2025): stable, unique and novel",
        metrics=(
            _VALIDITY,
            Metric(name="unique", settings={**_NOVEL_DISORDERED, "rules_beside": ["ordered"]}),
            Metric(name="novel", settings={**_NOVEL_DISORDERED, "rules_beside": ["ordered"]}),
            Metric(name="sun", settings={**_NOVEL_DISORDERED, **_STABLE}),
            Metric(name="relaxation", settings=_tolerances(0.3, 0.2, 5.0)),
            _GENERATED_SYMMETRY,
            Metric(name="templates", settings={"symprec": 0.1, "symprec_known": 0.01}),
        ),
        anchored=("discovery", "relaxation"),
    ),
    Protocol(
        name="lemat",
        version="1.1",
        title="The families of LeMat-GenBench (arXiv 2512.04562)",
        metrics=(
            _VALIDITY,
            _UNIQUE,
            Metric(name="novel", settings=_NOVEL_ORDERED),
            Metric(name="sun", settings={**_NOVEL_ORDERED, **_STABLE}),
            Metric(name="diversity"),
            Metric(name="divergence", settings={"symprec": 0.1}),
            Metric(name="mmd", settings={"quantities": ["density", "volume_per_atom"]}),
            Metric(name="supply"),
            _GENERATED_SYMMETRY,
            Metric(name="embedding"),
        ),
    ),
    Protocol(
        name=REQUEST,
        version="1.0",
        title="What was asked for: space group and properties",
        metrics=(Metric(name="requested_group", settings={"symprecs": [0.01, 0.1]}), Metric(name="targets")),
    ),
)


def find_protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        ConfigError: where there is none, naming the nearest.
    """
    known = {protocol.name: protocol for protocol in PROTOCOLS}
    if name in known:
        return known[name]
    raise ConfigError(f"there is no protocol '{name}'{nearest(name, known)}; there are: {', '.join(known)}")


def find_dataset(name: str) -> DatasetSettings:
    """What the published evaluation sets for a data set.

    Raises:
        ConfigError: where there is none of this name, naming the nearest.
    """
    if name in DATASETS:
        return DATASETS[name]
    raise ConfigError(f"there is no data set '{name}'{nearest(name, DATASETS)}; there are: {', '.join(DATASETS)}")


def chosen_protocols(names: Iterable[str], *, paired: bool, requested: bool = False) -> tuple[Protocol, ...]:
    """The protocols of these names, each once; without names those that the inputs suggest.

    Args:
        names: as the user gave them.
        paired: whether the samples are as many as the references (or k draws of them) with the same compositions, as
            those of a prediction are.
        requested: whether it is known what the samples were asked to have.

    Raises:
        ConfigError: on an unknown name.
    """
    suggested = ("csp" if paired else "cdvae", *((REQUEST,) if requested else ()))
    chosen = tuple(dict.fromkeys(names)) or suggested
    return tuple(find_protocol(name) for name in chosen)


def nearest(name: str, known: Iterable[str]) -> str:
    """', did you mean ...?' if a known name is near, else nothing."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""
