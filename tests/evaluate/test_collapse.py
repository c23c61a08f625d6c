"""Tests of the detectors of collapse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.evaluate.collapse import Collapse, active_units, effective_number, find_collapse
from euhedral.testing.crystals import perovskite, random_crystals, rock_salt

REAL = CrystalBatch.concat([rock_salt(cation, anion) for cation in (3, 11, 19, 37) for anion in (9, 17, 35, 53)])


def test_real_crystals_are_not_collapsed() -> None:
    found = find_collapse(REAL, REAL)
    assert not found.of_symmetry and not found.of_modes
    assert found.p1 == found.p1_reference == 0
    assert found.space_group_distance == 0
    assert found.formulas == pytest.approx(16)


def test_crystals_without_symmetry() -> None:
    strange = random_crystals([4] * 8, rng=torch.Generator().manual_seed(0))
    found = find_collapse(strange, REAL)
    assert found.of_symmetry and found.p1 == 1
    assert found.space_group_distance == 1
    assert not found.of_modes


def test_crystals_that_are_all_alike() -> None:
    found = find_collapse(CrystalBatch.concat([perovskite()] * 8), REAL)
    assert found.of_modes and found.formulas == pytest.approx(1)
    assert not found.of_symmetry


def test_limits() -> None:
    base = {"p1_reference": 0.1, "space_group_distance": 0.0, "formulas_reference": 10.0}
    assert not Collapse(p1=0.39, formulas=5.1, **base).of_symmetry
    assert Collapse(p1=0.41, formulas=5.1, **base).of_symmetry
    assert not Collapse(p1=0.0, formulas=5.1, **base).of_modes
    assert Collapse(p1=0.0, formulas=4.9, **base).of_modes


def test_effective_numbers() -> None:
    assert effective_number("aabbcc") == pytest.approx(3)
    assert effective_number("aaaa") == pytest.approx(1)
    assert 1 < effective_number("aaab") < 2
    assert math.isnan(effective_number(""))


def test_active_units() -> None:
    rng = np.random.default_rng(0)
    means = np.stack([rng.normal(size=500), 0.01 * rng.normal(size=500), np.full(500, 3.0)], 1)
    assert active_units(means) == 1
    with pytest.raises(ConfigError, match="at least two"):
        active_units([[1.0, 2.0]])


def test_too_few_real_crystals() -> None:
    with pytest.raises(ConfigError, match="many real ones"):
        find_collapse(REAL, REAL[:3])
