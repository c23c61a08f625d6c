"""Crystals that are drawn in several processes are those of one, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CheckpointError, EuhedralError
from euhedral.models.checkpoint import save_model
from euhedral.sample.generate import Chunk, Generator
from euhedral.sample.plan import PlannedBatch, plan
from euhedral.sample.request import GenerationRequest
from euhedral.sample.spread import WORTH_PROCESSES, Processes, draw_batch, processes_for, stream_spread
from euhedral.testing.models import tiny_model

REQUEST = GenerationRequest(n=14, seed=3, steps=2)


def _chunk(planned: PlannedBatch) -> Chunk:
    """Crystals whose number tells their position."""
    crystals = [(float(i + 1) * torch.eye(3), torch.zeros(1, 3), torch.tensor([29])) for i in planned.indices]
    return Chunk(indices=planned.indices, crystals=CrystalBatch.from_crystals(crystals))


def small_memory(planned: PlannedBatch) -> Chunk:
    """Room for two crystals."""
    if planned.size > 2:
        raise MemoryError("no room")
    return _chunk(planned)


def mortal(planned: PlannedBatch) -> Chunk:
    """Dies of more than three crystals, as a process does that the system ends for its memory."""
    if planned.size > 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return _chunk(planned)


def hopeless(planned: PlannedBatch) -> Chunk:
    raise MemoryError("no room at all")


def broken(planned: PlannedBatch) -> Chunk:
    raise ValueError("not a number")


BATCHES = [PlannedBatch(first=0, size=5, num_atoms=1, seed=1), PlannedBatch(first=5, size=4, num_atoms=1, seed=2)]


def test_two_processes_draw_what_one_draws(tiny_generator: Generator) -> None:
    skip = frozenset(plan(tiny_generator.resolve(REQUEST), crystals_per_batch=3)[0].indices)
    spread = stream_spread(tiny_generator, REQUEST, Processes(2), batch=3, skip=skip)
    found = {chunk.indices: chunk for chunk in spread}
    expected = {chunk.indices: chunk for chunk in tiny_generator.stream(REQUEST, batch=3, skip=skip)}
    assert found.keys() == expected.keys() and not skip & {i for indices in found for i in indices}
    for indices, chunk in found.items():
        other = expected[indices]
        assert chunk.redrawn == other.redrawn and chunk.crystals.species.equal(other.crystals.species)
        assert torch.allclose(chunk.crystals.cell, other.crystals.cell, atol=1e-4)


@pytest.mark.parametrize(("work", "most"), [(small_memory, 2), (mortal, 3)])
def test_a_batch_that_is_too_much_comes_in_parts(work, most: int) -> None:
    told: list[int] = []
    chunks = list(Processes(2).draw(work, BATCHES, told.append))
    assert max(len(chunk.crystals) for chunk in chunks) <= most and max(told) <= 2
    lengths = {
        i: float(c.cell[0, 0, 0]) for chunk in chunks for i, c in zip(chunk.indices, chunk.crystals, strict=True)
    }
    assert lengths == {i: float(i + 1) for i in range(9)}


def test_what_cannot_be_helped_is_told() -> None:
    with pytest.raises(EuhedralError, match="one crystal of 1 atoms is too much"):
        list(Processes(1).draw(hopeless, BATCHES))
    with pytest.raises(ValueError, match="not a number"):
        list(Processes(1).draw(broken, BATCHES))
    assert list(Processes(2).draw(broken, [])) == []


def test_other_weights_are_refused(tiny_checkpoint: Path, tiny_generator: Generator) -> None:
    planned = plan(tiny_generator.resolve(REQUEST), crystals_per_batch=3)[0]
    digests = {str(tiny_checkpoint): "0" * 64}
    with pytest.raises(CheckpointError, match="are others here"):
        draw_batch(planned, request=REQUEST, source=str(tiny_checkpoint), digests=digests, device="cpu")
    homeless = Generator(tiny_generator.model, tiny_generator.meta, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="loaded from a name or a folder"):
        next(stream_spread(homeless, REQUEST, Processes(2), batch=3))
    assert processes_for(homeless, 10_000, None) == 0


def test_a_property_model_is_found_from_any_folder_and_its_weights_compared(
    tiny_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = {
        **tiny_generator.meta,
        "statistics": {**tiny_generator.meta["statistics"], "property_known": {"band_gap": 9}},
    }
    save_model(tmp_path / "predictor", tiny_model("cdvae"), meta)
    asked: list[tuple[Any, PlannedBatch]] = []

    class Noted:
        def draw(self, work: Any, batches: Sequence[PlannedBatch], on_halved: Any = None) -> Iterator[Chunk]:
            asked.append((work, batches[0]))
            return iter(())

    monkeypatch.chdir(tmp_path)
    request = replace(REQUEST, steer="predictor", properties={"band_gap": 1.0})
    assert list(stream_spread(tiny_generator, request, Noted(), batch=3)) == []
    work, planned = asked[0]
    assert work.keywords["request"] == replace(request, steer=str(tmp_path / "predictor"))
    save_model(tmp_path / "predictor", tiny_model("cdvae", seed=1), meta)
    with pytest.raises(CheckpointError, match=r"weights of .*predictor' are others here"):
        work(planned)


def test_processes_are_used_where_they_gain(tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert processes_for(tiny_generator, WORTH_PROCESSES, None) == 4
    assert processes_for(tiny_generator, WORTH_PROCESSES - 1, None) == 0
    assert processes_for(tiny_generator, 1, 3) == 3 and processes_for(tiny_generator, 10_000, 1) == 0
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert processes_for(tiny_generator, 10_000, None) == 0
