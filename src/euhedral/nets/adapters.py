"""Adapters on a frozen backbone (Zeni et al., MatterGen, Nature 2025, Methods: fine-tuning for property-guided generation).

After each block of the backbone what is known of a crystal beyond the backbone's own conditions is added to the channels of
its atoms: h + mixin(adapter(embedding)). The mixin begins at zero, so that the model begins as the one it was made from, and
nothing is added where nothing is known, so that guidance has its unconditional model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from euhedral.errors import ConfigError
from euhedral.nets.base import Context, NoisyCrystals, Prediction

_WAVES = 16
_FASTEST = 4.0


@dataclass(frozen=True, kw_only=True)
class AdapterInput:
    """How one column of `Context.extra` is read.

    Attributes:
        classes: its classes, of which it holds the position; 0 for a number.
        mean: of numbers in training.
        std: their standard deviation.
    """

    classes: int = 0
    mean: float = 0.0
    std: float = 1.0


class AdaptedNet(nn.Module):
    """A backbone whose blocks hear of further columns; the backbone itself learns nothing more.

    Args:
        net: any backbone that keeps its blocks in a `ModuleList` called `blocks` or `layers`, each giving the channels of
            atoms (b, n, w), alone or first.
        inputs: the columns.
        width: channels of the adapters.

    Raises:
        ConfigError: for a backbone of another make.
    """

    def __init__(self, net: nn.Module, inputs: Sequence[AdapterInput], width: int) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.adapters = nn.ModuleList(_Adapter(one, width, len(blocks_of(net)), _width_of(net)) for one in inputs)

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        """What the backbone says, told of `context.extra`, (b, columns), NaN unknown; None knows nothing."""
        told = context.extra
        if told is None:
            told = torch.full((len(noisy.frac), len(self.adapters)), torch.nan, device=noisy.frac.device)
        told = told.float()
        shifts = [adapter(told[:, place]) for place, adapter in enumerate(self.adapters)]
        hooks = [
            block.register_forward_hook(_adding(sum(shift[number] for shift in shifts)))
            for number, block in enumerate(blocks_of(self.net))
        ]
        try:
            return self.net(noisy, context)
        finally:
            for hook in hooks:
                hook.remove()


class _Adapter(nn.Module):
    """What one column adds after each block, (b, w) each."""

    def __init__(self, reading: AdapterInput, width: int, blocks: int, channels: int) -> None:
        super().__init__()
        self.classes, self.mean, self.std = reading.classes, reading.mean, reading.std
        self.embed = nn.Embedding(reading.classes, width) if reading.classes else nn.Linear(1 + 2 * _WAVES, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()) for _ in range(blocks)
        )
        self.mixins = nn.ModuleList(_zero_linear(width, channels) for _ in range(blocks))

    def forward(self, value: Tensor) -> list[Tensor]:
        known = value.isfinite()[:, None]
        value = value.nan_to_num(0.0, 0.0, 0.0)
        if self.classes:
            embedded = self.embed(value.long().clamp(0, self.classes - 1))
        else:
            number = ((value - self.mean) / self.std)[:, None]
            speeds = _FASTEST * torch.arange(1, _WAVES + 1, device=value.device) / _WAVES
            embedded = self.embed(torch.cat([number, (speeds * number).cos(), (speeds * number).sin()], 1))
        return [mixin(layer(embedded)) * known for layer, mixin in zip(self.layers, self.mixins, strict=True)]


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def blocks_of(net: nn.Module) -> nn.ModuleList:
    """The blocks of a backbone. Raises ConfigError where it keeps none."""
    for name in ("blocks", "layers"):
        if isinstance(blocks := getattr(net, name, None), nn.ModuleList) and len(blocks):
            return blocks
    raise ConfigError(f"adapters need a backbone of blocks, and {type(net).__name__} has none")


def _width_of(net: nn.Module) -> int:
    width = getattr(getattr(net, "config", None), "width", None)
    if not isinstance(width, int):
        raise ConfigError(f"adapters need the width of the backbone, and {type(net).__name__} does not tell it")
    return width


def _adding(shift: Any) -> Callable[[nn.Module, Any, Any], Any]:
    def add(block: nn.Module, inputs: Any, given: Any) -> Any:
        if isinstance(given, tuple):
            return (given[0] + shift[:, None].to(given[0].dtype), *given[1:])
        return given + shift[:, None].to(given.dtype)

    return add
