"""The EGNN passes the contract of backbones; the plain network does not, where it should not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from euhedral.nets.base import NoisyCrystals, Prediction
from euhedral.nets.egnn import EGNN, EGNNConfig
from euhedral.nets.plain_message_passing import PlainMessagePassing, PlainMessagePassingConfig
from euhedral.testing import nets as contract


def egnn(*, features: int = 0, codes: int = 0, vectors: int = 1) -> EGNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EGNNConfig(width=24, layers=2, radial=12, features=features, codes=codes, vectors=vectors)
        return EGNN(config)


def plain() -> PlainMessagePassing:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PlainMessagePassing(PlainMessagePassingConfig(width=24, layers=2))


def test_the_egnn_passes_the_contract() -> None:
    contract.check_net(egnn(), tolerance=2e-4)


def test_features_codes_and_vectors() -> None:
    net = egnn(features=3, codes=7, vectors=2)
    noisy, context = contract.random_inputs(2, 4)
    with pytest.raises(ValueError, match="features of atoms"):
        net(noisy, context)
    said: Prediction = net(replace(noisy, features=torch.randn(2, 4, 3)), context)
    assert said.frac.shape == (2, 4, 6)
    assert said.species.shape == (2, 4, 7)
    assert float(said.frac.detach().mean(1).abs().max()) < 1e-5


def _turned(noisy: NoisyCrystals) -> NoisyCrystals:
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    return replace(noisy, cell=noisy.cell @ turn)


def test_turning_the_frame_moves_what_the_plain_network_says_and_not_the_vectors_of_the_egnn() -> None:
    noisy, context = contract.random_inputs(3, 5)
    with torch.no_grad():
        for net, moves in ((egnn(), False), (plain(), True)):
            gap = float((net(_turned(noisy), context).frac - net(noisy, context).frac).abs().max())
            assert (gap > 1e-3) is moves, (type(net).__name__, gap)


def test_the_plain_network_is_renumbered_but_not_equivariant() -> None:
    noisy, context = contract.random_inputs(4, 5)
    with torch.no_grad():
        contract.check_permutation(plain(), noisy, context, tolerance=1e-5)
        contract.check_sensitivity(plain(), noisy, context)
        for check in (contract.check_origin, contract.check_cell_images):
            with pytest.raises(AssertionError):
                check(plain(), noisy, context, tolerance=1e-3)
