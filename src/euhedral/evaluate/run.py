"""From crystals and the names of protocols to a report."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from euhedral.errors import ConfigError, CrystalError, DataError
from euhedral.evaluate.anchors import anchors_of
from euhedral.evaluate.cache import ResultCache, default_folder
from euhedral.evaluate.context import Context, Measured, NotMeasurable, StageProgress
from euhedral.evaluate.measures import MEASURES
from euhedral.evaluate.measures_crystal import unbuildable
from euhedral.evaluate.protocols import Metric, Protocol, chosen_protocols, find_dataset
from euhedral.evaluate.report import Distribution, Failure, Parity, ProtocolResult, Report
from euhedral.evaluate.requested import Requested, Values, requested_of_run, sample_values, unsteered_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from euhedral.data.samples import Samples

TOOLS = ("euhedral", "torch", "numpy", "scipy", "pymatgen", "matminer", "moyopy", "spglib", "smact", "chgnet")
"""Packages whose versions a figure may depend on."""
DEFAULT_CACHE = "default"
_PAIRED_SHARE = 0.9

Crystals = Any
"""A path, a CrystalBatch, a list of batches (draws), or pymatgen Structures or ASE Atoms."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that an evaluation looks at; see `Context` for the fields."""

    samples: Samples
    reference: Samples | None = None
    train: Samples | None = None
    energies: NDArray[np.float64] | None = None
    energies_source: str = ""
    relaxed: Samples | None = None
    requested: Requested = field(default_factory=Requested)
    values: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    unsteered: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to evaluate.

    Attributes:
        dataset: whose published thresholds and anchors hold: mp_20, mpts_52, perov_5 or carbon_24.
        workers: processes, one thread each.
        seconds_per_crystal: a crystal or pair that takes longer in one step is a failure.
        cache: folder of results by content, "default" for that of the platform, None for no cache.
        seed: of the bootstrap.
        potential: whether to compute what needs a machine-learned potential (CHGNet, some 10 ms a crystal).
    """

    dataset: str = "mp_20"
    workers: int = 1
    seconds_per_crystal: float = 30.0
    cache: str | Path | None = DEFAULT_CACHE
    seed: int = 0
    potential: bool = True

    def __post_init__(self) -> None:
        find_dataset(self.dataset)
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, not {self.workers}")
        if not self.seconds_per_crystal > 0:
            raise ConfigError(f"the time limit must be a positive number of seconds, not {self.seconds_per_crystal:g}")

    @property
    def cache_folder(self) -> Path | None:
        """Where results are kept, or None."""
        if self.cache is None:
            return None
        return default_folder() if self.cache == DEFAULT_CACHE else Path(self.cache)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What there is after a metric has ended: the report so far, and a table with one value a sample in each column."""

    report: Report
    columns: Mapping[str, Sequence[Any]]


