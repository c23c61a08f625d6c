"""Splits: whole groups, complete and disjoint parts, sizes, stability, and what cannot be split."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.crystal_sources import cif, csv_text
from euhedral.data.convert import convert
from euhedral.data.groups import chemical_system_keys, formula_keys
from euhedral.data.split import partition, split
from euhedral.data.store import CrystalStore
from euhedral.data.subset import write_rows
from euhedral.errors import ConfigError, DataError, OutputError

ELEMENTS = ["Li", "O", "Mn", "Na", "Cl", "Fe", "S", "Mg"]

keys_lists = st.lists(st.sampled_from([f"g{i}" for i in range(40)]), min_size=1, max_size=200)
fractions = st.lists(st.floats(0.02, 1), min_size=2, max_size=4).map(lambda values: [v / sum(values) for v in values])


@pytest.fixture
def years_csv(tmp_path: Path) -> Path:
    """Sixty crystals of 8 elements in pairs, years 2000 to 2011, two of them unknown, and one broken row."""
    rows: list[tuple[str, ...]] = []
    for i in range(60):
        symbols = [ELEMENTS[i % 8], ELEMENTS[(i + 1 + i // 24) % 8]]
        rows.append((f"m-{i}", cif(symbols, seed=i), "" if i in (7, 20) else str(2000 + i % 12), f"note {i % 5}"))
    rows.insert(10, ("broken", "no CIF", "2003", "x"))
    path = tmp_path / "years.csv"
    path.write_text(csv_text(rows, "material_id,cif,year,comment"))
    return path


@pytest.fixture
def store(years_csv: Path, tmp_path: Path) -> Path:
    return convert(years_csv, tmp_path / "years.arrow").store


@given(keys_lists, fractions, st.integers(0, 5))
def test_parts_are_disjoint_complete_and_of_whole_groups_near_their_fractions(keys, shares, seed):
    groups, counts = np.unique(keys, return_counts=True)
    if len(groups) < len(shares):
        with pytest.raises(ConfigError, match="cannot fill"):
            partition(keys, shares, seed=seed)
        return
    parts = partition(keys, shares, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(keys)))
    assert all(len(part) for part in parts)
    homes = {key: {k for k, part in enumerate(parts) for i in part if keys[i] == key} for key in groups.tolist()}
    assert all(len(home) == 1 for home in homes.values())
    wanted = np.array(shares) * len(keys)
    if len(groups) >= 40 and wanted.min() > counts.max():
        assert all(abs(len(part) - target) <= counts.max() for part, target in zip(parts, wanted, strict=True))
    for again, part in zip(partition(keys, shares, seed=seed), parts, strict=True):
        assert again.tolist() == part.tolist()


@given(st.lists(st.integers(1, 30), min_size=20, max_size=60), fractions, st.integers(0, 99))
def test_sizes_are_within_the_largest_group_where_no_part_would_be_empty(sizes, shares, seed):
    keys = [f"{i}" for i, size in enumerate(sizes) for _ in range(size)]
    wanted = np.array(shares) * len(keys)
    if wanted.min() <= max(sizes):
        return
    for part, target in zip(partition(keys, shares, seed=seed), wanted, strict=True):
        assert abs(len(part) - target) <= max(sizes)


@given(keys_lists, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(keys, random):
    if len(set(keys)) < 2:
        return
    where = dict(zip(keys, _part_of(partition(keys, [0.5, 0.5], seed=3), len(keys)), strict=True))
    shuffled = random.sample(keys, len(keys))
    assert dict(zip(shuffled, _part_of(partition(shuffled, [0.5, 0.5], seed=3), len(keys)), strict=True)) == where


def test_split_without_groups_has_the_exact_sizes_and_another_seed_gives_another():
    keys = [f"id-{i}" for i in range(1000)]
    first, second = partition(keys, [0.8, 0.1, 0.1], seed=0), partition(keys, [0.8, 0.1, 0.1], seed=1)
    assert [len(part) for part in first] == [len(part) for part in second] == [800, 100, 100]
    assert 5 <= len(set(first[2]) & set(second[2])) <= 20, "about a tenth of a tenth"


def test_composition_split_keeps_formulas_together_with_ids_and_labels(store: Path, tmp_path: Path):
    summary = split(store, tmp_path / "parts", by="composition", fractions=(0.5, 0.25, 0.25), seed=4)
    formulas: list[set[str]] = []
    seen = []
    with CrystalStore.open(store) as whole:
        texts, years = dict(zip(whole.ids(), whole.texts("comment"), strict=True)), whole.labels("year")
        rows = {name: i for i, name in enumerate(whole.ids())}
        for part in summary.parts:
            with CrystalStore.open(tmp_path / "parts" / part.file) as opened:
                batch, ids = opened.crystals(slice(None)), opened.ids()
                assert len(opened) == part.crystals
                formulas.append(set(formula_keys(batch)))
                seen += ids
                assert opened.texts("comment") == [texts[name] for name in ids]
                np.testing.assert_array_equal(opened.labels("year"), years[[rows[name] for name in ids]])
                original = whole.crystals([rows[name] for name in ids])
                assert batch.frac.equal(original.frac) and batch.species.equal(original.species)
                assert batch.cell.equal(original.cell)
    assert sorted(seen) == sorted(rows)
    assert not formulas[0] & formulas[1] and not formulas[0] & formulas[2] and not formulas[1] & formulas[2]
    assert summary.groups == sum(part.groups for part in summary.parts) == len(set.union(*formulas))
    written = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert written == json.loads(json.dumps(summary.to_dict())) and written["schema_version"] == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_other_groups_stay_whole_too(store: Path, tmp_path: Path):
    split(store, tmp_path / "systems", by="chemical-system", fractions=(0.5, 0.5), seed=1)
    systems = []
    for name in ("train", "test"):
        with CrystalStore.open(tmp_path / "systems" / f"{name}.arrow") as opened:
            systems.append(set(chemical_system_keys(opened.crystals(slice(None)))))
    assert not systems[0] & systems[1]
    with pytest.raises(ConfigError, match="1 group cannot fill 2 parts"):
        split(store, tmp_path / "groups", by="space-group", fractions=(0.5, 0.5))
    assert not (tmp_path / "groups").exists()


def test_split_by_space_group_reports_its_tolerance(tmp_path: Path):
    rock_salt = cif(["Na"], a=4.0)
    cubic = "\n".join(
        f"_cell_{key} {4 if key.startswith('length') else 90}"
        for key in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    )
    cube = "data_x\n" + cubic + rock_salt[rock_salt.index("\n_symmetry_Int") :]
    path = tmp_path / "two.csv"
    path.write_text(csv_text([("a", cube), ("b", rock_salt), ("c", cube), ("d", rock_salt)], "material_id,cif"))
    summary = split(path, tmp_path / "out", by="space-group", fractions=(0.5, 0.5), symprec=0.02)
    found = {frozenset(CrystalStore.open(tmp_path / "out" / part.file).ids()) for part in summary.parts}
    assert found == {frozenset("ac"), frozenset("bd")}
    assert summary.symprec == 0.02 and summary.largest_group[1] == 2


def test_later_years_come_in_later_parts(years_csv: Path, tmp_path: Path):
    with pytest.raises(DataError, match="2 of 60 crystals have no 'year', the first is 'm-7'"):
        split(years_csv, tmp_path / "parts", by="time")
    summary = split(years_csv, tmp_path / "parts", by="time", drop_unknown=True)
    ends = [(part.first, part.last) for part in summary.parts]
    assert ends[0][0] == 2000 and ends[-1][1] == 2011
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))  # type: ignore[operator]
    assert summary.without_time == 2 and summary.crystals == 58 and summary.unreadable == 1
    reasons = (tmp_path / "parts" / "source.report.jsonl").read_text()
    assert "broken" in reasons
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == [
        *("source.report.jsonl", "split.json", "test.arrow", "train.arrow", "val.arrow")
    ]


def test_dates_are_times_and_other_texts_are_not(tmp_path: Path):
    rows = [(f"{i}", cif(["Li"], seed=i), f"20{10 + i}-05-0{i + 1}", f"text {i}") for i in range(6)]
    path = tmp_path / "dates.csv"
    path.write_text(csv_text(rows, "material_id,cif,created,comment"))
    summary = split(path, tmp_path / "parts", by="time", column="created", fractions=(0.5, 0.5))
    assert [(part.first, part.last) for part in summary.parts] == [
        ("2010-05-01", "2012-05-03"),
        ("2013-05-04", "2015-05-06"),
    ]
    with pytest.raises(DataError, match="neither a number nor a date"):
        split(path, tmp_path / "other", by="time", column="comment", fractions=(0.5, 0.5))
    with pytest.raises(DataError, match=r"no column 'year'.*created, comment"):
        split(path, tmp_path / "other", by="time", fractions=(0.5, 0.5))


def test_same_seed_gives_the_same_files(store: Path, tmp_path: Path):
    for name in ("one", "two"):
        split(store, tmp_path / name, by="random", seed=7)
    for part in ("train.arrow", "val.arrow", "test.arrow"):
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes()


def test_rows_cross_the_batches_of_a_store(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("euhedral.data.subset.ROWS_PER_BATCH", 7)
    write_rows(store, np.arange(1, 60, 2), tmp_path / "odd.arrow")
    write_rows(tmp_path / "odd.arrow", np.arange(0, 30, 3), tmp_path / "few.arrow")
    with CrystalStore.open(store) as whole, CrystalStore.open(tmp_path / "few.arrow") as few:
        rows = np.arange(1, 60, 2)[::3]
        assert few.ids() == whole.ids(rows)
        assert few.crystals(slice(None)).frac.equal(whole.crystals(rows).frac)
        summary = few.summary()
        assert summary["crystals"] == 10 and summary["atoms"] == int(few.num_atoms.sum())
        assert summary["columns"]["year"]["max"] == np.nanmax(whole.labels("year", rows))
        assert summary["elements"] == sorted(set(few.crystals(slice(None)).species.tolist()))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fractions": (0.8, 0.1)}, ConfigError, "add up to 0.9"),
        ({"fractions": (1.0,)}, ConfigError, "at least two"),
        ({"fractions": (1.2, -0.2)}, ConfigError, "above 0"),
        ({"fractions": (float("nan"), 1.0)}, ConfigError, "above 0"),
        ({"fractions": (0.25,) * 4}, ConfigError, "name the 4 parts"),
        ({"names": ("a", "b")}, ConfigError, "expected 3 different names"),
        ({"names": ("a", "a", "b")}, ConfigError, "expected 3 different names"),
        ({"names": ("a", "../b", "c")}, ConfigError, "cannot name a part"),
        ({"by": "moon"}, ConfigError, "choose one of composition"),
        ({"seed": -1}, ConfigError, "seed"),
    ],
)
def test_arguments_out_of_range_are_named(store: Path, tmp_path: Path, options, error, message):
    with pytest.raises(error, match=message):
        split(store, tmp_path / "parts", **({"by": "composition"} | options))
    assert not (tmp_path / "parts").exists()


def test_sources_and_folders_that_cannot_be(store: Path, tmp_path: Path):
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        split(store, tmp_path / "there", by="random")
    with pytest.raises(DataError, match="no file or folder"):
        split(tmp_path / "missing.csv", tmp_path / "parts", by="random")
    broken = tmp_path / "broken.csv"
    broken.write_text(csv_text([("x", "nothing")], "material_id,cif"))
    with pytest.raises(DataError, match="none of the 1 rows") as caught:
        split(broken, tmp_path / "parts", by="random")
    assert "All reasons" not in str(caught.value), "the report that it names is gone"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        split(store, tmp_path / "file" / "parts", by="random")
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_mp_20_splits_by_composition_near_its_fractions(shared_data: Path, tmp_path: Path):
    source = shared_data / "mp_20" / "val.csv.gz"
    with gzip.open(source, "rt", newline="") as stream:
        rows = list(itertools.islice(csv.reader(stream), 301))
    few = tmp_path / "few.csv"
    with few.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    summary = split(few, tmp_path / "parts", by="composition")
    assert [part.crystals for part in summary.parts] == pytest.approx([240, 30, 30], abs=summary.largest_group[1])


def _part_of(parts, crystals: int) -> list[int]:
    where = np.empty(crystals, dtype=int)
    for k, part in enumerate(parts):
        where[part] = k
    return where.tolist()
