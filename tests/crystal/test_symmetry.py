from __future__ import annotations

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import supercell
from euhedral.crystal.lattice import cell_from_parameters
from euhedral.crystal.symmetry import MAX_SYMMETRY_ATOMS, conventional, space_group, space_group_symbol
from euhedral.errors import CrystalError
from euhedral.testing.crystals import SPACE_GROUPS, prototypes, random_crystals, rock_salt

HEXAGONAL = (90.0, 90.0, 120.0)
SQUARE = (90.0, 90.0, 90.0)
FACE = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))


def crystal(lengths, angles, sites) -> CrystalBatch:
    cell = cell_from_parameters(torch.tensor(lengths, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))
    frac = torch.tensor([xyz for _, xyz in sites], dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([z for z, _ in sites]))])


def rutile() -> CrystalBatch:
    u = 0.305
    oxygen = [(u, u, 0), (-u, -u, 0), (0.5 + u, 0.5 - u, 0.5), (0.5 - u, 0.5 + u, 0.5)]
    sites = [(22, (0, 0, 0)), (22, (0.5, 0.5, 0.5)), *((8, xyz) for xyz in oxygen)]
    return crystal((4.594, 4.594, 2.959), SQUARE, sites)


def zincblende() -> CrystalBatch:
    sites = [(z, tuple(x + s for x in xyz)) for z, s in ((30, 0), (16, 0.25)) for xyz in FACE]
    return crystal((5.41, 5.41, 5.41), SQUARE, sites)


def wurtzite() -> CrystalBatch:
    sites = [(z, xyz) for z, u in ((30, 0.0), (16, 0.375)) for xyz in ((1 / 3, 2 / 3, u), (2 / 3, 1 / 3, u + 0.5))]
    return crystal((3.82, 3.82, 6.26), HEXAGONAL, sites)


def quartz() -> CrystalBatch:
    """Low quartz, P3_121 with the silicon in 3a and the oxygen in 6c (International Tables)."""
    u, (x, y, z) = 0.4697, (0.4135, 0.2669, 0.1191 + 1 / 3)
    silicon = [(u, 0, 1 / 3), (0, u, 2 / 3), (-u, -u, 0)]
    oxygen = [(x, y, z), (-y, x - y, z + 1 / 3), (y - x, -x, z + 2 / 3)]
    oxygen += [(y, x, -z), (x - y, -y, -z + 2 / 3), (-x, y - x, -z + 1 / 3)]
    return crystal((4.913, 4.913, 5.405), HEXAGONAL, [*((14, s) for s in silicon), *((8, o) for o in oxygen)])


KNOWN = {"rutile": (rutile, 136), "zincblende": (zincblende, 216), "wurtzite": (wurtzite, 186), "quartz": (quartz, 152)}


@pytest.mark.parametrize("name", KNOWN)
def test_known_crystals(name: str) -> None:
    make, number = KNOWN[name]
    (found,) = space_group(make(), symprec=0.01)
    assert (found.number, found.error) == (number, None)


def test_mirrored_quartz_is_its_enantiomorph() -> None:
    right = quartz()
    left = CrystalBatch(frac=(1 - right.frac) % 1, cell=right.cell, species=right.species, num_atoms=right.num_atoms)
    assert space_group(left, 0.01)[0].number == 154


def test_prototypes_in_any_cell() -> None:
    batch = CrystalBatch.concat(list(prototypes(torch.float64).values()))
    expected = list(SPACE_GROUPS.values())
    assert [g.number for g in space_group(batch)] == expected
    sheared = supercell(batch, [[1, 2, 0], [0, 1, -1], [0, 0, 1]])
    assert [g.number for g in space_group(sheared)] == expected
    assert [g.number for g in space_group(supercell(batch, [1, 2, 1]))] == expected


