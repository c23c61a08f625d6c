"""The Lightning module: one optimisation step, repeatable from the seed and the number of the step alone.

Imports Lightning, so it is itself imported only where training starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor

from euhedral.errors import EuhedralError
from euhedral.models.base import GenerativeModel
from euhedral.train.config import TrainConfig
from euhedral.train.ema import AveragedWeights
from euhedral.train.loader import TrainingBatch, ValidationData
from euhedral.train.state import Progress, TrainingState, load_optimizer, optimizer_tensors

TRAINING, VALIDATION = 0, 1


class TrainingModule(lightning.LightningModule):
    """Trains any `GenerativeModel`; optimisation is done here so that a step can be left out or repeated exactly.

    Attributes:
        model: what is trained.
        progress: where the run is; shared with the loader and the callbacks.
        average: averaged weights, there once training has started.
        consistent: false in the middle of an update, when nothing may be saved.
        stop_requested: set from outside (a signal) to end after the running step.
    """

    def __init__(self, model: GenerativeModel, config: TrainConfig, progress: Progress, *, total_steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.settings = config
        self.progress = progress
        self.total_steps = total_steps
        self.average: AveragedWeights | None = None
        self.consistent = True
        self.stop_requested = False
        self.terms: tuple[str, ...] = ()
        self._window: dict[str, Tensor] = {}
        self._start: TrainingState | None = None
        self._failures = 0

    def begin_from(self, state: TrainingState) -> None:
        """Go on from a saved state; the optimizer takes its part once it is there."""
        self.model.load_state_dict(state.part("model"))
        self._start = state

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, fused where there is a kernel for it."""
        config = self.settings
        return torch.optim.AdamW(
            [weight for weight in self.model.parameters() if weight.requires_grad],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def on_train_start(self) -> None:
        """Make the averaged weights, and restore them, the optimizer and the running means of a saved state."""
        self.average = AveragedWeights(self.model, self.settings.ema_decay)
        if self._start is not None:
            load_optimizer(self._optimizer, self.weight_names, self._start.part("optimizer"))
            self.average.load(self._start.part("average"))
            self._window = {name: value.to(self.device) for name, value in self._start.part("window").items()}
            self._start = None

    def transfer_batch_to_device(
        self, batch: TrainingBatch, device: torch.device, dataloader_idx: int
    ) -> TrainingBatch:
        """Move crystals and conditions."""
        return batch.to(device)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> None:
        """One update; a gradient that is not finite is left out, `patience` of them in a row end the training."""
        config, progress = self.settings, self.progress
        share = self._share_done()
        rate = config.learning_rate_at(progress.step, share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        rng = random_source(config.seed, TRAINING, progress.step, self.global_rank, self.device)
        loss = self.model.loss(batch.crystals, batch.conditions, rng=rng)
        self.terms = tuple(sorted(loss.terms))
        self._optimizer.zero_grad(set_to_none=True)
        # The last batch of each atom count is smaller; its crystals weigh as much as all others.
        weight = len(batch) / config.batch_size
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss.total * weight)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        self.consistent = False
        progress.step += 1
        progress.position += 1
        progress.crystals += len(batch) * self.trainer.world_size
        if bool(torch.isfinite(norm)):
            self._failures = 0
            self._optimizer.step()
            self._averaged.update(self.model, progress.step)
            self._add_to_window({"loss": loss.total, **loss.terms, "gradient_norm": norm})
        else:
            progress.skipped += 1
            self._failures += 1
        self.consistent = True
        if self._failures >= config.patience:
            raise EuhedralError(
                f"the gradient was not finite in {self._failures} steps in a row, up to step {progress.step}; the last "
                "saved state is sound: resume from it with a lower --learning-rate, or check the data"
            )

    @property
    def share_done(self) -> float:
        """Share of the run that is done, by steps or by the clock, whichever is further."""
        return self._share_at(self.progress.seconds)

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def weight_names(self) -> list[str]:
        """Names of the weights in the optimizer's order."""
        return [name for name, weight in self.model.named_parameters() if weight.requires_grad]

    def take_window(self) -> dict[str, float]:
        """Means of loss, terms and gradient norm since the last call, over all processes; empty if none was finite."""
        count, self.progress.window = self.progress.window, 0
        sums, self._window = self._window, {}
        if not count:
            return {}
        means = torch.stack([sums[name] for name in sorted(sums)]) / count
        if self.trainer.world_size > 1:
            means = cast(Tensor, self.trainer.strategy.reduce(means, reduce_op="mean"))
        return dict(zip(sorted(sums), means.tolist(), strict=True))

    def state_parts(self) -> dict[str, dict[str, Tensor]]:
        """All tensors of the training state; see `TrainingState`."""
        return {
            "model": self.model.state_dict(),
            "average": self._averaged.tensors(),
            "optimizer": optimizer_tensors(self._optimizer, self.weight_names),
            "window": self._window,
        }

    @torch.no_grad()
    def validation_loss(self, data: ValidationData) -> float:
        """Mean loss of the averaged weights, with the same noise each time."""
        total = torch.zeros(2, device=self.device)
        self.model.eval()
        with self._averaged.applied(self.model), self.trainer.precision_plugin.val_step_context():
            for number, batch in data.share(self.global_rank, self.trainer.world_size):
                moved = batch.to(self.device)
                rng = random_source(0, VALIDATION, number, 0, self.device)
                loss = self.model.loss(moved.crystals, moved.conditions, rng=rng).total.float()
                total += torch.stack([loss * len(batch), loss.new_tensor(len(batch))])
        self.model.train()
        if self.trainer.world_size > 1:
            total = cast(Tensor, self.trainer.strategy.reduce(total, reduce_op="sum"))
        return float(total[0] / total[1])

    def _share_done(self) -> float:
        """The share, the same in all processes: their clocks and signals are brought together."""
        seconds, stop = self.progress.seconds, self.stop_requested
        if self.trainer.world_size > 1:
            both = torch.tensor([seconds, float(stop)], dtype=torch.float32, device=self.device)
            seconds, stop = cast(Tensor, self.trainer.strategy.reduce(both, reduce_op="max")).tolist()
        share = self._share_at(seconds)
        if stop or share >= 1:
            self.trainer.should_stop = True
        return share

    def _share_at(self, seconds: float) -> float:
        steps = self.progress.step / self.total_steps
        minutes = self.settings.max_minutes
        return steps if minutes is None else max(steps, seconds / max(60 * minutes, 1e-9))

    def _add_to_window(self, values: Mapping[str, Tensor]) -> None:
        self.progress.window += 1
        for name, value in values.items():
            fresh = value.detach().float()
            self._window[name] = self._window[name] + fresh if name in self._window else fresh.clone()

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return cast("_Wrapped", self.optimizers()).optimizer

    @property
    def _averaged(self) -> AveragedWeights:
        if self.average is None:
            raise RuntimeError("the averaged weights exist once training has started")
        return self.average


class _Wrapped(Protocol):
    @property
    def optimizer(self) -> torch.optim.Optimizer: ...


def random_source(seed: int, stream: int, number: int, rank: int, device: torch.device) -> torch.Generator:
    """A generator for one step; also seeds torch's own, which layers such as dropout draw from."""
    words = np.random.SeedSequence([seed, stream, number, rank]).generate_state(1, np.uint64)
    mixed = int(words[0]) >> 1
    torch.manual_seed(mixed)
    return torch.Generator(device=device).manual_seed(mixed)
