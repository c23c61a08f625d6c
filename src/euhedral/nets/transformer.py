"""Transformers without geometry: plain blocks, blocks modulated by a vector (DiT), and waves that number tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

LONGEST = 2048
"""Slowest period of `index_waves`, in half turns (Joshi et al., ADiT, Appendix)."""


class Attention(nn.Module):
    """Multi-head self-attention among all tokens of a sequence; no sequence of a batch is padded."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"heads {heads} must divide width {width}")
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.gather = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "b n w"], bias: Tensor | None = None) -> Float[Tensor, "b n w"]:
        """What each token reads from all; `bias` is added to the logits, (b, heads, n, n)."""
        b, n, width = tokens.shape
        query, key, value = self.project(tokens).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = (query @ key.transpose(-1, -2)).float() / math.sqrt(width // self.heads)
        if bias is not None:
            logits = logits + bias
        # By elementwise steps: on rows as short as a cell, faster than the library's fused attention.
        weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()
        weights = (weights / weights.sum(-1, keepdim=True)).to(value.dtype)
        return self.gather((weights @ value).transpose(1, 2).reshape(b, n, width))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each after a layer norm (Xiong et al., ICML 2020)."""

    def __init__(self, width: int, heads: int, feedforward: int = 4) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feedforward = _feedforward(width, feedforward)

    def forward(self, tokens: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        """New tokens."""
        tokens = tokens + self.attention(self.norm_attention(tokens))
        return tokens + self.feedforward(self.norm_feedforward(tokens))


class ModulatedBlock(nn.Module):
    """As `TransformerBlock`, its layers shifted, scaled and gated by a vector that is the same for all tokens.

    Gates are zero at the start (adaptive layer norm: Peebles and Xie, ICCV 2023, Section 3.2).
    """

    def __init__(self, width: int, heads: int, feedforward: int = 4) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_feedforward = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.feedforward = _feedforward(width, feedforward)
        self.modulation = zero_linear(width, 6 * width)

    def forward(
        self, tokens: Float[Tensor, "b n w"], modulation: Float[Tensor, "b w"], bias: Tensor | None = None
    ) -> Float[Tensor, "b n w"]:
        """New tokens; for `bias` see `Attention`."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(modulation)[:, None].chunk(6, -1)
        tokens = tokens + gate_a * self.attention(self.norm_attention(tokens) * (1 + scale_a) + shift_a, bias)
        return tokens + gate_f * self.feedforward(self.norm_feedforward(tokens) * (1 + scale_f) + shift_f)


class ModulatedHead(nn.Module):
    """A linear layer that gives zero at the start, after a layer norm that a vector shifts and scales."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_linear(width, 2 * width)
        self.linear = zero_linear(width, outputs)

    def forward(self, tokens: Float[Tensor, "b n w"], modulation: Float[Tensor, "b w"]) -> Float[Tensor, "b n o"]:
        """Numbers of each token."""
        shift, scale = self.modulation(modulation)[:, None].chunk(2, -1)
        return self.linear(self.norm(tokens) * (1 + scale) + shift)


def index_waves(count: int, width: int, *, device: torch.device | str = "cpu") -> Float[Tensor, "n w"]:
    """Sines and cosines of the places 0 to count - 1, at geometric rates from pi to pi / `LONGEST`."""
    rate = math.pi / LONGEST ** (2 * torch.arange(width // 2, device=device) / width)
    phase = torch.arange(count, device=device)[:, None] * rate
    return torch.cat([phase.sin(), phase.cos()], -1)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that gives zero at the start."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _feedforward(width: int, multiple: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, multiple * width), nn.GELU(approximate="tanh"), nn.Linear(multiple * width, width)
    )
