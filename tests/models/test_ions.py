"""Which elements take the places of which, drawn by how likely that is."""

from __future__ import annotations

import numpy as np

from euhedral.models.ions import likely_renaming, likely_substitutes

SODIUM, MAGNESIUM, CHLORINE, POTASSIUM, BROMINE, STRONTIUM, TITANIUM, OXYGEN = 11, 12, 17, 19, 35, 38, 22, 8


def test_ions_are_replaced_by_those_of_their_charge() -> None:
    likely = likely_substitutes(SODIUM, {SODIUM: 1, CHLORINE: 1})
    assert likely.shape == (119,) and likely[0] == 0
    assert likely[POTASSIUM] > 100 * likely[MAGNESIUM]
    metal = likely_substitutes(SODIUM, {SODIUM: 2})
    assert metal[MAGNESIUM] > likely[MAGNESIUM]


def test_the_crystal_and_the_names_are_the_likeliest_of_those_with_the_right_numbers() -> None:
    salt, perovskite = {SODIUM: 1, CHLORINE: 1}, {STRONTIUM: 1, TITANIUM: 1, OXYGEN: 3}
    chance = np.random.default_rng(0)
    for _ in range(5):
        found = likely_renaming([perovskite, salt], {BROMINE: 1, POTASSIUM: 1}, chance)
        assert found == (1, {SODIUM: POTASSIUM, CHLORINE: BROMINE})
    # Three atoms of one element cannot become one of another.
    place, names = likely_renaming([salt, perovskite], {POTASSIUM: 3, 26: 1, 56: 1}, chance) or (-1, {})
    assert place == 1 and names[OXYGEN] == POTASSIUM
    assert likely_renaming([salt, perovskite], {BROMINE: 2, POTASSIUM: 1}, chance) is None


def test_many_crystals_of_the_right_numbers_are_all_drawn() -> None:
    alike = [{SODIUM: 1, CHLORINE: 1}] * 150
    chance = np.random.default_rng(1)
    places = [(likely_renaming(alike, {SODIUM: 1, CHLORINE: 1}, chance) or (-1, {}))[0] for _ in range(300)]
    assert len(set(places)) > 100 and max(places) >= 140 and min(places) >= 0
