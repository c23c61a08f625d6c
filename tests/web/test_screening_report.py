import json
import re
from pathlib import Path

import torch

from euhedral.catalog.screening_folder import Ranking
from euhedral.crystal.batch import CrystalBatch
from euhedral.web.screening_report import funnel_chart, screening_html, write_screening_report

HOSTILE = "</script><b>&"


def _summary(left: int = 1) -> dict:
    return {
        "crystals": 10,
        "unreadable": 2,
        "left": left,
        "order": "by <score>",
        "stages": [
            {"stage": "prefilter", "given": 8, "passed": 6, "seconds": 1.0, "outcomes": {"passed": 6, "rejected": 2}},
            {"stage": "relax", "given": 6, "passed": left, "seconds": 2.0, "outcomes": {"passed": left, HOSTILE: 5}},
        ],
        "settings": {"relax": {"version": 1, "calculator": HOSTILE}},
        "discovery": {"protocol": "p 1", "sun": None, "sun_crystals": None, "msun": 0.1, "msun_crystals": 1},
        "provenance": {"versions": {"torch": "1"}},
    }


def _ranking() -> Ranking:
    crystal = CrystalBatch.from_crystals(
        [(torch.eye(3) * 3, torch.tensor([[0.0, 0, 0], [0.5] * 3]), torch.tensor([29, 79]))]
    )
    row = {"index": 4, "formula": "CuAu", "e_above_hull": 0.012, "score": 0.012, "novel": None, "debye": 320.5}
    row |= {"composition_valid": False, "competing_phases": HOSTILE, "relax_outcome": "passed", "energy_per_atom": -3.0}
    return Ranking(rows=[row], crystals=crystal.to(torch.float64), names=["0001_CuAu"], order="by <score>")


def _none() -> Ranking:
    return Ranking(rows=[], crystals=CrystalBatch.empty(), names=[], order="by <score>")


def test_the_page_has_the_funnel_the_best_and_what_is_not_known():
    page = screening_html(_summary(), _ranking())
    assert "10 crystals" in page and "10.00% (1)" in page and "not known: nothing was given" in page
    assert "../ranked/0001_CuAu.cif" in page and "0.0120" in page and "debye" in page and "<svg" in page
    assert "energy per atom" not in page and "relax outcome" not in page


def test_nothing_of_a_crystal_or_setting_is_read_as_html():
    page = screening_html(_summary(), _ranking())
    assert HOSTILE not in page and "by &lt;score&gt;" in page


def test_the_data_of_the_page_is_the_chart():
    page = screening_html(_summary(), _ranking())
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    (chart,) = json.loads(text)
    assert chart["data"][0]["x"] == [10, 6, 1] and chart["data"][0]["y"] == ["generated", "prefilter", "relax"]
    assert funnel_chart(_summary()).rows[1] == ("prefilter", "6", "60.0%")


def test_pages_are_written_whole_and_a_screening_of_which_nothing_is_left_has_one(tmp_path: Path):
    path = write_screening_report(tmp_path, _summary(), _ranking())
    assert path == tmp_path / "report" / "index.html" and (tmp_path / "report" / "cells.html").is_file()
    assert sorted(file.name for file in path.parent.iterdir()) == ["cells.html", "index.html"]
    other = write_screening_report(tmp_path / "none", _summary(0), _none())
    assert "No crystal passed every stage" in other.read_text() and not (other.parent / "cells.html").exists()
