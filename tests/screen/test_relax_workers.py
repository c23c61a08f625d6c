import queue
from collections.abc import Callable
from typing import Any

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.worker import Unanswered
from euhedral.errors import ConfigError, EuhedralError
from euhedral.screen.relax import relax
from euhedral.screen.relax_loop import RelaxLoop
from euhedral.screen.relax_workers import _relax_part
from euhedral.screen.relaxation import RelaxConfig, RelaxedCrystal
from screen.potentials import DIES, HANGS, RAISES, Moody, PairWell
from screen.test_relax import _crystals, _with_element


class _Thread:
    """Stands for a worker process: hangs and dies in the first call that some crystals take part in."""

    def __init__(self, hangs: set[int], dies: set[int], config: RelaxConfig) -> None:
        self.asked: list[list[int]] = []
        self._hangs, self._dies, self._config = hangs, dies, config

    def ask(self, request: list[tuple[int, CrystalBatch]], seconds: float, on_item: Callable[[Any], None]) -> None:
        self.asked.append([index for index, _ in request])
        on_item("pair well")

        def called(indices: list[int]) -> None:
            on_item(tuple(indices))
            if self._hangs.intersection(indices):
                raise Unanswered("not decided", late=True)
            if self._dies.intersection(indices):
                raise Unanswered("the process ended")

        RelaxLoop(PairWell(), self._config).run(request, on_item, called)


def test_only_those_of_the_fatal_call_are_asked_again_and_alone():
    crystals = _crystals((2, 3, 2, 4, 2, 3, 2))
    worker = _Thread({3}, {6}, RelaxConfig(atoms_at_once=6))
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    _relax_part(worker, part=range(7), crystals=crystals, seconds=1.0, tell=told.put)  # pyright: ignore
    ended: list[RelaxedCrystal] = []
    while not told.empty():
        item = told.get_nowait()
        assert not isinstance(item, BaseException)
        ended += [item] if isinstance(item, RelaxedCrystal) else []
    assert sorted(one.index for one in ended) == list(range(7))
    outcomes = {one.index: one.outcome for one in ended}
    assert outcomes == {**dict.fromkeys(range(7), "converged"), 3: "time limit", 6: "failed"}
    assert worker.asked[0] == list(range(7)) and [3] in worker.asked and [6] in worker.asked
    assert [0] not in worker.asked


def test_hanging_dying_and_raising_crystals_end_alone():
    """Starts three processes: each costs the import of torch."""
    crystals = _crystals((2, 3, 2, 2, 3))
    bad = {1: HANGS, 2: DIES, 3: RAISES}
    batch = CrystalBatch.concat([_with_element(c, bad[i]) if i in bad else c for i, c in enumerate(crystals)])
    ended: list[int] = []
    config = RelaxConfig(max_seconds=1.0)
    result = relax(batch, potential=Moody(), config=config, workers=1, on_done=lambda one: ended.append(one.index))
    assert sorted(ended) == list(range(5)) and result.potential == "moody"
    assert result.outcomes == ("converged", "time limit", "failed", "failed", "converged")
    assert result.reasons == (
        None,
        "the potential gave no answer: not decided within 1 s",
        "the potential gave no answer: the worker process ended (memory?)",
        "ValueError: no idea about lithium",
        None,
    )
    expected = relax(crystals[[0, 4]], potential=PairWell())
    assert torch.allclose(result.energies_per_atom[[0, 4]], expected.energies_per_atom, atol=1e-6)
    assert torch.equal(result.crystals.num_atoms, batch.num_atoms)


def test_a_potential_that_cannot_be_made_or_copied_is_told():
    with pytest.raises(ConfigError, match=r"cannot be copied.*workers=0"):
        relax(_crystals((2,)), potential=lambda: PairWell(), workers=1)
    with pytest.raises(EuhedralError, match="no potential is called 'nonsense'"):
        relax(_crystals((2,)), potential="nonsense", workers=1)


def test_no_crystals_start_no_process():
    assert relax(CrystalBatch.empty(), potential=PairWell(), workers=2).potential == "pair well"
