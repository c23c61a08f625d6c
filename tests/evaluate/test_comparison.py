from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, EuhedralError
from euhedral.evaluate import comparison
from euhedral.evaluate.comparison import (
    Comparison,
    PlainCrystal,
    StructureComparer,
    Task,
    Tolerances,
    compare_pairs,
    comparison_pool,
    plain_crystals,
    run_plan,
)


def simple(length: float = 4.0, atoms: int = 2) -> PlainCrystal:
    frac = [[i / atoms, (i * i) / atoms % 1, 0.0] for i in range(atoms)]
    return PlainCrystal(cell=[[length, 0, 0], [0, length, 0], [0, 0, length]], frac=frac, species=[3] * atoms)


def test_plain_crystals_keep_every_number() -> None:
    cells = torch.randn(2, 3, 3, dtype=torch.float64)
    batch = CrystalBatch.from_crystals(
        [
            (cells[0], torch.rand(2, 3).double(), torch.tensor([1, 2])),
            (cells[1], torch.rand(1, 3).double(), torch.tensor([3])),
        ]
    )
    plain = plain_crystals(batch)
    assert [c.species for c in plain] == [[1, 2], [3]]
    assert torch.equal(torch.tensor([c.cell for c in plain], dtype=torch.float64), cells)
    assert torch.equal(torch.tensor(plain[0].frac + plain[1].frac, dtype=torch.float64), batch.frac)


@pytest.fixture(scope="module")
def comparer() -> Iterator[StructureComparer]:
    """One process for several tests, since it takes a second to start."""
    comparer = StructureComparer(Tolerances(), seconds_per_pair=60)
    yield comparer
    comparer.close()
    with pytest.raises(EuhedralError, match="closed"):
        comparer.compare(simple(), simple(), rms=True)


def test_what_the_matcher_raises_is_the_reason(comparer: StructureComparer) -> None:
    outcome = comparer.compare(PlainCrystal(cell=[[1.0]], frac=[[0.0]], species=[3]), simple(), rms=True)
    assert not outcome.matched and outcome.reason is not None and "Error" in outcome.reason
    assert comparer.compare(simple(), simple(), rms=True).matched


def test_a_late_pair_is_ended_and_the_next_one_compared(
    comparer: StructureComparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = simple(60.0, 300)
    comparer._worker.running()
    with monkeypatch.context() as patch:
        patch.setattr(comparer, "_seconds", 0.002)
        late = comparer.compare(many, many, rms=True)
    assert not late.matched and late.rms is None
    assert late.reason == "not decided within 0.002 s"
    assert comparer.compare(simple(), simple(), rms=True).rms == pytest.approx(0, abs=1e-9)


def test_a_process_that_dies_within_a_pair_is_a_record_and_is_replaced(comparer: StructureComparer) -> None:
    process = comparer._worker.running()
    killer = threading.Timer(0.05, process.kill)
    killer.start()
    many = simple(60.0, 500)  # takes far longer than the process lives
    outcome = comparer.compare(many, many, rms=True)
    killer.join()
    assert outcome.reason == "the worker process ended (memory?)"
    assert comparer.compare(simple(), simple(), rms=False).matched


def hard(atoms: int = 600) -> PlainCrystal:
    """One element at random in a wide cell: far too many assignments for a short time limit."""
    frac = torch.rand(atoms, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return PlainCrystal(cell=simple(60.0).cell, frac=frac.tolist(), species=[3] * atoms)


@pytest.mark.parametrize("plan", ["pairs", "sift", "first"])
def test_a_task_goes_on_after_the_pair_that_ended_the_process(
    comparer: StructureComparer, monkeypatch: pytest.MonkeyPatch, plan: Any
) -> None:
    crystals = [simple(), simple(5.0, 1), hard(), hard(), simple(), simple(4.0, 2)]
    groups = {"pairs": [(0, 4), (2, 3), (1, 4), (0, 5)], "sift": [(0, 1, 4), (2, 3), (5, 1)]}
    task = Task(plan=plan, crystals=crystals, groups=groups.get(plan, [(4, 1, 0), (3, 2), (5, 1, 4)]), rms=False)
    comparer.compare(simple(), simple(), rms=True)  # the process is up and has loaded all that it needs
    asked: list[tuple[int, int]] = []
    expected = {(i, j): Comparison(matched=False, reason="not decided within 2 s") for i, j in ((2, 3), (3, 2))}

    def compare(i: int, j: int) -> Comparison:
        asked.append((i, j))
        alike = len(crystals[i].species) == len(crystals[j].species) == 2
        return expected.get((i, j), Comparison(matched=alike, reason=None if alike else "no match"))

    run_plan(plan, task.groups, compare)
    monkeypatch.setattr(comparer, "_seconds", 2.0)
    outcomes = comparer.run(task)
    assert outcomes.decided == len(asked)
    for i, j in list(asked):
        assert (outcomes[i, j].matched, outcomes[i, j].reason) == (compare(i, j).matched, compare(i, j).reason)


def test_the_crystal_in_question_is_the_first_of_the_matcher() -> None:
    asked: list[tuple[int, int]] = []

    def compare(i: int, j: int) -> Comparison:
        asked.append((i, j))
        return Comparison(matched=(i, j) == (2, 1), reason="no match")

    run_plan("sift", [(0, 1, 2, 3)], compare)
    assert asked == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
    asked.clear()
    run_plan("first", [(2, 0, 1, 3)], compare)
    assert asked == [(2, 0), (2, 1)]


def test_pairs_come_back_in_their_order_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "PAIRS_AT_ONCE", 2)
    crystals = [simple(), simple(5.0, 1), simple(4.4)]
    pairs = [(0, 2), (0, 1), (1, 1), (2, 0), (1, 2)]
    calls: list[tuple[int, int]] = []
    found = compare_pairs(
        crystals,
        pairs,
        tolerances=Tolerances(),
        rms=True,
        seconds_per_pair=60,
        workers=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert [outcome.matched for outcome in found] == [True, False, True, True, False]
    assert calls[-1] == (5, 5) and len(calls) == 5


def test_a_pool_needs_workers_and_time() -> None:
    with pytest.raises(ConfigError, match="workers"):
        comparison_pool(Tolerances(), seconds_per_pair=1, workers=0)
    with pytest.raises(ConfigError, match="seconds_per_pair"):
        comparison_pool(Tolerances(), seconds_per_pair=0, workers=1)


def test_an_error_of_the_comparison_itself_is_raised(comparer: StructureComparer) -> None:
    with pytest.raises(IndexError):
        comparer.run(Task(plan="pairs", crystals=[simple()], groups=[(0, 1)], rms=True))


def test_a_worker_imports_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys; import euhedral.evaluate.comparison; print('torch' in sys.modules, 'pymatgen' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(comparison.__file__).parents[2],
    )
    assert answer.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("bad", [{"stol": 0.0}, {"ltol": -1.0}, {"angle_tol": 0.0}])
def test_tolerances_are_positive(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="positive"):
        Tolerances(**bad)
