from __future__ import annotations

import json

import pytest

from euhedral.errors import ConfigError
from euhedral.evaluate.anchors import ANCHORS, anchors_of
from euhedral.evaluate.coverage import coverage_cutoffs
from euhedral.evaluate.measures import MEASURES
from euhedral.evaluate.protocols import DATASETS, PROTOCOLS, chosen_protocols, find_dataset, find_protocol


def test_every_metric_of_a_protocol_exists_and_its_settings_are_plain() -> None:
    for protocol in PROTOCOLS:
        names = [metric.name for metric in protocol.metrics]
        assert len(names) == len(set(names)) and protocol.version and protocol.title
        for metric in protocol.metrics:
            assert metric.name in MEASURES
            assert json.loads(json.dumps(dict(metric.settings))) == dict(metric.settings)


def test_every_data_set_has_cutoffs_and_anchors_are_of_known_ones() -> None:
    for settings in DATASETS.values():
        assert coverage_cutoffs(settings.cutoffs).structure > 0
    assert {anchor.dataset for anchor in ANCHORS} <= {settings.title for settings in DATASETS.values()}


def test_anchors_are_shares_from_zero_to_one_and_each_stands_once() -> None:
    keys = [(anchor.system, anchor.figure, anchor.dataset) for anchor in ANCHORS]
    assert len(keys) == len(set(keys))
    for anchor in ANCHORS:
        assert anchor.source
        if anchor.figure.startswith(("validity.", "coverage.", "match.", "discovery.")):
            assert 0 <= anchor.value <= 1
    groups = {group for protocol in PROTOCOLS for group in protocol.anchored}
    assert {anchor.figure.split(".")[0] for anchor in ANCHORS} == groups


def test_anchors_of_figures() -> None:
    found = anchors_of(["match.rate"])
    assert found[0].system == "CrystalFlow" and {anchor.figure for anchor in found} == {"match.rate"}
    filtered = anchors_of(["match.rate_both_valid"])  # by scripts that drop matches of invalid crystals
    assert [anchor.system for anchor in filtered] == ["CDVAE", "DiffCSP", "FlowMM"]
    assert [anchor.value for anchor in anchors_of(["match.rate"], "MPTS-52")] == [0.3334]
    assert anchors_of([]) == ()


@pytest.mark.parametrize(("name", "near"), [("cdva", "cdvae"), ("CSP", "csp"), ("mattergn", "mattergen")])
def test_unknown_protocols_name_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        find_protocol(name)


def test_unknown_names_without_any_near_list_all() -> None:
    with pytest.raises(ConfigError, match="there are: cdvae, csp, mattergen, lemat"):
        find_protocol("xyz")
    with pytest.raises(ConfigError, match="did you mean 'mp_20'"):
        find_dataset("mp20")


def test_protocols_are_chosen_once_and_by_the_inputs() -> None:
    assert [p.name for p in chosen_protocols(["csp", "cdvae", "csp"], paired=False)] == ["csp", "cdvae"]
    assert [p.name for p in chosen_protocols([], paired=True)] == ["csp"]
    assert [p.name for p in chosen_protocols([], paired=False)] == ["cdvae"]
