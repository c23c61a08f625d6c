"""What a metric is given, and what it gives back.

A metric reads a `Context` and its own settings and gives a `Measured`. What several metrics need (which crystals can be
built, verdicts, fingerprints) is calculated once and remembered in the context; what is dear for a single crystal goes
through the result cache, in pieces, so that an evaluation that is killed has kept what it had.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from euhedral.evaluate.bootstrap import Interval, mean_interval, ratio_interval, share_interval
from euhedral.evaluate.cache import ResultCache, content_keys, joined_key
from euhedral.evaluate.report import Direction, Distribution, Failure, Figure, Parity
from euhedral.evaluate.requested import Requested

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Generator

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.samples import Samples
    from euhedral.evaluate.protocols import DatasetSettings

Value = TypeVar("Value")
StageProgress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as crystals are judged."""

PIECE = 4096
"""Crystals whose results are kept together: what a killed evaluation may have to do again."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Outcome of one metric.

    Attributes:
        figures: in the order in which they are shown.
        failures: crystals that could not be judged, or were found broken.
        distributions: for plots.
        parities: for plots.
        columns: one value for each sample by column name, for the table of records.
        tools: what the figures depend on: tables, tools and their versions, by name.
    """

    figures: tuple[Figure, ...] = ()
    failures: tuple[Failure, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    parities: tuple[Parity, ...] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)


class NotMeasurable(Exception):
    """What a metric needs was not given; the protocol's result names the metric with this reason and goes on."""


