"""UniMat with exact networks in place of trained ones: the tensor is denoised to the crystal that they know."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.models.conditions import Conditions
from euhedral.models.guidance import Asked
from euhedral.models.periodic_table import ELEMENTS, occupied
from euhedral.models.unimat import UniMat
from euhedral.models.unimat_net import Noisy
from euhedral.testing import models as contract
from euhedral.testing.crystals import random_crystals

SPECIES = torch.tensor([[8, 26, 8, 3]])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> UniMat:
    found = contract.tiny_model("unimat", awake=True)
    assert isinstance(found, UniMat)
    return found.eval()


class ExactAtoms(nn.Module):
    """Velocities toward one crystal, whose atoms are told apart by element and place."""

    def __init__(self, model: UniMat, frac: Tensor, lattice: Tensor) -> None:
        super().__init__()
        self.noise, self.lattice = model.noise, lattice
        self.known = {key: frac[i] for i, key in enumerate([(8, 0), (26, 0), (8, 1), (3, 0)])}

    def forward(self, frac: Tensor, species: Tensor, place: Tensor, noisy: Noisy) -> tuple[Tensor, Tensor]:
        pairs = zip(species.flatten().tolist(), place.flatten().tolist(), strict=True)
        clean = torch.stack([self.known.get(pair, torch.zeros(3)) for pair in pairs]).view(frac.shape)
        signal = self.noise.signal(noisy.time).float()
        kept, lost = signal.sqrt(), (1 - signal).sqrt()

        def velocity(value: Tensor, goal: Tensor) -> Tensor:
            a, b = (x.view(-1, *[1] * (value.dim() - 1)) for x in (kept, lost))
            return (a * value - goal) / b.clamp_min(1e-6)

        return velocity(frac, clean), velocity(noisy.lattice, self.lattice.expand(noisy.lattice.shape))


class ExactTable(nn.Module):
    """Certain of the places of one composition."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.logits = 60.0 * occupied(SPECIES, depth) - 30.0
        self.called = 0

    def forward(self, values: Tensor, given: Tensor, noisy: Noisy) -> Tensor:
        self.called += 1
        return self.logits.expand(len(values), -1, -1)


def exact(model: UniMat) -> tuple[Tensor, Tensor]:
    """Networks that know one crystal put in; its coordinates and cell."""
    frac = torch.rand(4, 3, generator=rng(5))
    cell = random_crystals([4], rng=rng(6)).cell
    lattice = model.lattice.encode(cell, torch.tensor([4]))
    model.atoms = ExactAtoms(model, 2 * frac - 1, lattice)  # pyright: ignore[reportAttributeAccessIssue]
    model.table = ExactTable(model.config.depth)  # pyright: ignore[reportAttributeAccessIssue]
    return frac, cell


@pytest.mark.parametrize("steps", [1, 9])
def test_given_species_end_in_their_crystal(model: UniMat, steps: int) -> None:
    frac, cell = exact(model)
    found = model.sample(contract.free_request(2, 4, species=SPECIES.repeat(2, 1), steps=steps), rng=rng())
    torch.testing.assert_close(found.frac.view(2, 4, 3), frac.expand(2, 4, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.volume, torch.linalg.det(cell).abs().expand(2), rtol=1e-3, atol=0)
    assert model.table.called == 0


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_open_species_end_in_the_composition_that_is_certain(model: UniMat, steps: int) -> None:
    frac, _ = exact(model)
    found = model.sample(contract.free_request(3, 4, steps=steps), rng=rng())
    for crystal in found:
        assert sorted(crystal.species.tolist()) == [3, 8, 8, 26]
        order = crystal.species.argsort(stable=True)
        torch.testing.assert_close(crystal.frac[order], frac[[3, 0, 2, 1]], atol=1e-4, rtol=0)


def test_species_that_are_given_in_part_are_completed(model: UniMat) -> None:
    exact(model)
    species = torch.tensor([[0, 8, 0, 26]])
    found = model.sample(contract.free_request(1, 4, species=species, steps=5), rng=rng()).species
    assert (found[1], found[3]) == (8, 26)
    assert sorted(found.tolist()) == [3, 8, 8, 26]


def test_the_whole_tensor_goes_from_noise_to_null_values(model: UniMat) -> None:
    exact(model)
    request = contract.free_request(2, 4)
    state = model._empty_table(request, torch.zeros(2, 6), rng())
    asked = Asked.of(request, model.scale)
    times = torch.linspace(0, 0.999, 80)
    noise = rng(1)
    for now, later in pairwise(times):
        step = now.expand(2), later.expand(2)
        state = model._table_step(state, model._logits(state, step[0], asked), step, asked, noise)
    empty = ~occupied(SPECIES, model.config.depth).expand(2, ELEMENTS, -1)
    # What is left of the noise at the last time has a deviation of sqrt(1 - a).
    left = float((1 - model.noise.signal(times[-1])).sqrt())
    away = state.values[empty] - -3.0
    assert float(away.std()) == pytest.approx(left, rel=0.2)
    assert abs(float(away.mean())) < 0.1 * left
    assert float(state.values[~empty].min()) > -1.5


def test_more_atoms_than_places_are_refused_in_training(model: UniMat) -> None:
    crystal = random_crystals([9], rng=rng())
    batch = CrystalBatch(frac=crystal.frac, cell=crystal.cell, species=torch.full((9,), 8), num_atoms=crystal.num_atoms)
    with pytest.raises(ConfigError, match=r"9 atoms of one element, for which model\.depth must be at least 9"):
        model.loss(batch, Conditions.unknown(1), rng=rng())
    with pytest.raises(ConfigError, match="depth must be at least 1"):
        replace(model.config, depth=0)


def test_more_atoms_than_places_can_still_be_drawn(model: UniMat) -> None:
    allowed = contract.elements_mask(2, [14])
    found = model.sample(contract.free_request(2, 11, allowed=allowed), rng=rng()).validate()
    assert set(found.species.tolist()) == {14}


def test_the_order_of_atoms_of_different_elements_does_not_matter(model: UniMat) -> None:
    species, order = torch.tensor([[3, 8, 25, 26]]), torch.tensor([2, 0, 3, 1])
    frac = torch.randn(1, 4, 3, generator=rng())
    nothing = model.scale.context(Conditions.unknown(1))
    noisy = Noisy(time=torch.tensor([0.4]), lattice=torch.zeros(1, 6), context=nothing, given=species)
    place = torch.zeros(1, 4, dtype=torch.int64)
    one = model.atoms(frac, species, place, noisy)
    moved = replace(noisy, given=species[:, order])
    other = model.atoms(frac[:, order], species[:, order], place, moved)
    torch.testing.assert_close(other[0], one[0][:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other[1], one[1], atol=1e-5, rtol=1e-5)
