"""The exponential moving average of the weights, which generates better than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """a <- d a + (1 - d) w after every step, with d = min(decay, (1 + step) / (10 + step)).

    The bound lets the average follow the quick start of training (Karras et al., CVPR 2024, Section 3.1, discuss why).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._names = [name for name, _ in model.named_parameters()]
        self._average = [value.detach().clone() for value in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step `step` (1 is the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._average, [value.detach() for value in model.parameters()], step)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averaged weights into the model, and the model's own back at the end."""
        parameters = list(model.parameters())
        own = [value.data for value in parameters]
        for parameter, average in zip(parameters, self._average, strict=True):
            parameter.data = average
        try:
            yield
        finally:
            for parameter, value in zip(parameters, own, strict=True):
                parameter.data = value

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name of the weight; not copies."""
        return dict(zip(self._names, self._average, strict=True))

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over averages that `tensors` gave. Raises KeyError where one is missing."""
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(tensors[name])
