"""The page of the gallery without a browser: what it holds, what it must not hold, and how it is written."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from importlib.resources import files

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError, OutputError
from euhedral.web.gallery import Card, formula_html, gallery_html, space_group_html, write_gallery
from web.pages import Page

HOSTILE = "<script>window.hacked=1</script></script><img src=x onerror=alert(1)>\"'&amp;{{cards}}</title><!--"
CIF = "data_x\n_cell_length_a 4.2\n"


def mgo() -> CrystalBatch:
    frac = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    cell = torch.tensor([[0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([12, 8]))])


def card(**changes) -> Card:
    values = {
        "name": "0001-MgO",
        "formula": "MgO",
        "cif": CIF,
        "space_group_symbol": "F m -3 m",
        "space_group_number": 225,
        "density": 3.61,
        "smallest_distance": 2.1,
        "num_atoms": 2,
        "volume": 18.5,
        "extra": {"Formation energy": "-3.0 eV/atom"},
        "cif_file": "cif/0001-MgO.cif",
        "crystal": mgo(),
    }
    return Card(**(values | changes))


def page(*cards: Card, title: str = "Crystals", **options) -> Page:
    return Page(gallery_html(cards, title=title, **options))


def test_page_tells_what_the_card_holds():
    result = page(card(), subtitle="Two of them", facts={"Seed": "0"})
    text = " ".join(result.text)
    for part in ("Crystals", "Two of them", "Seed", "0001-MgO", "3.61 g/cm³", "2.10 Å", "18.5 Å³", "(225)"):
        assert part in text
    assert "-3.0 eV/atom" in text and "1 crystal" in text
    assert ("a", "href", "cif/0001-MgO.cif") in result.attributes
    assert [v for _, k, v in result.attributes if k == "data-symbol"] == ["O", "Mg"]
    assert any(k == "aria-label" and v.startswith("Unit cell of MgO: 1 Mg, 1 O") for _, k, v in result.attributes)


def test_data_of_the_viewer_is_the_scene():
    record = page(card()).data()["crystals"][0]
    assert record["elements"] == ["Mg", "O"] and record["group"] == 225 and record["cif"] == CIF
    assert len(record["positions"]) == 3 * len(record["numbers"]) == 27
    assert record["numbers"].count(12) == 8 and len(record["bonds"]) == 2 * 6
    cell = torch.tensor(record["cell"], dtype=torch.float64).reshape(3, 3) / 100
    assert float(torch.linalg.det(cell)) == pytest.approx(float(torch.linalg.det(mgo().cell[0])), rel=0.01)


def test_nothing_is_loaded_from_elsewhere():
    result = page(card())
    for tag, key, value in result.attributes:
        if key in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert value.startswith(("#", "data:")) or (tag == "a" and value.startswith("cif/")), (tag, key, value)
    assert not any(tag in ("iframe", "object", "embed", "base") for tag in result.tags)


def test_policy_allows_the_programs_of_the_page_and_no_other():
    result = page(card())
    policy = next(v for tag, k, v in result.attributes if tag == "meta" and k == "content" and "script-src" in v)
    assert "default-src 'none'" in policy
    rule = next(part for part in policy.split(";") if part.strip().startswith("script-src")).split()[1:]
    programs = [text for attributes, text in result.scripts if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in programs]
    assert rule == [f"'sha256-{digest}'" for digest in digests] and len(programs) == 2


def test_hostile_text_stays_text():
    plain = page(card(), subtitle="s", facts={"f": "g"})
    fields = ("name", "cif", "space_group_symbol")
    hostile = page(
        card(**dict.fromkeys(fields, HOSTILE), formula=HOSTILE, extra={HOSTILE: HOSTILE}, cif_file=HOSTILE),
        title=HOSTILE,
        subtitle=HOSTILE,
        facts={HOSTILE: HOSTILE},
    )
    quiet = {"i", "sub", "span"}  # of the formula and the space group
    assert [t for t in hostile.tags if t not in quiet] == [t for t in plain.tags if t not in quiet]
    assert not any(key.startswith("on") for _, key, _ in hostile.attributes)
    assert "".join(hostile.text).count(HOSTILE) >= 6
    assert hostile.data()["crystals"][0]["name"] == HOSTILE


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=80))
def test_any_text_survives(name, key, cif):
    result = page(card(name=name, extra={key: name}, cif=cif))
    assert result.tags == page(card(name="n", extra={"k": "n"}, cif="c")).tags
    record = result.data()["crystals"][0]
    assert (record["name"], record["cif"]) == (name, cif)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "https://x.org/a", "a b/c\"d'.cif"])
def test_links_stay_in_the_folder(link):
    result = page(card(cif_file=link))
    target = next(v for tag, k, v in result.attributes if tag == "a" and k == "href" and not v.startswith("#"))
    assert ":" not in target and " " not in target and '"' not in target


def test_without_a_file_there_is_no_link():
    assert not any(tag == "a" and v == "cif" for tag, k, v in page(card(cif_file="")).attributes if k == "class")


@pytest.mark.parametrize(
    ("formula", "html"),
    [
        ("LiMnO2", "LiMnO<sub>2</sub>"),
        ("Li2 Mn2 O4", "Li<sub>2</sub> Mn<sub>2</sub> O<sub>4</sub>"),
        ("Ca3(PO4)2", "Ca<sub>3</sub>(PO<sub>4</sub>)<sub>2</sub>"),
        ("Fe0.5O12", "Fe<sub>0.5</sub>O<sub>12</sub>"),
        ("2MgO", "2MgO"),
        ("<b>O2", "&lt;b&gt;O<sub>2</sub>"),
        ("O'2", "O&#x27;2"),
    ],
)
def test_formula(formula, html):
    assert formula_html(formula) == html


@given(st.text(max_size=30))
def test_formula_keeps_every_character(formula):
    parsed = Page(formula_html(formula))
    assert "".join(parsed.text) == formula
    assert set(parsed.tags) <= {"sub"}


@pytest.mark.parametrize(
    ("symbol", "number", "html"),
    [
        ("F m -3 m", 225, '<i>Fm</i><span class="bar">3</span><i>m</i></span> <span class="number">(225)</span>'),
        ("P 6_3/m m c", 194, '<i>P</i>6<sub>3</sub>/<i>mmc</i></span> <span class="number">(194)</span>'),
        ("P-1", 0, '<i>P</i><span class="bar">1</span></span>'),
        ("P 2_1/c", 0, "<i>P</i>2<sub>1</sub>/<i>c</i></span>"),
    ],
)
def test_space_group(symbol, number, html):
    result = space_group_html(symbol, number)
    assert result.endswith(html)
    assert Page(result).attributes[:2] == [("span", "class", "symbol"), ("span", "role", "img")]


def test_space_group_that_was_not_found():
    assert space_group_html("", 0) == "–"
    assert space_group_html("", 12) == "No. 12"
    assert 'aria-label="F m 3 bar m"' in space_group_html("F m -3 m")


def test_unknown_numbers_show_a_dash_and_sort_as_null():
    result = page(card(density=float("nan"), smallest_distance=float("inf")))
    record = result.data()["crystals"][0]
    assert record["density"] is None and record["distance"] is None
    assert result.text.count("–") == 2
    assert "nan" not in " ".join(result.text)


def test_elements_are_defined_once_a_page():
    result = page(card(), card(), card())
    identifiers = [v for _, k, v in result.attributes if k == "id"]
    assert len(identifiers) == len(set(identifiers))
    assert {"e8", "e12"} <= set(identifiers)
    assert result.tags.count("article") + result.tags.count("h2") == 4  # three cards and the large view


def test_a_gallery_of_nothing_is_a_page():
    result = page()
    assert "0 crystals" in "".join(result.text) and result.data() == {"elements": {}, "crystals": []}


def test_crystal_is_read_from_the_cif_where_it_is_not_given():
    convert = pytest.importorskip("euhedral.crystal.convert", reason="the reader of CIF files is not there")
    given_crystal, read = (page(c) for c in (card(), card(crystal=None, cif=convert.to_cif(mgo(), "MgO"))))
    one, two = (p.data()["crystals"][0] for p in (given_crystal, read))
    assert sorted(one["numbers"]) == sorted(two["numbers"]) and len(one["bonds"]) == len(two["bonds"])


def test_a_broken_crystal_is_named():
    bad = CrystalBatch.from_crystals([(torch.full((3, 3), float("nan")), torch.zeros(1, 3), torch.tensor([1]))])
    with pytest.raises(CrystalError, match=r"'0001-MgO' cannot be drawn.*not finite"):
        page(card(crystal=bad))
    with pytest.raises(CrystalError, match="holds 2"):
        page(card(crystal=CrystalBatch.concat([mgo(), mgo()])))


def test_writes_a_file_or_into_a_folder(tmp_path):
    assert write_gallery(tmp_path / "run", [card()], title="t") == tmp_path / "run" / "index.html"
    assert write_gallery(tmp_path / "a" / "x.html", [card()], title="t") == tmp_path / "a" / "x.html"
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["index.html"]
    text = (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    assert text == gallery_html([card()], title="t")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "run" / "index.html").stat().st_mode) == 0o666 & ~umask


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path):
    target = write_gallery(tmp_path, [card(name="x\udcff")], title="t")
    assert "x?" in target.read_text(encoding="utf-8")


def test_a_failed_write_keeps_the_old_page_and_leaves_nothing(tmp_path, monkeypatch):
    target = write_gallery(tmp_path, [card()], title="old")
    before = target.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_gallery(tmp_path, [card()], title="new")
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]
    monkeypatch.undo()
    assert "<title>new</title>" in write_gallery(tmp_path, [card()], title="new").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="another folder"):
        write_gallery(tmp_path / "file" / "index.html", [card()], title="t")


def test_vendored_viewer_is_what_its_note_says_and_its_licence_travels_with_the_page():
    vendor = files("euhedral.web") / "vendor"
    digest = hashlib.sha256((vendor / "3Dmol-min.js").read_bytes()).hexdigest()
    assert digest in (vendor / "VERSION").read_text()
    licence = next(text for attributes, text in page().scripts if attributes.get("id") == "license-of-3dmol")
    assert "University of Pittsburgh" in licence and "Redistributions in binary form" in licence
