from __future__ import annotations

import math

import pytest
import torch

from euhedral.crystal import symmetry_search
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.evaluate.wyckoff import WyckoffTemplate, known_templates, template_novelty, wyckoff_templates
from euhedral.testing.crystals import diamond, perovskite, prototypes, rock_salt, rock_salt_conventional
from evaluate import hesitant

EXPECTED = {
    "rock_salt": (225, ("a", "b")),
    "rock_salt_conventional": (225, ("a", "b")),
    "cesium_chloride": (221, ("a", "b")),
    "perovskite": (221, ("a", "b", "c")),
    "diamond": (227, ("a",)),
    "hexagonal_close_packed": (194, ("c",)),
}


def template(batch: CrystalBatch, symprec: float = 0.01) -> WyckoffTemplate:
    (record,) = wyckoff_templates(batch, symprec=symprec)
    assert record.template is not None, record.reason
    return record.template


def moved(crystal: CrystalBatch, shift: tuple[float, float, float]) -> CrystalBatch:
    return CrystalBatch.from_crystals([(crystal.cell[0], crystal.frac + torch.tensor(shift), crystal.species)])


def tripled(crystal: CrystalBatch) -> CrystalBatch:
    """The same crystal in a cell three times as long along a and b, skewed."""
    cell = crystal.cell[0].clone()
    copies = [crystal.frac + torch.tensor([i, j, 0], dtype=crystal.frac.dtype) for i in range(3) for j in range(3)]
    cartesian = torch.cat(copies) @ cell
    cell[0], cell[1] = 3 * cell[0], 3 * cell[1] + 3 * crystal.cell[0][0]
    return CrystalBatch.from_crystals([(cell, cartesian @ torch.linalg.inv(cell), crystal.species.repeat(9))])


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_templates_of_textbook_prototypes(name: str) -> None:
    group, orbits = EXPECTED[name]
    assert template(prototypes(torch.float64)[name]) == WyckoffTemplate(space_group=group, orbits=orbits)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_cell_and_the_origin_do_not_matter(name: str) -> None:
    crystal = prototypes(torch.float64)[name]
    plain = template(crystal)
    assert template(tripled(crystal)) == plain
    for shift in ((0.5, 0.5, 0.5), (0.25, 0.0, 0.25), (0.1, 0.2, 0.37)):
        assert template(moved(crystal, shift)) == plain


def test_the_elements_do_not_matter_but_how_they_share_orbits_does() -> None:
    sites = perovskite(dtype=torch.float64)
    exchanged = CrystalBatch.from_crystals([(sites.cell[0], sites.frac, torch.tensor([8, 13, 57, 57, 57]))])
    assert template(exchanged) == template(sites)
    shared = CrystalBatch.from_crystals([(sites.cell[0], sites.frac, torch.tensor([13, 8, 13, 13, 13]))])
    assert template(shared) == WyckoffTemplate(space_group=221, orbits=("a", "bd"))  # or "ac" and "b", the later name
    assert str(template(shared)) == "221: a | bd"


def test_a_structure_without_symmetry() -> None:
    cell = torch.tensor([[4.0, 0.1, 0.3], [0.5, 5.1, 0.2], [0.9, 0.7, 6.3]], dtype=torch.float64)
    frac = torch.tensor([[0.0, 0.0, 0.0], [0.31, 0.47, 0.12], [0.72, 0.13, 0.58]], dtype=torch.float64)
    lowest = CrystalBatch.from_crystals([(cell, frac, torch.tensor([3, 8, 8]))])
    assert template(lowest) == WyckoffTemplate(space_group=1, orbits=("a", "aa"))


def test_novelty_against_a_reference() -> None:
    broken = rock_salt(dtype=torch.float64)
    broken.frac[0, 0] = math.nan
    close = moved(rock_salt(dtype=torch.float64), (0.0, 0.0, 0.0))
    close.frac[1] = close.frac[0] + 0.001
    known = known_templates(wyckoff_templates(CrystalBatch.concat([rock_salt(dtype=torch.float64), broken])))
    samples = [rock_salt_conventional(12, 8, dtype=torch.float64), perovskite(dtype=torch.float64), broken, close]
    samples += [diamond(dtype=torch.float64), diamond(14, length=5.43, dtype=torch.float64)]
    found = template_novelty(CrystalBatch.concat(samples), known)
    assert found.novel.tolist() == [False, True, False, False, True, True]
    assert found.share == 0.5 and found.different == 2 and found.known == 1 and found.symprec == 0.1
    assert found.records[2].reason == "coordinate is not finite" and "too close" in str(found.records[3].reason)
    assert [record.reason for record in found.records[:2]] == [None, None]


def test_a_set_is_not_novel_against_itself() -> None:
    batch = CrystalBatch.concat(list(prototypes(torch.float64).values()))
    assert template_novelty(batch, known_templates(wyckoff_templates(batch))).share == 0.0


def test_no_crystals_and_no_tolerance() -> None:
    assert math.isnan(template_novelty(CrystalBatch.empty(), frozenset()).share)
    with pytest.raises(ConfigError, match="symprec"):
        wyckoff_templates(rock_salt(), symprec=0.0)


def test_a_template_that_takes_too_long_is_a_record_and_spares_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetry_search, "wyckoff_orbits", hesitant.wyckoff_orbits)
    batch = CrystalBatch.concat([rock_salt(), rock_salt(hesitant.HANGS, 9), perovskite()])
    records = wyckoff_templates(batch, seconds_per_crystal=1.0)
    assert [record.reason for record in records] == [None, "not decided within 1 s", None]
    assert [str(record.template) for record in records] == ["225: a | b", "None", "221: a | b | c"]
