"""The encoder of CDVAE does not see how a crystal is written, and sees what it is."""

from __future__ import annotations

import pytest
import torch

from euhedral.crystal.geometry import wrap
from euhedral.nets.dimenet import DimeNet, DimeNetConfig
from euhedral.testing.crystals import random_crystals


@pytest.fixture(scope="module")
def net() -> DimeNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DimeNet(DimeNetConfig(width=24, blocks=2, triplet_width=12, out_width=16, output_layers=1))


@pytest.fixture(scope="module")
def crystals() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = random_crystals([5] * 6, rng=torch.Generator().manual_seed(1))
    return batch.frac.view(6, 5, 3), batch.cell, batch.species.view(6, 5)


def test_another_writing_of_a_crystal_changes_nothing(net: DimeNet, crystals) -> None:
    frac, cell, species = crystals
    rng = torch.Generator().manual_seed(2)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng))
    order = torch.randperm(5, generator=rng)
    with torch.no_grad():
        base = net(frac, cell, species)
        others = {
            "turned": net(frac, cell @ turn, species),
            "shifted": net(wrap(frac + 0.37), cell, species),
            "relisted": net(frac + torch.randint(-2, 3, frac.shape, generator=rng), cell, species),
            "renumbered": net(frac[:, order], cell, species[:, order]),
        }
    for name, found in others.items():
        torch.testing.assert_close(found, base, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_species_distances_and_angles_matter(net: DimeNet, crystals) -> None:
    frac, cell, species = crystals
    with torch.no_grad():
        base = net(frac, cell, species)
        assert float((net(frac, 1.1 * cell, species) - base).abs().min(1).values.max()) > 1e-5
        assert float((net(frac, cell, species % 118 + 1) - base).abs().max()) > 1e-3
    # Three atoms in a large cell, all distances alike but one: the angle between two bonds, seen through messages.
    near = torch.zeros(2, 3, 3)
    near[:, 1, 0] = 0.1
    near[0, 2, 1] = 0.1
    near[1, 2, 0] = -0.1
    wide = 20 * torch.eye(3).expand(2, 3, 3)
    with torch.no_grad():
        bent, straight = net(near, wide, torch.full((2, 3), 8))
    assert float((bent - straight).abs().max()) > 1e-4