def evaluate(
    crystals: Crystals,
    reference: Crystals | None = None,
    *,
    train: Crystals | None = None,
    protocol: str | Sequence[str] | None = None,
    energies: Any = None,
    relaxed: Crystals | None = None,
    requested: Requested | None = None,
    values: Values = None,
    unsteered: Values = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    limit_atoms: int = 1000,
    progress: StageProgress | None = None,
    **settings: Any,
) -> Report:
    """Judge crystals by one or several published protocols.

    Args:
        crystals: a path (file, zip, folder, store, run folder, .pt), a `CrystalBatch`, a list of batches that are draws
            for the same references, or pymatgen Structures or ASE Atoms.
        reference: crystals to compare with, in the same forms.
        train: crystals that count as known; the reference where not given.
        protocol: "cdvae", "csp", "mattergen", "lemat", "request", or several of them; chosen by the inputs where not given.
        energies: eV/atom above the hull, one a crystal, or a path of a table with columns id or index, and e_above_hull.
        relaxed: the crystals after relaxation, at the same positions.
        requested: what every crystal was asked to have; what a run folder says of itself where not given.
        values: properties of the crystals for which there is a target: a mapping from property to one value a crystal, or
            a path of a table with columns id or index, and the properties; labels of the crystals where not given.
        unsteered: the same properties of crystals that were not asked for anything, of any number.
        folder: where metrics.json and records.parquet are written as metrics end.
        overwrite: replace an earlier report in `folder`.
        limit_atoms: crystals with more atoms count as not read.
        progress: called with (stage, done, total).
        settings: fields of `Settings`: dataset, workers, seconds_per_crystal, cache, seed, potential. With more
            than one worker a script needs the usual guard, `if __name__ == "__main__":`.

    Raises:
        ConfigError: on an unknown protocol, data set or setting.
        DataError: where the crystals cannot be read at all, or are none.
        CrystalError: where a protocol pairs samples with references and their numbers do not fit.
        OutputError: where the folder holds something already or cannot be written.
    """
    from euhedral.evaluate.folder import ReportFolder

    chosen = _settings(settings)
    names = [protocol] if isinstance(protocol, str) else list(protocol or ())
    chosen_protocols(names, paired=False)
    target = None if folder is None else ReportFolder(Path(folder), overwrite=overwrite)
    inputs = read_inputs(
        crystals,
        reference,
        train=train,
        energies=energies,
        relaxed=relaxed,
        requested=requested,
        values=values,
        unsteered=unsteered,
        workers=chosen.workers,
        limit_atoms=limit_atoms,
        seconds_per_crystal=chosen.seconds_per_crystal,
        progress=progress,
    )
    return judge(inputs, names, settings=chosen, progress=progress, on_stage=None if target is None else target.write)


def read_inputs(
    crystals: Crystals,
    reference: Crystals | None = None,
    *,
    train: Crystals | None = None,
    energies: Any = None,
    relaxed: Crystals | None = None,
    requested: Requested | None = None,
    values: Values = None,
    unsteered: Values = None,
    workers: int = 1,
    limit_atoms: int = 1000,
    seconds_per_crystal: float = 30.0,
    progress: StageProgress | None = None,
) -> Inputs:
    """Read all that an evaluation looks at; arguments as those of `evaluate` and `Settings`.

    Raises:
        DataError: where something cannot be read at all, or does not fit the samples.
    """

    def read(source: Crystals, name: str) -> Samples:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(f"read {name}", done, total)

        return _samples(source, name, _Reading(workers, limit_atoms, seconds_per_crystal, report))

    samples = read(crystals, "samples")
    above_hull, energies_source = _energies(energies, samples)
    asked = requested_of_run(crystals) if requested is None else requested
    after = None if relaxed is None else read(relaxed, "relaxed")
    if after is not None and len(after) != len(samples):
        raise DataError(
            f"relaxed crystals stand at the positions of their samples, but {len(after)} and {len(samples)} came"
        )
    return Inputs(
        samples=samples,
        reference=None if reference is None else read(reference, "reference"),
        train=None if train is None else read(train, "train"),
        energies=above_hull,
        energies_source=energies_source,
        relaxed=after,
        requested=asked,
        values=sample_values(values, samples, asked.targets),
        unsteered=unsteered_values(unsteered, asked.targets),
    )


def judge(
    inputs: Inputs,
    protocols: Iterable[str] = (),
    *,
    settings: Settings | None = None,
    progress: StageProgress | None = None,
    on_stage: Callable[[Stage], None] | None = None,
) -> Report:
    """Judge crystals that were read.

    Args:
        inputs: what to look at.
        protocols: their names; chosen by the inputs where there are none.
        settings: how.
        progress: called with (stage, done, total).
        on_stage: called after each metric with what there is.

    Raises:
        ConfigError, CrystalError: as `evaluate`.
    """
    settings = settings or Settings()
    chosen = _checked_protocols(protocols, inputs)
    dataset = find_dataset(settings.dataset)
    with ResultCache(settings.cache_folder) as cache:
        context = Context(
            samples=inputs.samples,
            reference=inputs.reference,
            train=inputs.train,
            energies=inputs.energies,
            relaxed=inputs.relaxed,
            requested=inputs.requested,
            values=inputs.values,
            unsteered=inputs.unsteered,
            dataset=dataset,
            workers=settings.workers,
            seconds_per_crystal=settings.seconds_per_crystal,
            cache=cache,
            seed=settings.seed,
            potential=settings.potential,
            progress=progress,
        )
        run = _Run(context, inputs, chosen)
        for metric in dict.fromkeys(_key(metric) for protocol in chosen for metric in protocol.metrics):
            run.measure(*metric)
            if on_stage is not None:
                on_stage(run.stage(complete=False))
        stage = run.stage(complete=True)
        if on_stage is not None:
            on_stage(stage)
    return stage.report


