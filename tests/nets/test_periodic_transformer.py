"""What is particular to the periodic transformer: its start at zero, its block in float64, its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from euhedral.nets.periodic_transformer import (
    LARGEST_COUNT_EMBEDDED,
    PairBiasedBlock,
    PeriodicTransformer,
    PeriodicTransformerConfig,
)
from euhedral.testing.nets import random_inputs, wake

TINY = PeriodicTransformerConfig(width=16, blocks=2, heads=2, pair_width=8, feedforward=2)


def make(config: PeriodicTransformerConfig = TINY, *, seed: int = 0) -> PeriodicTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PeriodicTransformer(config)


@torch.no_grad()
def test_starts_with_no_velocity_and_blocks_that_do_nothing() -> None:
    net = make()
    prediction = net(*random_inputs(3, 4))
    assert not prediction.frac.any()
    assert not prediction.lattice.any()
    assert prediction.species.std() > 0.01
    atoms, pairs = torch.randn(2, 4, 16), torch.randn(2, 4, 4, 8)
    for block in net.blocks:
        assert torch.equal(block(atoms, pairs, torch.randn(2, 16)), atoms)


def test_heads_must_divide_the_widths() -> None:
    with pytest.raises(ValueError, match="heads 3 must divide width 16 and pair_width 8"):
        make(replace(TINY, heads=3))


def test_state_holds_parameters_alone() -> None:
    # Feature tables are derived from the configuration, so that a checkpoint is the weights and nothing else.
    net = make()
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


def test_block_gradient_in_float64() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = wake(PairBiasedBlock(replace(TINY, width=8, pair_width=4))).double()
    rng = torch.Generator().manual_seed(1)
    atoms, pairs, modulation = (
        torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 3, 8), (1, 3, 3, 4), (1, 8))
    )
    weights = torch.randn(1, 3, 8, generator=rng, dtype=torch.float64)

    def scalar(a: Tensor, p: Tensor, m: Tensor) -> Tensor:
        return (block(a, p, m) * weights).sum()

    # The softmax is taken in float32, hence the wide step.
    assert torch.autograd.gradcheck(scalar, (atoms, pairs, modulation), eps=1e-3, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_attention_written_out() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        block = PairBiasedBlock(TINY)
    rng = torch.Generator().manual_seed(1)
    atoms, pairs = torch.randn(1, 3, 16, generator=rng), torch.randn(1, 3, 3, 8, generator=rng)
    query, key, value, target, source = block.project(atoms)[0].split([16, 16, 16, 8, 8], -1)
    expected = torch.zeros(3, 24)
    for i in range(3):
        state = torch.nn.functional.silu(block.project_pair(pairs[0, i]) + target[i] + source)
        for head in range(2):
            part, pair_part = slice(8 * head, 8 * head + 8), slice(4 * head, 4 * head + 4)
            logits = key[:, part] @ query[i, part] / 8**0.5 + block.bias(state)[:, head]
            weights = logits.softmax(0)
            expected[i, part] = weights @ value[:, part]
            expected[i, 16 + 4 * head : 20 + 4 * head] = weights @ state[:, pair_part]
    torch.testing.assert_close(block._attend(atoms, pairs)[0], block.gather(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_counts_beyond_the_table_share_its_last_row() -> None:
    net = wake(make())
    more = LARGEST_COUNT_EMBEDDED + 3
    noisy, context = random_inputs(1, more)
    base = net(noisy, context)
    net.embed_context.count.weight[LARGEST_COUNT_EMBEDDED] += 1
    assert (net(noisy, context).lattice - base.lattice).abs().max() > 1e-4
    few, asked = random_inputs(1, 4)
    base = net(few, asked)
    net.embed_context.count.weight[LARGEST_COUNT_EMBEDDED] += 1
    assert torch.equal(net(few, asked).lattice, base.lattice)


@torch.no_grad()
def test_conditions_do_not_leak_into_each_other() -> None:
    net = wake(make())
    noisy, context = random_inputs(2, 4)
    nothing = replace(context, chemical_system=torch.zeros_like(context.chemical_system))
    base = net(noisy, nothing).lattice
    net.embed_context.chemical_system.weight += 1
    assert torch.equal(net(noisy, nothing).lattice, base)
    net.embed_context.no_chemical_system += 1
    assert not torch.equal(net(noisy, nothing).lattice, base)
