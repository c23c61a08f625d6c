"""SymmCD that knows some crystals: space groups by construction, exact scores, what training crystals become."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, asymmetric_units
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import change_cell, supercell, wrap
from euhedral.crystal.kept_operations import keeps_operations
from euhedral.crystal.site_symmetry import AXES, SYMBOLS
from euhedral.crystal.symmetry import space_group
from euhedral.errors import ConfigError
from euhedral.models.base import CompositionTest
from euhedral.models.checkpoint import load_model, save_model
from euhedral.models.conditions import Conditions
from euhedral.models.site_places import learned_points
from euhedral.models.sites import sites_of, symbols_of
from euhedral.models.symmcd import SymmCD
from euhedral.nets.base import Context
from euhedral.nets.site_net import HIDDEN, NoisySites, SitePrediction
from euhedral.noise.gaussian_flow import GaussianFlow
from euhedral.noise.wrapped_normal import scaled_score
from euhedral.testing import models as contract
from euhedral.testing.crystals import (
    known_crystals,
    perovskite,
    random_crystals,
    rock_salt,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def informed(crystals: CrystalBatch | None = None, **changes: Any) -> SymmCD:
    model = contract.informed_model("symmcd", crystals, **changes)
    assert isinstance(model, SymmCD)
    return model


@pytest.fixture(scope="module")
def model() -> SymmCD:
    return informed(settled=0.5)


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
def test_the_contract_holds_with_known_crystals_too(check: Any, model: SymmCD) -> None:
    check(model)


@pytest.mark.parametrize(
    ("group", "atoms"), [(225, 2), (221, 5), (227, 2), (194, 2), (62, 8), (14, 6), (47, 3), (166, 6), (205, 12), (1, 3)]
)
def test_the_space_group_is_that_asked_for(model: SymmCD, group: int, atoms: int) -> None:
    asked = Conditions.unknown(6)
    asked.space_group.fill_(group)
    crystals = model.sample(contract.free_request(6, atoms, conditions=asked), rng=rng()).validate()
    assert keeps_operations(crystals, group, 1e-4).all()
    found = np.array([one.number for one in space_group(crystals, 0.01)])
    # Crystals that chance put into a supergroup are drawn again; what is left is of the group, or has overlapping atoms.
    assert (found == group).mean() >= 0.5
    assert model.holds(group, atoms)


def test_crystals_of_a_supergroup_are_drawn_again() -> None:
    """One element on two positions of Fm-3m is a simple cube, which two draws of two elements seldom both miss."""
    allowed = contract.elements_mask(40, [11, 17])
    asked = Conditions.unknown(40)
    asked.space_group.fill_(225)
    request = contract.free_request(40, 2, allowed=allowed, addable=allowed, conditions=asked)
    shares = []
    for redraws in (0, 6):
        crystals = informed(redraws=redraws).sample(request, rng=rng(1))
        shares.append(np.mean([one.number == 225 for one in space_group(crystals, 0.01)]))
    assert shares[0] < 0.9 < shares[1]


def test_a_composition_comes_out_and_crystals_like_it_say_how(model: SymmCD) -> None:
    species = torch.tensor([[56, 22, 8, 8, 8]] * 4)
    crystals = model.sample(contract.free_request(4, 5, species=species), rng=rng())
    assert crystals.species.reshape(4, 5).tolist() == species.tolist()
    # BaTiO3 is like SrTiO3: cubic, three orbits, whatever the positions.
    assert keeps_operations(crystals, 221, 1e-4).all()


def test_a_composition_in_a_group_that_no_known_crystal_has(model: SymmCD) -> None:
    asked = Conditions.unknown(3)
    asked.space_group.fill_(62)
    species = torch.tensor([[38] * 4 + [22] * 4 + [8] * 12] * 3)
    crystals = model.sample(contract.free_request(3, 20, species=species, conditions=asked), rng=rng())
    assert crystals.species.reshape(3, 20).tolist() == species.tolist()
    assert keeps_operations(crystals, 62, 1e-4).all()
    assert not model.holds(62, 5, composition={38: 1, 22: 1, 8: 3})


def test_what_the_group_cannot_hold_is_drawn_without_symmetry(model: SymmCD) -> None:
    asked = Conditions.unknown(2)
    asked.space_group.fill_(230)
    crystals = model.sample(contract.free_request(2, 4, conditions=asked), rng=rng())
    assert crystals.num_atoms.tolist() == [4, 4]


def test_the_same_loss_whatever_cell_a_crystal_comes_in(model: SymmCD) -> None:
    """Cells of the same lattice and orders of atoms are one crystal; of origins, the tables leave two open here."""
    crystal = perovskite(dtype=torch.float64)
    shear = torch.tensor([[[1.0, 0, 0], [1, 1, 0], [0, 2, 1]]], dtype=torch.float64)
    order = torch.tensor([3, 1, 4, 0, 2])
    other = change_cell(crystal, shear)
    other = CrystalBatch(
        frac=wrap(other.frac[order]), cell=other.cell, species=other.species[order], num_atoms=other.num_atoms
    )
    losses = [float(model.loss(one, Conditions.unknown(1), rng=rng()).total.detach()) for one in (crystal, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_loss_of_crystals_together_is_the_mean_over_their_orbits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crystals of different numbers of orbits weigh as many orbits as they have, not one each."""
    model = informed(prediction_share=1.0)
    seen: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = []
    errors = model._errors
    monkeypatch.setattr(model, "_errors", lambda *given: seen.append(errors(*given)) or seen[-1])
    batch = CrystalBatch.concat([perovskite(), random_crystals([5], rng=rng(5))])
    sites = sites_of(model._units.of(batch), torch.device("cpu"))
    assert [one.rows.tolist() for one in sites] == [[0], [1]]
    assert [tuple(one.points.shape) for one in sites] == [(1, 3, 3), (1, 5, 3)]
    terms = model.loss(batch, Conditions.unknown(2), rng=rng()).terms
    assert set(terms) == {"frac", "lattice", "species", "sites"}
    assert [float(parts["frac"][1]) for parts in seen] == [9, 15]
    for name in ("frac", "lattice", "sites"):
        totals, counts = zip(*(parts[name] for parts in seen), strict=True)
        mean = torch.stack(totals).detach().sum() / torch.stack(counts).sum().clamp_min(1)
        assert float(terms[name]) == pytest.approx(float(mean), rel=1e-5)
    # All species were given: nothing is left to learn of them.
    assert terms["species"] == 0