class _Run:
    """Outcomes so far, by metric and settings, so that two protocols share what they have in common."""

    def __init__(self, context: Context, inputs: Inputs, protocols: Sequence[Protocol]) -> None:
        self._context = context
        self._inputs = inputs
        self._protocols = protocols
        self._outcomes: dict[tuple[str, str], Measured | str] = {}
        self._seconds: dict[str, float] = {}
        self._created = datetime.now(UTC).isoformat(timespec="seconds")

    def measure(self, name: str, settings: str) -> None:
        started = time.perf_counter()
        try:
            self._outcomes[name, settings] = MEASURES[name](self._context, json.loads(settings))
        except NotMeasurable as reason:
            self._outcomes[name, settings] = str(reason)
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def stage(self, *, complete: bool) -> Stage:
        measured = [outcome for outcome in self._outcomes.values() if isinstance(outcome, Measured)]
        samples = self._inputs.samples
        columns: dict[str, Sequence[Any]] = {
            "index": range(len(samples)),
            "id": samples.ids,
            "read_error": samples.reasons,
        }
        for (name, settings), outcome in self._outcomes.items():
            if isinstance(outcome, Measured):
                _add_columns(columns, outcome.columns, json.loads(settings).get("rule", name))
        reference = self._inputs.reference
        failures = dict.fromkeys(failure for outcome in measured for failure in outcome.failures)
        listed = {failure.index for failure in failures}
        # No metric but validity names crystals that cannot be read or built, and not every protocol has it.
        for i, problem in enumerate(unbuildable(self._context, samples)):
            if problem is not None and i not in listed:
                failures[Failure(index=i, stage="read" if samples.reasons[i] else "build", reason=problem)] = None
        report = Report(
            samples=len(samples),
            references=0 if reference is None else len(reference),
            results=tuple(self._result(protocol) for protocol in self._protocols),
            failures=tuple(sorted(failures, key=_order_of_failure)),
            distributions=_by_name(item for outcome in measured for item in outcome.distributions),
            parities=_by_name(item for outcome in measured for item in outcome.parities),
            sources=self._sources(),
            versions=tool_versions(),
            seconds={name: round(seconds, 3) for name, seconds in self._seconds.items()},
            created=self._created,
            complete=complete,
        )
        return Stage(report=report, columns=columns)

    def _result(self, protocol: Protocol) -> ProtocolResult:
        figures, settings, left_out = [], {}, {}
        for metric in protocol.metrics:
            outcome = self._outcomes.get(_key(metric))
            if isinstance(outcome, Measured):
                figures += outcome.figures
                settings[metric.name] = {**metric.settings, **({"tools": dict(outcome.tools)} if outcome.tools else {})}
            elif outcome is not None:
                left_out[metric.name] = outcome
        names = {figure.name for figure in figures if figure.name.split(".")[0] in protocol.anchored}
        return ProtocolResult(
            protocol=protocol.name,
            version=protocol.version,
            figures=tuple(figures),
            settings={**settings, "seed": self._context.seed, "draws": self._inputs.samples.draws},
            anchors=anchors_of(names, self._context.dataset.title),
            left_out=left_out,
        )

    def _sources(self) -> dict[str, str]:
        parts = ("samples", "reference", "train", "relaxed")
        found = {name: getattr(self._inputs, name) for name in parts}
        sources = {name: part.source for name, part in found.items() if part is not None}
        if self._inputs.energies is not None:
            sources["energies"] = self._inputs.energies_source
        if self._context.cache.problem:
            sources["cache"] = self._context.cache.problem
        return sources


