"""The crystals that the contract suites use are what their names say."""

from __future__ import annotations

import moyopy
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.testing import crystals, require, require_close


@pytest.mark.parametrize("name", list(crystals.SPACE_GROUPS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prototypes_have_their_space_groups(name: str, dtype: torch.dtype) -> None:
    crystal = crystals.prototypes(dtype)[name].validate()
    assert len(crystal) == 1
    assert crystal.frac.dtype == crystal.cell.dtype == dtype
    assert torch.linalg.det(crystal.cell[0]) > 0
    cell = moyopy.Cell(crystal.cell[0].tolist(), crystal.frac.tolist(), crystal.species.tolist())
    dataset = moyopy.MoyoDataset(cell, symprec=1e-3)
    assert dataset.number == crystals.SPACE_GROUPS[name]


def test_prototypes_and_space_groups_name_the_same_crystals() -> None:
    assert set(crystals.prototypes()) == set(crystals.SPACE_GROUPS)


def test_both_rock_salts_are_one_crystal() -> None:
    small, large = crystals.rock_salt(), crystals.rock_salt_conventional()
    torch.testing.assert_close(4 * small.volume, large.volume)
    torch.testing.assert_close(small.density, large.density)
    assert 2.0 < float(large.density) < 2.3


def test_random_crystals_keep_their_atoms_apart() -> None:
    counts = [1, 2, 5, 12, 20]
    batch = crystals.random_crystals(counts, rng=torch.Generator().manual_seed(0)).validate()
    assert batch.num_atoms.tolist() == counts
    torch.testing.assert_close(batch.volume, 18.0 * batch.num_atoms.float(), rtol=1e-4, atol=0)
    assert _smallest_gap(batch) > 1.2
    again = crystals.random_crystals(counts, rng=torch.Generator().manual_seed(0))
    assert torch.equal(again.frac, batch.frac)


def _smallest_gap(batch: CrystalBatch) -> float:
    gaps = []
    for crystal in batch:
        distances = crystal.to_ase()[0].get_all_distances(mic=True)
        gaps += [d for row in distances for d in row if d > 0]
    return min(gaps)


def test_requirements_say_what_is_wrong() -> None:
    with pytest.raises(AssertionError, match="no such thing"):
        require(torch.tensor(False), "no such thing")
    with pytest.raises(AssertionError, match=r"gap: largest difference 0\.5, allowed 0\.1"):
        require_close(torch.ones(2), torch.tensor([1.0, 1.5]), tolerance=0.1, what="gap")
    with pytest.raises(AssertionError, match=r"expected shape \(3,\), got \(2,\)"):
        require_close(torch.ones(2), torch.ones(3), tolerance=0.1, what="gap")
    with pytest.raises(AssertionError, match="1 values are not finite"):
        require_close(torch.tensor([1.0, float("nan")]), torch.ones(2), tolerance=0.1, what="gap")
