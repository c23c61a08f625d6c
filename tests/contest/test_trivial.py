from __future__ import annotations

from collections import Counter

import pytest
import torch

from euhedral.contest.trivial import TrivialPredictor, kinds
from euhedral.crystal.batch import CrystalBatch
from euhedral.testing.crystals import perovskite, random_crystals


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def predictor() -> TrivialPredictor:
    return TrivialPredictor(
        CrystalBatch.concat([perovskite().to(torch.float64), random_crystals([2, 3], rng=source())])
    )


def test_the_perovskite_is_the_template_of_its_kinds(predictor: TrivialPredictor) -> None:
    content = [55, 82, 17, 17, 17]
    (crystal,) = predictor.template([content], rng=source())
    assert sorted(crystal.species.tolist()) == sorted(content)
    known = perovskite()
    assert torch.allclose(crystal.frac.float(), known.frac.float())
    # The oxygen sites, three of them, take the element of which there are three.
    assert crystal.species[known.species == 8].tolist() == [17, 17, 17]
    shape = crystal.cell[0] / crystal.volume ** (1 / 3)
    assert torch.allclose(shape.float(), (known.cell[0] / known.volume ** (1 / 3)).float(), atol=1e-6)
    assert float(crystal.volume) == pytest.approx(5 * predictor.volume)


def test_ties_are_broken_at_random(predictor: TrivialPredictor) -> None:
    places = {
        tuple(predictor.template([[55, 82, 17, 17, 17]], rng=source(seed)).species.tolist()) for seed in range(20)
    }
    assert len(places) == 2


def test_without_a_template_the_structure_is_random(predictor: TrivialPredictor) -> None:
    content = [11] * 7
    assert predictor.templates(content) == 0 and predictor.templates([55, 82, 17, 17, 17]) == 1
    first, again, other = (predictor.template([content], rng=source(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.frac, again.frac) and not torch.equal(first.frac, other.frac)
    assert float(first.volume) == pytest.approx(7 * predictor.volume)


def test_random_structures_fill_the_volume_with_what_was_asked(predictor: TrivialPredictor) -> None:
    contents = [[3, 8], [26] * 4, [1, 2, 3]]
    crystals = predictor.random(contents, rng=source()).validate()
    assert [crystal.species.tolist() for crystal in crystals] == contents
    expected = predictor.volume * torch.tensor([2.0, 4.0, 3.0], dtype=torch.float64)
    assert torch.allclose(crystals.volume, expected)


def test_contents_are_those_of_training_crystals(predictor: TrivialPredictor) -> None:
    drawn = predictor.draw_contents(60, rng=source())
    sizes = Counter(len(content) for content in drawn)
    assert set(sizes) == {2, 3, 5} and min(sizes.values()) > 8
    assert all(sorted(content) == [8, 8, 8, 22, 38] for content in drawn if len(content) == 5)


def test_kinds() -> None:
    assert kinds([8, 22, 8, 22, 8, 38]) == (1, 2, 3)
