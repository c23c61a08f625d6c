from __future__ import annotations

import math

import pytest
import torch
from pymatgen.symmetry.groups import SpaceGroup

from euhedral.crystal import symmetry_search
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.evaluate import symmetry_tasks
from euhedral.evaluate.symmetry import (
    SymmetrySummary,
    crystal_system,
    find_space_groups,
    is_subgroup,
    requested_space_groups,
    space_group_distance,
    summarize_space_groups,
    summarize_symmetry,
)
from evaluate import hesitant


def cscl(shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> CrystalBatch:
    frac = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    frac[1] += torch.tensor(shift)
    return CrystalBatch.from_crystals([(4 * torch.eye(3, dtype=torch.float64), frac, torch.tensor([55, 17]))])


def lowest() -> CrystalBatch:
    """Three different atoms at general positions of a general cell: no symmetry at all."""
    cell = torch.tensor([[4.0, 0.1, 0.3], [0.5, 5.1, 0.2], [0.9, 0.7, 6.3]], dtype=torch.float64)
    frac = torch.tensor([[0.0, 0.0, 0.0], [0.31, 0.47, 0.12], [0.72, 0.13, 0.58]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([3, 8, 26]))])


def made(numbers: dict[int, int], symprec: float = 0.1) -> SymmetrySummary:
    return SymmetrySummary(
        crystals=sum(numbers.values()), numbers=numbers, failures=(), symprec=symprec, tool="moyopy test"
    )


def test_space_groups_shares_and_failures() -> None:
    broken = cscl()
    broken.frac[0, 0] = math.nan
    summary = summarize_symmetry(
        CrystalBatch.concat([cscl(), lowest(), broken, cscl((0.3 / 4, 0.0, 0.0))]), symprec=0.01
    )
    assert summary.numbers == {1: 1, 99: 1, 221: 1}  # the shift along one axis leaves P4mm
    assert summary.crystals == 4 and summary.share_p1 == 0.25
    assert summary.failures == ((2, "coordinate is not finite"),)
    assert summary.crystal_systems["cubic"] == 1 and sum(summary.crystal_systems.values()) == 3
    assert summary.symprec == 0.01 and summary.tool.startswith("moyopy ")


def test_the_tolerance_decides() -> None:
    bent = cscl((0.02 / 4, 0.0, 0.0))
    assert summarize_symmetry(bent, symprec=0.1).numbers == {221: 1}
    assert summarize_symmetry(bent, symprec=0.001).numbers == {99: 1}


def test_an_empty_batch_has_no_share() -> None:
    summary = summarize_symmetry(CrystalBatch.empty())
    assert summary.numbers == {} and math.isnan(summary.share_p1)


def test_the_distance_of_distributions() -> None:
    assert space_group_distance(made({1: 3, 225: 1}), made({1: 6, 225: 2})) == 0
    assert space_group_distance(made({1: 3}), made({225: 5})) == 1
    assert space_group_distance(made({1: 1, 225: 1}), made({1: 1})) == pytest.approx(0.5)
    assert math.isnan(space_group_distance(made({}), made({1: 1})))
    with pytest.raises(ConfigError, match="same tool and tolerance"):
        space_group_distance(made({1: 1}), made({1: 1}, symprec=0.01))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (1, "triclinic"),
        (3, "monoclinic"),
        (62, "orthorhombic"),
        (75, "tetragonal"),
        (166, "trigonal"),
        (194, "hexagonal"),
        (195, "cubic"),
    ],
)
def test_crystal_systems(number: int, name: str) -> None:
    assert crystal_system(number) == name


@pytest.mark.parametrize("number", [0, 231, -3])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match="1 to 230"):
        crystal_system(number)


@pytest.mark.parametrize("symprec", [0.0, -0.1, math.nan])
def test_a_tolerance_that_is_not_positive_is_refused(symprec: float) -> None:
    with pytest.raises(ConfigError, match="symprec"):
        summarize_symmetry(cscl(), symprec=symprec)


def test_the_space_group_of_each_crystal() -> None:
    broken = cscl()
    broken.cell[0] = 0.0
    found = find_space_groups(CrystalBatch.concat([cscl(), broken, lowest()]), symprec=0.01)
    assert found.numbers.tolist() == [221, 0, 1]
    assert found.reasons == (None, "volume is at most 0.1 Å³", None)
    assert summarize_space_groups(found) == summarize_symmetry(
        CrystalBatch.concat([cscl(), broken, lowest()]), symprec=0.01
    )
    assert len(find_space_groups(CrystalBatch.empty()).numbers) == 0


