from __future__ import annotations

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError
from euhedral.testing.crystals import perovskite, prototypes, random_crystals, rock_salt


@pytest.fixture
def batch() -> CrystalBatch:
    return random_crystals([3, 1, 4, 2], rng=torch.Generator().manual_seed(1))


def same(one: CrystalBatch, other: CrystalBatch) -> bool:
    return all(
        torch.equal(getattr(one, f), getattr(other, f)) for f in ("frac", "cell", "species", "num_atoms", "owner")
    )


def test_owners_and_first_atoms(batch: CrystalBatch) -> None:
    assert batch.owner.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]
    assert batch.first_atom.tolist() == [0, 3, 4, 8]
    assert len(batch) == 4


def test_selection(batch: CrystalBatch) -> None:
    parts = list(batch)
    assert same(CrystalBatch.concat(parts), batch)
    assert same(batch[-1], parts[3])
    assert same(batch[1:3], CrystalBatch.concat(parts[1:3]))
    assert same(batch[[3, 0, 3]], CrystalBatch.concat([parts[3], parts[0], parts[3]]))
    assert same(batch[torch.tensor([True, False, True, False])], CrystalBatch.concat([parts[0], parts[2]]))
    assert same(batch[torch.tensor([2])], parts[2])
    assert len(batch[[]]) == 0
    for bad in (4, -5):
        with pytest.raises(IndexError, match="batch of 4"):
            batch[bad]


def test_building_wraps_and_keeps_the_dtype() -> None:
    cell = torch.eye(3, dtype=torch.float64) * 3
    built = CrystalBatch.from_crystals(
        [(cell, torch.tensor([[1.25, -0.25, 3.0]], dtype=torch.float64), torch.tensor([6]))]
    )
    assert built.frac.tolist() == [[0.25, 0.75, 0.0]]
    assert built.frac.dtype == built.cell.dtype == torch.float64
    lists = CrystalBatch.from_crystals([([[3, 0, 0], [0, 3, 0], [0, 0, 3]], [[0, 0, 0]], [6])])  # type: ignore[list-item]
    assert lists.frac.dtype == torch.float32 and lists.species.dtype == torch.int64


def test_empty_batches() -> None:
    for nothing in (CrystalBatch.empty(), CrystalBatch.concat([]), CrystalBatch.from_crystals([])):
        assert len(nothing) == 0 and list(nothing) == [] and nothing.formulas() == []
        assert nothing.validate() is nothing
    assert same(CrystalBatch.concat([CrystalBatch.empty(), rock_salt()]), rock_salt())


def test_volume_and_density_of_known_crystals() -> None:
    salt = rock_salt()
    assert float(salt.volume) == pytest.approx(5.64**3 / 4, rel=1e-5)
    # NaCl: 58.44 g/mol, four formula units in a cube of 5.64 Å.
    assert float(salt.density) == pytest.approx(4 * 58.44 / 0.602214 / 5.64**3, rel=1e-3)
    left_handed = CrystalBatch(
        frac=salt.frac, cell=salt.cell[:, [1, 0, 2]], species=salt.species, num_atoms=salt.num_atoms
    )
    assert float(left_handed.volume) == pytest.approx(float(salt.volume))


def test_formulas() -> None:
    assert perovskite().formulas() == ["Sr1 Ti1 O3"]
    assert CrystalBatch.concat([rock_salt(), perovskite()]).formulas() == ["Na1 Cl1", "Sr1 Ti1 O3"]


def test_dtype_and_device() -> None:
    double = rock_salt().to(torch.float64)
    assert double.frac.dtype == double.cell.dtype == torch.float64 and double.species.dtype == torch.int64
    assert same(double.to("cpu"), double)
    assert same(double.to(torch.float32), rock_salt())


def test_a_coordinate_just_below_one_is_not_rounded_up_to_it() -> None:
    frac = torch.tensor([[1 - 1e-12, 0.5, 1 - 1e-7]], dtype=torch.float64)
    cell = 3 * torch.eye(3, dtype=torch.float64)[None]
    double = CrystalBatch(frac=frac, cell=cell, species=torch.tensor([6]), num_atoms=torch.tensor([1]))
    single = double.to(torch.float32).validate()
    assert single.frac[0, 0] == 0 and single.frac[0, 1] == 0.5 and 0.9999 < float(single.frac[0, 2]) < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frac": torch.zeros(2, 2)}, "shapes do not fit"),
        ({"frac": torch.zeros(3, 3)}, "shapes do not fit"),
        ({"cell": torch.zeros(3, 3)}, "shapes do not fit"),
        ({"num_atoms": torch.tensor([3])}, "adds up to 3"),
    ],
)
def test_shapes_that_do_not_fit(changes: dict, message: str) -> None:
    salt = rock_salt()
    fields = {"frac": salt.frac, "cell": salt.cell, "species": salt.species, "num_atoms": salt.num_atoms}
    with pytest.raises(CrystalError, match=message):
        CrystalBatch(**fields | changes)


@pytest.mark.parametrize(
    ("cell", "frac", "species", "message"),
    [
        (torch.eye(3) * float("nan"), torch.zeros(1, 3), [6], "cell that is not finite"),
        (torch.zeros(3, 3), torch.zeros(1, 3), [6], "no volume"),
        (torch.eye(3) * 0.4, torch.zeros(1, 3), [6], "no volume"),
        (torch.eye(3) * 3, torch.full((1, 3), float("inf")), [6], "coordinate that is not finite"),
        (torch.eye(3) * 3, torch.full((1, 3), 1.5), [6], r"outside \[0, 1\)"),
        (torch.eye(3) * 3, torch.zeros(1, 3), [0], "unknown element"),
        (torch.eye(3) * 3, torch.zeros(1, 3), [119], "unknown element"),
        (torch.eye(3) * 3, torch.zeros(0, 3), [], "no atoms"),
    ],
)
def test_values_that_are_no_crystal(cell: torch.Tensor, frac: torch.Tensor, species: list[int], message: str) -> None:
    bad = CrystalBatch(
        frac=frac,
        cell=cell[None],
        species=torch.tensor(species, dtype=torch.int64),
        num_atoms=torch.tensor([len(species)]),
    )
    whole = CrystalBatch.concat([*prototypes().values(), bad])
    with pytest.raises(CrystalError, match=f"crystal 6 of 7 .*{message}"):
        whole.validate()


def test_a_batch_says_what_it_holds() -> None:
    iron = CrystalBatch.from_crystals([(3 * torch.eye(3), torch.zeros(1, 3), [26])] * 7)
    assert repr(iron[:2]) == "CrystalBatch(crystals=2, atoms=2: Fe1, Fe1)"
    assert repr(iron).endswith("Fe1, ...)") and repr(CrystalBatch.empty()) == "CrystalBatch(crystals=0, atoms=0: none)"
    broken = CrystalBatch(frac=iron.frac, cell=iron.cell, species=-iron.species, num_atoms=iron.num_atoms)
    assert "no elements" in repr(broken)
