from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from catalog.batches import add, crystals, stretched
from euhedral.catalog.database import ORIGINAL, Catalogue
from euhedral.catalog.tables import pack, unpack
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError, RequestError
from euhedral.screen.stage import Column, StageRecord


@pytest.fixture
def catalogue(target: str) -> Iterator[Catalogue]:
    with Catalogue(target) as opened:
        yield opened


def passed(index: int, crystal: CrystalBatch | None = None, **values: object) -> StageRecord:
    return StageRecord(index=index, outcome="passed", values=values, crystal=crystal)  # type: ignore[arg-type]


def same(one: CrystalBatch, other: CrystalBatch) -> bool:
    return all(torch.equal(getattr(one, n), getattr(other, n)) for n in ("frac", "cell", "species", "num_atoms"))


def test_packing_keeps_every_digit() -> None:
    batch = crystals(7)
    assert same(unpack(pack(batch)), batch)
    assert same(unpack(pack(batch.to(torch.float32))), batch.to(torch.float32).to(torch.float64))
    assert len(unpack([])) == 0
    with pytest.raises(CrystalError, match="0 to 118"):
        pack(CrystalBatch.from_crystals([(torch.eye(3), torch.zeros(1, 3), torch.tensor([300]))]))


def test_crystals_come_back_as_they_went_in(catalogue: Catalogue) -> None:
    batch = crystals(12)
    run = add(catalogue, batch)
    assert same(catalogue.crystals(run), batch)
    assert same(catalogue.crystals(run, [5, 0, 5]), batch[[5, 0, 5]])
    about = catalogue.run(run)
    assert (about.kind, about.model, about.seed, about.crystals) == ("test", "none", 7, 12)
    assert about.provenance == {"versions": {"python": "3"}}
    row = catalogue.table(run, "index = 4").to_pylist()[0]
    assert (row["formula"], row["chemical_system"], row["num_atoms"]) == ("FeO2", "Fe-O", 3)
    assert row["density"] == pytest.approx(float(batch.density[4]), rel=1e-12)


def test_files_come_back_are_replaced_and_go_with_their_stage(catalogue: Catalogue) -> None:
    run = add(catalogue, crystals(3))
    picture = bytes(range(256))
    records = [
        StageRecord(index=i, outcome="passed", files={"bands.png": picture, "curve.csv": str(i).encode()})
        for i in (0, 2)
    ]
    catalogue.record(run, "phonons", 1, records)
    catalogue.record(run, "elastic", 1, [StageRecord(index=2, outcome="passed", files={"elastic.json": b"{}"})])
    assert sorted(catalogue.files(run, [0])) == [
        (0, "phonons", "bands.png", picture),
        (0, "phonons", "curve.csv", b"0"),
    ]
    assert len(list(catalogue.files(run))) == 5 and not list(catalogue.files(run, [1]))
    catalogue.record(run, "phonons", 1, [StageRecord(index=2, outcome="failed", reason="later", files={})])
    assert [name for _, _, name, _ in catalogue.files(run, [2])] == ["elastic.json"]
    catalogue.forget(run, "phonons")
    assert not list(catalogue.files(run))


@pytest.mark.parametrize("name", ["../bands.png", "bands", "Bands.png", ".png", "a/b.csv", "a.b.c.d"])
def test_a_file_has_a_plain_name(catalogue: Catalogue, name: str) -> None:
    run = add(catalogue, crystals(1))
    with pytest.raises(RequestError, match="cannot name a file"):
        catalogue.record(run, "phonons", 1, [StageRecord(index=0, outcome="passed", files={name: b""})])
    assert catalogue.outcomes(run, "phonons") == {}


def test_the_same_request_and_crystals_are_the_same_run(catalogue: Catalogue) -> None:
    batch = crystals(3)
    run = add(catalogue, batch)
    assert add(catalogue, batch) == run
    others = [add(catalogue, stretched(batch, 1.1)), add(catalogue, batch, seed=8), add(catalogue, batch[:2])]
    assert sorted({run, *others}) == [found.id for found in catalogue.runs()]
    assert len(catalogue.runs()) == 4
    assert catalogue.table().num_rows == 3 + 3 + 3 + 2