def test_requested_space_groups_at_two_tolerances() -> None:
    broken = cscl()
    broken.frac[0, 0] = math.nan
    bent = cscl((0.02 / 4, 0.0, 0.0))  # P4mm, but Pm-3m within 0.1 Å
    batch = CrystalBatch.concat([bent, bent, cscl(), lowest(), broken])
    found = requested_space_groups(batch, [221, 99, 99, 221, 221], symprecs=(0.001, 0.1))
    fine, coarse = found[0.001], found[0.1]
    assert fine.met.tolist() == [False, True, False, False, False]
    assert fine.supergroup.tolist() == [False, False, True, False, False]
    assert coarse.met.tolist() == [True, False, False, False, False]
    assert coarse.supergroup.tolist() == [False, True, True, False, False]
    assert (coarse.share_met, coarse.share_supergroup) == (0.2, 0.4)  # the broken crystal stays in the denominator
    assert coarse.found.reasons[4] == "coordinate is not finite" and coarse.found.symprec == 0.1


def test_one_request_for_all_and_none() -> None:
    found = requested_space_groups(cscl(), 221)
    assert list(found) == [0.01, 0.1] and found[0.01].share_met == 1.0
    assert math.isnan(requested_space_groups(CrystalBatch.empty(), 221)[0.1].share_met)
    assert math.isnan(requested_space_groups(CrystalBatch.empty(), 221)[0.1].share_supergroup)


def test_subgroups_with_the_same_translations() -> None:
    assert all(is_subgroup(1, n) and is_subgroup(n, n) for n in (1, 2, 62, 99, 166, 194, 225, 230))
    assert is_subgroup(99, 221) and is_subgroup(166, 225) and is_subgroup(14, 62) and is_subgroup(216, 227)
    assert not is_subgroup(221, 99) and not is_subgroup(194, 225) and not is_subgroup(3, 166)
    assert not is_subgroup(221, 225)  # Pm-3m loses the centring of Fm-3m
    with pytest.raises(ConfigError, match="1 to 230"):
        is_subgroup(0, 225)


@pytest.mark.parametrize("number", [62, 99, 139, 167, 194, 216])
def test_subgroups_are_among_those_of_the_international_tables(number: int) -> None:
    whole = SpaceGroup.from_int_number(number)
    for other in range(1, 231, 7):
        if is_subgroup(other, number):
            assert SpaceGroup.from_int_number(other).is_subgroup(whole)


@pytest.mark.parametrize(
    ("requested", "words"),
    [([221, 1], "1 of them"), (221.0, "float64"), (0, "1 to 230"), ([231], "1 to 230")],
)
def test_a_request_that_is_none_is_refused(requested: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        requested_space_groups(cscl(), requested)  # type: ignore[arg-type]


def with_metal(number: int) -> CrystalBatch:
    crystal = cscl()
    crystal.species[0] = number
    return crystal


def test_a_search_that_hangs_or_dies_is_a_record_and_spares_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetry_search, "space_group_numbers", hesitant.space_group_numbers)
    monkeypatch.setattr(symmetry_tasks, "CRYSTALS_AT_ONCE", 4)
    batch = CrystalBatch.concat(
        [cscl(), with_metal(hesitant.HANGS), lowest(), cscl(), with_metal(hesitant.DIES), lowest()]
    )
    seen: list[tuple[int, int]] = []
    found = find_space_groups(
        batch,
        symprec=0.01,
        workers=2,
        seconds_per_crystal=1.0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert found.numbers.tolist() == [221, 0, 1, 221, 0, 1]
    assert found.reasons == (
        None,
        "not decided within 1 s",
        None,
        None,
        "the worker process ended (memory?)",
        None,
    )
    assert seen[-1] == (6, 6) and len(seen) == 2
    summary = summarize_space_groups(found)
    assert summary.crystals == 6 and [i for i, _ in summary.failures] == [1, 4]


def test_crystals_that_are_not_searched_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("no process is needed")

    monkeypatch.setattr("euhedral.data.worker._start", forbidden)
    broken, close = cscl(), cscl()
    broken.frac[0, 0] = math.nan
    close.frac[1] = 0.001
    found = find_space_groups(CrystalBatch.concat([broken, close]))
    assert found.numbers.tolist() == [0, 0] and "too close" in str(found.reasons[1])


def test_time_and_workers_are_positive() -> None:
    with pytest.raises(ConfigError, match="seconds_per_crystal"):
        find_space_groups(cscl(), seconds_per_crystal=0.0)
    with pytest.raises(ConfigError, match="workers"):
        find_space_groups(cscl(), workers=0)
