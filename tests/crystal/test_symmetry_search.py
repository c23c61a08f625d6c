from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from euhedral.crystal.symmetry_search import SearchRequest, search, space_group_numbers, wyckoff_orbits
from euhedral.errors import CrystalError

CUBE = [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]]
CSCL: SearchRequest = (CUBE, [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], [55, 17], 0.01)


def test_numbers_and_orbits() -> None:
    assert space_group_numbers([CSCL, CSCL]) == [(221, None)] * 2
    assert wyckoff_orbits([CSCL]) == [((221, ("a", "b")), None)]
    assert space_group_numbers([]) == wyckoff_orbits([]) == []


class PanicException(BaseException):
    """What a failure within Rust code is called."""


@pytest.mark.parametrize(
    ("error", "words"), [(ValueError("too large"), "no symmetry found"), (PanicException("index"), "search failed")]
)
def test_a_search_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("moyopy.MoyoDataset", fail)
    with pytest.raises(CrystalError, match=words):
        search(*CSCL)
    ((number, reason),) = space_group_numbers([CSCL])
    assert number is None and words in str(reason)


def test_ctrl_c_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moyopy.MoyoDataset", interrupt)
    with pytest.raises(KeyboardInterrupt):
        space_group_numbers([CSCL])


def test_a_dataset_that_cannot_be_read_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreadable:
        number = 221

        @property
        def std_cell(self) -> Any:
            raise ValueError("Too large tolerance")

    monkeypatch.setattr("moyopy.MoyoDataset", lambda *_, **__: Unreadable())
    assert wyckoff_orbits([CSCL]) == [(None, "the symmetry found at 0.01 Å cannot be read: Too large tolerance")]
    assert space_group_numbers([CSCL]) == [(221, None)]


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, euhedral.crystal.symmetry_search; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["[]"]
