"""The stage of prediction: properties that a trained model with a property head reads off the relaxed crystals.

It stands here and not in `screen`, where no module knows a model. The numbers are estimates of a network; they are columns of
their own, so that none is taken for a calculated one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from euhedral.errors import ConfigError
from euhedral.models.conditions import PROPERTIES, UNITS
from euhedral.sample.predictor import Predictor, load_predictor
from euhedral.sample.weights import find_weights
from euhedral.screen.stage import FAILED, NOTHING, PASSED, Column, Stage, StageRecord, Value

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

AT_ONCE = 64
"""Crystals of a call of the network."""
_MEANING = {
    "formation_energy_per_atom": "formation energy",
    "e_above_hull": "energy above the hull",
    "band_gap": "band gap",
}


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """By which model.

    Attributes:
        model: shipped weights by name, or the folder of a run or checkpoint.
        device: 'auto', 'cpu', 'cuda', 'mps', ...

    Raises:
        ConfigError: where no model is named.
    """

    model: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("the stage predict needs a model with a property head: --predict RUN")


class PredictStage(Stage):
    """Formation energy, energy above the hull and band gap, as far as the model has learned them; nothing is rejected."""

    name = "predict"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "predicted_by": Column(meaning="model that predicted, with the first digits of the digest of its weights"),
        **{
            f"predicted_{name}": Column(unit=UNITS[name], meaning=f"{_MEANING[name]} as that model predicts it")
            for name in PROPERTIES
        },
    }
    stops: ClassVar[frozenset[str]] = frozenset()
    config: PredictConfig

    @cached_property
    def _loaded(self) -> Predictor:
        return load_predictor(str(self.config.model), self.config.device)

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`. Raises CheckpointError where there is no such model, ConfigError where it predicts nothing."""
        _ = self._loaded

    def portable_config(self) -> PredictConfig:
        """See `Stage`."""
        return replace(self.config, model=str(find_weights(str(self.config.model)).absolute()))

    def run(
        self, crystals: CrystalBatch, earlier: Sequence[Mapping[str, Value]], *, workers: int
    ) -> Iterator[StageRecord]:
        """See `Stage`. The network works in this process, whatever `workers` says."""
        model = self._loaded
        reasons = [model.unlike_training(crystal) for crystal in crystals]
        for i, reason in enumerate(reasons):
            if reason is not None:
                yield StageRecord(index=i, outcome=FAILED, reason=reason)
        sound = [i for i, reason in enumerate(reasons) if reason is None]
        for start in range(0, len(sound), AT_ONCE):
            places = sound[start : start + AT_ONCE]
            started = time.perf_counter()
            rows = model.predict(crystals[places])
            seconds = (time.perf_counter() - started) / len(places)
            for i, row in zip(places, rows, strict=True):
                yield _record(i, row, model.label, seconds)


def _record(index: int, row: Mapping[str, float], label: str, seconds: float) -> StageRecord:
    finite = {f"predicted_{name}": value for name, value in row.items() if math.isfinite(value)}
    lost = [name for name in row if f"predicted_{name}" not in finite]
    return StageRecord(
        index=index,
        outcome=FAILED if lost else PASSED,
        values={"predicted_by": label, **finite},
        reason=f"the model gives no finite {', '.join(lost)}" if lost else None,
        seconds=seconds,
    )
