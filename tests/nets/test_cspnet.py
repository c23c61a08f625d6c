"""CSPNet passes the backbone contract, and says what a straightforward network of the same weights says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from euhedral.nets.base import Context, NoisyCrystals
from euhedral.nets.cspnet import CSPNet, CSPNetConfig, EdgeLayer, MatrixPrediction, PairLayout, pair_waves
from euhedral.testing import nets as contract


def network(seed: int = 0, **changes: object) -> CSPNet:
    small = {"width": 24, "layers": 2, "frequencies": 12, "time_width": 16}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CSPNet(CSPNetConfig(**(small | changes)))  # type: ignore[arg-type]


def in_double(inputs: tuple[NoisyCrystals, Context]) -> tuple[NoisyCrystals, Context]:
    noisy, context = inputs
    return (
        replace(
            noisy, **{name: getattr(noisy, name).double() for name in ("frac", "cell", "lattice", "time", "known")}
        ),
        replace(context, properties=context.properties.double()),
    )


def any_matrix(noisy: NoisyCrystals, seed: int = 5) -> NoisyCrystals:
    """Cells that are neither symmetric nor right-handed, as noise makes them."""
    rng = torch.Generator().manual_seed(seed)
    return replace(noisy, cell=3 * torch.randn(noisy.cell.shape, generator=rng, dtype=torch.float64).to(noisy.cell))


def straightforward(net: CSPNet, noisy: NoisyCrystals) -> tuple[Tensor, Tensor]:
    """One list of all edges of all crystals, one concatenated tensor an edge: the published form."""
    b, n = noisy.species.shape
    config = net.config
    edges = [(c * n + i, c * n + j) for c in range(b) for i in range(n) for j in range(n)]
    target, source = torch.tensor(edges).T
    owner = torch.arange(b).repeat_interleave(n)
    frac = noisy.frac.reshape(-1, 3)
    k = torch.arange(config.frequencies, dtype=torch.float64)
    phase = (((frac[source] - frac[target]) % 1.0)[..., None] * 2 * math.pi * k).flatten(1)
    waves = torch.cat([phase.sin(), phase.cos()], 1)
    metric = (noisy.cell @ noisy.cell.mT).reshape(b, 9)[owner[target]]
    half = config.time_width // 2
    angle = (1 - noisy.time)[:, None] * 1000 * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
    clock = torch.cat([angle.sin(), angle.cos()], 1)[owner]
    nodes = net.mix(torch.cat([net.embed_species(noisy.species.reshape(-1)), clock], 1))
    for layer in net.layers:
        assert isinstance(layer, EdgeLayer)
        first = torch.cat([layer.ends, layer.metric.weight, layer.sin, layer.cos], 1)
        normed = layer.norm(nodes)
        inputs = torch.cat([normed[target], normed[source], metric, waves], 1)
        hidden = torch.nn.functional.silu(inputs @ first.T + layer.metric.bias)
        messages = torch.nn.functional.silu(layer.edge(hidden))
        mean = torch.stack([messages[target == i].mean(0) for i in range(b * n)])
        nodes = nodes + layer.node(torch.cat([normed, mean], 1))
    nodes = net.norm(nodes).view(b, n, -1)
    return net.to_frac(nodes), net.to_lattice(nodes.mean(1)).view(b, 3, 3) @ noisy.cell


@pytest.mark.parametrize(("atoms", "frequencies", "width"), [(1, 8, 16), (2, 12, 16), (7, 128, 48)])
def test_equals_a_straightforward_network(atoms: int, frequencies: int, width: int) -> None:
    net = network(width=width, frequencies=frequencies, layers=3).double()
    noisy, context = in_double(contract.random_inputs(3, atoms, seed=atoms))
    noisy = any_matrix(noisy)
    prediction = net(noisy, context)
    frac, cell = straightforward(net, noisy)
    assert isinstance(prediction, MatrixPrediction)
    assert prediction.frac.dtype == torch.float64
    torch.testing.assert_close(prediction.frac, frac - frac.mean(1, keepdim=True), atol=1e-10, rtol=0)
    torch.testing.assert_close(prediction.cell, cell, atol=1e-10, rtol=0)


def test_gradients_equal_those_of_a_straightforward_network() -> None:
    net = network(frequencies=20, width=20).double()
    noisy, context = in_double(contract.random_inputs(2, 5))
    prediction = net(noisy, context)
    frac, cell = straightforward(net, noisy)
    weights = torch.linspace(-1, 1, frac.numel(), dtype=torch.float64).view_as(frac)
    centred = frac - frac.mean(1, keepdim=True)
    ours = torch.autograd.grad((weights * prediction.frac).sum() + prediction.cell.square().sum(), net.parameters())
    theirs = torch.autograd.grad((weights * centred).sum() + cell.square().sum(), net.parameters())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_whole_contract() -> None:
    every = {"lattice": "log_symmetric", "species": True, "conditioned": True, "space_group": True}
    contract.check_net(network(**every), tolerance=2e-4)


def test_symmetries_with_matrices() -> None:
    net, (noisy, context) = network(), contract.random_inputs(4, 5)
    noisy = any_matrix(noisy)
    with torch.no_grad():
        for check in (
            contract.check_permutation,
            contract.check_origin,
            contract.check_cell_images,
            contract.check_batching,
        ):
            check(net, noisy, context, tolerance=2e-4)
        contract.check_prediction(net, noisy, context)


def test_matrices_turn_with_the_cell() -> None:
    net = network().double()
    noisy, context = in_double(contract.random_inputs(3, 4))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    base, turned = net(noisy, context), net(replace(noisy, cell=noisy.cell @ turn), context)
    torch.testing.assert_close(turned.cell, base.cell @ turn, atol=1e-10, rtol=0)
    torch.testing.assert_close(turned.frac, base.frac, atol=1e-10, rtol=0)


def test_waves_of_pairs_are_those_of_their_differences() -> None:
    frac = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)) * 3 - 1
    pairs = PairLayout(5, frac.device, torch.float32)
    cos, sin = pair_waves(frac, pairs, 128)
    phase = 2 * math.pi * (frac[:, pairs.second] - frac[:, pairs.first]).double()[..., None] * torch.arange(128)
    torch.testing.assert_close(cos.double(), phase.cos().flatten(2), atol=2e-4, rtol=0)
    torch.testing.assert_close(sin.double(), phase.sin().flatten(2), atol=2e-4, rtol=0)


def test_published_size() -> None:
    with torch.device("meta"):
        net = CSPNet(CSPNetConfig())
    count = sum(p.numel() for p in net.parameters())
    # The published table of species has 100 rows, ours 119.
    assert count - 19 * 512 == 12_294_656


def test_what_has_no_head_is_zero() -> None:
    prediction = network()(*contract.random_inputs(2, 3))
    assert not prediction.species.any()
    assert not prediction.space_group.any()
    assert not prediction.lattice.any()
