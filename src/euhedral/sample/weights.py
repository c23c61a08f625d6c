"""Where trained models are, and on which device they run."""

from __future__ import annotations

from pathlib import Path

import torch

from euhedral.errors import CheckpointError, RequestError

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"


def find_weights(name: str) -> Path:
    """Folder of shipped weights by name, or the path itself. Raises CheckpointError where there is neither."""
    shipped = WEIGHTS_FOLDER / name
    if name and Path(name).name == name and shipped.is_dir():
        return shipped
    if Path(name).is_dir():
        inner = Path(name) / "model"
        return inner if inner.is_dir() else Path(name)
    raise CheckpointError(f"no model {name!r}: give one of {', '.join(shipped_weights())} or a checkpoint folder")


def portable_name(name: str) -> str:
    """The same weights by a name that any folder to work in gives: that of shipped ones, or the absolute path."""
    folder = find_weights(name)
    return name if folder.parent == WEIGHTS_FOLDER else str(folder.absolute())


def shipped_weights() -> list[str]:
    """Names of the weights in this installation."""
    return sorted(path.name for path in WEIGHTS_FOLDER.iterdir() if (path / "config.json").is_file())


def pick_device(name: str = "auto") -> torch.device:
    """The torch device for a name; "auto" prefers CUDA. Raises RequestError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"there is no device {name!r}; use auto, cpu, cuda, cuda:1, mps, ...") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise RequestError(f"device {name!r} cannot be used here ({reason}); use auto or cpu") from None
    return device
