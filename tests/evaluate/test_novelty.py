from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, CrystalError, DataError, OutputError
from euhedral.evaluate.comparison import PlainCrystal, Tolerances, plain_crystals
from euhedral.evaluate.disorder import match_disordered, substitutes, substitution_groups
from euhedral.evaluate.novelty import NoveltyRecord, ReferenceIndex, composition_key, novel_share

CENTRE, FACE = [0.5, 0.5, 0.5], [0.5, 0.0, 0.0]


def binary(second: list[float], length: float = 4.0, species: tuple[int, int] = (55, 17)) -> CrystalBatch:
    frac = torch.tensor([[0.0, 0.0, 0.0], second], dtype=torch.float64)
    return CrystalBatch.from_crystals([(length * torch.eye(3, dtype=torch.float64), frac, torch.tensor(species))])


def stretched() -> CrystalBatch:
    """CsCl in a cell that no tolerance takes for a cube."""
    crystal = binary(CENTRE)
    crystal.cell[0, 2, 2] = 11.0
    return crystal


def nan_crystal() -> CrystalBatch:
    crystal = binary(CENTRE)
    crystal.frac[1, 0] = math.nan
    return crystal


def layered(kinds: tuple[int, int, int, int]) -> CrystalBatch:
    """Four metal atoms on a square lattice stacked along c, with oxygen between: their order along c is `kinds`."""
    frac = [[0, 0, k / 4] for k in range(4)] + [[0.5, 0.5, (k + 0.5) / 4] for k in range(4)]
    cell = torch.diag(torch.tensor([3.0, 3.0, 12.0], dtype=torch.float64))
    return CrystalBatch.from_crystals(
        [(cell, torch.tensor(frac, dtype=torch.float64), torch.tensor([*kinds, 8, 8, 8, 8]))]
    )


@pytest.fixture(scope="module")
def index() -> ReferenceIndex:
    references = [
        binary(CENTRE),
        binary(FACE),
        nan_crystal(),
        binary(CENTRE, species=(37, 17)),
        binary([0.52, 0.5, 0.5]),
    ]
    return ReferenceIndex.build(CrystalBatch.concat(references), ids=["centre", "face", "nan", "rubidium", "near"])


def test_known_crystals_name_their_reference(index: ReferenceIndex) -> None:
    assert len(index) == 4  # the one that cannot be built matches nothing
    asked = [
        binary([0.5, 0.54, 0.5]),  # 0
        binary(FACE, length=4.4),  # 1
        stretched(),  # 2 another structure of a known formula
        binary(CENTRE, species=(11, 17)),  # 3 a formula without references
        nan_crystal(),  # 4
        binary(CENTRE, species=(17, 37)),  # 5 CsCl with the sites exchanged is the same
    ]
    calls: list[tuple[int, int]] = []
    records = index.find(CrystalBatch.concat(asked), progress=lambda done, total: calls.append((done, total)))
    assert [record.reference for record in records] == ["centre", "face", None, None, None, "rubidium"]
    assert [record.novel for record in records] == [False, False, True, True, False, False]
    assert records[0].rms == pytest.approx(0.08 / (64 / 2) ** (1 / 3), rel=1e-6)  # half of 0.16 Å an atom
    assert records[1].rms == pytest.approx(0, abs=1e-7) and records[2].rms is None
    assert records[4].reason == "coordinate is not finite"
    assert [record.compared for record in records] == [3, 3, 3, 0, 0, 1]
    assert novel_share(records) == pytest.approx(2 / 6)
    assert calls[-1] == (4, 4)


def test_verdicts_and_distances_are_those_of_pymatgen(index: ReferenceIndex) -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    reference = binary(CENTRE).to_pymatgen()[0]
    asked = CrystalBatch.concat([binary([0.5, 0.5 + shift, 0.5]) for shift in (0.0, 0.05, 0.1, 0.3, 0.49)])
    records = ReferenceIndex.build(binary(CENTRE)).find(asked)
    for record, structure in zip(records, asked.to_pymatgen(), strict=True):
        assert (record.reference == "0") == matcher.fit(structure, reference)
        found = matcher.get_rms_dist(structure, reference)
        assert record.rms == (None if record.reference is None or found is None else pytest.approx(found[0], abs=1e-7))


