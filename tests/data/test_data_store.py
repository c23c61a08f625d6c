from __future__ import annotations

import copy
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.batch import CrystalBatch
from euhedral.data import spool as spool_module
from euhedral.data.spool import ConvertedChunk, Tally, spool_batch, write_spool, write_store
from euhedral.data.store import CrystalStore
from euhedral.errors import DataError


def random_crystals(count: int, *, seed: int, atoms: int = 7) -> CrystalBatch:
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, atoms + 1, (count,), generator=rng)
    total = int(counts.sum())
    return CrystalBatch(
        frac=torch.rand(total, 3, generator=rng),
        cell=torch.eye(3) * 4 + torch.rand(count, 3, 3, generator=rng),
        species=torch.randint(1, 119, (total,), generator=rng),
        num_atoms=counts,
    )


def write(path: Path, parts: list[CrystalBatch], labels: dict[str, list[float | str | None]] | None = None) -> None:
    """A store of these crystals, by the same code as a conversion."""
    labels = labels or {}

    def chunks() -> Iterator[ConvertedChunk]:
        first = 0
        for part in parts:
            names = [f"c{first + i}" for i in range(len(part))]
            rows = [
                {key: values[first + i] for key, values in labels.items() if values[first + i] is not None}
                for i in range(len(part))
            ]
            batch = spool_batch(part, names, [json.dumps(row) for row in rows])
            yield ConvertedChunk(len(part), batch.serialize().to_pybytes(), (), 0)
            first += len(part)

    tally = Tally()
    spool = path.with_suffix(".spool")
    write_spool(spool, chunks(), tally, io.StringIO(), None)
    write_store(spool, path, tally, "none")


@pytest.fixture(scope="module")
def crystals() -> CrystalBatch:
    return random_crystals(50, seed=0)


@pytest.fixture(scope="module")
def opened(crystals: CrystalBatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrystalStore]:
    """Fifty crystals in record batches of 8, written in chunks that do not fit them."""
    path = tmp_path_factory.mktemp("store") / "fifty.arrow"
    gap = [None if i % 3 == 0 else i / 10 for i in range(50)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "ROWS_PER_BATCH", 8)
        write(
            path,
            [crystals[:3], crystals[3:3], crystals[3:30], crystals[30:]],
            {"gap": gap, "formula": [f"F{i}" if i else None for i in range(50)]},
        )
    with CrystalStore.open(path) as store:
        yield store


def same(found: CrystalBatch, expected: CrystalBatch) -> bool:
    return all(
        torch.equal(getattr(found, name), getattr(expected, name)) for name in ("frac", "cell", "species", "num_atoms")
    )


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.integers(-50, 49), max_size=30))
def test_any_positions_in_any_order(opened: CrystalStore, crystals: CrystalBatch, rows: list[int]) -> None:
    places = [row % 50 for row in rows]
    for indices in (rows, np.array(rows, dtype=np.int32), torch.tensor(rows, dtype=torch.int64)):
        assert same(opened.crystals(indices), crystals[places] if places else CrystalBatch.empty())
    assert opened.ids(rows) == [f"c{i}" for i in places]
    expected = np.array([np.nan if i % 3 == 0 else i / 10 for i in places])
    assert np.array_equal(opened.labels("gap", rows), expected, equal_nan=True)
    assert opened.texts("formula", rows) == [f"F{i}" if i else None for i in places]


def test_slices_single_positions_and_dtype(opened: CrystalStore, crystals: CrystalBatch) -> None:
    assert same(opened.crystals(slice(None)), crystals)
    assert same(opened.crystals(slice(40, 10, -7)), crystals[[40, 33, 26, 19, 12]])
    assert same(opened.crystals(-1), crystals[49])
    assert opened.crystals([0], dtype=torch.float64).cell.dtype == torch.float64
    assert len(opened) == 50
    assert opened.num_atoms.tolist() == crystals.num_atoms.tolist()
    assert not opened.num_atoms.flags.writeable
    assert np.isnan(opened.labels("gap")).sum() == 17
    assert len(opened.ids()) == len(opened.texts("formula")) == 50


def test_positions_outside_and_masks_are_refused(opened: CrystalStore) -> None:
    for bad in ([50], [-51], [0, 99]):
        with pytest.raises(IndexError, match="store of 50"):
            opened.crystals(bad)
    for bad in (np.array([True, False]), [0.5]):
        with pytest.raises(IndexError, match="integers"):
            opened.crystals(bad)