def test_records_replace_those_of_the_same_crystal_and_stage(catalogue: Catalogue) -> None:
    run = add(catalogue, crystals(4))
    catalogue.record(run, "relax", 1, [passed(i, energy=-float(i)) for i in range(3)])
    assert catalogue.unfinished(run, "relax") == [3]
    assert catalogue.unfinished(run, "relax", version=2) == [0, 1, 2, 3]
    catalogue.record(run, "relax", 2, [passed(1, energy=5.0, converged=True)])
    assert catalogue.unfinished(run, "relax", version=2) == [0, 2, 3]
    assert catalogue.values(run, [2, 1, 3]) == [{"energy": -2.0}, {"energy": 5.0, "converged": True}, {}]
    assert catalogue.outcomes(run, "relax") == {0: "passed", 1: "passed", 2: "passed"}
    assert catalogue.outcomes(run, "relax", [2, 3]) == {2: "passed"}
    catalogue.record(run, "relax", 2, [])
    assert [(s.stage, s.outcomes, s.version) for s in catalogue.stages(run)] == [("relax", {"passed": 3}, 2)]


def test_crystals_as_each_stage_left_them(catalogue: Catalogue) -> None:
    batch = crystals(3)
    run = add(catalogue, batch)
    catalogue.record(run, "relax", 1, [passed(i, stretched(batch[i], 2.0)) for i in range(2)])
    catalogue.record(run, "hull", 1, [passed(i, e=0.0) for i in range(3)])
    catalogue.record(run, "refine", 1, [passed(0, stretched(batch[0], 3.0))])
    # A stage keeps its place in the order when it is done again.
    catalogue.record(run, "relax", 1, [passed(0, stretched(batch[0], 4.0))])

    def sizes(stage: str | None) -> list[float]:
        return (catalogue.crystals(run, stage=stage).cell / batch.cell).flatten(1).mean(1).round(decimals=9).tolist()

    assert sizes(ORIGINAL) == [1.0, 1.0, 1.0]
    assert sizes("relax") == sizes("hull") == [4.0, 2.0, 1.0]
    assert sizes(None) == sizes("refine") == [3.0, 2.0, 1.0]
    with pytest.raises(RequestError, match="a stage 'relaxed'; it has: relax, hull, refine"):
        catalogue.crystals(run, stage="relaxed")


def test_failures_stay_when_a_later_attempt_succeeds(catalogue: Catalogue) -> None:
    run = add(catalogue, crystals(2))
    catalogue.record(run, "relax", 1, [StageRecord(index=1, outcome="time limit", reason="600 s"), passed(0)])
    catalogue.record(run, "relax", 1, [passed(1)])
    assert catalogue.failures(run) == [(1, "relax", "time limit", "600 s")]
    assert catalogue.stages(run)[0].outcomes == {"passed": 2}


def test_crystals_that_could_not_be_read_are_rows_and_failures(catalogue: Catalogue) -> None:
    empty = CrystalBatch(
        frac=torch.zeros(0, 3, dtype=torch.float64),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        species=torch.zeros(0, dtype=torch.int64),
        num_atoms=torch.zeros(1, dtype=torch.int64),
    )
    batch = CrystalBatch.concat([crystals(1), empty])
    run = catalogue.add_run(
        kind="import", request={}, provenance={}, crystals=batch, names=["a", "b\x00"], reasons=[None, "not a CIF"]
    )
    assert catalogue.failures(run) == [(1, "read", "failed", "not a CIF")]
    assert catalogue.unfinished(run, "relax") == [0]
    assert catalogue.table(run, columns=["name", "num_atoms", "density"]).to_pylist()[1] == {
        "name": "b",
        "num_atoms": 0,
        "density": None,
    }
    assert same(catalogue.crystals(run), batch)


def test_forgetting_a_stage_takes_the_later_ones_with_it(catalogue: Catalogue) -> None:
    run, other = add(catalogue, crystals(2)), add(catalogue, crystals(2), seed=9)
    for one in (run, other):
        for number, stage in enumerate(("prefilter", "relax", "hull")):
            catalogue.record(one, stage, 1, [passed(0, **{f"value_{number}": 1.0})])
    catalogue.forget(run, "relax")
    catalogue.forget(run, "never announced")
    assert [s.stage for s in catalogue.stages(run)] == ["prefilter"]
    assert catalogue.values(run, [0]) == [{"value_0": 1.0}]
    assert "value_1" not in catalogue.columns(run)
    assert [s.stage for s in catalogue.stages(other)] == ["prefilter", "relax", "hull"]
    # The names are free for another stage of this run.
    catalogue.record(run, "elastic", 1, [passed(1, value_1=2.0)])
    assert catalogue.values(run, [1]) == [{"value_1": 2.0}]


