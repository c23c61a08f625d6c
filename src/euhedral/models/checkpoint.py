"""Checkpoints: a folder with `model.safetensors` and `config.json`. Loaded strictly; no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.errors import CheckpointError, ConfigError
from euhedral.models import registry

if TYPE_CHECKING:
    import torch

    from euhedral.models.base import GenerativeModel

SCHEMA_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
LARGEST_CONFIG = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model.

    Attributes:
        model: the model in evaluation mode, float32, on the CPU.
        meta: what training recorded: data, statistics, measured quality.
        digest: SHA-256 of the weights file, hexadecimal.
        folder: where it was loaded from.
    """

    model: GenerativeModel
    meta: Mapping[str, Any]
    digest: str
    folder: Path


def save_model(
    folder: str | Path, model: GenerativeModel, meta: Mapping[str, Any], *, dtype: torch.dtype | None = None
) -> Path:
    """Write weights and configuration; each file is complete or absent, also after a kill.

    Args:
        folder: made where it does not exist; an older checkpoint in it is replaced.
        model: of a registered family.
        meta: anything that JSON holds, kept beside the configuration.
        dtype: floating dtype of the stored weights, e.g. torch.float16 to ship; None keeps theirs.

    Returns:
        The folder.
    """
    from safetensors.torch import save

    path = Path(folder)
    document = {
        "schema_version": SCHEMA_VERSION,
        "family": registry.name_of(model),
        "config": registry.plain_config(model.config),
        "meta": dict(meta),
    }
    tensors = {
        name: (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
    }
    path.mkdir(parents=True, exist_ok=True)
    replace_file(path / WEIGHTS, save(tensors))
    replace_file(path / CONFIG, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    return path


def load_model(folder: str | Path) -> Checkpoint:
    """Load a checkpoint folder.

    Raises:
        CheckpointError: where a file is missing, damaged, of another schema version, or where a tensor is missing, left
            over, of another shape or not finite.
    """
    path = Path(folder)
    document = _read_config(path)
    try:
        model = registry.build(document["family"], document["config"])
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / CONFIG} does not describe a model: {error}") from None
    tensors, digest = _read_weights(path / WEIGHTS)
    _check_tensors(path, model, tensors)
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    )
    return Checkpoint(model=model.eval(), meta=document.get("meta", {}), digest=digest, folder=path)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and move it into place, so that it is never seen half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at {path}: expected a folder with {CONFIG} and {WEIGHTS}")
    if file.stat().st_size > LARGEST_CONFIG:
        raise CheckpointError(f"{file} is larger than {LARGEST_CONFIG} bytes; it is not a checkpoint's configuration")
    try:
        document = json.loads(file.read_bytes())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); restore it or train again") from None
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        raise CheckpointError(f"{file} is not a checkpoint's configuration: no 'config' object in it")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{file} has schema version {document.get('schema_version')!r}, this version reads {SCHEMA_VERSION}"
        )
    if not isinstance(document.get("family"), str):
        raise CheckpointError(f"{file} names no model family")
    return document


def _read_weights(file: Path) -> tuple[dict[str, torch.Tensor], str]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not file.is_file():
        raise CheckpointError(f"{file} is missing; a checkpoint is a folder with {CONFIG} and {WEIGHTS}")
    content = file.read_bytes()
    try:
        return load(content), hashlib.sha256(content).hexdigest()
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); fetch it again or train again") from None


def _check_tensors(path: Path, model: GenerativeModel, tensors: Mapping[str, torch.Tensor]) -> None:
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{path / WEIGHTS} does not fit its configuration: missing {missing[:3]}, extra {extra[:3]}"
        )
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            raise CheckpointError(
                f"{path / WEIGHTS}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
            )
        if not bool(tensors[name].float().isfinite().all()):
            raise CheckpointError(f"{path / WEIGHTS}: {name} holds values that are not finite")