@dataclass(kw_only=True)
class Context:
    """The crystals of an evaluation, and the means to judge them.

    Attributes:
        samples: crystals to judge; unreadable ones are entries without atoms.
        reference: crystals to compare with.
        train: crystals that count as known.
        energies: eV/atom above the hull of each sample, NaN where unknown; None where none were given.
        relaxed: the samples after relaxation, at the same positions.
        requested: what every sample was asked to have.
        values: properties of the samples by name, NaN where unknown.
        unsteered: the same properties of crystals that were not asked for anything.
        dataset: published settings of the data set.
        workers: processes.
        seconds_per_crystal: a crystal that takes a step longer is a failure.
        cache: of results by content.
        seed: of the bootstrap.
        potential: whether metrics that need a machine-learned potential are wanted.
        progress: called as work goes on.
    """

    samples: Samples
    reference: Samples | None = None
    train: Samples | None = None
    energies: NDArray[np.float64] | None = None
    relaxed: Samples | None = None
    requested: Requested = field(default_factory=Requested)
    values: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    unsteered: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    dataset: DatasetSettings
    workers: int = 1
    seconds_per_crystal: float = 30.0
    cache: ResultCache
    seed: int = 0
    potential: bool = True
    progress: StageProgress | None = None
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def crystals(self) -> CrystalBatch:
        """The samples as a batch."""
        return self.samples.crystals

    def references(self) -> Samples:
        """The reference. Raises NotMeasurable without one."""
        if self.reference is None:
            raise NotMeasurable("needs a reference (--reference)")
        return self.reference

    def known(self) -> Samples:
        """The crystals that count as known: train, else the reference. Raises NotMeasurable without either."""
        if self.train is None and self.reference is None:
            raise NotMeasurable("needs known crystals (--train, or --reference)")
        return self.train if self.train is not None else self.references()

    def once(self, name: Any, make: Callable[[], Value]) -> Value:
        """What `make` gives, made at the first call with this name."""
        if name not in self._memory:
            self._memory[name] = make()
        return self._memory[name]

    def reporter(self, stage: str) -> Callable[[int, int], None]:
        """A progress function of one stage."""

        def report(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(stage, done, total)

        return report

    def rng(self, name: str) -> Generator:
        """A generator that depends on the seed and the name alone, so that no figure changes another's interval."""
        import torch

        return torch.Generator().manual_seed(self.seed ^ zlib.crc32(name.encode()))

    def keys(self, batch: CrystalBatch) -> list[bytes]:
        """Content keys of a batch, remembered for the batches that this evaluation holds on to."""
        held = (self.samples, self.reference, self.train, self.relaxed)
        if any(part is not None and part.crystals is batch for part in held):
            return self.once(("keys", id(batch)), lambda: content_keys(batch))
        return content_keys(batch)

    def for_each(
        self,
        metric: str,
        version: int,
        settings: Mapping[str, Any],
        batch: CrystalBatch,
        compute: Callable[[CrystalBatch, Callable[[int, int], None]], Sequence[bytes]],
        *,
        keys: Sequence[bytes] | None = None,
        stage: str | None = None,
    ) -> list[bytes]:
        """The result of each crystal of a batch, from the cache or computed; equal crystals are computed once.

        Args:
            metric: name under which results are kept.
            version: of the metric's definition.
            settings: that change its results.
            batch: crystals.
            compute: from some of the crystals, and a progress function, to one result each.
            keys: content keys where a result depends on more than the crystal itself.
            stage: name of the progress; the metric where not given.
        """
        keys = self.keys(batch) if keys is None else keys
        found = self.cache.get(metric, version, settings, keys)
        places: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if key not in found:
                places.setdefault(key, i)
        missing = list(places)
        report, total = self.reporter(stage or metric), len(missing)
        for start in range(0, total, PIECE):
            part = missing[start : start + PIECE]

            def within(done: int, _: int, start: int = start) -> None:
                report(start + done, total)

            fresh = dict(zip(part, compute(batch[[places[key] for key in part]], within), strict=True))
            self.cache.put(metric, version, settings, fresh)
            found.update(fresh)
            report(start + len(part), total)
        return [found[key] for key in keys]

    def for_all(
        self,
        metric: str,
        version: int,
        settings: Mapping[str, Any],
        batches: Sequence[CrystalBatch],
        compute: Callable[[], Any],
    ) -> Any:
        """A JSON result that belongs to whole batches in their order, from the cache or computed."""
        key = joined_key([joined_key(self.keys(batch)) for batch in batches])
        found = self.cache.get(metric, version, settings, [key])
        if key in found:
            return json.loads(found[key])
        text = json.dumps(compute())
        self.cache.put(metric, version, settings, {key: text.encode()})
        return json.loads(text)

    def share(
        self,
        name: str,
        passed: int | NDArray[np.bool_],
        total: int | None = None,
        *,
        note: str = "",
        better: Direction = "",
    ) -> Figure:
        """A share with its interval; `passed` is a count of `total`, or a mask."""
        count, of = (passed, total or 0) if isinstance(passed, int) else (int(passed.sum()), len(passed))
        interval = share_interval(count, of, rng=self.rng(name))
        value = count / of if of else None
        return make_figure(name, value, interval, samples=of, note=note, better=better, share=True)

    def mean(
        self, name: str, values: NDArray[np.float64], *, unit: str = "", note: str = "", better: Direction = ""
    ) -> Figure:
        """A mean over all of `values` with its interval."""
        value = float(np.mean(values)) if len(values) else None
        interval = mean_interval(values, rng=self.rng(name))
        return make_figure(name, value, interval, samples=len(values), unit=unit, note=note, better=better)

    def mean_of_known(
        self, name: str, values: NDArray[np.float64], *, unit: str = "", note: str = "", better: Direction = ""
    ) -> Figure:
        """A mean over those of `values` that are not NaN; draws are over all, so that their number varies too."""
        known = np.isfinite(values)
        value = float(values[known].mean()) if known.any() else None
        interval = ratio_interval(np.where(known, values, 0.0), known.astype(np.float64), rng=self.rng(name))
        text = "; ".join(part for part in (f"mean over {int(known.sum())} of {len(values)}", note) if part)
        return make_figure(name, value, interval, samples=len(values), unit=unit, note=text, better=better)


def make_figure(
    name: str,
    value: float | None,
    interval: Interval | None,
    *,
    samples: int,
    unit: str = "",
    note: str = "",
    better: Direction = "",
    share: bool = False,
) -> Figure:
    """A figure from a value and an interval that may not exist."""
    return Figure(
        name=name,
        value=value,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        samples=samples,
        unit=unit,
        note=note,
        better=better,
        share=share,
    )
