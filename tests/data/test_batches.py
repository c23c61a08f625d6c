from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.data.batches import EqualSizeBatches
from euhedral.errors import ConfigError, DataError

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=60)


def store(sizes: list[int]) -> SimpleNamespace:
    return SimpleNamespace(num_atoms=np.array(sizes, dtype=np.int32))


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, per_batch=st.integers(1, 7), seed=st.integers(0, 5))
def test_an_epoch_holds_every_crystal_once_in_batches_of_one_size(sizes: list[int], per_batch: int, seed: int) -> None:
    batches = EqualSizeBatches(store(sizes), per_batch, seed=seed)
    found = list(batches)
    assert len(found) == len(EqualSizeBatches(store(sizes), per_batch, seed=seed))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(sizes)))
    for batch in found:
        assert batch.dtype == np.int64
        assert len({sizes[i] for i in batch}) == 1
        assert 1 <= len(batch) <= per_batch
    # As few batches as the sizes allow: only the last of each size is not full.
    assert len(found) == sum(-(-sizes.count(n) // per_batch) for n in set(sizes))


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, atoms=st.integers(1, 20))
def test_atoms_per_batch_bounds_the_atoms_but_for_single_crystals(sizes: list[int], atoms: int) -> None:
    found = list(EqualSizeBatches(store(sizes), atoms_per_batch=atoms, seed=1))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(sizes)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * sizes[batch[0]] <= atoms


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    sizes = [2] * 40 + [3] * 40
    first, again, other = (EqualSizeBatches(store(sizes), 8, seed=s) for s in (3, 3, 4))
    epochs = [np.concatenate(list(first)) for _ in range(2)]
    assert np.array_equal(epochs[0], np.concatenate(list(again)))
    again.set_epoch(1)
    assert np.array_equal(epochs[1], np.concatenate(list(again)))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], np.concatenate(list(other)))


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, stop=st.integers(0, 100))
def test_resuming_gives_the_batches_that_were_left(sizes: list[int], stop: int) -> None:
    whole = EqualSizeBatches(store(sizes), 4, seed=0)
    expected = [b.tolist() for _ in range(3) for b in whole]
    interrupted = EqualSizeBatches(store(sizes), 4, seed=0)
    found = []
    while len(found) < min(stop, len(expected)):
        for batch in interrupted:
            found.append(batch.tolist())
            if len(found) == min(stop, len(expected)):
                break
    resumed = EqualSizeBatches(store(sizes), 4, seed=99)
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    while len(found) < len(expected):
        found.extend(batch.tolist() for batch in resumed)
    assert found == expected


def test_max_atoms_and_subset_restrict_what_is_seen() -> None:
    sizes = [1, 2, 3, 4, 5, 5, 1]
    found = np.concatenate(list(EqualSizeBatches(store(sizes), 2, seed=0, max_atoms=4, subset=[6, 2, 3, 4])))
    assert sorted(found.tolist()) == [2, 3, 6]


def test_replicas_share_an_epoch_in_equal_parts() -> None:
    sizes = [1] * 10 + [2] * 11
    parts = [EqualSizeBatches(store(sizes), 3, seed=0, rank=r, replicas=3) for r in range(3)]
    seen = [np.concatenate(list(part)) for part in parts]
    assert {len(part) for part in parts} == {2}
    everything = np.concatenate(seen).tolist()
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"crystals_per_batch": 2, "atoms_per_batch": 2},
        {"crystals_per_batch": 0},
        {"crystals_per_batch": 2, "rank": 2, "replicas": 2},
        {"crystals_per_batch": 2, "subset": [0, 9]},
        {"crystals_per_batch": 2, "subset": [0, 0]},
        {"crystals_per_batch": 2, "subset": [0.5]},
        {"crystals_per_batch": 2, "seed": -1},
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict) -> None:
    with pytest.raises(ConfigError):
        EqualSizeBatches(store([1, 2, 3]), **{"seed": 0, **arguments})


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match="at most 2 atoms"):
        EqualSizeBatches(store([3, 4]), 2, seed=0, max_atoms=2)
    with pytest.raises(DataError, match="fewer than 4 replicas"):
        EqualSizeBatches(store([3, 4]), 2, seed=0, replicas=4)


def test_a_state_of_other_data_is_refused() -> None:
    state = EqualSizeBatches(store([1, 2, 3]), 2, seed=0).state_dict()
    for other in (EqualSizeBatches(store([1, 2, 2]), 2, seed=0), EqualSizeBatches(store([1, 2, 3]), 1, seed=0)):
        with pytest.raises(ConfigError, match="another data set"):
            other.load_state_dict(state)
    same = EqualSizeBatches(store([1, 2, 3]), 2, seed=0)
    with pytest.raises(ConfigError, match="lacks epoch"):
        same.load_state_dict({key: value for key, value in state.items() if key != "epoch"})
    with pytest.raises(ConfigError, match="outside"):
        same.load_state_dict({**state, "position": 50})
