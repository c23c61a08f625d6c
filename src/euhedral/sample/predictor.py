"""A trained model with a property head, by name or folder, with what it can be asked of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import SYMBOLS
from euhedral.errors import ConfigError
from euhedral.models.checkpoint import WEIGHTS, load_model
from euhedral.models.conditions import PROPERTIES
from euhedral.models.property_predictor import PropertyPredictor
from euhedral.sample.weights import find_weights, pick_device


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A model with what it was trained on.

    Attributes:
        model: in evaluation mode, on its device.
        label: name of the weights or of the folder of the run, and first digits of the digest.
        digest: SHA-256 of the weights.
        known: names of the properties that it has learned.
        elements: atomic numbers of its training.
        most_atoms: of a crystal of its training.
    """

    model: Any
    label: str
    digest: str
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


def load_predictor(name: str, device: str | torch.device) -> Predictor:
    """A model by name or folder; the last one is kept as long as its weights stay the same, so that it is loaded once.

    Raises:
        CheckpointError: where there is none, or it is damaged.
        ConfigError: where it has no property head, or training knew of no property.
    """
    folder = find_weights(name).resolve()
    weights = folder / WEIGHTS
    changed = weights.stat().st_mtime_ns if weights.is_file() else 0
    return _load(folder, changed, name, str(device))


@lru_cache(maxsize=1)
def _load(folder: Path, changed: int, name: str, device: str) -> Predictor:
    """The model in a folder, as of a time; see `load_predictor`."""
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
    label = folder.parent.name if folder.name == "model" else folder.name
    return Predictor(
        model=checkpoint.model.to(pick_device(device)).requires_grad_(False),
        label=f"{label} ({checkpoint.digest[:12]})",
        digest=checkpoint.digest,
        known=known,
        elements=frozenset(statistics["elements"]),
        most_atoms=max(int(count) for count in statistics["num_atoms"]),
    )
