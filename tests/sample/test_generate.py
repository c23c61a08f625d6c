from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import smallest_distance
from euhedral.errors import CheckpointError, RequestError
from euhedral.sample.constraints import verify
from euhedral.sample.generate import REDRAWS, Generator, holds_together, is_sound
from euhedral.sample.request import GenerationRequest
from euhedral.sample.weights import find_weights, pick_device


@pytest.mark.parametrize(
    "fields",
    [
        {"formula": "LiMnO2", "n": 7},
        {"formula": "LiMnO2", "z": 2, "n": 3},
        {"chemical_system": "Li-Mn-O", "n": 12},
        {"chemical_system": "Li-*-O", "n": 12},
        {"chemical_system": "*-*", "n": 12, "exclude_elements": "O"},
        {"elements": "Na,Cl,K", "n": 10},
        {"exclude_elements": "O,F", "n": 20},
        {"num_atoms": (4, 6), "n": 10},
        {"num_atoms": 7, "n": 3},
    ],
)
def test_hard_constraints_hold_for_every_crystal(tiny_generator: Generator, fields: dict) -> None:
    request = GenerationRequest(**fields, steps=6)
    crystals = tiny_generator.generate(request).validate()
    assert len(crystals) == request.n
    shares = verify(tiny_generator.resolve(request), crystals, [0] * request.n)
    assert shares and all(share.met == share.total == request.n for share in shares.values()), shares


def test_verify_sees_what_is_wrong(tiny_generator: Generator) -> None:
    crystals = tiny_generator.generate(formula="NaCl", n=2, steps=2)
    resolved = tiny_generator.resolve(GenerationRequest(formula="KCl", space_group=225, n=2))
    shares = verify(resolved, crystals, [225, 1])
    assert shares["formula"].met == 0
    assert (shares["space_group"].met, shares["space_group"].kind) == (1, "soft")


