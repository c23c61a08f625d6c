from __future__ import annotations

import math

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.evaluate.symmetry import SymmetrySummary, crystal_system, space_group_distance, summarize_symmetry


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
