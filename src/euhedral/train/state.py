"""The whole state of a training run in one file: tensors and a JSON document, written in one step, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from euhedral.errors import CheckpointError
from euhedral.models.checkpoint import replace_file

SCHEMA_VERSION = 1
STATE = "state.safetensors"
_DOCUMENT = "euhedral"


@dataclass(kw_only=True)
class Progress:
    """Where a run is. Every random number is a function of the seed and `step`, so no generator's state is needed.

    Attributes:
        step: batches that were trained on.
        epoch: epoch of the next batch.
        position: number of the next batch in its epoch.
        crystals: crystals that were trained on.
        seconds: time spent, over all resumes.
        skipped: steps left out because their gradient was not finite.
        window: steps since the last row of the log.
        batches: identity of the batches, to refuse other data on resume.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    crystals: int = 0
    seconds: float = 0.0
    skipped: int = 0
    window: int = 0
    batches: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What is read back of a run.

    Attributes:
        progress: where it is.
        tensors: named `model.*`, `average.*`, `optimizer.<weight>.<slot>` and `window.*`.
    """

    progress: Progress
    tensors: Mapping[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        start = f"{prefix}."
        return {name[len(start) :]: value for name, value in self.tensors.items() if name.startswith(start)}


def save_state(path: Path, progress: Progress, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the state under a temporary name and move it into place; an older state is whole until then.

    Raises:
        OSError: where it cannot be written; the older state is still there.
    """
    from safetensors.torch import save

    tensors = {
        f"{prefix}.{name}": value.detach().cpu().contiguous()
        for prefix, part in parts.items()
        for name, value in part.items()
    }
    document = {"schema_version": SCHEMA_VERSION, "progress": asdict(progress)}
    replace_file(path, save(tensors, metadata={_DOCUMENT: json.dumps(document, allow_nan=False)}))


def load_state(path: Path) -> TrainingState:
    """Read a state.

    Raises:
        CheckpointError: where it is missing, damaged or of another schema version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"no training state at '{path}'")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            document = json.loads((file.metadata() or {})[_DOCUMENT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise CheckpointError(f"'{path}' has schema version {version!r}, this version reads {SCHEMA_VERSION}")
        progress = Progress(**document["progress"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged or is not a training state ({error}); start a new run") from None
    return TrainingState(progress=progress, tensors=tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors, `<weight>.<slot>`; `names` are the weights in the optimizer's order."""
    return {
        f"{names[index]}.{slot}": torch.as_tensor(value)
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` took. Raises CheckpointError for another model's."""
    places = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        name, _, slot = key.rpartition(".")
        if name not in places:
            raise CheckpointError(f"the training state holds '{name}', which the model has not; it is of another model")
        state.setdefault(places[name], {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