def test_announced_stages_keep_their_config_units_and_order(catalogue: Catalogue) -> None:
    @dataclass(frozen=True)
    class Config:
        steps: int = 5
        limits: tuple[float, ...] = (0.5, 1.0)

    run = add(catalogue, crystals(2))
    columns = {"band_gap": Column(unit="eV", meaning="gap")}
    catalogue.add_stage(run, stage="relax", version=3, config=Config(), columns={})
    catalogue.add_stage(run, stage="gap", version=1, config={}, columns=columns)
    catalogue.record(run, "gap", 1, [passed(0, band_gap=1.5)])
    catalogue.record(run, "relax", 3, [passed(0)])
    assert [(s.stage, s.config) for s in catalogue.stages(run)] == [
        ("relax", {"steps": 5, "limits": [0.5, 1.0]}),
        ("gap", {}),
    ]
    assert catalogue.columns(run)["band_gap"] == ("number", "eV", "gap")
    field = catalogue.table(run).schema.field("band_gap")
    assert field.metadata == {b"unit": b"eV", b"meaning": b"gap"}


def test_values_of_every_kind(catalogue: Catalogue) -> None:
    run = add(catalogue, crystals(3))
    first = {"whole": np.int64(2**40), "number": np.float32(0.5), "flag": np.bool_(True), "word": "a'\"\x00ü"}
    catalogue.record(run, "mixed", 1, [passed(0, **first, nothing=None, nan=math.nan, infinite=math.inf)])
    catalogue.record(run, "mixed", 1, [passed(1, whole=3, number=2, flag=False, word="b")])
    assert catalogue.values(run, [0]) == [{"whole": 2**40, "number": 0.5, "flag": True, "word": "a'\"ü"}]
    table = catalogue.table(run, columns=["whole", "number", "flag", "word"])
    assert [str(kind) for kind in table.schema.types] == ["int64", "double", "bool", "string"]
    assert table.to_pylist()[0] == {"whole": 2**40, "number": 0.5, "flag": True, "word": "a'\"ü"}
    assert table.to_pylist()[2] == dict.fromkeys(("whole", "number", "flag", "word"))
    assert "nothing" not in catalogue.columns(run) and "nan" not in catalogue.columns(run)


def test_whole_numbers_become_numbers_and_other_mixtures_texts(catalogue: Catalogue) -> None:
    run = add(catalogue, crystals(3))
    catalogue.record(run, "s", 1, [passed(0, a=1, b=1.5)])
    catalogue.record(run, "s", 1, [passed(1, a=1.5, b="none")])
    assert catalogue.table(run, columns=["a"], where="a > 0.5").column("a").to_pylist() == [1.0, 1.5]
    assert catalogue.table(run, columns=["b"]).column("b").to_pylist() == ["1.5", "none", None]


def test_sorting_puts_the_unknown_last_and_ties_in_order(catalogue: Catalogue) -> None:
    run = add(catalogue, crystals(5))
    values = {0: 2.0, 1: 1.0, 3: 2.0, 4: 3.0}
    catalogue.record(run, "s", 1, [passed(i, x=value, y=-i) for i, value in values.items()])

    def order(sort: str, **more: object) -> list[int]:
        return catalogue.table(run, sort=sort, columns=["index"], **more).column("index").to_pylist()  # type: ignore[arg-type]

    assert order("x") == [1, 0, 3, 4, 2]
    assert order("-x") == [4, 0, 3, 1, 2]
    assert order("-x, y", limit=3) == [4, 3, 0]
    assert order("-x", where="x < 3") == [0, 3, 1]
    assert catalogue.table(run, limit=0).num_rows == 0


def test_batches_are_the_table_in_pieces(catalogue: Catalogue) -> None:
    run = add(catalogue, crystals(10))
    pieces = list(catalogue.batches(run, columns=["index"], rows=4))
    assert [piece.num_rows for piece in pieces] == [4, 4, 2]
    assert [i for piece in pieces for i in piece.column("index").to_pylist()] == list(range(10))