def test_an_undecided_crystal_is_not_novel(index: ReferenceIndex) -> None:
    from euhedral.evaluate.comparison import Comparison, Outcomes, local_task
    from euhedral.evaluate.novelty import _verdicts

    crystals = plain_crystals(CrystalBatch.concat([binary(CENTRE)] * 4))
    local = local_task("first", crystals, [[0, 2, 3], [1, 2, 3]], rms=False)
    late = Comparison(matched=False, reason="late")
    outcomes = Outcomes(by_pair={(0, 2): late, (1, 2): late, (1, 3): Comparison(matched=True, rms=0.1)})
    assert _verdicts(local, outcomes) == {0: (None, (2, "late"), None), 1: (3, None, 0.1)}
    assert not NoveltyRecord(index=0, reference=None, rms=None, reason="late", compared=1).novel


def test_an_index_comes_back_from_its_file(index: ReferenceIndex, tmp_path: Path) -> None:
    path = tmp_path / "references.npz"
    index.save(path)
    opened = ReferenceIndex.open(path)
    for name, values in vars(index).items():
        assert (getattr(opened, name) == values).all() and getattr(opened, name).dtype == values.dtype
    assert opened.crystal(0) == index.crystal(0)
    with pytest.raises(OutputError, match="exists"):
        index.save(path)
    with pytest.raises(OutputError, match="cannot be written"):
        index.save(tmp_path / "nowhere" / "references.npz")


def test_a_file_that_is_no_index_is_refused(index: ReferenceIndex, tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "text.npz"
    path.write_text("no arrays")
    with pytest.raises(DataError, match="not an index"):
        ReferenceIndex.open(path)
    with pytest.raises(DataError, match="not an index"):
        ReferenceIndex.open(tmp_path / "missing.npz")
    np.savez(tmp_path / "old.npz", format=np.array(0))
    with pytest.raises(DataError, match="version 0"):
        ReferenceIndex.open(tmp_path / "old.npz")
    np.savez(tmp_path / "cut.npz", format=np.array(1), **{**vars(index), "species": index.species[:-1]})
    with pytest.raises(DataError, match="damaged"):
        ReferenceIndex.open(tmp_path / "cut.npz")


def test_empty_batches_and_bad_options(index: ReferenceIndex) -> None:
    assert index.find(CrystalBatch.empty()) == []
    assert math.isnan(novel_share([]))
    nothing = ReferenceIndex.build(CrystalBatch.empty())
    assert nothing.find(binary(CENTRE))[0].novel
    with pytest.raises(CrystalError, match="2 came for 1"):
        ReferenceIndex.build(binary(CENTRE), ids=["a", "b"])
    with pytest.raises(ConfigError, match="no novelty rule"):
        index.find(binary(CENTRE), rule="loose")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="workers"):
        index.find(binary(CENTRE), workers=0)


def test_the_hash_is_the_same_everywhere() -> None:
    assert composition_key(((17, 1), (55, 1))) == composition_key(((17, 1), (55, 1)))
    assert composition_key(((17, 1), (55, 1))) != composition_key(((17, 2), (55, 1)))


def test_elements_that_can_share_a_site() -> None:
    assert substitutes(26, 27) and substitutes(27, 26)  # Fe, Co
    assert not substitutes(11, 17)  # Na, Cl
    assert not substitutes(2, 10)  # noble gases have no electronegativity
    assert substitution_groups([26, 27, 8, 8]) == [(26, 27)]
    assert substitution_groups([11, 17]) == []


def test_another_order_on_the_sites_of_an_alloy_is_known_to_the_disordered_rule_only() -> None:
    striped, blocked = layered((26, 27, 26, 27)), layered((26, 26, 27, 27))
    index = ReferenceIndex.build(striped, ids=["striped"])
    ordered, disordered = index.find(blocked)[0], index.find(blocked, rule="disordered")[0]
    assert ordered.novel
    assert disordered.reference == "striped" and disordered.rms is None


def test_without_elements_to_exchange_disorder_changes_nothing() -> None:
    first, second = (plain_crystals(binary(place))[0] for place in (CENTRE, [0.25, 0.25, 0.1]))
    assert isinstance(first, PlainCrystal)
    assert not match_disordered(first, second, Tolerances())
