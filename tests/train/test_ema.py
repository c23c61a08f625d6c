from __future__ import annotations

import pytest
import torch
from torch import nn

from euhedral.train.ema import AveragedWeights


def linear(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def test_average_follows_its_formula() -> None:
    model = linear(0)
    average = AveragedWeights(model, 0.9)
    expected = {name: value.detach().double().clone() for name, value in model.named_parameters()}
    for step in range(1, 120):
        with torch.no_grad():
            for value in model.parameters():
                value.normal_()
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach().double()
    for name, value in average.tensors().items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=0)


def test_applied_puts_the_average_in_and_the_weights_back() -> None:
    model = linear(0)
    average = AveragedWeights(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    own = model.weight.detach().clone()
    with pytest.raises(KeyError), average.applied(model):
        torch.testing.assert_close(model.weight.detach(), own - 1.0)
        raise KeyError
    torch.testing.assert_close(model.weight.detach(), own, atol=0, rtol=0)
    torch.testing.assert_close(average.tensors()["weight"], own - 1.0)


def test_a_constant_is_its_own_average() -> None:
    model = linear(1)
    average = AveragedWeights(model, 0.999)
    for step in range(1, 50):
        average.update(model, step)
    torch.testing.assert_close(average.tensors()["bias"], model.bias.detach(), atol=0, rtol=0)


def test_load_takes_over_and_refuses_what_lacks() -> None:
    source, target = AveragedWeights(linear(0), 0.9), AveragedWeights(linear(1), 0.9)
    target.load(source.tensors())
    for name, value in source.tensors().items():
        torch.testing.assert_close(target.tensors()[name], value, atol=0, rtol=0)
    with pytest.raises(KeyError):
        target.load({"weight": torch.zeros(2, 3)})
