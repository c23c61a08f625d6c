from __future__ import annotations

from dataclasses import replace

import pytest

from conftest import STATISTICS
from euhedral.errors import RequestError
from euhedral.models.conditions import PROPERTIES
from euhedral.sample.plan import PlannedBatch, sample_request
from euhedral.sample.request import Capabilities, GenerationRequest, resolve

CAN = Capabilities.from_meta({"statistics": STATISTICS})


def test_formula_is_reduced_and_units_enumerated() -> None:
    resolved = resolve(GenerationRequest(formula="Li2Mn2O4"), CAN)
    assert resolved.composition == {3: 1, 25: 1, 8: 2}
    assert sorted(resolved.num_atoms) == [4, 8, 12]
    assert sorted(resolve(GenerationRequest(formula="LiMnO2", z=2), CAN).num_atoms) == [8]


def test_formula_with_atom_range() -> None:
    assert sorted(resolve(GenerationRequest(formula="NaCl", num_atoms=(3, 7)), CAN).num_atoms) == [4, 6]


def test_chemical_system_closes_the_palette() -> None:
    resolved = resolve(GenerationRequest(chemical_system="Li-Mn-O"), CAN)
    assert resolved.allowed == resolved.required == {3, 25, 8}
    assert min(resolved.num_atoms) == 3


def test_open_place_keeps_the_palette_open() -> None:
    resolved = resolve(GenerationRequest(chemical_system="Li-*-O", exclude_elements="Mn"), CAN)
    assert resolved.required == {3, 8}
    assert resolved.open_elements == 1
    assert 25 not in resolved.allowed and 26 in resolved.allowed


