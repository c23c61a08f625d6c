from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.samples import from_batch
from euhedral.evaluate import context as context_module
from euhedral.evaluate.cache import ResultCache
from euhedral.evaluate.context import Context, NotMeasurable
from euhedral.evaluate.protocols import DATASETS


def cubes(lengths: list[float]) -> CrystalBatch:
    return CrystalBatch.from_crystals(
        [
            (a * torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([29]))
            for a in lengths
        ]
    )


def context_of(batch: CrystalBatch, cache: ResultCache, **options: Any) -> Context:
    return Context(samples=from_batch(batch), dataset=DATASETS["mp_20"], cache=cache, **options)


def volumes(batch: CrystalBatch, factor: float = 1.0) -> list[bytes]:
    return [f"{factor * volume:.6g}".encode() for volume in batch.volume.tolist()]


def test_equal_crystals_are_computed_once_and_only_unknown_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_module, "PIECE", 2)
    asked: list[int] = []

    def compute(part: CrystalBatch, progress: Any) -> list[bytes]:
        asked.append(len(part))
        progress(len(part), len(part))
        return volumes(part)

    seen: list[tuple[str, int, int]] = []
    with ResultCache(tmp_path) as cache:
        context = context_of(cubes([2, 3, 2, 4]), cache, progress=lambda *words: seen.append(words))
        assert context.for_each("volume", 1, {}, context.crystals, compute) == [b"8", b"27", b"8", b"64"]
        assert asked == [2, 1] and seen[-1] == ("volume", 3, 3)
        other = context_of(cubes([5, 4]), cache)
        assert other.for_each("volume", 1, {}, other.crystals, compute) == [b"125", b"64"]
        assert asked == [2, 1, 1]


def test_pieces_that_were_done_survive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "PIECE", 2)
    done: list[int] = []

    def compute(part: CrystalBatch, _: Any) -> list[bytes]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(part))
        return volumes(part)

    lengths = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    with ResultCache(tmp_path) as cache, pytest.raises(KeyboardInterrupt):
        context = context_of(cubes(lengths), cache)
        context.for_each("volume", 1, {}, context.crystals, compute)
    done.clear()
    with ResultCache(tmp_path) as cache:
        context = context_of(cubes(lengths), cache)
        assert len(context.for_each("volume", 1, {}, context.crystals, compute)) == 6
    assert done == [2]


def test_results_of_whole_batches(tmp_path: Path) -> None:
    calls: list[int] = []
    with ResultCache(tmp_path) as cache:
        for batch in (cubes([2, 3]), cubes([2, 3]), cubes([3, 2])):
            context = context_of(batch, cache)
            answer = context.for_all("order", 1, {}, [context.crystals], lambda: calls.append(1) or [1, None, "x"])
            assert answer == [1, None, "x"]
    assert len(calls) == 2


def test_keys_of_batches_that_are_let_go_are_not_remembered() -> None:
    context = context_of(cubes([2.0]), ResultCache(None))
    keys = {context.keys(cubes([float(a)]))[0] for a in range(2, 40)}
    assert len(keys) == 38


def test_intervals_do_not_depend_on_what_else_is_measured() -> None:
    values = np.random.default_rng(0).normal(size=100)
    one, two = (context_of(cubes([2.0]), ResultCache(None), seed=3) for _ in range(2))
    two.mean("other", values)
    assert one.mean("x", values) == two.mean("x", values) != one.mean("y", values)


def test_means_of_known_values_say_how_many() -> None:
    context = context_of(cubes([2.0]), ResultCache(None))
    figure = context.mean_of_known("x", np.array([1.0, np.nan, 3.0, np.nan]), unit="Å", note="why")
    assert figure.value == 2.0 and figure.samples == 4 and figure.note == "mean over 2 of 4; why"
    nothing = context.mean_of_known("x", np.array([np.nan]))
    assert nothing.value is None and nothing.low is None


def test_what_was_not_given_is_named() -> None:
    context = context_of(cubes([2.0]), ResultCache(None))
    with pytest.raises(NotMeasurable, match="--reference"):
        context.references()
    with pytest.raises(NotMeasurable, match="--train"):
        context.known()


def test_importing_the_evaluator_loads_no_heavy_package() -> None:
    # Worker processes import it before they can begin.
    code = "import sys, euhedral.evaluate; print([m for m in ('torch', 'pymatgen', 'scipy', 'pyarrow') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
