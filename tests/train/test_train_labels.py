from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from euhedral.crystal.lattice import log_symmetric
from euhedral.data.store import CrystalStore
from euhedral.errors import DataError
from euhedral.models.conditions import PROPERTIES
from euhedral.sample.request import Capabilities
from euhedral.train.labels import LabelTable, statistics_of


@pytest.fixture(scope="module")
def store(make_store: Callable[..., Path]) -> CrystalStore:
    labels = [
        {"space_group": 225, "band_gap": 1.0, "formation_energy_per_atom": -2.0},
        {"space_group": 999, "band_gap": 3.0},
        {"space_group": 2.5, "formation_energy_per_atom": -1.0},
        {"space_group": 0},
        {"space_group": 1, "band_gap": 1e300},
    ]
    return CrystalStore.open(make_store([2, 2, 3, 5, 3], labels))


def test_conditions_of_known_and_unknown_labels(store: CrystalStore) -> None:
    indices = np.array([4, 0, 2])
    crystals = store.crystals(indices)
    conditions = LabelTable(store).conditions(indices, crystals)
    assert conditions.space_group.tolist() == [1, 225, 0]
    energy, hull, gap = conditions.properties.T.tolist()
    assert np.isnan(energy[0]) and energy[1:] == [-2.0, -1.0]
    assert np.isnan(hull).all()
    # 1e300 does not fit in float32: unknown rather than infinite.
    assert np.isnan(gap[0]) and gap[1] == 1.0 and np.isnan(gap[2])
    for row, crystal in zip(conditions.chemical_system, crystals, strict=True):
        assert set(row.nonzero().flatten().tolist()) == set(crystal.species.tolist())


def test_a_store_without_labels_knows_the_elements_alone(make_store: Callable[..., Path]) -> None:
    store = CrystalStore.open(make_store([2, 2]))
    conditions = LabelTable(store).conditions(np.array([0, 1]), store.crystals([0, 1]))
    assert conditions.space_group.tolist() == [0, 0]
    assert bool(conditions.properties.isnan().all())
    assert bool(conditions.chemical_system.any(1).all())


def test_statistics_against_a_direct_count(store: CrystalStore) -> None:
    statistics = statistics_of(store, LabelTable(store), max_atoms=3)
    used = store.crystals([0, 1, 2, 4])
    assert statistics.crystals == 4
    assert statistics.num_atoms == {2: 2, 3: 2}
    assert statistics.num_atoms_by_space_group == {225: {2: 1}, 1: {3: 1}}
    assert set(statistics.elements) == set(used.species.tolist())
    lattice = log_symmetric(used.cell.double(), used.num_atoms)
    np.testing.assert_allclose(statistics.lattice_mean, lattice.mean(0), atol=1e-6)
    np.testing.assert_allclose(statistics.lattice_std[:5], lattice.std(0, correction=0)[:5], atol=1e-6)
    energy, hull, gap = (PROPERTIES.index(n) for n in ("formation_energy_per_atom", "e_above_hull", "band_gap"))
    assert statistics.property_mean[energy] == pytest.approx(-1.5)
    assert statistics.property_std[energy] == pytest.approx(0.5)
    assert (statistics.property_mean[hull], statistics.property_std[hull]) == (0.0, 1.0)
    assert (statistics.property_mean[gap], statistics.property_std[gap]) == pytest.approx((2.0, 1.0))
    assert statistics.property_known == {"formation_energy_per_atom": 2, "e_above_hull": 0, "band_gap": 2}


def test_one_crystal_has_scales_of_one(make_store: Callable[..., Path]) -> None:
    store = CrystalStore.open(make_store([2], [{"band_gap": 2.0}]))
    statistics = statistics_of(store, LabelTable(store), max_atoms=9)
    assert statistics.lattice_std == (1.0,) * 6
    assert statistics.property_std == (1.0,) * 3


def test_requests_are_checked_against_the_statistics(store: CrystalStore) -> None:
    meta = {"statistics": statistics_of(store, LabelTable(store), max_atoms=64).to_meta()}
    capabilities = Capabilities.from_meta(meta)
    assert capabilities.max_atoms == 5
    assert capabilities.num_atoms == {2: 2, 3: 2, 5: 1}
    assert capabilities.num_atoms_by_space_group == {225: {2: 1}, 1: {3: 1}}


def test_no_crystal_left_is_an_error(store: CrystalStore) -> None:
    with pytest.raises(DataError, match="no crystal of at most 1 atoms"):
        statistics_of(store, LabelTable(store), max_atoms=1)


def test_chemical_system_never_marks_the_mask(store: CrystalStore) -> None:
    indices = np.arange(len(store))
    conditions = LabelTable(store).conditions(indices, store.crystals(indices))
    assert not bool(conditions.chemical_system[:, 0].any())
    assert conditions.properties.dtype == torch.float32