def test_cells_that_are_not_primitive_are_learned_too() -> None:
    model = informed(supercell(rock_salt(), (1, 1, 2)))
    assert model.loss(supercell(rock_salt(), (1, 1, 2)), Conditions.unknown(1), rng=rng()).total.isfinite()
    crystals = model.sample(contract.free_request(2, 4), rng=rng())
    assert crystals.validate().num_atoms.tolist() == [4, 4]


def test_facts_are_kept_in_checkpoints(model: SymmCD, tmp_path: Any) -> None:
    loaded = load_model(save_model(tmp_path, model, {})).model
    assert isinstance(loaded, SymmCD)
    assert loaded.config.templates == len(known_crystals())
    request = contract.free_request(4, 5)
    first, again = (one.eval().sample(request, rng=rng()) for one in (model, loaded))
    assert torch.equal(first.frac, again.frac)
    assert torch.equal(first.species, again.species)


class Exact(nn.Module):
    """What a perfect network says where all data are one crystal whose orbits are of different elements."""

    def __init__(self, model: SymmCD, unit: AsymmetricUnit) -> None:
        super().__init__()
        cell = model.noise.cell
        self.target = cell.velocity_from_clean if isinstance(cell, GaussianFlow) else cell.noise_from_clean
        self.noise = model.noise
        (sites,) = sites_of([unit], torch.device("cpu"))
        self.lattice = (sites.lattice - model.lattice_mean) / model.lattice_std
        self.points, self.species = sites.points[0], sites.species[0]
        self.symbols = symbols_of(sites.kinds, sites.cells.group, torch.zeros_like(sites.kinds, dtype=torch.bool))[0]

    def forward(self, noisy: NoisySites, context: Context) -> SitePrediction:
        size, t = len(noisy.time), noisy.time
        orbit = (noisy.species[..., None] == self.species).long().argmax(-1)
        told = noisy.symbols[..., 0] != HIDDEN
        assert torch.equal(noisy.symbols[told], self.symbols[orbit][told])
        sigma = self.noise.frac.sigma(t)[:, None, None]
        score = scaled_score((noisy.frac - self.points[orbit]).double(), sigma) / sigma
        return SitePrediction(
            frac=self.noise.frac.target_from_score(score, t).float(),
            lattice=self.target(noisy.lattice, self.lattice.expand(size, 6), t),
            species=torch.zeros(*noisy.species.shape, 119),
            space_group=torch.zeros(size, 231),
            symbols=30 * nn.functional.one_hot(self.symbols[orbit], len(SYMBOLS)).float(),
        )


@pytest.mark.parametrize("path", ["variance_preserving", "gaussian_flow"])
def test_a_perfect_network_gives_the_crystal_back(path: str) -> None:
    """A body-centred layered compound with one free coordinate, which has positions of the same symmetry beside it."""
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
        # Either of two origins may be found.
        heights = [learned_points(one)[-1, 2] % 0.5 for one in (found, unit)]
        assert min(heights[0], 0.5 - heights[0]) == pytest.approx(min(heights[1], 0.5 - heights[1]), abs=2e-3)


def test_symbols_of_masked_orbits_are_hidden() -> None:
    symbols = symbols_of(torch.tensor([[0, 0]]), torch.tensor([221]), torch.tensor([[False, True]]))
    assert symbols.shape == (1, 2, len(AXES))
    # m-3m at the origin.
    assert [SYMBOLS[k] for k in symbols[0, 0]] == ["4/m"] * 3 + ["-3"] * 4 + ["2/m"] * 6 + ["-1"] * 2
    assert (symbols[0, 1] == HIDDEN).all()


def test_compositions_that_fail_a_test_are_drawn_again(model: SymmCD) -> None:
    test = CompositionTest(test=lambda species: species[:, 0] > 40, wanted=torch.ones(4, dtype=torch.bool), redraws=50)
    crystals = model.sample(contract.free_request(4, 5, composition_test=test, steps=1), rng=rng())
    assert (crystals.species.reshape(4, 5)[:, 0] > 40).all()


@pytest.mark.parametrize("settled", [0.0, 1.5])
def test_times_outside_the_path_are_refused(settled: float) -> None:
    with pytest.raises(ConfigError, match="settled must be above 0"):
        informed(settled=settled)