def tool_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the tools that figures may depend on."""
    found = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _add_columns(columns: dict[str, Sequence[Any]], fresh: Mapping[str, Sequence[Any]], rule: str) -> None:
    """Take columns up; those of a name that another protocol's rule gave other verdicts are called after their rule."""
    for name, values in fresh.items():
        taken = name in columns and list(columns[name]) != list(values)
        columns[f"{name}_{rule}" if taken else name] = values


def _key(metric: Metric) -> tuple[str, str]:
    return metric.name, json.dumps(dict(metric.settings), sort_keys=True)


def _settings(given: Mapping[str, Any]) -> Settings:
    from dataclasses import fields

    from euhedral.evaluate.protocols import nearest

    known = [field.name for field in fields(Settings)]
    for name in given:
        if name not in known:
            raise ConfigError(f"there is no setting '{name}'{nearest(name, known)}; there are: {', '.join(known)}")
    return replace(Settings(), **given)


class _Reading(NamedTuple):
    """How crystals are read; fields as the arguments of `read_samples`."""

    workers: int
    limit_atoms: int
    seconds_per_crystal: float
    progress: Callable[[int, int], None]


def _samples(source: Crystals, name: str, how: _Reading) -> Samples:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.samples import Samples, from_batch, from_objects, joined, limited, read_samples

    if isinstance(source, Samples):
        found = source
    elif isinstance(source, str | Path):
        found = read_samples(source, **how._asdict())
    elif isinstance(source, CrystalBatch):
        found = from_batch(source, source=name)
    else:
        items = list(source)
        if items and all(isinstance(item, str | Path | CrystalBatch | Samples) for item in items):
            parts = [_samples(item, name, how) for item in items]
            found = joined(parts, as_draws=len({len(part) for part in parts}) == 1)
        else:
            found = from_objects(items, source=name)
    found = limited(found, how.limit_atoms)
    if not len(found):
        raise DataError(f"there are no crystals among the {name}")
    return found


def _energies(energies: Any, samples: Samples) -> tuple[NDArray[np.float64] | None, str]:
    import numpy as np

    from euhedral.data.values import read_values, values_of_labels

    if energies is None:
        found = values_of_labels(samples.labels)
        return found, "" if found is None else f"labels of {samples.source}"
    if isinstance(energies, str | Path):
        return read_values(energies, samples.ids), str(energies)
    values = np.asarray(energies, dtype=np.float64).reshape(-1)
    if len(values) != len(samples):
        raise DataError(f"energies are one a crystal, but {len(values)} came for {len(samples)} crystals")
    return values, "array"


def _checked_protocols(names: Iterable[str], inputs: Inputs) -> tuple[Protocol, ...]:
    """The protocols, refused before any work where the inputs cannot fit them."""
    chosen = chosen_protocols(names, paired=_looks_paired(inputs), requested=bool(inputs.requested))
    for protocol in chosen:
        if protocol.needs_reference and inputs.reference is None:
            raise ConfigError(f"protocol '{protocol.name}' needs a reference; give one with --reference")
        if protocol.pairs and inputs.reference is not None:
            samples, draws, count = len(inputs.samples), inputs.samples.draws, len(inputs.reference)
            if samples != draws * count:
                raise CrystalError(
                    f"protocol '{protocol.name}' pairs sample i with reference i, but there are {samples} samples in "
                    f"{draws} draw(s) for {count} references; give one sample a reference, or one source a draw"
                )
    return chosen


def _looks_paired(inputs: Inputs) -> bool:
    """Whether most samples have the composition of the reference at their position."""
    from euhedral.evaluate.validity import composition_counts

    reference, draws = inputs.reference, inputs.samples.draws
    if reference is None or len(inputs.samples) != draws * len(reference):
        return False
    own, true = composition_counts(inputs.samples.crystals), composition_counts(reference.crystals) * draws
    return sum(a == b for a, b in zip(own, true, strict=True)) >= _PAIRED_SHARE * len(own)


def _order_of_failure(failure: Failure) -> tuple[int, str]:
    return failure.index, failure.stage


def _by_name(items: Iterable[Any]) -> tuple[Any, ...]:
    """Each name once, the first of it."""
    found: dict[str, Distribution | Parity] = {}
    for item in items:
        found.setdefault(item.name, item)
    return tuple(found.values())
