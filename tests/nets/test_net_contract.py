"""The shipped backbone passes the contract; broken backbones are caught by it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.periodic_transformer import PeriodicTransformer, PeriodicTransformerConfig
from euhedral.testing import nets as contract

TINY = PeriodicTransformerConfig(width=32, blocks=2, heads=4, pair_width=16, feedforward=2)
# Seen for this network: 2e-6 in float32, outputs being of order one.
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def asleep() -> PeriodicTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PeriodicTransformer(TINY)


@pytest.fixture(scope="module")
def net(asleep: PeriodicTransformer) -> PeriodicTransformer:
    return contract.wake(copy.deepcopy(asleep))


@pytest.fixture(scope="module")
def inputs() -> tuple[NoisyCrystals, Context]:
    return contract.random_inputs(4, 5)


def test_whole_contract_in_another_size() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = PeriodicTransformerConfig(width=24, blocks=1, heads=2, pair_width=8, feedforward=1, properties=1)
        contract.check_net(PeriodicTransformer(config), properties=1, tolerance=TOLERANCE, seed=3)


@pytest.mark.parametrize(
    "check", [contract.check_permutation, contract.check_origin, contract.check_cell_images, contract.check_batching]
)
def test_symmetries(check, net: PeriodicTransformer, inputs: tuple[NoisyCrystals, Context]) -> None:
    with torch.no_grad():
        check(net, *inputs, tolerance=TOLERANCE)


def test_precision_and_sizes(net: PeriodicTransformer, inputs: tuple[NoisyCrystals, Context]) -> None:
    with torch.no_grad():
        contract.check_prediction(net, *inputs)
        contract.check_sensitivity(net, *inputs)
        contract.check_unknown_properties(net, *inputs)
        contract.check_autocast(net, *inputs)
        contract.check_sizes(net)


def test_gradients(net: PeriodicTransformer, inputs: tuple[NoisyCrystals, Context]) -> None:
    contract.check_gradients(net, *inputs)
    contract.check_numeric_gradient(net, *inputs)


def test_a_network_that_sleeps_is_not_let_through(
    asleep: PeriodicTransformer, inputs: tuple[NoisyCrystals, Context]
) -> None:
    with torch.no_grad(), pytest.raises(AssertionError, match="does not feel"):
        contract.check_sensitivity(asleep, *inputs)
    with pytest.raises(AssertionError, match="gradient"):
        contract.check_gradients(asleep, *inputs)


class Broken(nn.Module):
    """A backbone with one fault."""

    def __init__(self, net: PeriodicTransformer) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)


class ReadsOrigin(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        prediction = self.net(noisy, context)
        return replace(prediction, lattice=prediction.lattice + 1e-2 * noisy.frac.mean((1, 2))[:, None])


class ReadsOrder(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        prediction = self.net(noisy, context)
        place = 1e-2 * torch.arange(noisy.species.shape[1])[None, :, None]
        return replace(prediction, species=prediction.species + place)


class ReadsImages(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        prediction = self.net(noisy, context)
        gap = (noisy.frac[:, :, None] - noisy.frac[:, None]).abs().sum((1, 2, 3))
        return replace(prediction, lattice=prediction.lattice + 1e-3 * gap[:, None])


class ReadsNeighboursInTheBatch(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        prediction = self.net(noisy, context)
        return replace(prediction, space_group=prediction.space_group - 1e-2 * prediction.space_group.mean(0))


class HasMean(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        prediction = self.net(noisy, context)
        return replace(prediction, frac=prediction.frac + 1e-2)


class IgnoresSpecies(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        return self.net(replace(noisy, species=torch.ones_like(noisy.species)), context)


class ReadsUnknown(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        prediction = self.net(noisy, context)
        return replace(prediction, lattice=prediction.lattice + 1e-3 * context.properties.mean(1, keepdim=True))


class Bfloat(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        prediction = self.net(noisy, context)
        return replace(prediction, frac=prediction.frac.bfloat16())


class DeadWeight(Broken):
    def __init__(self, net: PeriodicTransformer) -> None:
        super().__init__(net)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        return self.net(noisy, context)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 1.1 * gradient


class WrongGradient(Broken):
    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        prediction = self.net(noisy, context)
        return Prediction(**{name: _Doubled.apply(getattr(prediction, name)) for name in contract.NAMES})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ReadsOrigin, "after a shift of the origin"),
        (ReadsOrder, "after a permutation"),
        (ReadsImages, "other cells|shift of the origin"),
        (ReadsNeighboursInTheBatch, "alone"),
        (HasMean, "mean of frac"),
        (IgnoresSpecies, "does not feel species"),
        (ReadsUnknown, "properties that are unknown"),
        (Bfloat, "expected float32"),
        (DeadWeight, "unused gets no gradient"),
        (WrongGradient, "by differences"),
    ],
)
def test_contract_catches(broken: type[Broken], message: str, net: PeriodicTransformer) -> None:
    with pytest.raises(AssertionError, match=message):
        contract.check_net(broken(net), tolerance=TOLERANCE)