def test_space_group_brings_its_own_atom_counts() -> None:
    assert resolve(GenerationRequest(space_group=225), CAN).num_atoms == {2: 30.0, 4: 10.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "-n must be"),
        ({"steps": 0}, "--steps"),
        ({"guidance": float("nan")}, "--guidance"),
        ({"guidance": -1.0}, "--guidance"),
        ({"guidance": 2.0, "elements": "Li,O"}, "ask for one"),
        ({"guidance": 2.0, "chemical_system": "Li-*"}, "ask for one"),
        ({"seed": -1}, "--seed"),
        ({"steer_strength": 2.0}, "name the model with --steer"),
        ({"space_group": 231}, "1 to 230"),
        ({"formula": "Xq2O"}, "Xq"),
        ({"formula": ""}, "formula"),
        ({"formula": "OgF6"}, "Og"),
        ({"formula": "Li10Mn10O20", "z": 4}, "does not fit"),
        ({"formula": "Al17Mg12"}, "does not fit"),
        ({"formula": "LiMnO2", "chemical_system": "Li-Mn-O"}, "either --formula or"),
        ({"formula": "LiMnO2", "exclude_elements": "O"}, "excluded"),
        ({"formula": "LiMnO2", "elements": "Li,O"}, "excluded"),
        ({"formula": "NaCl", "num_atoms": 5}, "does not fit"),
        ({"z": 2}, "--formula"),
        ({"z": 0, "formula": "NaCl"}, "at least 1"),
        ({"chemical_system": "Li-Mn-O", "num_atoms": 2}, "no atom count"),
        ({"chemical_system": "Li-Li"}, "Li"),
        ({"chemical_system": "Li-*", "elements": "Li"}, "places open"),
        ({"elements": "O", "exclude_elements": "O"}, "no element"),
        ({"num_atoms": 13}, "more than this model"),
        ({"num_atoms": (5, 2)}, "--num-atoms"),
        ({"num_atoms": 0}, "--num-atoms"),
        ({"properties": {"hardness": 3.0}}, "unknown property"),
        ({"properties": {"band_gap": float("inf")}}, "finite"),
        ({"properties": {"band_gap": -1.0}}, "negative"),
    ],
)
def test_requests_that_cannot_be_met(fields: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        resolve(GenerationRequest(**fields), CAN)


@pytest.mark.parametrize("fields", [{"steps": 5}, {"guidance": 2.0, "space_group": 225}])
def test_a_model_that_draws_at_once_is_not_told_how_to_go_on_its_path(fields: dict) -> None:
    with pytest.raises(RequestError, match="leave"):
        resolve(GenerationRequest(**fields), replace(CAN, steps=0))
    assert resolve(GenerationRequest(**fields), CAN).steps > 0
    assert resolve(GenerationRequest(space_group=225), replace(CAN, steps=0)).steps == 0


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"n": "a"}, "n must be a whole number, not 'a'"),
        ({"n": 2.5}, "n must be a whole number"),
        ({"n": True}, "n must be a whole number"),
        ({"seed": None}, "seed must be"),
        ({"space_group": "Fm-3m"}, "space_group must be a whole number"),
        ({"elements": ["Li", "O"]}, "elements must be a text such as 'Li,Mn,O'"),
        ({"chemical_system": ["Li"]}, "chemical_system must be a text"),
        ({"num_atoms": (1, "b")}, "num_atoms must be"),
        ({"properties": {"band_gap": "x"}}, "the target of band_gap must be a number"),
        ({"properties": "band_gap"}, "properties must be numbers by name"),
        ({"formulas": "NaCl"}, "has no 'formulas', did you mean 'formula'"),
    ],
)
def test_values_of_another_type_are_refused_by_name(given: dict, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        GenerationRequest.of(given)


def test_what_a_model_does_not_read_cannot_be_asked_of_it() -> None:
    counts = {"formation_energy_per_atom": 5, "e_above_hull": 3, "band_gap": 0}
    seen = Capabilities.from_meta({"statistics": {**STATISTICS, "property_known": counts}})
    assert seen.properties == {"formation_energy_per_atom", "e_above_hull"} and CAN.properties == seen.properties | {
        "band_gap"
    }
    with pytest.raises(RequestError, match=r"not learned to follow band_gap .*e_above_hull, formation.*--steer"):
        resolve(GenerationRequest(properties={"band_gap": 2.0}), seen)
    with pytest.raises(RequestError, match=r"such as the default one$"):
        resolve(GenerationRequest(properties={"band_gap": 2.0}), replace(seen, steers=False))
    asked = GenerationRequest(properties={"band_gap": 2.0, "e_above_hull": 0.0}, steer="judge")
    led = sample_request(resolve(asked, seen), PlannedBatch(first=0, size=2, num_atoms=4, seed=0))
    place = PROPERTIES.index("e_above_hull")
    assert led.conditions.properties[:, place].tolist() == [0.0, 0.0]
    assert int(led.conditions.properties.isfinite().sum()) == 2
    with pytest.raises(RequestError, match="reads no space group"):
        resolve(GenerationRequest(space_group=225), replace(seen, space_group=False))


def test_steps_are_those_of_the_recipe_where_none_are_asked() -> None:
    for meta, steps in (({}, 7), ({"steps": 0}, 7), ({"steps": 250}, 250)):
        can = Capabilities.from_meta({"statistics": STATISTICS, **meta})
        for asked, wanted in ((None, steps), (3, 3)):
            resolved = resolve(GenerationRequest(steps=asked), can)
            request = sample_request(resolved, PlannedBatch(first=0, size=1, num_atoms=4, seed=0))
            assert resolved.steps == request.steps == wanted


def test_targets_far_from_all_that_was_seen_are_refused() -> None:
    class Config:
        property_mean, property_std = (-1.3, 0.01, 0.8), (1.0, 0.02, 1.5)

    seen = Capabilities.from_meta({"statistics": STATISTICS}, config=Config())
    for name, value in (("band_gap", 1000.0), ("e_above_hull", 1.0), ("formation_energy_per_atom", 50.0)):
        with pytest.raises(RequestError, match=f"{name} of .* is far from all .*ask for"):
            resolve(GenerationRequest(properties={name: value}), seen)
    resolve(GenerationRequest(properties={"band_gap": 8.0, "formation_energy_per_atom": -4}), seen)
