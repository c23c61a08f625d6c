"""Ion exchange against hand-made training crystals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.charges import guess_charges
from euhedral.crystal.geometry import smallest_distance
from euhedral.errors import ConfigError, DataError, RequestError
from euhedral.models.base import CompositionTest
from euhedral.models.checkpoint import load_model, save_model
from euhedral.models.conditions import Conditions
from euhedral.models.ion_exchange import IonExchange, IonExchangeConfig
from euhedral.models.ions import ion_table, radii
from euhedral.testing import models as contract
from euhedral.testing.crystals import cesium_chloride, diamond, perovskite, random_crystals, rock_salt

SODIUM, CHLORINE, POTASSIUM, LITHIUM, OXYGEN = 11, 17, 19, 3, 8


def _training() -> tuple[CrystalBatch, Conditions]:
    """Rock salt, cesium chloride, diamond, perovskite, and crystals of other sizes without symmetry."""
    sizes = [1, 3, 4, 4, 5, 5, 6, 7, 9]
    rng = torch.Generator().manual_seed(2)
    batch = CrystalBatch.concat(
        [rock_salt(), cesium_chloride(), diamond(), perovskite(), random_crystals(sizes, rng=rng)]
    )
    conditions = Conditions.unknown(len(batch))
    conditions.space_group[:4] = torch.tensor([225, 221, 227, 221])
    return batch, conditions


@pytest.fixture(scope="module")
def model() -> IonExchange:
    return IonExchange.fitted(IonExchangeConfig(), *_training())


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "check",
    [
        contract.check_sample,
        contract.check_seed,
        contract.check_fixed_species,
        contract.check_allowed_elements,
        contract.check_open_elements,
    ],
)
def test_contract(check, model: IonExchange) -> None:
    check(model)


def test_it_has_no_loss_but_a_checkpoint(model: IonExchange, tmp_path: Path) -> None:
    batch, conditions = _training()
    with pytest.raises(TypeError, match="it is fitted"):
        model.loss(batch, conditions, rng=_rng())
    again = load_model(save_model(tmp_path / "ions", model, {})).model
    request = contract.free_request(5, 2)
    first, second = (one.sample(request, rng=_rng(4)) for one in (model, again))
    assert torch.equal(first.cell, second.cell) and torch.equal(first.species, second.species)


def test_a_formula_is_put_on_the_crystal_that_has_its_stoichiometry(model: IonExchange) -> None:
    species = torch.tensor([[56, 22, 8, 8, 8]])
    found = model.sample(contract.free_request(1, 5, species=species), rng=_rng())
    assert torch.equal(found.species.view(1, 5), species)
    octahedron = float(smallest_distance(found)[0])
    assert octahedron == pytest.approx(float(found.cell[0, 0].norm()) / 2, rel=1e-4)  # Ti-O: oxygen stays oxygen
    change = float((found.volume / perovskite().volume) ** (1 / 3))
    small, large = radii(38, 56, 2)
    shares = {38: 1.0, 22: 1.0, 8: 3 ** (1 / 3)}
    before = sum(share * radii(z, z, {38: 2, 22: 4, 8: -2}[z])[0] for z, share in shares.items())
    assert change == pytest.approx(1 + (large - small) / before, rel=1e-5)


def test_exchanged_ions_have_the_charge_of_the_old_ones(model: IonExchange) -> None:
    only_salt = CrystalBatch.concat([rock_salt()])
    fitted = IonExchange.fitted(IonExchangeConfig(), only_salt, Conditions.unknown(1))
    found = fitted.sample(contract.free_request(60, 2), rng=_rng())
    pairs = [tuple(row) for row in found.species.view(60, 2).tolist()]
    assert all(set(pair) != {SODIUM, CHLORINE} for pair in pairs)  # none is the parent again
    neutral = sum(guess_charges(tuple(sorted(Counter(pair).items()))) is not None for pair in pairs)
    assert neutral > 50
    named = Counter(z for pair in pairs for z in pair)
    assert named[POTASSIUM] + named[LITHIUM] + named[47] + named[37] > 10  # what replaces sodium in known crystals


def test_a_space_group_chooses_among_the_parents(model: IonExchange) -> None:
    conditions = Conditions.unknown(20)
    conditions.space_group.fill_(227)
    found = model.sample(contract.free_request(20, 2, conditions=conditions), rng=_rng())
    # Two atoms of diamond are a quarter of the diagonal apart.
    nearest = smallest_distance(found) / (4 * found.volume) ** (1 / 3)
    assert torch.allclose(nearest, torch.full((20,), 3**0.5 / 4), atol=1e-3)


def test_compositions_are_drawn_toward_what_is_wanted(model: IonExchange) -> None:
    def has_oxygen(species: torch.Tensor) -> torch.Tensor:
        return (species == OXYGEN).any(1)

    allowed = contract.elements_mask(12, [LITHIUM, SODIUM, OXYGEN, 16, CHLORINE])
    test = CompositionTest(test=has_oxygen, wanted=torch.arange(12) % 2 == 0, redraws=40)
    found = model.sample(contract.free_request(12, 2, allowed=allowed, composition_test=test), rng=_rng())
    assert has_oxygen(found.species.view(12, 2)).tolist() == test.wanted.tolist()


def test_what_cannot_be_is_told(model: IonExchange) -> None:
    with pytest.raises(RequestError, match="no training crystal has 8 atoms"):
        model.sample(contract.free_request(1, 8), rng=_rng())
    with pytest.raises(DataError, match="hold none"):
        IonExchange.fitted(IonExchangeConfig(), CrystalBatch.empty(), Conditions.unknown(0))
    for wrong in ({"keep": 1.0}, {"keep": -0.1}, {"crystals": 2, "atoms": 1}):
        with pytest.raises(ConfigError):
            IonExchangeConfig(**wrong)


def test_the_table_knows_what_replaces_what() -> None:
    weights = ion_table().substitution(SODIUM, 1)
    assert weights[POTASSIUM] > 100 * weights[12] and weights[SODIUM] > 0
    assert ion_table().substitution(OXYGEN, -2)[16] > ion_table().substitution(OXYGEN, -2)[7]
    alloy = ion_table().substitution(29, 0)
    assert int(alloy.argmax()) == 29 and alloy[47] > alloy[11] and alloy[0] == 0
