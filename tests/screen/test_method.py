"""Which energies may be put on one scale, and what a refusal says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from euhedral.errors import ConfigError, MismatchError
from euhedral.screen.method import MP2020, PBE_U, EnergyMethod, check_same_method, chgnet_method, parse_method

CHGNET = EnergyMethod(model="CHGNet", functional=PBE_U, corrections=MP2020, version="0.4.2", weights="abcd")
DFT = EnergyMethod(model="DFT", functional=PBE_U, corrections=MP2020)


def test_equal_methods_differ_in_nothing() -> None:
    assert check_same_method(CHGNET, replace(CHGNET, model="chgnet")) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "MACE"), ("functional", "r2SCAN"), ("corrections", "none"), ("weights", "ffff")],
)
def test_each_field_keeps_energies_apart(field: str, value: str) -> None:
    other = replace(CHGNET, **{field: value})
    assert CHGNET.differences(other) == (field,)
    with pytest.raises(MismatchError, match=f"differ in {field}") as caught:
        check_same_method(CHGNET, other)
    assert value in str(caught.value)


def test_version_decides_only_where_weights_are_unknown() -> None:
    newer = replace(CHGNET, version="0.5")
    assert CHGNET.differences(newer) == ()
    assert replace(CHGNET, weights="").differences(newer) == ("version",)
    assert replace(CHGNET, weights="", version="").differences(newer) == ()


def test_another_model_is_allowed_by_name_and_recorded() -> None:
    assert check_same_method(CHGNET, DFT, allow_other_model=True) == ("model: CHGNet on a hull of DFT",)
    with pytest.raises(MismatchError, match="allow another model"):
        check_same_method(CHGNET, DFT)


@pytest.mark.parametrize("change", [{"functional": "PBE"}, {"corrections": "none"}])
def test_another_functional_or_correction_is_never_allowed(change: dict[str, str]) -> None:
    with pytest.raises(MismatchError) as caught:
        check_same_method(CHGNET, replace(DFT, **change), allow_other_model=True)
    assert "allow another model" not in str(caught.value)


@pytest.mark.parametrize("field", ["model", "functional", "corrections"])
def test_no_field_may_be_left_open(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(CHGNET, **{field: " "})


def test_method_is_read_from_text() -> None:
    assert parse_method("model=DFT, functional=PBE, corrections=none") == EnergyMethod(
        model="DFT", functional="PBE", corrections="none"
    )
    for text in ("DFT", "model=DFT, model=DFT, functional=PBE", "energy=DFT"):
        with pytest.raises(ConfigError, match="cannot read"):
            parse_method(text)
    with pytest.raises(ConfigError, match="corrections"):
        parse_method("model=DFT, functional=PBE")


def test_chgnet_is_named_down_to_its_weights() -> None:
    pytest.importorskip("chgnet")
    found = chgnet_method()
    assert parse_method("chgnet") == found
    assert len(found.weights) == 64 and "checkpoint 0.3.0" in found.version and "0.3.0" in str(found)
    assert "functional" in found.differences(chgnet_method("r2scan"))
    with pytest.raises(ConfigError, match="no CHGNet weights"):
        chgnet_method("0.9")