def test_labels_by_kind(opened: CrystalStore) -> None:
    assert opened.column_names == ("gap", "formula")
    assert opened.numeric_column_names == ("gap",)
    with pytest.raises(DataError, match="it has: gap, formula"):
        opened.labels("energy")
    with pytest.raises(DataError, match="is a text"):
        opened.labels("formula")
    with pytest.raises(DataError, match="is a number"):
        opened.texts("gap")


def test_summary(opened: CrystalStore, crystals: CrystalBatch) -> None:
    summary = opened.summary()
    assert summary["crystals"] == 50 and summary["atoms"] == len(crystals.species)
    assert summary["elements"] == sorted(set(crystals.species.tolist()))
    assert summary["columns"]["gap"]["known"] == 33
    assert summary["columns"]["gap"]["max"] == pytest.approx(4.9)
    assert json.loads(json.dumps(summary)) == summary


def test_what_was_read_outlives_the_store(opened: CrystalStore, crystals: CrystalBatch) -> None:
    other = CrystalStore.open(opened.path)
    found = other.crystals([1, 30])
    sizes = other.num_atoms.copy()
    other.close()
    assert same(found, crystals[[1, 30]]) and sizes.sum() == len(crystals.species)
    found.frac.add_(1)  # memory of its own, not the file's


def test_workers_get_the_path_and_not_the_contents(opened: CrystalStore, crystals: CrystalBatch) -> None:
    assert opened.__reduce__() == (CrystalStore.open, (opened.path,))
    with copy.deepcopy(opened) as received:
        assert same(received.crystals([3]), crystals[3])


def test_coordinates_just_below_one_stay_in_the_cell(tmp_path: Path) -> None:
    close = CrystalBatch(
        frac=torch.tensor([[1 - 1e-12, 0.5, 0.0]], dtype=torch.float64),
        cell=torch.eye(3, dtype=torch.float64)[None] * 3,
        species=torch.tensor([3]),
        num_atoms=torch.tensor([1]),
    ).validate()
    write(tmp_path / "s.arrow", [close])
    CrystalStore.open(tmp_path / "s.arrow").crystals([0]).validate()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_opening_does_not_load(tmp_path: Path) -> None:
    block = random_crystals(20_000, seed=1, atoms=39)
    write(tmp_path / "large.arrow", [block] * 5)
    write(tmp_path / "tiny.arrow", [block[:10]])
    (tmp_path / "large.spool").unlink()
    size = (tmp_path / "large.arrow").stat().st_size
    assert size > 25e6

    def cost(name: str) -> tuple[float, int]:
        memory, start = resident_bytes(), time.process_time()
        with CrystalStore.open(tmp_path / name) as store:
            assert len(store) in (10, 100_000)
            return time.process_time() - start, resident_bytes() - memory

    cost("tiny.arrow")
    assert min(cost("large.arrow")[0] for _ in range(5)) < 0.02
    assert cost("large.arrow")[1] < 2e6
    with CrystalStore.open(tmp_path / "large.arrow") as store:
        # Ten crystals of one record batch bring in that batch at most, a twenty-fifth of the file.
        memory = resident_bytes()
        store.crystals(np.arange(10))
        assert resident_bytes() - memory < size / 5


@pytest.mark.parametrize("cut", [0, 6, 100, -1, -20])
def test_damaged_stores_are_named(opened: CrystalStore, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.arrow"
    path.write_bytes(opened.path.read_bytes()[:cut])
    with pytest.raises(DataError, match="damaged"):
        CrystalStore.open(path)


def test_other_files_are_named(opened: CrystalStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no store at"):
        CrystalStore.open(tmp_path / "none.arrow")
    with pytest.raises(DataError, match="no store at"):
        CrystalStore.open(tmp_path)
    plain = tmp_path / "plain.arrow"
    table = pa.table({"x": [1]})
    with pa.ipc.new_file(str(plain), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="not a crystal store"):
        CrystalStore.open(plain)


@pytest.mark.parametrize(
    ("change", "message"), [({"schema_version": 99}, "version 99"), ({"crystals": 500}, "does not fit")]
)
def test_headers_that_do_not_fit(opened: CrystalStore, tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "other.arrow"
    with pa.memory_map(str(opened.path)) as source:
        table = pa.ipc.open_file(source).read_all()
        header = {**json.loads(table.schema.metadata[b"euhedral"]), **change}
        with pa.ipc.new_file(str(path), table.schema.with_metadata({"euhedral": json.dumps(header)})) as writer:
            writer.write_table(table.replace_schema_metadata({"euhedral": json.dumps(header)}), max_chunksize=8)
    with pytest.raises(DataError, match=message):
        CrystalStore.open(path)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_no_store(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "random.arrow"
    path.write_bytes(b"ARROW1\0\0" + data + b"ARROW1")
    with pytest.raises(DataError):
        CrystalStore.open(path)