def test_same_seed_same_crystals_other_seed_others(tiny_generator: Generator) -> None:
    first, again, other = (tiny_generator.generate(n=6, steps=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.frac, again.frac) and torch.equal(first.cell, again.cell)
    assert torch.equal(first.species, again.species)
    assert first.species.tolist() != other.species.tolist()


def test_unselected_crystals_are_those_of_the_model(tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"formula": "NaCl", "z": 1, "n": 6, "steps": 3, "seed": 5}
    crystals = tiny_generator.unselected(**fields, batch=4)
    assert [row.species.sort().values.tolist() for row in crystals] == [[11, 17]] * 6
    # With atoms that overlap everywhere `generate` would draw again; here they are given as they are.
    drawn: list[int] = []
    sample = tiny_generator.model.sample

    def overlapping(request, *, rng):  # type: ignore[no-untyped-def]
        drawn.append(len(request.species))
        found = sample(request, rng=rng)
        return replace(found, frac=torch.zeros_like(found.frac))

    monkeypatch.setattr(tiny_generator.model, "sample", overlapping)
    assert not bool(is_sound(tiny_generator.unselected(**fields, batch=4)).any())
    assert drawn == [4, 2]


def test_skipped_positions_do_not_change_the_others(tiny_generator: Generator) -> None:
    request = GenerationRequest(n=20, steps=3)
    chunks = list(tiny_generator.stream(request, batch=4))
    rest = list(tiny_generator.stream(request, batch=4, skip=chunks[0].indices))
    assert [c.indices for c in rest] == [c.indices for c in chunks[1:]]
    assert torch.equal(rest[0].crystals.frac, chunks[1].crystals.frac)


def test_memory_exhausted_halves_the_batch(tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, sizes = tiny_generator.model.sample, []

    def small_machine(request, *, rng):  # type: ignore[no-untyped-def]
        sizes.append(len(request.species))
        if len(request.species) > 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return sample(request, rng=rng)

    monkeypatch.setattr(tiny_generator.model, "sample", small_machine)
    halved: list[int] = []
    stream = tiny_generator.stream(GenerationRequest(n=9, num_atoms=4, steps=2), on_halved=halved.append)
    assert [i for chunk in stream for i in chunk.indices] == list(range(9))
    assert halved[0] == 4 and max(sizes) == 9


def test_overlapping_atoms_are_drawn_again_and_nothing_else(
    tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, asked = tiny_generator.model.sample, []

    def overlapping(request, *, rng):  # type: ignore[no-untyped-def]
        """Every crystal is an arbitrary one, but those of even position in the first two calls overlap."""
        size, count = request.species.shape
        asked.append(size)
        batch = sample(request, rng=rng)
        frac = torch.rand(size, 1, 3, generator=rng) + torch.linspace(0, 0.9, count)[None, :, None]
        if len(asked) < 3:
            frac[::2] = 0.25
        return replace(batch, frac=frac.reshape(-1, 3) % 1, cell=8.0 * torch.eye(3).expand(size, 3, 3))

    monkeypatch.setattr(tiny_generator.model, "sample", overlapping)
    request = GenerationRequest(n=8, formula="KCl", z=1, steps=1)
    (chunk,) = tiny_generator.stream(request)
    assert asked == [8, 4, 2]
    assert chunk.redrawn == 6
    assert (smallest_distance(chunk.crystals) > 0.5).all()

    def hopeless(request, *, rng):  # type: ignore[no-untyped-def]
        asked.append(len(request.species))
        return replace(sample(request, rng=rng), frac=torch.zeros(request.species.numel(), 3))

    asked.clear()
    monkeypatch.setattr(tiny_generator.model, "sample", hopeless)
    (chunk,) = tiny_generator.stream(request)
    assert len(chunk.crystals) == 8
    assert asked == [8] * (1 + REDRAWS)


def _cubes(*edges: float) -> CrystalBatch:
    """Two atoms, half an edge apart along each axis."""
    frac = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    return CrystalBatch.from_crystals([(edge * torch.eye(3), frac, torch.tensor([11, 17])) for edge in edges])


def test_crystals_that_fell_apart_or_collapsed_are_not_sound() -> None:
    crystals = _cubes(4.0, 0.55, 0.3, 13.0, 3e4)
    assert holds_together(crystals).tolist() == [True, False, False, False, False]
    crystals = _cubes(4.0, 4.0, 4.0, 0.65)
    crystals.cell[1, 0, 0] = torch.nan
    crystals.frac[4, 2] = torch.inf
    assert holds_together(crystals).tolist() == [True, False, False, True]
    squeezed = CrystalBatch.from_crystals(
        [(4 * torch.eye(3), torch.tensor([[0.0, 0, 0], [0.1, 0, 0]]), torch.tensor([11, 17]))]
    )
    assert is_sound(CrystalBatch.concat([_cubes(4.0), squeezed])).tolist() == [True, False]


def test_a_request_of_which_no_crystals_come_is_told(
    tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny_generator.model), "sample", lambda *_, **__: _cubes(3e4))
    with pytest.raises(RequestError, match=r"no crystals come of it.*lower --guidance, raise --steps above"):
        tiny_generator.generate(formula="NaCl", z=1, n=1)


def test_other_errors_are_not_taken_for_memory(tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request, *, rng):  # type: ignore[no-untyped-def]
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(tiny_generator.model, "sample", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        tiny_generator.generate(n=4)


def test_predict_keeps_the_order(tiny_generator: Generator) -> None:
    contents = [[11, 17], [22, 8, 8], [6], [19, 17], [14, 8, 8]]
    crystals = tiny_generator.predict(contents, steps=2, batch=2)
    assert [Counter(c.species.tolist()) for c in crystals] == [Counter(c) for c in contents]
    with pytest.raises(RequestError, match="content 1"):
        tiny_generator.predict([[6], [6] * 13])


def test_weights_and_devices_that_are_not_there(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CheckpointError, match="no model 'nope'"):
        find_weights("nope")
    with pytest.raises(RequestError, match="cannot be used"):
        pick_device("cuda:77")
    with pytest.raises(RequestError, match="no device 'abacus'"):
        pick_device("abacus")
