"""Plain transformers: what attention computes, what modulation starts from, and what tells tokens apart."""

from __future__ import annotations

import pytest
import torch

from euhedral.errors import ConfigError
from euhedral.nets.transformer import Attention, ModulatedBlock, ModulatedHead, TransformerBlock, index_waves
from euhedral.testing.nets import wake


def tokens(b: int = 3, n: int = 5, width: int = 16) -> torch.Tensor:
    return torch.randn(b, n, width, generator=torch.Generator().manual_seed(0))


def test_attention_is_that_of_torch() -> None:
    ours, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.project.weight)
        theirs.in_proj_bias.copy_(ours.project.bias)
        theirs.out_proj.weight.copy_(ours.gather.weight)
        theirs.out_proj.bias.copy_(ours.gather.bias)
        bias = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
        for given, mask in ((None, None), (bias, bias.reshape(12, 5, 5))):
            expected = theirs(tokens(), tokens(), tokens(), attn_mask=mask, need_weights=False)[0]
            torch.testing.assert_close(ours(tokens(), given), expected)


def test_attention_bears_large_logits() -> None:
    attention = Attention(16, 4)
    assert bool(attention(1e4 * tokens()).isfinite().all())
    bias = torch.zeros(3, 4, 5, 5).index_fill(3, torch.tensor([1, 2, 3, 4]), float("-inf"))
    read = attention(tokens(), bias)
    torch.testing.assert_close(read, read[:, :1].expand_as(read))


@pytest.mark.parametrize("block", [TransformerBlock(16, 4), wake(ModulatedBlock(16, 4))])
def test_blocks_do_not_care_for_the_order(block: torch.nn.Module) -> None:
    order = torch.tensor([3, 1, 4, 0, 2])
    told = (torch.randn(3, 16),) if isinstance(block, ModulatedBlock) else ()
    torch.testing.assert_close(block(tokens()[:, order], *told), block(tokens(), *told)[:, order], atol=1e-5, rtol=1e-5)


def test_a_modulated_block_starts_as_the_identity() -> None:
    told = torch.randn(3, 16)
    assert torch.equal(ModulatedBlock(16, 4)(tokens(), told), tokens())
    assert not ModulatedHead(16, 7)(tokens(), told).any()
    woken = wake(ModulatedBlock(16, 4))
    assert not torch.allclose(woken(tokens(), told), woken(tokens(), -told), atol=1e-3)


def test_places_are_told_apart() -> None:
    waves = index_waves(64, 32)
    assert float((torch.cdist(waves, waves) + 10 * torch.eye(64)).min()) > 0.1
    assert torch.equal(index_waves(5, 32), waves[:5])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads 5 must divide width 16"):
        Attention(16, 5)
