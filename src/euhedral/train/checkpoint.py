"""Moved: see `euhedral.models.checkpoint`."""

from euhedral.models.checkpoint import Checkpoint, load_model, save_model

__all__ = ["Checkpoint", "load_model", "save_model"]
