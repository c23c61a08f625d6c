"""What happens around the steps: rows of the log, validation, saving, and the progress that a user sees.

Imports Lightning, so it is itself imported only where training starts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning

from euhedral.errors import EuhedralError, OutputError
from euhedral.models.checkpoint import save_model
from euhedral.train.clock import seconds_by
from euhedral.train.loader import ValidationData
from euhedral.train.log import TrainingLog
from euhedral.train.module import TrainingModule
from euhedral.train.show import ProgressDisplay
from euhedral.train.state import STATE, save_state

MODEL = "model"


class RunKeeper(lightning.Callback):
    """Keeps a run folder: `log.csv`, `state.safetensors` and `model/`. Only the first process writes.

    Args:
        folder: of the run.
        meta: what the checkpoint's `meta` holds beside `training`.
        validation: data of the validation loss, or None.
        batches: batches in an epoch.
        display: what the user sees.
    """

    def __init__(
        self,
        folder: Path,
        *,
        meta: Mapping[str, Any],
        validation: ValidationData | None,
        batches: int,
        display: ProgressDisplay,
    ) -> None:
        self._folder = folder
        self._meta = meta
        self._validation = validation
        self._batches = batches
        self._display = display
        self._log: TrainingLog | None = None
        self._mark, self._saved = 0.0, time.monotonic()
        self._row_at = (0.0, 0)
        self._first_step = 0
        self._last: dict[str, float] = {}
        self._validated = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin to measure time."""
        module = _module(pl_module)
        self._mark, self._saved = seconds_by(module.settings.clock), time.monotonic()
        self._row_at = (module.progress.seconds, module.progress.crystals)
        self._first_step = module.progress.step
        if trainer.is_global_zero:
            self._display.start(module.share_done)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count time, write a row where one is due, save where it is time to and the epoch is not over."""
        module = _module(pl_module)
        progress, now = module.progress, seconds_by(module.settings.clock)
        progress.seconds += now - self._mark
        self._mark = now
        # By steps alone: the clocks of several processes differ, and are brought together in the step.
        if progress.step >= module.total_steps:
            trainer.should_stop = True
        module.consistent = False
        if progress.step % module.settings.log_steps == 0:
            self._row(trainer, module, module.take_window())
        elif trainer.is_global_zero:
            self._display.update(module.share_done, progress, self._last)
        module.consistent = True
        # The end of an epoch is saved once its validation is done, so that no row is written twice.
        if progress.position < self._batches and self._due(module):
            self._save(trainer, module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Validate and save at the end of an epoch; Lightning calls this also where training stops inside one."""
        module = _module(pl_module)
        progress = module.progress
        if progress.position < self._batches:
            return
        progress.epoch += 1
        progress.position = 0
        if progress.epoch % module.settings.validation_epochs == 0:
            self._validate(trainer, module)
        if self._due(module):
            self._save(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Validate once more, save the state and the model."""
        module = _module(pl_module)
        self._validate(trainer, module)
        self._save(trainer, module)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Save what is sound, unless it is the saving itself that failed."""
        module = _module(pl_module)
        sound = module.consistent and module.average is not None and not isinstance(exception, EuhedralError)
        # Inside an epoch only: at its end the state is in between, and the one saved before is exact.
        if sound and module.progress.position < self._batches:
            self._save(trainer, module)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the log and the display."""
        self._display.stop()
        if self._log is not None:
            self._log.close()

    def _due(self, module: TrainingModule) -> bool:
        return time.monotonic() - self._saved >= 60 * module.settings.checkpoint_minutes

    def _row(self, trainer: lightning.Trainer, module: TrainingModule, values: Mapping[str, float]) -> None:
        """Write a row of the log; `values` is empty where no step was finite."""
        if not values or not trainer.is_global_zero:
            return
        progress = module.progress
        since, crystals = progress.seconds - self._row_at[0], progress.crystals - self._row_at[1]
        row: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "crystals": progress.crystals,
            "seconds": round(progress.seconds, 3),
            "learning_rate": module.learning_rate,
            "skipped": progress.skipped,
            **values,
        }
        if crystals:
            row["crystals_per_second"] = round(crystals / max(since, 1e-9), 2)
            self._row_at = (progress.seconds, progress.crystals)
        with _writing(self._folder):
            if self._log is None:
                self._log = TrainingLog(self._folder, step=self._first_step, terms=module.terms)
            self._log.append(row)
        self._last |= {
            name: float(row[name]) for name in ("loss", "validation_loss", "crystals_per_second") if name in row
        }
        self._display.update(module.share_done, progress, self._last, row=True)

    def _validate(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        if self._validation is None or self._validated == module.progress.step:
            return
        self._validated = module.progress.step
        loss = module.validation_loss(self._validation)
        self._row(trainer, module, {"validation_loss": loss})

    def _save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self._saved = time.monotonic()
        if not trainer.is_global_zero or module.average is None:
            return
        with _writing(self._folder):
            save_state(self._folder / STATE, module.progress, module.state_parts())
            with module.average.applied(module.model):
                save_model(
                    self._folder / MODEL, module.model, {**self._meta, "training": self._training(trainer, module)}
                )

    def _training(self, trainer: lightning.Trainer, module: TrainingModule) -> dict[str, Any]:
        progress = module.progress
        losses = {name: self._last[name] for name in ("loss", "validation_loss") if name in self._last}
        return {
            **self._meta.get("training", {}),
            "steps": progress.step,
            "epochs": progress.epoch,
            "crystals_seen": progress.crystals,
            "hours": round(progress.seconds / 3600, 4),
            "steps_skipped": progress.skipped,
            "finished": bool(module.share_done >= 1),
            "devices": trainer.world_size,
            "precision": str(trainer.precision),
            **losses,
        }


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write to '{folder}': {error.strerror or error}; what was saved before is whole; make room and go "
            f"on with `euhedral train --resume {folder}`"
        ) from error


def _module(module: lightning.LightningModule) -> TrainingModule:
    if not isinstance(module, TrainingModule):
        raise TypeError(f"RunKeeper works with TrainingModule, got {type(module).__name__}")
    return module
