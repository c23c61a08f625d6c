"""Ragged batches: every backbone says of a crystal what it says of it alone, and gradients are those of dense calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from euhedral.nets import backbones
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.cspnet import CSPNetConfig, MatrixPrediction
from euhedral.nets.egnn import EGNNConfig
from euhedral.nets.gemnet import GemNetConfig
from euhedral.nets.periodic_transformer import PeriodicTransformerConfig
from euhedral.nets.plain_message_passing import PlainMessagePassingConfig
from euhedral.nets.ragged import RaggedCrystals, predict_ragged
from euhedral.testing import nets as contract

SMALL: dict[str, Any] = {
    "cspnet": CSPNetConfig(width=16, layers=1, frequencies=4, time_width=8, conditioned=True),
    "egnn": EGNNConfig(width=16, layers=1),
    "gemnet": GemNetConfig(width=16, blocks=1, triplet_width=8),
    "periodic_transformer": PeriodicTransformerConfig(width=16, blocks=1, heads=2, pair_width=8),
    "plain_message_passing": PlainMessagePassingConfig(width=16, layers=1),
}


def small(name: str, *, features: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = backbones.backbone(SMALL[name], features=features, codes=0, vectors=1, species=True, matrix=False)
        return contract.wake(made)


def alone(counts: tuple[int, ...]) -> list[tuple[NoisyCrystals, Context]]:
    return [contract.random_inputs(1, count, seed=k) for k, count in enumerate(counts)]


def test_every_backbone_is_tried_here() -> None:
    assert sorted(SMALL) == backbones.names()


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_crystal_is_told_the_same_in_a_ragged_batch(name: str) -> None:
    with torch.no_grad():
        contract.check_ragged(small(name), tolerance=1e-4)


def test_matrices_of_lattices_come_in_the_order_of_the_crystals() -> None:
    config = SMALL["cspnet"]
    net = contract.wake(backbones.backbone(config, features=0, codes=0, vectors=1, species=True, matrix=True))
    inputs = alone((3, 1, 4, 3))
    with torch.no_grad():
        said = predict_ragged(net, *contract.in_one_batch(inputs))
        each = [net(*one) for one in inputs]
    assert said.cell is not None
    assert all(isinstance(one, MatrixPrediction) for one in each)
    torch.testing.assert_close(said.cell, torch.cat([one.cell for one in each]), atol=1e-5, rtol=1e-4)


def test_the_contract_catches_a_network_that_gives_atoms_to_others() -> None:
    class Fixed(nn.Module):
        def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
            b, n = noisy.species.shape
            order = torch.arange(b, dtype=torch.float32)[:, None]
            return Prediction(
                frac=order[..., None].expand(b, n, 3),
                lattice=order.expand(b, 6),
                species=torch.zeros(b, n, 119),
                space_group=torch.zeros(b, 231),
            )

    with pytest.raises(AssertionError, match="in a ragged batch"):
        contract.check_ragged(Fixed(), tolerance=1e-4)


def test_gradients_are_those_of_the_dense_calls() -> None:
    net = small("egnn")
    inputs = alone((2, 4, 2))

    def gradients(value: Tensor) -> list[Tensor]:
        given = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
        return [one for one in given if one is not None]

    together = gradients(predict_ragged(net, *contract.in_one_batch(inputs)).species.square().sum())
    apart = gradients(torch.stack([net(*one).species.square().sum() for one in inputs]).sum())
    assert together
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_features_and_columns_go_with_their_crystals() -> None:
    seen: list[tuple[Tensor, Tensor | None]] = []
    net = small("egnn", features=2)

    def spy(noisy: NoisyCrystals, context: Context) -> Prediction:
        assert noisy.features is not None
        seen.append((noisy.features, context.extra))
        return net(noisy, context)

    noisy, context = contract.in_one_batch(alone((2, 1, 2)))
    numbers = torch.arange(5.0)[:, None].expand(5, 2)
    predict_ragged(
        spy, replace(noisy, features=numbers), replace(context, extra=torch.tensor([[10.0], [20.0], [30.0]]))
    )
    (one, of_one), (two, of_two) = seen
    assert of_one is not None and of_two is not None
    assert (one[..., 0].tolist(), of_one.flatten().tolist()) == ([[2.0]], [20.0])
    assert (two[..., 0].tolist(), of_two.flatten().tolist()) == ([[0.0, 1.0], [3.0, 4.0]], [10.0, 30.0])


@pytest.mark.parametrize("counts", [[2, 2], [5, 0], [6, -1], []])
def test_counts_that_do_not_fit_are_refused(counts: list[int]) -> None:
    noisy, _ = contract.in_one_batch(alone((2, 3)))
    with pytest.raises(ValueError, match="sum to its 5 atoms"):
        RaggedCrystals(**{**vars(noisy), "counts": torch.tensor(counts, dtype=torch.int64)})
