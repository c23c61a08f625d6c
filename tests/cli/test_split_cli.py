"""`euhedral data split` and `leakage` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.crystal_sources import ROCK_SALT, cif, csv_text
from euhedral.cli.app import app, main
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.store import CrystalStore


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    rows = [(f"m-{i}", cif([["Li", "Na", "K", "Rb"][i % 4], "O"], seed=i), str(2000 + i)) for i in range(20)]
    path = tmp_path / "crystals.csv"
    path.write_text(csv_text(rows, "material_id,cif,year"))
    return path


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["data", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_split_writes_parts_that_leak_nothing(crystals: Path, tmp_path: Path):
    out = tmp_path / "parts"
    words = ("split", str(crystals), "--out", str(out), "--fractions", "0.5,0.5", "--workers", "1")
    text = run(*words)
    assert "train" in text and "largest group" in text
    found = json.loads(run("leakage", str(out / "train.arrow"), str(out / "test.arrow"), "--json", "--workers", "1"))
    shares = {one["kind"]: one["share"] for one in found["overlaps"]}
    assert shares == dict.fromkeys(("id", "exact content", "structure", "reduced formula", "chemical system"), 0.0)
    assert found["crystals"]["train"] + found["crystals"]["test"] == 20


def test_split_by_time_as_json_names_the_years(crystals: Path, tmp_path: Path):
    out = tmp_path / "parts"
    summary = json.loads(run("split", str(crystals), "--out", str(out), "--by", "time", "--json", "--workers", "1"))
    assert [(p["name"], p["crystals"], p["first"], p["last"]) for p in summary["parts"]] == [
        ("train", 16, 2000, 2015),
        ("val", 2, 2016, 2017),
        ("test", 2, 2018, 2019),
    ]
    assert json.loads((out / "split.json").read_text()) == summary
    named = run(
        *("split", str(crystals), "--out", str(tmp_path / "named"), "--by", "time", "--names", "old, new"),
        *("--fractions", "0.5,0.5", "--workers", "1"),
    )
    assert "2009" in named and len(CrystalStore.open(tmp_path / "named" / "old.arrow")) == 10


def test_leakage_finds_a_crystal_that_is_only_equal_in_structure(tmp_path: Path):
    shifted = ROCK_SALT.replace(" 0.0 0.0 0.0 1", " 0.25 0.25 0.25 1")
    moved = "\n".join(
        " ".join([*line.split()[:2], *(f"{(float(x) + 0.25) % 1}" for x in line.split()[2:5]), "1"])
        if line.startswith(("Na ", "Cl "))
        else line
        for line in ROCK_SALT.splitlines()
    )
    assert shifted != ROCK_SALT
    for name, rows in {
        "train": [("li", cif(["Li", "O"])), ("salt", ROCK_SALT)],
        "test": [("salt again", moved), ("other salt", cif(["Na", "Cl"])), ("broken", "x")],
    }.items():
        (tmp_path / f"{name}.csv").write_text(csv_text(rows, "material_id,cif"))
    sets = (str(tmp_path / "train.csv"), str(tmp_path / "test.csv"), "--workers", "1")
    found = json.loads(run("leakage", *sets, "--json"))
    shares = {one["kind"]: one for one in found["overlaps"]}
    assert shares["exact content"]["test_crystals"] == 0
    assert shares["structure"]["test_crystals"] == 1 and shares["structure"]["examples"] == ["salt again"]
    assert shares["structure"]["train_crystals"] == 1
    assert shares["reduced formula"]["test_crystals"] == 2
    assert found["unreadable"] == {"train": 0, "test": 1}
    text = run("leakage", *sets)
    assert "structure" in text and "1 rows of the test set could not be read" in text
    assert "structure" not in run("leakage", *sets, "--no-structures")


def test_leakage_tells_what_could_not_be_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from euhedral.evaluate.novelty import NoveltyRecord, ReferenceIndex

    def late(self: ReferenceIndex, batch: CrystalBatch, **_: object) -> list[NoveltyRecord]:
        return [
            NoveltyRecord(index=i, reference=None, rms=None, reason="not decided within 60 s", compared=1)
            for i in range(len(batch))
        ]

    monkeypatch.setattr(ReferenceIndex, "find", late)
    (tmp_path / "a.csv").write_text(csv_text([("salt", ROCK_SALT)], "material_id,cif"))
    sets = (str(tmp_path / "a.csv"), str(tmp_path / "a.csv"), "--workers", "1")
    (structure,) = [
        one for one in json.loads(run("leakage", *sets, "--json"))["overlaps"] if one["kind"] == "structure"
    ]
    assert (structure["test_crystals"], structure["undecided"]) == (0, 1)
    assert "1 test crystals could not be decided in time" in " ".join(run("leakage", *sets).split())


def test_leakage_without_a_shared_formula(tmp_path: Path):
    for name, elements in {"train": ["Li", "O"], "test": ["Na", "Cl"]}.items():
        (tmp_path / f"{name}.csv").write_text(csv_text([(name, cif(elements))], "material_id,cif"))
    found = json.loads(
        run("leakage", str(tmp_path / "train.csv"), str(tmp_path / "test.csv"), "--workers", "1", "--json")
    )
    assert all(one["test_crystals"] == 0 for one in found["overlaps"]) and len(found["overlaps"]) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fractions", "0.8,0.1"), "add up to 0.9"),
        (("--fractions", "most,rest"), "expected fractions such as"),
        (("--by", "moon"), "choose one of composition"),
        (("--by", "time", "--column", "month"), "no column 'month'"),
        (("--fractions", "0.2,0.2,0.2,0.2,0.2"), "name the 5 parts"),
        (("--names", "a,b,c,d,e", "--fractions", "0.2,0.2,0.2,0.2,0.2"), "4 groups cannot fill 5 parts"),
    ],
)
def test_mistakes_end_with_exit_code_2_and_what_to_do(crystals, tmp_path, monkeypatch, capsys, words, message):
    command = ["euhedral", "data", "split", str(crystals), "--out", str(tmp_path / "parts"), "--workers", "1", *words]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()
