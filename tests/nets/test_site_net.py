"""The network of SymmCD: orbits in any order, empty places that nothing hears of, what it is told that it must read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from euhedral.models.conditions import Conditions
from euhedral.nets.site_net import HIDDEN, NoisySites, SiteNet, SiteNetConfig, SitePrediction, group_features
from euhedral.testing.nets import wake

ORBITS = 5


@pytest.fixture(scope="module")
def net() -> SiteNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wake(SiteNet(SiteNetConfig(width=32, layers=2, frequencies=8)))


def noisy(crystals: int = 3, orbits: int = ORBITS) -> NoisySites:
    rng = torch.Generator().manual_seed(1)
    return NoisySites(
        frac=torch.rand(crystals, orbits, 3, generator=rng),
        cell=torch.eye(3) * 4 + 0.3 * torch.rand(crystals, 3, 3, generator=rng),
        lattice=torch.randn(crystals, 6, generator=rng),
        species=torch.randint(0, 90, (crystals, orbits), generator=rng),
        time=torch.rand(crystals, generator=rng),
        known=torch.rand(crystals, generator=rng),
        symbols=torch.randint(0, HIDDEN + 1, (crystals, orbits, 15), generator=rng),
        group=torch.tensor([225, 62, 14][:crystals]),
        num_atoms=torch.tensor([9, 20, 12][:crystals]),
        present=torch.ones(crystals, orbits, dtype=torch.bool),
    )


def predicted(net: SiteNet, sites: NoisySites) -> SitePrediction:
    size = len(sites.time)
    return net(sites, Conditions.unknown(size).context(torch.zeros(3), torch.ones(3)))


def of_orbits(guess: SitePrediction) -> list[Tensor]:
    return [guess.frac, guess.species, guess.symbols]


def places(sites: NoisySites, index: Tensor) -> NoisySites:
    names = ("frac", "species", "symbols", "present")
    return replace(sites, **{name: getattr(sites, name)[:, index] for name in names})


def test_shapes(net: SiteNet) -> None:
    guess = predicted(net, noisy())
    assert guess.frac.shape == (3, ORBITS, 3)
    assert guess.lattice.shape == (3, 6)
    assert guess.species.shape == (3, ORBITS, 119)
    assert guess.symbols.shape == (3, ORBITS, 15, 13)


def test_the_order_of_orbits_does_not_matter(net: SiteNet) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    one, other = predicted(net, noisy()), predicted(net, places(noisy(), order))
    assert torch.allclose(one.lattice, other.lattice, atol=1e-5)
    for mine, theirs in zip(of_orbits(one), of_orbits(other), strict=True):
        assert torch.allclose(mine[:, order], theirs, atol=1e-5)


def test_empty_places_change_nothing(net: SiteNet) -> None:
    """Crystals of fewer orbits say the same alone and beside larger ones, whatever stands in their empty places."""
    sites = noisy()
    held = torch.tensor([2, 5, 4])
    together = predicted(net, replace(sites, present=torch.arange(ORBITS) < held[:, None]))
    for row, count in enumerate(held.tolist()):
        names = ("cell", "lattice", "time", "known", "group", "num_atoms", "frac", "species", "symbols", "present")
        single = replace(sites, **{name: getattr(sites, name)[row : row + 1] for name in names})
        alone = predicted(net, places(single, torch.arange(count)))
        assert torch.allclose(alone.lattice[0], together.lattice[row], atol=1e-5)
        for mine, theirs in zip(of_orbits(alone), of_orbits(together), strict=True):
            assert torch.allclose(mine[0], theirs[row, :count], atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"group": torch.tensor([221, 62, 14])},
        {"num_atoms": torch.tensor([8, 20, 12])},
        {"symbols": noisy().symbols.index_fill(1, torch.tensor([0]), HIDDEN)},
        {"frac": (noisy().frac + 0.25) % 1},
        {"species": noisy().species.index_fill(1, torch.tensor([0]), 0)},
    ],
)
def test_what_it_is_told_is_read(net: SiteNet, change: dict[str, Tensor]) -> None:
    one, other = predicted(net, noisy()), predicted(net, replace(noisy(), **change))
    for mine, theirs in zip(of_orbits(one), of_orbits(other), strict=True):
        assert not torch.allclose(mine[0], theirs[0], atol=1e-4)


def test_whole_translations_of_points_do_not_matter(net: SiteNet) -> None:
    shift = torch.tensor([1.0, -2, 3])
    one, other = predicted(net, noisy()), predicted(net, replace(noisy(), frac=noisy().frac + shift))
    for mine, theirs in zip(of_orbits(one), of_orbits(other), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_features_of_groups_say_class_and_centring_and_no_more() -> None:
    features = group_features()
    assert features.shape == (231, 15 * 13 + 6)
    assert features[1:].sum(1).tolist() == [16.0] * 230
    # One for each arithmetic crystal class.
    assert len(set(map(tuple, features[1:].tolist()))) == 73
