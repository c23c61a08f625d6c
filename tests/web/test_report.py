"""The page of a report without a browser: what it holds, what it must not hold, and how it is written."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import OutputError
from euhedral.evaluate.report import Anchor, Distribution, Failure, Figure, Parity, ProtocolResult, Report
from euhedral.web.report import alike, number_html, report_html, write_report
from web.pages import Page

HOSTILE = "<script>window.hacked=1</script></script><img src=x onerror=alert(1)>\"'&amp;{{data}}</title><!--@text"


def crystals(count: int = 3) -> CrystalBatch:
    frac = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(4.1 * torch.eye(3, dtype=torch.float64), frac, torch.tensor([55, 17]))] * count)


def report(text: str = "", **changes) -> Report:
    """A report in which `text` stands wherever a text can stand."""
    figures = (
        Figure(
            name=f"match.rate{text}",
            value=0.6543,
            low=0.6,
            high=0.7,
            samples=300,
            note=text,
            better="higher",
            share=True,
        ),
        Figure(name="wasserstein.density", value=0.0631, samples=300, unit=f"g/cm³{text}", better="lower"),
        Figure(name="discovery.sun", value=None, samples=0, note="no energies"),
    )
    result = ProtocolResult(
        protocol=f"csp{text}",
        version=f"1.0{text}",
        figures=figures,
        settings={f"match{text}": {"stol": 0.5, "rules": ["a", text], "none": None}},
        anchors=(
            Anchor(system="DiffCSP", figure=f"match.rate{text}", value=0.5149, source=f"Jiao{text}", note=text),
            Anchor(system=f"FlowMM{text}", figure="wasserstein.density", value=0.239, source="Miller"),
        ),
        left_out={f"energy{text}": f"no potential{text}"},
    )
    title, unit = f"Density{text}", f"g/cm³{text}"
    values = {
        "samples": 300,
        "references": 9000,
        "results": (result,),
        "failures": (Failure(index=3, stage=f"validity{text}", reason=f"atoms overlap{text}"),),
        "distributions": (
            Distribution(name="d", title=title, unit=unit, edges=(0.0, 1.0, 2.0), samples=(1, 2), reference=(2, 1)),
            Distribution(name="elements", title="Elements", labels=("O", "Fe"), samples=(1, 2), reference=(2, 1)),
            Distribution(name="space_groups", title=title, labels=("1", "225"), samples=(1, 2), reference=(2, 1)),
            Distribution(name="names", title=title, labels=(f"a{text}", "b"), samples=(1, 2), reference=(2, 1)),
        ),
        "parities": (Parity(name="v", title=title, unit=unit, wanted=(1.0, 2.0), obtained=(1.1, 2.2)),),
        "sources": {f"samples{text}": f"here{text}"},
        "versions": {f"torch{text}": f"2{text}"},
        "seconds": {f"match{text}": 1.25},
        "created": f"2026{text}",
    }
    return Report(**(values | changes))


def test_figures_stand_beside_published_ones():
    text = " ".join(" ".join(Page(report_html(report())).text).split())
    for part in ("300 crystals against 9,000 references", "match · rate ↑ %", "65.43 60.00 to 70.00 300 51.49"):
        assert part in text
    assert "wasserstein · density ↓ g/cm³ 0.0631 – 300 0.2390" in text
    assert "discovery · sun no energies – – 0" in text
    assert "DiffCSP: Jiao; MP-20" in text and "energy: no potential" in text
    assert "stol: 0.5; rules: a, ; none: null" in text and "1.2 s" in text
    assert "1 of 300" in text and "has not ended" not in text


def test_each_chart_has_a_place_a_text_and_a_table():
    page = Page(report_html(report()))
    charts = page.data()
    places = [int(value) for tag, key, value in page.attributes if key == "data-index"]
    assert places == list(range(len(charts))) == list(range(7))
    labels = [value for tag, key, value in page.attributes if tag == "div" and key == "aria-label"]
    assert sum(len(label) > 20 for label in labels) >= 7
    assert page.tags.count("figure") == page.tags.count("figcaption") == 7
    assert {trace["type"] for chart in charts for trace in chart["data"]} == {"scatter", "bar", "heatmap"}


def test_crystals_are_drawn_and_broken_ones_passed_over():
    broken = CrystalBatch.from_crystals([(torch.full((3, 3), float("nan")), torch.zeros(1, 3), torch.tensor([1]))])
    page = Page(report_html(report(), CrystalBatch.concat([crystals(2), broken.to(torch.float64)]), crystals(40)))
    drawn = [value for tag, key, value in page.attributes if tag == "svg" and key == "aria-label"]
    assert len(drawn) == 2 + 12 and all(label.startswith("Unit cell of CsCl") for label in drawn)
    identifiers = [value for _, key, value in page.attributes if key == "id"]
    assert len(identifiers) == len(set(identifiers)) and {"e17", "e55"} <= set(identifiers)
    assert "crystals" not in {value for _, key, value in Page(report_html(report())).attributes if key == "id"}


def test_failures_are_counted_by_reason_with_numbers_left_open():
    failures = [Failure(index=i, stage="validity", reason=f"atoms are 0.{i} Å apart") for i in range(1, 10)]
    failures += [Failure(index=i, stage="read", reason="no cell") for i in (3, 3, 5)]
    text = " ".join(Page(report_html(report(failures=tuple(failures)))).text)
    assert "9 3.00% validity atoms are # Å apart 1, 2, 3, 4, 5, 6, 7, 8, …" in " ".join(text.split())
    assert "2 0.67% read no cell 3, 5" in " ".join(text.split())
    assert alike("Fe2O3 is 0.31 Å from -1.2e-3, P-1") == "Fe2O3 is # Å from #, P-1"
    assert "every sample could be judged" in " ".join(Page(report_html(report(failures=()))).text)


def test_many_reasons_and_rows_are_cut_with_their_number():
    failures = tuple(
        Failure(index=i, stage="read", reason=f"reason {chr(97 + i % 26)}{chr(97 + i // 26)}") for i in range(60)
    )
    labels = tuple(f"c{i}" for i in range(450))
    many = Distribution(name="many", title="Many", labels=labels, samples=(1,) * 450)
    text = " ".join(Page(report_html(report(failures=failures, distributions=(many,)))).text)
    assert "and 10 more reasons" in text and "and 50 more" in text


def test_an_unfinished_or_empty_report_is_a_page():
    assert "has not ended" in " ".join(Page(report_html(report(complete=False))).text)
    empty = Report(samples=0, references=0, results=())
    page = Page(report_html(empty, CrystalBatch.empty()))
    assert "0 crystals" in "".join(page.text) and page.data() == []


def test_nothing_is_loaded_from_elsewhere():
    page = Page(report_html(report(), crystals()))
    for tag, key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert value.startswith(("#", "data:")), (tag, key, value)
    assert not {"iframe", "object", "embed", "base", "form"} & set(page.tags)
    policy = next(v for tag, k, v in page.attributes if tag == "meta" and k == "content" and "script-src" in v)
    rule = next(part for part in policy.split(";") if part.strip().startswith("script-src")).split()[1:]
    programs = [text for attributes, text in page.scripts if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in programs]
    assert rule == [f"'sha256-{digest}'" for digest in digests] and len(programs) == 2
    assert "default-src 'none'" in policy


def test_hostile_text_stays_text():
    plain, hostile = (Page(report_html(report(text), crystals())) for text in ("x", HOSTILE))
    assert hostile.tags == plain.tags
    assert not any(key.startswith("on") for _, key, _ in hostile.attributes)
    assert "".join(hostile.text).count(HOSTILE) >= 15
    drawn = json.dumps(hostile.data())
    assert "<script" not in drawn and "<img" not in drawn, "plotly reads tags"


@settings(max_examples=15)
@given(st.text(max_size=40))
def test_any_text_survives(text):
    # A note or a source that is empty has no element of its own.
    assert Page(report_html(report(f"x{text}"))).tags == Page(report_html(report("x"))).tags


@pytest.mark.parametrize(
    ("value", "html"),
    [
        (None, "–"),
        (0.0, "0.0000"),
        (0.9915, "0.9915"),
        (1.0, "1.000"),
        (0.0631, "0.0631"),
        (0.00012, "0.000120"),
        (12.345, "12.35"),
        (1234.5, "1234"),
        (-0.25, "−0.2500"),
        (1.2e-5, "1.20·10<sup>−5</sup>"),
        (3.4e7, "3.40·10<sup>7</sup>"),
    ],
)
def test_number(value, html):
    assert number_html(value) == html


def test_shares_are_in_per_cent():
    assert number_html(0.99987, share=True) == "99.99" and number_html(None, share=True) == "–"


@given(st.floats(-1e300, 1e300))
def test_numbers_keep_three_digits(value):
    shown = number_html(value).replace("−", "-").replace("·10<sup>", "e").replace("</sup>", "")
    assert float(shown) == pytest.approx(value, rel=5.1e-3)


def test_writes_into_a_folder_and_replaces_the_old_page(tmp_path):
    target = write_report(tmp_path / "report", report(), crystals())
    assert target == tmp_path / "report" / "index.html"
    assert write_report(tmp_path / "report", report()) == target
    assert target.read_text(encoding="utf-8") == report_html(report())
    assert [path.name for path in target.parent.iterdir()] == ["index.html"]
    assert target.stat().st_size < 2_000_000
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the report"):
        write_report(tmp_path / "file", report())


def test_vendored_plotly_is_what_its_note_says_and_its_licence_travels_with_the_page():
    vendor = files("euhedral.web") / "vendor"
    digest = hashlib.sha256((vendor / "plotly-cartesian.min.js").read_bytes()).hexdigest()
    assert digest in (vendor / "VERSION").read_text()
    assert "MIT License" in (vendor / "plotly.LICENSE").read_text()
    assert any("Plotly" in text for attributes, text in Page(report_html(report())).scripts if attributes.get("id"))


def test_plotly_accepts_every_trace_and_layout():
    graph_objects = pytest.importorskip("plotly.graph_objects", reason="the check of figures needs the package plotly")
    for chart in Page(report_html(report())).data():
        text = json.dumps(chart)
        for name in set(part.split('"')[0] for part in text.split('"@')[1:]):
            text = text.replace(f'"@{name}"', '"#123456"')
        graph_objects.Figure(json.loads(text))
