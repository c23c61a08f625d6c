from dataclasses import replace
from pathlib import Path

import pytest

import euhedral
from catalog.funnels import Greedy, GreedyConfig, crystals_of_pairs, toy_funnel
from euhedral.catalog.portions import Portion, from_plain, pickled, records_of, run_pickled
from euhedral.errors import EuhedralError
from euhedral.screen import stages
from screen.potentials import RAISES


def _portion(count: int, first: tuple[int, ...] = ()) -> Portion:
    indices = [10 * i for i in range(count)]
    crystals = crystals_of_pairs(count, first=first)
    return Portion(indices=indices, crystals=crystals, earlier=[{"index": index} for index in indices])


def test_what_travels_gives_the_records_that_are_found_here(tmp_path: Path):
    relax = toy_funnel(tmp_path)[1]
    portion = _portion(4, first=(RAISES,))
    here = sorted(records_of(relax, portion, workers=0), key=lambda record: record.index)
    plain, seconds = run_pickled(pickled(relax, portion))
    there = sorted(map(from_plain, plain), key=lambda record: record.index)
    assert seconds > 0 and [record.index for record in there] == [0, 10, 20, 30]
    assert [record.outcome for record in there] == ["failed", "passed", "passed", "passed"]
    for found, expected in zip(there, here, strict=True):
        assert replace(found, crystal=None, seconds=0) == replace(expected, crystal=None, seconds=0)
        assert (found.crystal is None) == (expected.crystal is None)
        if found.crystal is not None and expected.crystal is not None:
            for name in ("frac", "cell", "species", "num_atoms"):
                assert getattr(found.crystal, name).equal(getattr(expected.crystal, name))


def test_files_travel_too():
    stage = stages.make("diffraction")
    ((record,), _) = run_pickled(pickled(stage, _portion(1)))
    (here,) = records_of(stage, _portion(1), workers=0)
    assert from_plain(record).files == here.files and here.files["diffraction.csv"]


def test_a_portion_is_taken_apart_crystal_by_crystal():
    portion = _portion(3)
    parts = portion.alone()
    assert [list(part.indices) for part in parts] == [[0], [10], [20]]
    assert all(len(part.crystals) == 1 and part.earlier == [{"index": part.indices[0]}] for part in parts)
    assert parts[2].crystals.species.equal(portion.crystals[2].species)


def test_want_of_memory_and_another_release_are_raised(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MemoryError, match="no room"):
        run_pickled(pickled(Greedy(GreedyConfig()), _portion(3)))
    given = pickled(Greedy(GreedyConfig()), _portion(1))
    monkeypatch.setattr(euhedral, "__version__", "0.0.0")
    with pytest.raises(EuhedralError, match=r"a worker has euhedral 0\.0\.0"):
        run_pickled(given)