def test_one_column_of_runs_that_have_it_from_different_stages(catalogue: Catalogue) -> None:
    first, second = add(catalogue, crystals(1)), add(catalogue, crystals(1), seed=1)
    catalogue.record(first, "hull", 1, [passed(0, e_above_hull=0.5)])
    catalogue.record(second, "other-hull", 1, [passed(0, e_above_hull=1)])
    table = catalogue.table(columns=["run", "e_above_hull", "hull_outcome", "other_hull_outcome"], sort="-e_above_hull")
    assert table.to_pylist() == [
        {"run": second, "e_above_hull": 1.0, "hull_outcome": None, "other_hull_outcome": "passed"},
        {"run": first, "e_above_hull": 0.5, "hull_outcome": "passed", "other_hull_outcome": None},
    ]


def test_requests_that_cannot_be_met(catalogue: Catalogue) -> None:
    run = add(catalogue, crystals(2))
    catalogue.record(run, "hull", 1, [passed(0, e_above_hull=0.5)])
    with pytest.raises(RequestError, match="no run 99; it has: "):
        catalogue.run(99)
    with pytest.raises(RequestError, match="no run 99"):
        catalogue.table(99)
    with pytest.raises(RequestError, match="no run 99"):
        catalogue.unfinished(99, "hull")
    with pytest.raises(RequestError, match="no crystal 5"):
        catalogue.crystals(run, [0, 5])
    with pytest.raises(RequestError, match="no crystal 5"):
        catalogue.values(run, [5])
    with pytest.raises(RequestError, match="not all of the crystals"):
        catalogue.record(run, "relax", 1, [passed(0), passed(2)])
    assert catalogue.unfinished(run, "relax") == [0, 1]
    with pytest.raises(RequestError, match="'e_above_hull' of stage 'relax' belongs to stage 'hull'"):
        catalogue.record(run, "relax", 1, [passed(1, e_above_hull=0.5)])
    with pytest.raises(RequestError, match="cannot name a stage"):
        catalogue.record(run, "Two words", 1, [passed(1)])
    with pytest.raises(RequestError, match="cannot name a column"):
        catalogue.record(run, "relax", 1, [passed(1, formula="NaCl")])
    with pytest.raises(RequestError, match="holds a list"):
        catalogue.record(run, "relax", 1, [passed(1, x=[1.0])])
    with pytest.raises(RequestError, match="did you mean e_above_hull"):
        catalogue.table(run, "e_above_hul < 1")
    with pytest.raises(RequestError, match="no column 'e_hull'"):
        catalogue.table(run, sort="-e_hull")
    with pytest.raises(RequestError, match="--sort takes columns"):
        catalogue.table(run, sort="e_above_hull,,")
    with pytest.raises(RequestError, match="2 names were given for 1 crystals"):
        catalogue.add_run(kind="test", request={}, provenance={}, crystals=crystals(1), names=["a", "b"])
    with pytest.raises(RequestError, match="at least one crystal"):
        add(catalogue, CrystalBatch.empty())
    with pytest.raises(RequestError, match="plain values"):
        add(catalogue, crystals(1), generator=torch.Generator())


def test_requests_come_back_as_they_were_asked(catalogue: Catalogue) -> None:
    request = {"b": [1, 2.5, None, True], "a": {"x": "\\u0000 ü", "nul": "a\x00b"}, "pair": (1, 2), "half": "\ud800"}
    run = add(catalogue, crystals(1), **request)
    kept = {"b": [1, 2.5, None, True], "a": {"x": "\\u0000 ü", "nul": "ab"}, "pair": [1, 2], "half": "?"}
    assert catalogue.run(run).request == {"model": "none", "seed": 7, **kept}
    assert add(catalogue, crystals(1), **request) == run


def test_a_table_is_of_one_state_whatever_others_write_meanwhile(catalogue: Catalogue, target: str) -> None:
    run = add(catalogue, crystals(30))
    pieces = catalogue.batches(run, columns=["index"], rows=10)
    next(pieces)
    with Catalogue(target) as other:
        other.record(run, "relax", 1, [passed(i, energy=0.0) for i in range(30)])
        add(other, crystals(3, seed=5))
    assert sum(piece.num_rows for piece in pieces) == 20
    assert catalogue.table(run, "energy = 0").num_rows == 30
