from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from euhedral.data.tensors import read_tensors
from euhedral.errors import DataError


def fields(draws: int | None = None) -> dict[str, Any]:
    """Two crystals of 2 and 3 atoms, with a leading axis of draws or without."""
    torch.manual_seed(0)
    lead = () if draws is None else (draws,)
    return {
        "frac_coords": torch.rand(*lead, 5, 3),
        "atom_types": torch.tensor([11, 17, 22, 8, 8]).expand(*lead, 5).clone(),
        "num_atoms": torch.tensor([2, 3]).expand(*lead, 2).clone(),
        "lengths": torch.full((*lead, 2, 3), 4.0),
        "angles": torch.full((*lead, 2, 3), 90.0),
    }


def saved(tmp_path: Path, document: Any) -> Path:
    torch.save(document, tmp_path / "gen.pt")
    return tmp_path / "gen.pt"


def test_a_file_without_draws(tmp_path: Path) -> None:
    given = fields()
    (batch,) = read_tensors(saved(tmp_path, given))
    assert batch.num_atoms.tolist() == [2, 3] and batch.species.tolist() == [11, 17, 22, 8, 8]
    assert batch.frac.dtype == torch.float64
    torch.testing.assert_close(batch.frac, given["frac_coords"].double())
    torch.testing.assert_close(batch.cell, 4 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


def test_the_leading_axis_is_the_draws(tmp_path: Path) -> None:
    batches = read_tensors(saved(tmp_path, fields(3)))
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert not torch.equal(batches[0].frac, batches[1].frac)


def test_lists_of_batches_are_joined(tmp_path: Path) -> None:
    whole = fields(2)
    parts: dict[str, Any] = {
        key: [value[:, :2], value[:, 2:]] for key, value in whole.items() if key in ("frac_coords", "atom_types")
    }
    parts |= {key: [value[:, :1], value[:, 1:]] for key, value in whole.items() if key not in parts}
    for one, other in zip(read_tensors(saved(tmp_path, parts)), read_tensors(saved(tmp_path, whole)), strict=True):
        assert torch.equal(one.frac, other.frac) and torch.equal(one.species, other.species)


def test_cells_may_be_given_as_matrices(tmp_path: Path) -> None:
    given = fields()
    del given["lengths"], given["angles"]
    given["lattices"] = torch.stack([torch.eye(3) * 4, torch.eye(3) * 5])
    (batch,) = read_tensors(saved(tmp_path, given))
    assert batch.volume.tolist() == pytest.approx([64, 125])


def test_settings_of_the_published_scripts_do_no_harm(tmp_path: Path) -> None:
    document = {**fields(), "eval_setting": argparse.Namespace(step_lr=1e-5), "time": 12.0}
    assert len(read_tensors(saved(tmp_path, document))) == 1


def test_nan_and_empty_crystals_are_left_to_the_judges(tmp_path: Path) -> None:
    given = fields()
    given["lengths"][0] = float("nan")
    given["num_atoms"] = torch.tensor([5, 0])
    (batch,) = read_tensors(saved(tmp_path, given))
    assert batch.num_atoms.tolist() == [5, 0] and not torch.isfinite(batch.cell[0]).all()


class Payload:
    """Runs a command when a pickle of it is opened."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    path = saved(tmp_path, {**fields(), "extra": Payload(str(marker))})
    with pytest.raises(DataError, match=r"keep the tensors alone"):
        read_tensors(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frac_coords": None}, "has no frac_coords"),
        ({"angles": None}, "has no angles"),
        ({"frac_coords": "text"}, "not a tensor"),
        ({"frac_coords": []}, "not a tensor"),
        ({"frac_coords": torch.rand(5)}, "has shapes"),
        ({"frac_coords": torch.rand(5, 2)}, "must be 3"),
        ({"frac_coords": torch.rand(4, 3)}, "4 coordinates"),
        ({"num_atoms": torch.tensor([2, 2])}, "adds up to 4"),
        ({"num_atoms": torch.tensor([6, -1])}, "adds up to 5"),
        ({"lengths": torch.ones(3, 3)}, "do not fit"),
        ({"atom_types": torch.rand(5)}, "not whole"),
        ({"atom_types": torch.ones(2, 5, dtype=torch.int64)}, "numbers of draws"),
        ({"frac_coords": [torch.rand(1, 2, 3), torch.rand(2, 3, 3)]}, "different numbers of draws"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = {key: value for key, value in {**fields(), **change}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        read_tensors(saved(tmp_path, document))


def test_files_that_hold_no_tensors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_tensors(tmp_path / "missing.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read_tensors(tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(DataError, match=r"not a file that torch\.save wrote"):
        read_tensors(tmp_path / "text.pt")
    with pytest.raises(DataError, match="holds a list"):
        read_tensors(saved(tmp_path, [torch.rand(3)]))
