import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, EuhedralError
from euhedral.screen.relax import relax
from euhedral.screen.relaxation import RelaxConfig
from screen.potentials import DIES, HANGS, RAISES, Moody, PairWell
from screen.test_relax import _crystals, _with_element


def test_hanging_dying_and_raising_crystals_end_alone():
    """Starts five processes: each costs the import of torch."""
    crystals = _crystals((2, 3, 2, 4, 2, 3, 2))
    bad = {1: HANGS, 3: DIES, 5: RAISES}
    batch = CrystalBatch.concat([_with_element(c, bad[i]) if i in bad else c for i, c in enumerate(crystals)])
    ended: list[int] = []
    result = relax(
        batch,
        potential=Moody(),
        config=RelaxConfig(max_seconds=1.0, atoms_at_once=8),
        workers=1,
        on_done=lambda one: ended.append(one.index),
    )
    assert sorted(ended) == list(range(7)) and result.potential == "moody"
    assert [result.outcomes[i] for i in bad] == ["time limit", "failed", "failed"]
    assert [result.reasons[i] for i in bad] == [
        "the potential gave no answer: not decided within 1 s",
        "the potential gave no answer: the worker process ended (memory?)",
        "ValueError: no idea about lithium",
    ]
    good = [i for i in range(7) if i not in bad]
    expected = relax(crystals[good], potential=PairWell())
    assert [result.outcomes[i] for i in good] == ["converged"] * 4
    assert torch.allclose(result.energies_per_atom[good], expected.energies_per_atom, atol=1e-6)
    assert torch.equal(result.crystals.num_atoms, batch.num_atoms)


def test_a_potential_that_cannot_be_made_or_copied_is_told():
    with pytest.raises(ConfigError, match=r"cannot be copied.*workers=0"):
        relax(_crystals((2,)), potential=lambda: PairWell(), workers=1)
    with pytest.raises(EuhedralError, match="no potential is called 'nonsense'"):
        relax(_crystals((2,)), potential="nonsense", workers=1)


def test_no_crystals_start_no_process():
    assert relax(CrystalBatch.empty(), potential=PairWell(), workers=2).potential == "pair well"
