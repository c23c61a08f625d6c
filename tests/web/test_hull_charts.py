import pytest

from euhedral.screen.hull import Hull
from euhedral.screen.method import EnergyMethod
from euhedral.screen.reference import make_reference
from euhedral.web.hull_charts import MOST_CHARTS, Candidate, hull_charts

LI, OX, NA = 3, 8, 11


@pytest.fixture
def hull() -> Hull:
    """Li2O at -2 eV/atom with LiO above the hull, and Na2O at -1.5."""
    method = EnergyMethod(model="toy", functional="none", corrections="none")
    compositions = [{LI: 1}, {OX: 1}, {NA: 1}, {LI: 2, OX: 1}, {LI: 1, OX: 1}, {NA: 2, OX: 1}]
    energies = [0.0, 0.0, 0.0, -2.0, -0.5, -1.5]
    return Hull(make_reference(compositions, energies, [str(i) for i in range(6)], method=method))


def _candidate(composition, formation=-1.0, above=0.2) -> Candidate:
    return Candidate(label="new", composition=composition, formation_energy=formation, e_above_hull=above)


def test_a_binary_hull_runs_through_its_stable_phases_in_order(hull: Hull):
    (chart,) = hull_charts(hull, [_candidate(((LI, 1), (OX, 3)), -0.8, -0.05)])
    above, line, candidates = chart.traces
    assert line["x"] == pytest.approx([0, 1 / 3, 1], abs=1e-4) and line["y"] == [0, -2, 0]
    assert above["x"] == [0.5] and candidates["x"] == [0.75] and candidates["y"] == [-0.8]
    assert "3 of 4 phases" in chart.summary and "1 candidate, 1 below" in chart.summary
    assert [row[1] for row in chart.rows] == ["candidates", "reference", "reference", "reference"]


def test_a_ternary_hull_joins_what_coexists(hull: Hull):
    (chart,) = hull_charts(hull, [_candidate(((LI, 1), (OX, 1), (NA, 1)))])
    lines, _, stable, candidates = chart.traces
    assert len(stable["a"]) == 5 and candidates["b"] == [pytest.approx(1 / 3, abs=1e-4)]
    # Three triangles share seven edges: Li2O-Na2O, Na-Li2O (or Li-Na2O) inside, and the border.
    edges = len(lines["a"]) // 3
    assert edges == 7 and lines["a"][2] is None
    for start in range(0, len(lines["a"]), 3):
        for k in (start, start + 1):
            assert lines["a"][k] + lines["b"][k] + lines["c"][k] == pytest.approx(1, abs=1e-3)


def test_other_numbers_of_elements_have_no_diagram_and_there_are_not_too_many(hull: Hull):
    assert hull_charts(hull, [_candidate(((LI, 1),)), _candidate(((1, 1), (LI, 1), (OX, 1), (NA, 1)))]) == []
    assert hull_charts(hull, []) == []
    same = [_candidate(((LI, 1), (OX, 3)))] * (MOST_CHARTS + 5)
    assert len(hull_charts(hull, same)) == 1
