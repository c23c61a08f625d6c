"""The stage of prediction: properties that a trained model with a property head reads off the relaxed crystals.

It stands here and not in `screen`, where no module knows a model. The numbers are estimates of a network; they are columns of
their own, so that none is taken for a calculated one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from euhedral.crystal.elements import SYMBOLS
from euhedral.errors import ConfigError
from euhedral.models.checkpoint import load_model
from euhedral.models.conditions import PROPERTIES, UNITS
from euhedral.models.property_predictor import PropertyPredictor
from euhedral.sample.generate import find_weights, pick_device
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
    def _loaded(self) -> _Predictor:
        return _load(str(self.config.model), self.config.device)

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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Predictor:
    """A model with what it was trained on.

    Attributes:
        model: in evaluation mode, on its device.
        label: name and digest.
        known: names of the properties that it has learned.
        elements: atomic numbers of its training.
        most_atoms: of a crystal of its training.
    """

    model: Any
    label: str
    known: frozenset[str]
    elements: frozenset[int]
    most_atoms: int

    @torch.no_grad()
    def predict(self, crystals: CrystalBatch) -> list[dict[str, float]]:
        """What it has learned to predict, by name, of each crystal."""
        device = next(self.model.parameters()).device
        values = self.model.properties_of(crystals.to(torch.float32).to(device)).cpu().double()
        return [
            {name: value for name, value in zip(PROPERTIES, row, strict=True) if name in self.known}
            for row in values.tolist()
        ]

    def unlike_training(self, crystal: CrystalBatch) -> str | None:
        """Why nothing is to be expected of a prediction for one crystal, or None."""
        if strange := sorted({int(z) for z in crystal.species} - self.elements):
            return f"the model has seen no crystal with {', '.join(SYMBOLS[z] for z in strange)} in training"
        if len(crystal.species) > self.most_atoms:
            return f"{len(crystal.species)} atoms; the model has seen crystals of at most {self.most_atoms} in training"
        return None


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


@lru_cache(maxsize=1)
def _load(name: str, device: str) -> _Predictor:
    """A model by name or folder, kept for the portions that this process is given.

    Raises:
        CheckpointError: where there is none, or it is damaged.
        ConfigError: where it has no property head, or training knew of no property.
    """
    folder = find_weights(name)
    checkpoint = load_model(folder)
    advice = "train one with properties: euhedral train --recipe cdvae --data TRAIN --out RUN"
    if not isinstance(checkpoint.model, PropertyPredictor):
        raise ConfigError(f"the model {name!r} ({type(checkpoint.model).__name__}) has no property head; {advice}")
    statistics = checkpoint.meta.get("statistics", {})
    known = frozenset(key for key, count in statistics.get("property_known", {}).items() if count and key in PROPERTIES)
    if not known:
        raise ConfigError(
            f"the data that the model {name!r} was trained on had none of {', '.join(PROPERTIES)}; {advice}"
        )
    label = Path(name).resolve().name if Path(name).is_dir() else name
    return _Predictor(
        model=checkpoint.model.to(pick_device(device)),
        label=f"{label} ({checkpoint.digest[:12]})",
        known=known,
        elements=frozenset(statistics["elements"]),
        most_atoms=max(int(count) for count in statistics["num_atoms"]),
    )