def test_tolerance_decides_what_counts_as_symmetric() -> None:
    shifted = rock_salt(dtype=torch.float64)
    cart = torch.tensor([0.05, 0.02, -0.03], dtype=torch.float64)
    frac = shifted.frac + torch.stack([torch.zeros(3, dtype=torch.float64), cart]) @ torch.linalg.inv(shifted.cell[0])
    shifted = CrystalBatch(frac=frac % 1, cell=shifted.cell, species=shifted.species, num_atoms=shifted.num_atoms)
    assert space_group(shifted, 0.2)[0].number == 225
    assert space_group(shifted, 0.001)[0].number < 225


def test_random_crystals_have_none() -> None:
    batch = random_crystals([5, 6, 7], rng=torch.Generator().manual_seed(3))
    assert [g.number for g in space_group(batch)] == [1, 1, 1]
    assert [g.symbol for g in space_group(batch)] == ["P 1"] * 3


def test_what_has_no_symmetry_says_why_and_spares_the_others() -> None:
    close = CrystalBatch.from_crystals(
        [(torch.eye(3) * 5, torch.tensor([[0.0, 0, 0], [0.01, 0, 0]]), torch.tensor([6, 6]))]
    )
    flat = CrystalBatch.from_crystals([(torch.zeros(3, 3), torch.zeros(1, 3), torch.tensor([6]))])
    large = supercell(rock_salt(), [11, 10, 10])
    assert int(large.num_atoms) > MAX_SYMMETRY_ATOMS
    first, second, third, fourth = space_group(CrystalBatch.concat([close, rock_salt(), flat, large]))
    assert (first.number, first.symbol) == (0, "") and "too close" in str(first.error)
    assert second.number == 225 and second.error is None
    assert "no volume" in str(third.error)
    assert "up to" in str(fourth.error)
    assert "above 0" in str(space_group(rock_salt(), symprec=0)[0].error)


def test_symbols() -> None:
    assert [space_group_symbol(n) for n in (1, 62, 225, 230)] == ["P 1", "P n m a", "F m -3 m", "I a -3 d"]
    for bad in (0, 231):
        with pytest.raises(CrystalError, match="1 to 230"):
            space_group_symbol(bad)


def test_standard_cells() -> None:
    salt = rock_salt(dtype=torch.float64)
    (cube,) = conventional(salt)
    assert cube.num_atoms.tolist() == [8]
    torch.testing.assert_close(cube.cell[0], 5.64 * torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
    small = conventional(salt, to_primitive=True)
    assert small.num_atoms.tolist() == [2]
    with pytest.raises(CrystalError, match="crystal 1 of 2"):
        flat = CrystalBatch.from_crystals([(torch.zeros(3, 3), torch.zeros(1, 3), torch.tensor([6]))])
        conventional(CrystalBatch.concat([rock_salt(), flat]))


def test_nothing_is_printed_of_cells_that_moyopy_warns_about(caplog, capfd) -> None:
    space_group(supercell(rock_salt(dtype=torch.float64), [1, 1, 2]))
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a_batch_gives_what_each_crystal_gives_alone() -> None:
    cell = 5.0 * torch.eye(3, dtype=torch.float64)
    skewed = torch.tensor([[5.0, 0.0, 0.0], [25.0, 5.0, 0.0], [0.0, 15.0, 5.0]], dtype=torch.float64)
    good, apart = torch.tensor([[0.0] * 3, [0.5] * 3], dtype=torch.float64), torch.tensor([55, 17])
    overlapping = torch.tensor([[0.0] * 3, [0.01, 0.0, 0.0]], dtype=torch.float64)
    batch = CrystalBatch.from_crystals(
        [
            (cell, good, apart),
            (cell * float("nan"), good, apart),
            (skewed, good, apart),
            (cell, overlapping, apart),
            (cell, good, torch.tensor([55, 0])),
            (cell * 0.01, good, apart),
        ]
    )
    together, alone = space_group(batch), [space_group(crystal)[0] for crystal in batch]
    assert [group.number for group in together] == [group.number for group in alone] == [221, 0, 123, 0, 0, 0]
    assert [group.error for group in together] == [group.error for group in alone]
    assert space_group(CrystalBatch.empty()) == []
