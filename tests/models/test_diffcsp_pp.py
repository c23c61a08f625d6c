"""DiffCSP++ that knows some crystals: space groups by construction, exact scores, what training crystals become."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, asymmetric_units
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import change_cell, supercell, wrap, wrap_centered
from euhedral.crystal.kept_operations import keeps_operations
from euhedral.crystal.orbits import Orbits
from euhedral.crystal.symmetry import space_group, symmetry_dataset
from euhedral.crystal.wyckoff import group_operations, primitive_basis
from euhedral.errors import ConfigError, RequestError
from euhedral.models.base import CompositionTest
from euhedral.models.checkpoint import load_model, save_model
from euhedral.models.conditions import Conditions
from euhedral.models.diffcsp_pp import DiffCSPPP
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.noise.gaussian_flow import GaussianFlow
from euhedral.noise.wrapped_normal import scaled_score
from euhedral.testing import models as contract
from euhedral.testing.crystals import (
    known_crystals,
    perovskite,
    rock_salt,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def informed(crystals: CrystalBatch | None = None, **changes: Any) -> DiffCSPPP:
    model = contract.informed_model("diffcsp_pp", crystals, **changes)
    assert isinstance(model, DiffCSPPP)
    return model


@pytest.fixture(scope="module")
def model() -> DiffCSPPP:
    return informed()


@pytest.mark.parametrize(
    "check",
    [
        contract.check_loss,
        contract.check_sample,
        contract.check_seed,
        contract.check_fixed_species,
        contract.check_allowed_elements,
        contract.check_open_elements,
        contract.check_guidance,
    ],
)
def test_the_contract_holds_with_templates_too(check: Any, model: DiffCSPPP) -> None:
    check(model)


@pytest.mark.parametrize(
    ("group", "atoms"), [(225, 2), (221, 5), (227, 2), (194, 2), (62, 8), (14, 6), (47, 3), (166, 6), (205, 12), (1, 3)]
)
def test_the_space_group_is_that_asked_for(model: DiffCSPPP, group: int, atoms: int) -> None:
    asked = Conditions.unknown(6)
    asked.space_group.fill_(group)
    crystals = model.sample(contract.free_request(6, atoms, conditions=asked), rng=rng()).validate()
    assert keeps_operations(crystals, group, 1e-4).all()
    # Chance may add operations; moyopy finds those of the group at least.
    least = len(group_operations(group)[0]) * np.linalg.det(primitive_basis(group))
    for crystal in crystals:
        assert len(symmetry_dataset(crystal, 1e-3)[0].operations) > least - 0.5
    assert model.holds(group, atoms)


def test_a_composition_takes_the_template_of_crystals_like_it(model: DiffCSPPP) -> None:
    species = torch.tensor([[56, 22, 8, 8, 8]] * 4)
    crystals = model.sample(contract.free_request(4, 5, species=species), rng=rng())
    assert crystals.species.reshape(4, 5).tolist() == species.tolist()
    # BaTiO3 is like SrTiO3, and nothing like five atoms of other numbers.
    assert [one.number for one in space_group(crystals, 1e-3)] == [221] * 4


def test_what_a_space_group_holds(model: DiffCSPPP) -> None:
    assert model.holds(221, 5, composition={38: 1, 22: 1, 8: 3})
    assert not model.holds(62, 5, composition={38: 1, 22: 1, 8: 3})
    assert model.holds(62, 20, composition={38: 4, 22: 4, 8: 12})
    assert not model.holds(225, 7, elements=7)
    assert not model.holds(230, 4)


def test_positions_are_drawn_where_no_training_crystal_has_the_group(model: DiffCSPPP) -> None:
    asked = Conditions.unknown(3)
    asked.space_group.fill_(62)
    species = torch.tensor([[38] * 4 + [22] * 4 + [8] * 12] * 3)
    crystals = model.sample(contract.free_request(3, 20, species=species, conditions=asked), rng=rng())
    assert crystals.species.reshape(3, 20).tolist() == species.tolist()
    assert keeps_operations(crystals, 62, 1e-4).all()


def test_what_the_group_cannot_hold_is_drawn_without_symmetry(model: DiffCSPPP) -> None:
    asked = Conditions.unknown(2)
    asked.space_group.fill_(230)
    crystals = model.sample(contract.free_request(2, 4, conditions=asked), rng=rng())
    assert crystals.num_atoms.tolist() == [4, 4]


def test_the_same_loss_whatever_cell_a_crystal_comes_in(model: DiffCSPPP) -> None:
    """Cells of the same lattice, origins and orders of atoms are one crystal in the standard setting."""
    crystal = perovskite(dtype=torch.float64)
    shear = torch.tensor([[[1.0, 0, 0], [1, 1, 0], [0, 2, 1]]], dtype=torch.float64)
    order = torch.tensor([3, 1, 4, 0, 2])
    other = change_cell(crystal, shear)
    other = CrystalBatch(
        frac=wrap(other.frac[order] + 0.3), cell=other.cell, species=other.species[order], num_atoms=other.num_atoms
    )
    losses = [float(model.loss(one, Conditions.unknown(1), rng=rng()).total.detach()) for one in (crystal, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_cells_that_are_not_primitive_are_learned_too() -> None:
    model = informed(supercell(rock_salt(), (1, 1, 2)))
    assert model.loss(supercell(rock_salt(), (1, 1, 2)), Conditions.unknown(1), rng=rng()).total.isfinite()
    crystals = model.sample(contract.free_request(2, 4), rng=rng())
    assert [one.number for one in space_group(crystals, 1e-3)] == [225] * 2


def test_facts_are_kept_in_checkpoints(model: DiffCSPPP, tmp_path: Any) -> None:
    loaded = load_model(save_model(tmp_path, model, {})).model
    assert isinstance(loaded, DiffCSPPP)
    assert loaded.config.templates == len(known_crystals())
    request = contract.free_request(4, 5)
    first, again = (one.eval().sample(request, rng=rng()) for one in (model, loaded))
    assert torch.equal(first.frac, again.frac)
    assert torch.equal(first.species, again.species)


def test_scales_are_those_of_conventional_cells() -> None:
    model = informed(CrystalBatch.concat([rock_salt(length=5.0), rock_salt(length=6.0)]))
    lengths = torch.tensor([5.0, 6.0]).log() - torch.tensor(8.0).log() / 3
    assert model.config.lattice_mean[5] == pytest.approx(float(3**0.5 * lengths.mean()), abs=1e-5)
    assert model.config.lattice_std[5] == pytest.approx(float(3**0.5 * lengths.std(correction=0)), abs=1e-5)
    # What the family fixes has no spread.
    assert model.config.lattice_std[:5] == (1.0,) * 5


class Exact(nn.Module):
    """What a perfect network says where all data are one crystal: the score of each orbit, given to all of its atoms."""

    def __init__(self, model: DiffCSPPP, unit: AsymmetricUnit) -> None:
        super().__init__()
        cell = model.noise.cell
        self.target = cell.velocity_from_clean if isinstance(cell, GaussianFlow) else cell.noise_from_clean
        self.noise, self.unit = model.noise, unit
        self.lattice = (torch.from_numpy(unit.lattice).float() - model.lattice_mean) / model.lattice_std

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        size, t = len(noisy.time), noisy.time
        orbits = Orbits.of([self.unit.template] * size)
        wanted = orbits.expand(torch.from_numpy(self.unit.coordinates).float().expand(size, -1, -1))
        sigma = self.noise.frac.sigma(t)[:, None, None]
        score = scaled_score(orbits.collect(wrap_centered(noisy.frac - wanted)).double(), sigma) / sigma
        return Prediction(
            frac=orbits.displace(self.noise.frac.target_from_score(score, t).float()),
            lattice=self.target(noisy.lattice, self.lattice.expand(size, 6), t),
            species=torch.zeros(*noisy.species.shape, 119),
            space_group=torch.zeros(size, 231),
        )


@pytest.mark.parametrize("path", ["variance_preserving", "gaussian_flow"])
def test_a_perfect_network_gives_the_crystal_back(path: str) -> None:
    """A body-centred layered compound: its cell and its one free coordinate."""
    z = 0.36
    frac = [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0, z], [0, 0, 1 - z], [0.5, 0.5, 0.5 + z], [0.5, 0.5, 0.5 - z]]
    species = torch.tensor([22, 22, 8, 8, 8, 8])
    crystal = CrystalBatch.from_crystals([(torch.diag(torch.tensor([3.0, 3.0, 8.0])), torch.tensor(frac), species)])
    model = informed(crystal, lattice_path=path)
    (unit,) = asymmetric_units(crystal)
    assert isinstance(unit, AsymmetricUnit)
    assert unit.template.space_group == 139
    model.net = Exact(model, unit)  # type: ignore[assignment]
    request = contract.free_request(8, 6, species=species.expand(8, 6), steps=100)
    made = model.sample(request, rng=rng())
    assert torch.allclose(made.volume, crystal.volume.expand(8), rtol=2e-3)
    for found in asymmetric_units(made, 1e-3):
        assert isinstance(found, AsymmetricUnit)
        assert found.template == unit.template
        assert found.lattice == pytest.approx(unit.lattice, abs=1e-3)
        # Either of z and -z, and either of two origins, may be the first point.
        heights = [one.coordinates[-1, 2] % 0.5 for one in (found, unit)]
        assert min(heights[0], 0.5 - heights[0]) == pytest.approx(min(heights[1], 0.5 - heights[1]), abs=2e-3)


def test_compositions_that_fail_a_test_are_drawn_again(model: DiffCSPPP) -> None:
    test = CompositionTest(test=lambda species: species[:, 0] > 40, wanted=torch.ones(4, dtype=torch.bool), redraws=50)
    crystals = model.sample(contract.free_request(4, 5, composition_test=test, steps=1), rng=rng())
    assert (crystals.species.reshape(4, 5)[:, 0] > 40).all()


def test_a_model_of_given_species_wants_them() -> None:
    net = {**contract.TINY_CONFIGS["diffcsp_pp"]["net"], "species": False}
    model = informed(species="given", net=net)
    with pytest.raises(RequestError, match="--formula"):
        model.sample(contract.free_request(1, 2), rng=rng())
    assert set(model.loss(perovskite(), Conditions.unknown(1), rng=rng()).terms) == {"frac", "lattice"}


@pytest.mark.parametrize(
    ("net", "message"),
    [({"species": False}, "net.species must be true"), ({"lattice": "matrix"}, "net.lattice 'log_symmetric'")],
)
def test_networks_that_do_not_fit(net: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        informed(net={**contract.TINY_CONFIGS["diffcsp_pp"]["net"], **net})
