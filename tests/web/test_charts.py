"""Charts of a report: what they plot, against counts that are made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euhedral.crystal.elements import SYMBOLS
from euhedral.evaluate.report import Distribution, Parity
from euhedral.web.charts import MOST_POINTS, charts_of, element_place, parity_chart


def histogram(samples=(1, 3, 0), reference: tuple[int, ...] | None = (2, 1, 1)) -> Distribution:
    return Distribution(
        name="density",
        title="Density",
        unit="g/cm³",
        edges=(0.0, 1.0, 2.0, 3.0),
        samples=samples,
        reference=reference,
    )


def trace(chart, name):
    return next(one for one in chart.traces if one.get("name") == name)


def test_every_element_has_a_place_of_its_own():
    places = {symbol: element_place(number) for number, symbol in enumerate(SYMBOLS) if number}
    assert len(set(places.values())) == 118
    assert all(0 <= row < 9 and 0 <= column < 18 for row, column in places.values())
    known = {"H": (0, 0), "He": (0, 17), "B": (1, 12), "Al": (2, 12), "Sc": (3, 2), "Kr": (3, 17), "Hf": (5, 3)}
    known |= {"La": (7, 2), "Lu": (7, 16), "Ac": (8, 2), "Rf": (6, 3), "Og": (6, 17), "Ba": (5, 1), "Rn": (5, 17)}
    assert {symbol: places[symbol] for symbol in known} == known
    halogens = {places[symbol][1] for symbol in ("F", "Cl", "Br", "I", "At", "Ts")}
    assert halogens == {16}
    with pytest.raises(ValueError, match="no element 119"):
        element_place(119)


def test_histogram_is_a_step_line_of_shares():
    (chart,) = charts_of(histogram())
    line = trace(chart, "samples")
    assert line["x"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert line["y"] == [0, 0.25, 0.25, 0.75, 0.75, 0, 0, 0]
    assert [one["name"] for one in chart.traces] == ["reference", "samples"], "the samples lie above"
    assert "samples 1.33 g/cm³ and reference 1 g/cm³" in chart.summary
    assert chart.rows[1] == ("1 to 2", "3", "75.00%", "1", "25.00%")
    assert chart.columns == ("Density (g/cm³)", "Samples", "share", "Reference", "share")
    assert chart.layout["xaxis"]["title"]["text"] == "Density (g/cm³)"


@given(st.lists(st.floats(0.01, 9.99), min_size=1, max_size=300))
def test_median_of_bins_is_within_a_bin_of_the_true_one(values):
    edges = np.linspace(0, 10, 21)
    counts = tuple(np.histogram(values, edges)[0].tolist())
    made = Distribution(name="x", title="X", edges=tuple(edges.tolist()), samples=counts)
    told = float(charts_of(made)[0].summary.split("samples ")[1].split(".  ")[0].split(" ")[0].rstrip("."))
    # Where an even number straddles empty bins the binned median is that of the lower half.
    low, high = np.percentile(values, 50, method="lower"), np.percentile(values, 50, method="higher")
    assert low - 0.51 <= told <= high + 0.51


def test_histogram_without_reference_or_values():
    (alone,) = charts_of(histogram(reference=None))
    assert [one["name"] for one in alone.traces] == ["samples"] and "reference" not in alone.summary
    (empty,) = charts_of(histogram(samples=(0, 0, 0), reference=None))
    assert empty.summary == "Median of nothing." and set(empty.traces[0]["y"]) == {0}


def test_categories_are_bars_beside_each_other():
    made = Distribution(
        name="num_atoms", title="Atoms in the cell", labels=("2", "<b>4</b>"), samples=(1, 3), reference=(4, 0)
    )
    (chart,) = charts_of(made)
    assert trace(chart, "samples")["y"] == [0.25, 0.75] and trace(chart, "reference")["y"] == [1, 0]
    assert trace(chart, "samples")["x"] == ["2", "&lt;b&gt;4&lt;/b&gt;"], "plotly reads tags"
    assert chart.rows[0] == ("2", "1", "25.00%", "4", "100.00%")
    assert "<b>4</b> among samples, 2 among reference" in chart.summary
    assert charts_of(Distribution(name="x", title="X", samples=())) == []


def test_space_groups_point_up_and_down_in_the_colour_of_their_system():
    made = Distribution(
        name="space_groups", title="Space groups", labels=("1", "62", "225"), samples=(1, 0, 3), reference=(0, 1, 1)
    )
    (chart,) = charts_of(made)
    bars = {(one["name"], k): one for k, half in enumerate((chart.traces[:3], chart.traces[3:])) for one in half}
    assert bars["cubic", 0]["y"] == [0.75] and bars["cubic", 1]["y"] == [-0.5] and bars["cubic", 0]["x"] == [225]
    assert bars["cubic", 0]["marker"]["color"] == "@cubic" and bars["triclinic", 0]["y"] == [0.25]
    assert bars["orthorhombic", 1]["hovertext"] == ["62 P n m a<br>50.00% of reference (1)"]
    assert "25.0% of the samples have no symmetry (P1)" in chart.summary
    assert chart.rows[2] == ("225 F m -3 m", "cubic", "3", "75.00%", "1", "50.00%")
    ticks = chart.layout["yaxis"]
    assert ticks["tickvals"][0] == -ticks["tickvals"][-1] and ticks["ticktext"][0] == ticks["ticktext"][-1]


def test_space_groups_alone_point_up_and_other_labels_are_plain_bars():
    alone = Distribution(name="space_groups", title="Space groups", labels=("14",), samples=(2,))
    (chart,) = charts_of(alone)
    assert min(chart.layout["yaxis"]["tickvals"]) == 0 and chart.layout["annotations"] == []
    other = Distribution(name="space_groups", title="Space groups", labels=("unknown",), samples=(2,))
    assert charts_of(other)[0].traces[0]["x"] == ["unknown"]


def test_elements_give_three_periodic_tables():
    made = Distribution(
        name="elements", title="Elements", labels=("O", "Fe", "H"), samples=(6, 2, 0), reference=(3, 4, 1)
    )
    samples, reference, ratio = charts_of(made)
    oxygen, iron, hydrogen = (element_place(z) for z in (8, 26, 1))

    def at(chart, place):
        return chart.traces[0]["z"][place[0]][place[1]]

    assert at(samples, oxygen) == pytest.approx(math.sqrt(0.75), rel=1e-5) and at(samples, hydrogen) is None
    assert at(reference, hydrogen) == pytest.approx(math.sqrt(1 / 8), rel=1e-5)
    assert at(ratio, oxygen) == 1 and at(ratio, iron) == -1 and at(ratio, hydrogen) == -3
    assert sum(value is not None for row in ratio.traces[0]["z"] for value in row) == 3
    assert "2 elements; most frequent O, Fe" in samples.summary
    assert "Too often: O; too seldom: H, Fe" in ratio.summary
    assert samples.rows[0] == ("O", "6", "75.00%", "3", "37.50%") and not reference.rows
    alone = Distribution(name="elements", title="Elements", labels=("O",), samples=(6,))
    assert [chart.title for chart in charts_of(alone)] == ["Elements of the samples"]


def test_parity_knows_its_errors_and_stays_small():
    wanted = tuple(float(x) for x in range(10_000))
    chart = parity_chart(
        Parity(name="v", title="Volume", unit="Å³", wanted=wanted, obtained=tuple(x + 2 for x in wanted))
    )
    points = trace(chart, "pairs")
    assert len(points["x"]) <= MOST_POINTS and points["y"][0] == 2
    assert chart.summary.startswith("10,000 pairs; mean absolute error 2 Å³, median 2 Å³.")
    assert chart.layout["xaxis"]["range"] == chart.layout["yaxis"]["range"]
    outlier = parity_chart(Parity(name="v", title="V", wanted=(1.0, 2.0, math.nan), obtained=(1.0, 900.0, 3.0)))
    assert "2 pairs" in outlier.summary and "1 lie outside the axes" in outlier.summary
    assert parity_chart(Parity(name="v", title="V", wanted=(), obtained=())).summary == "No pairs."


@pytest.mark.parametrize("largest", [0.0, 1e-4, 0.013, 0.1, 0.19, 0.37, 0.99, 1.0])
def test_axis_of_space_groups_has_a_few_round_ticks(largest):
    count = round(largest * 10_000)
    made = Distribution(
        name="space_groups",
        title="Space groups",
        labels=tuple(str(number) for number in range(1, 231)),
        samples=(count, *[(10_000 - count) // 229] * 229),
        reference=(0,) * 230,
    )
    ticks = charts_of(made)[0].layout["yaxis"]["tickvals"]
    assert 1 <= len(ticks) <= 11 and 0 in ticks
