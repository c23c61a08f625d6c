from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import STATISTICS
from euhedral.sample.plan import halves, plan, sample_request
from euhedral.sample.request import Capabilities, GenerationRequest, resolve

CAN = Capabilities.from_meta({"statistics": STATISTICS})


@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 2**40))
def test_every_position_is_planned_once(n: int, batch: int, seed: int) -> None:
    batches = plan(resolve(GenerationRequest(n=n, seed=seed), CAN), crystals_per_batch=batch)
    assert [i for b in batches for i in b.indices] == list(range(n))
    assert max(b.size for b in batches) <= batch
    assert len({b.seed for b in batches}) == len(batches)


@pytest.mark.parametrize(("n", "each"), [(2, [1, 1, 0, 0, 0, 0]), (6, [1] * 6), (100, [17, 17, 17, 17, 16, 16])])
def test_numbers_of_formula_units_have_equal_shares_the_smallest_first(n: int, each: list[int]) -> None:
    got = Counter()
    for b in plan(resolve(GenerationRequest(formula="NaCl", n=n), CAN), crystals_per_batch=64):
        got[b.num_atoms] += b.size
    assert [got[2 * z] for z in range(1, 7)] == each and sum(got.values()) == n


def test_atom_counts_follow_training() -> None:
    batches = plan(resolve(GenerationRequest(n=5000), CAN), crystals_per_batch=10_000)
    got = {b.num_atoms: b.size / 5000 for b in batches}
    total = sum(STATISTICS["num_atoms"].values())
    assert all(abs(got[int(c)] - k / total) < 0.03 for c, k in STATISTICS["num_atoms"].items())


def test_contents_fix_formula_and_required_elements() -> None:
    resolved = resolve(GenerationRequest(formula="CaTiO3", n=3, z=2), CAN)
    (batch,) = plan(resolved, crystals_per_batch=8)
    request = sample_request(resolved, batch)
    assert Counter(request.species[0].tolist()) == {20: 2, 22: 2, 8: 6}
    resolved = resolve(GenerationRequest(chemical_system="Li-*-O", n=2, num_atoms=5), CAN)
    (batch,) = plan(resolved, crystals_per_batch=8)
    request = sample_request(resolved, batch)
    assert request.species[0].tolist() == [3, 8, 0, 0, 0]
    assert request.allowed[0].nonzero().flatten().tolist() == [3, 8]
    assert bool(request.addable[0, 26]) and not bool(request.addable[0, 118])
    assert torch.isnan(request.conditions.properties).all()


def test_halves_cover_the_batch_with_new_seeds() -> None:
    (batch,) = plan(resolve(GenerationRequest(n=7, num_atoms=4), CAN), crystals_per_batch=8)
    first, second = halves(batch)
    assert [*first.indices, *second.indices] == list(batch.indices)
    assert len({batch.seed, first.seed, second.seed}) == 3
