"""Sources that several tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.crystal_sources import ROCK_SALT, cif, csv_text

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def small_csv(tmp_path: Path) -> Path:
    """Twelve crystals of 1, 2 and 3 atoms and three rows that are broken."""
    rows: list[tuple[str, ...]] = [
        (f"m-{i}", cif(["Li", "O", "Mn"][: i % 3 + 1], seed=i), f"{i / 2}" if i % 4 else "") for i in range(12)
    ]
    rows.insert(3, ("bad-text", "this is no CIF", "1.0"))
    rows.insert(7, ("bad-volume", ROCK_SALT.replace("_cell_length_a 5.64", "_cell_length_a 0"), "1.0"))
    rows.append(("bad-empty", "", "1.0"))
    path = tmp_path / "small.csv"
    path.write_text(csv_text(rows))
    return path


@pytest.fixture
def shared_data() -> Path:
    """The folder of benchmark data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no benchmark data at {SHARED}")
    return SHARED
