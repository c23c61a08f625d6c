"""The network in the manner of GemNet-T passes the contract of backbones, and sees angles."""

from __future__ import annotations

from dataclasses import replace

import torch

from euhedral.nets.gemnet import GemNet, GemNetConfig
from euhedral.testing import nets as contract


def gemnet() -> GemNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GemNet(GemNetConfig(width=24, blocks=2, triplet_width=12))


def test_it_passes_the_contract() -> None:
    contract.check_net(gemnet(), tolerance=3e-4)


def test_turning_the_frame_does_not_move_vectors() -> None:
    net = gemnet()
    noisy, context = contract.random_inputs(3, 5)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        turned, base = net(replace(noisy, cell=noisy.cell @ turn), context), net(noisy, context)
    torch.testing.assert_close(turned.frac, base.frac, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(turned.species, base.species, atol=1e-4, rtol=1e-3)


def test_angles_are_seen_where_all_distances_in_sight_are_alike() -> None:
    """Three atoms in a wide cell: the second and the third see the first alone, under 120° or 180°."""
    net = gemnet()
    with torch.no_grad():
        for block in net.blocks:
            # So that what comes of angles stands out of the rounding.
            block.triplets.up.weight.mul_(30)
    noisy, context = contract.random_inputs(3, 3)
    frac = torch.zeros(3, 3, 3)
    frac[:, 1, 0] = 0.12
    frac[:, 2, 0] = torch.tensor([-0.06, -0.06, -0.12])
    frac[0, 2, 1] = frac[1, 2, 2] = 0.12 * 0.75**0.5
    wide = 30 * torch.eye(3).expand(3, 3, 3)
    names = ("species", "time", "known", "lattice")
    alike = {name: getattr(noisy, name)[:1].expand_as(getattr(noisy, name)) for name in names}
    asked = {name: value[:1].expand_as(value) for name, value in vars(context).items() if value is not None}
    with torch.no_grad():
        said = net(replace(noisy, frac=frac, cell=wide, **alike), replace(context, **asked)).species[:, 1]
    one, again, straight = said
    rounding = float((one - again).abs().max())
    assert rounding < 2e-6
    assert float((one - straight).abs().max()) > 20 * max(rounding, 2e-7)
