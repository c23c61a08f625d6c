"""Tests of adapters on frozen backbones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from euhedral.errors import ConfigError
from euhedral.nets.adapters import AdaptedNet, AdapterInput
from euhedral.nets.backbones import backbone
from euhedral.nets.cspnet import CSPNetConfig
from euhedral.nets.egnn import EGNNConfig
from euhedral.nets.gemnet import GemNetConfig
from euhedral.nets.periodic_transformer import PeriodicTransformer, PeriodicTransformerConfig
from euhedral.nets.plain_message_passing import PlainMessagePassingConfig
from euhedral.testing.nets import check_net, random_inputs, wake

CONFIGS: dict[str, Any] = {
    "cspnet": CSPNetConfig(width=16, layers=2, frequencies=4, time_width=8, conditioned=True),
    "periodic_transformer": PeriodicTransformerConfig(width=16, blocks=2, heads=2, pair_width=8, feedforward=1),
    "egnn": EGNNConfig(width=16, layers=2),
    "gemnet": GemNetConfig(width=16, blocks=2, triplet_width=8),
    "plain_message_passing": PlainMessagePassingConfig(width=16, layers=2),
}
INPUTS = (AdapterInput(mean=2.0, std=3.0), AdapterInput(classes=3))
TOLD = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [5.0, float("nan")]])


def adapted(name: str) -> AdaptedNet:
    torch.manual_seed(0)
    net = backbone(CONFIGS[name], features=0, codes=0, vectors=1, species=True, matrix=False)
    return AdaptedNet(wake(net), INPUTS, 8)


@pytest.mark.parametrize("name", CONFIGS)
def test_new_adapters_say_nothing_and_learned_ones_do(name: str) -> None:
    net = adapted(name)
    noisy, context = random_inputs(3, 4)
    plain = net.net(noisy, context)
    told = net(noisy, replace(context, extra=TOLD))
    assert torch.equal(told.frac, plain.frac) and torch.equal(told.lattice, plain.lattice)
    wake(net.adapters)
    told = net(noisy, replace(context, extra=TOLD))
    assert not torch.allclose(told.lattice, plain.lattice, atol=1e-4)
    nothing = net(noisy, replace(context, extra=torch.full((3, 2), float("nan"))))
    torch.testing.assert_close(nothing.frac, plain.frac)
    assert torch.equal(net(noisy, context).frac, plain.frac)


@pytest.mark.parametrize("name", ["cspnet", "periodic_transformer", "gemnet"])
def test_only_adapters_learn_and_each_crystal_hears_of_its_own_columns(name: str) -> None:
    net = adapted(name)
    wake(net.adapters)
    noisy, context = random_inputs(3, 4)
    said = net(noisy, replace(context, extra=TOLD))
    changed = TOLD.clone()
    changed[0, 1] = 1.0
    other = net(noisy, replace(context, extra=changed))
    assert not torch.allclose(said.lattice[0], other.lattice[0], atol=1e-5)
    torch.testing.assert_close(said.lattice[1:], other.lattice[1:])
    (said.frac.square().sum() + said.lattice.square().sum()).backward()
    assert all(weight.grad is None for weight in net.net.parameters())
    assert all(weight.grad is not None for name, weight in net.adapters.named_parameters() if "1.embed" not in name)


def test_an_adapted_backbone_is_one() -> None:
    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = AdaptedNet(PeriodicTransformer(CONFIGS["periodic_transformer"]), INPUTS, 8)
            self.requires_grad_(True)

        def forward(self, noisy: Any, context: Any) -> Any:
            number = context.properties[:, 0].masked_fill(~context.has_property[:, 0], float("nan"))
            extra = torch.stack([number, torch.zeros_like(number)], 1)
            return self.net(noisy, replace(context, extra=extra))

    check_net(Told())


def test_numbers_that_are_near_are_told_alike() -> None:
    net = adapted("cspnet")
    wake(net.adapters)
    noisy, context = random_inputs(3, 4)
    base, near, far = (
        net(noisy, replace(context, extra=torch.tensor([[value, 0.0]] * 3))).lattice.detach()
        for value in (2.0, 2.01, 8.0)
    )
    assert float((near - base).abs().max()) < 0.05 * float((far - base).abs().max())


def test_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="has none"):
        AdaptedNet(nn.Linear(1, 1), INPUTS, 8)
    bare = nn.Module()
    bare.layers = nn.ModuleList([nn.Linear(1, 1)])
    with pytest.raises(ConfigError, match="width"):
        AdaptedNet(bare, INPUTS, 8)
