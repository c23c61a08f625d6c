from __future__ import annotations

import math

import pytest
import torch
from pymatgen.analysis.hhi import HHIModel

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import ATOMIC_NUMBERS, SYMBOLS
from euhedral.errors import ConfigError
from euhedral.evaluate.supply import RADIOACTIVE, TOXIC, judge_supply
from euhedral.testing.crystals import diamond, perovskite, rock_salt

OXYGEN_IRON_MASS = 55.845 / (55.845 + 15.999)


def crystal(*symbols: str) -> CrystalBatch:
    species = torch.tensor([ATOMIC_NUMBERS[symbol] for symbol in symbols])
    frac = torch.linspace(0, 0.9, len(symbols))[:, None].expand(-1, 3)
    return CrystalBatch.from_crystals([(9 * torch.eye(3), frac, species)])


def test_the_index_is_the_mean_by_mass() -> None:
    found = judge_supply(CrystalBatch.concat([diamond(), crystal("Fe", "O")]))
    assert found.hhi_production[0] == 500 and found.hhi_reserve[0] == 500  # carbon alone
    assert found.hhi_production[1] == pytest.approx(2400 * OXYGEN_IRON_MASS + 500 * (1 - OXYGEN_IRON_MASS), rel=1e-5)
    assert found.hhi_reserve[1] == pytest.approx(1400 * OXYGEN_IRON_MASS + 500 * (1 - OXYGEN_IRON_MASS), rel=1e-5)
    assert found.mean_hhi_production == pytest.approx(found.hhi_production.mean())


def test_equal_to_pymatgen() -> None:
    batch = CrystalBatch.concat([perovskite(), rock_salt(), crystal("Nd", "Fe", "Fe", "B"), crystal("Bi", "Te", "Se")])
    model = HHIModel()
    exact = [model.get_hhi(structure.composition) for structure in batch.to_pymatgen()]
    found = judge_supply(batch)
    assert found.hhi_production == pytest.approx([p for p, _ in exact], rel=1e-9)
    assert found.hhi_reserve == pytest.approx([r for _, r in exact], rel=1e-9)


def test_neither_the_size_nor_the_structure_of_the_cell_matters() -> None:
    found = judge_supply(CrystalBatch.concat([crystal("Na", "Cl"), rock_salt(), crystal("Cl", "Na", "Na", "Cl")]))
    assert found.hhi_production == pytest.approx([found.hhi_production[0]] * 3, rel=1e-12)


def test_elements_without_an_index_give_a_reason_and_are_in_no_mean() -> None:
    strange = rock_salt()
    strange.species[0] = 0
    empty = CrystalBatch(
        frac=torch.zeros(0, 3),
        cell=torch.eye(3)[None],
        species=torch.zeros(0, dtype=torch.int64),
        num_atoms=torch.tensor([0]),
    )
    found = judge_supply(CrystalBatch.concat([crystal("U", "H"), diamond(), strange, empty]))
    assert found.reasons == ("no index for H, U", None, "unknown element", "no atoms")
    assert [math.isnan(value) for value in found.hhi_production] == [True, False, True, True]
    assert found.mean_hhi_production == found.mean_hhi_reserve == 500
    assert found.share_radioactive == 0.25  # failures of the index stay in the denominator of the hazards


def test_radioactive_and_toxic_shares() -> None:
    batch = CrystalBatch.concat([crystal("Pb", "O"), crystal("Th", "O"), crystal("Bi", "O"), crystal("Tl", "Po")])
    found = judge_supply(batch)
    assert found.radioactive.tolist() == [False, True, False, True] and found.share_radioactive == 0.5
    assert found.toxic.tolist() == [True, False, False, True] and found.share_toxic == 0.5
    own = judge_supply(batch, radioactive=[83], toxic=[])
    assert own.radioactive.tolist() == [False, False, True, False] and own.share_toxic == 0.0


def test_the_lists_are_what_they_say() -> None:
    assert {SYMBOLS[z] for z in RADIOACTIVE if z < 93} == {
        *("Tc", "Pm", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U")
    }
    assert {SYMBOLS[z] for z in TOXIC} == {"Be", "As", "Cd", "Hg", "Tl", "Pb"}


def test_no_crystals() -> None:
    nothing = judge_supply(CrystalBatch.empty())
    assert math.isnan(nothing.share_toxic) and math.isnan(nothing.mean_hhi_reserve) and nothing.reasons == ()


@pytest.mark.parametrize("number", [0, 119, -1])
def test_a_list_with_what_is_no_element_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=f"toxic: {number} is not an atomic number"):
        judge_supply(diamond(), toxic=[number])
