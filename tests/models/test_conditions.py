"""Conditions: what is unknown, selecting, and forgetting at a rate."""

from __future__ import annotations

import torch

from euhedral.models.conditions import PROPERTIES, UNITS, Conditions
from euhedral.testing.crystals import random_crystals
from euhedral.testing.models import conditions_of


def known(crystals: int) -> Conditions:
    return Conditions(
        space_group=torch.arange(crystals) % 230 + 1,
        properties=torch.arange(3.0 * crystals).reshape(crystals, 3),
        chemical_system=torch.arange(119)[None] % 7 == torch.arange(crystals)[:, None] % 7,
    )


def test_every_property_has_a_unit() -> None:
    assert set(UNITS) == set(PROPERTIES)


def test_unknown_conditions() -> None:
    unknown = Conditions.unknown(4)
    assert len(unknown) == 4
    assert unknown.space_group.tolist() == [0] * 4
    assert unknown.space_group.dtype == torch.int64
    assert unknown.properties.shape == (4, len(PROPERTIES))
    assert unknown.properties.isnan().all()
    assert unknown.chemical_system.shape == (4, 119)
    assert unknown.chemical_system.dtype == torch.bool
    assert not unknown.chemical_system.any()
    assert len(Conditions.unknown(0)) == 0


def test_selecting_takes_all_fields_alike() -> None:
    conditions = known(5)
    for index in (slice(1, 4), torch.tensor([4, 0]), torch.tensor([True, False, False, True, False])):
        chosen = conditions[index]
        assert torch.equal(chosen.space_group, conditions.space_group[index])
        assert torch.equal(chosen.properties, conditions.properties[index])
        assert torch.equal(chosen.chemical_system, conditions.chemical_system[index])
        assert len(chosen) == len(chosen.properties)
    assert torch.equal(conditions.to("cpu").properties, conditions.properties)


def test_drop_forgets_each_condition_at_its_rate_and_independently() -> None:
    crystals, keep = 20000, 0.3
    conditions = known(crystals)
    shown = conditions.drop(keep, rng=torch.Generator().manual_seed(0))
    flags = torch.stack(
        [shown.space_group > 0, *shown.properties.isfinite().unbind(1), shown.chemical_system.any(1)], 1
    ).double()
    sigma = (keep * (1 - keep) / crystals) ** 0.5
    assert ((flags.mean(0) - keep).abs() < 4 * sigma).all()
    correlation = torch.corrcoef(flags.T) - torch.eye(5)
    assert correlation.abs().max() < 4.5 / crystals**0.5
    # What is kept is kept whole.
    assert torch.equal(shown.space_group[flags[:, 0] > 0], conditions.space_group[flags[:, 0] > 0])
    finite = shown.properties.isfinite()
    assert torch.equal(shown.properties[finite], conditions.properties[finite])
    assert torch.equal(shown.chemical_system[flags[:, 4] > 0], conditions.chemical_system[flags[:, 4] > 0])
    assert conditions.space_group.min() > 0
    assert conditions.properties.isfinite().all()


def test_drop_of_all_or_nothing_is_seeded() -> None:
    conditions = known(50)
    rng = torch.Generator().manual_seed(0)
    kept = conditions.drop(1.0, rng=rng)
    assert torch.equal(kept.space_group, conditions.space_group)
    assert torch.equal(kept.properties, conditions.properties)
    assert torch.equal(kept.chemical_system, conditions.chemical_system)
    dropped = conditions.drop(0.0, rng=rng)
    assert not dropped.space_group.any()
    assert dropped.properties.isnan().all()
    assert not dropped.chemical_system.any()
    first, again = (conditions.drop(0.5, rng=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.space_group, again.space_group)
    assert torch.equal(first.chemical_system, again.chemical_system)


def test_drop_leaves_the_unknown_unknown() -> None:
    kept = Conditions.unknown(10).drop(1.0, rng=torch.Generator().manual_seed(0))
    assert not kept.space_group.any()
    assert kept.properties.isnan().all()
    assert not kept.chemical_system.any()


def test_conditions_of_a_batch_name_its_elements() -> None:
    batch = random_crystals([3, 3], rng=torch.Generator().manual_seed(0))
    conditions = conditions_of(batch, space_group=7)
    for crystal, system in zip(batch, conditions.chemical_system, strict=True):
        assert set(system.nonzero()[:, 0].tolist()) == set(crystal.species.tolist())
