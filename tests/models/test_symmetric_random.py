"""Symmetric random search: what is drawn has the symmetry, the atoms and the distances that it should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import smallest_distance
from euhedral.crystal.kept_operations import keeps_operations
from euhedral.errors import EuhedralError
from euhedral.models.checkpoint import load_model, save_model
from euhedral.models.conditions import Conditions
from euhedral.models.ion_exchange import IonExchangeConfig
from euhedral.models.symmetric_random import SymmetricRandom
from euhedral.testing import models as contract
from euhedral.testing.crystals import perovskite, random_crystals, rock_salt

pytest.importorskip("pyxtal", reason='PyXtal is not installed: pip install "euhedral[search]"')


@pytest.fixture(scope="module")
def model() -> SymmetricRandom:
    rng = torch.Generator().manual_seed(2)
    batch = CrystalBatch.concat([rock_salt(), perovskite(), random_crystals([1, 4, 5, 6, 7, 9], rng=rng)])
    conditions = Conditions.unknown(len(batch))
    conditions.space_group[:2] = torch.tensor([225, 221])
    return SymmetricRandom.fitted(IonExchangeConfig(), batch, conditions)


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
def test_contract(check, model: SymmetricRandom) -> None:
    check(model)


@pytest.mark.parametrize(
    ("group", "species"), [(221, [38, 22, 8, 8, 8]), (225, [11, 17]), (194, [6, 6, 6, 6]), (2, [3, 3, 8, 8])]
)
def test_the_space_group_that_is_asked_is_there(group: int, species: list[int], model: SymmetricRandom) -> None:
    conditions = Conditions.unknown(3)
    conditions.space_group.fill_(group)
    request = contract.free_request(3, len(species), species=torch.tensor([species] * 3), conditions=conditions)
    found = model.sample(request, rng=_rng(5))
    assert found.species.view(3, -1).tolist() == [species] * 3
    # A random crystal may have more symmetry than was asked, never less.
    assert keeps_operations(found, group, 1e-3).all()
    assert float(smallest_distance(found).min()) > 0.7


def test_it_is_saved_and_loaded(model: SymmetricRandom, tmp_path: Path) -> None:
    again = load_model(save_model(tmp_path / "random", model, {})).model
    request = contract.free_request(2, 5)
    first, second = (one.sample(request, rng=_rng(4)) for one in (model, again))
    assert torch.equal(first.cell, second.cell) and torch.equal(first.species, second.species)


def test_it_stays_on_the_cpu_wherever_it_is_moved(model: SymmetricRandom) -> None:
    # Moved to `meta`, tensors would lose their values.
    moved = model.to("meta")
    assert moved.sample(contract.free_request(2, 5), rng=_rng()).validate().frac.device.type == "cpu"


def test_without_pyxtal_it_is_told(model: SymmetricRandom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EuhedralError, match="needs PyXtal"):
        model.sample(contract.free_request(1, 5), rng=_rng())
