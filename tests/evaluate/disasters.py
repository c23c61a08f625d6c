"""Hand-made crystals of every kind that breaks evaluators, as rows of a CSV with a `cif` column."""

from __future__ import annotations

from pathlib import Path

from data.crystal_sources import ROCK_SALT, cif, csv_text

_COINCIDENT = ROCK_SALT.replace("Cl Cl4 0.5 0.5 0.5 1", "Cl Cl4 0.0 0.0 0.0 1")
_ONE = cif(["Cu"], a=2.6)


def _large(atoms: int = 500) -> str:
    """A perfect grid of alternating Na and Cl, 500 atoms."""
    head = (
        ROCK_SALT[: ROCK_SALT.index("Na Na0")]
        .replace("5.64", "28.2")
        .replace("_cell_length_c 28.2", "_cell_length_c 14.1")
    )
    places = [(i, j, k) for i in range(10) for j in range(10) for k in range(5)][:atoms]
    sites = [
        f"{'Na' if (i + j + k) % 2 else 'Cl'} X{n} {i / 10} {j / 10} {k / 5} 1" for n, (i, j, k) in enumerate(places)
    ]
    return head + "\n".join(sites) + "\n"


DISASTERS: dict[str, str] = {
    "good": ROCK_SALT,
    "duplicate": ROCK_SALT.replace("Na Na0 0.0 0.0 0.0", "Na Na0 1.0 1.0 0.0"),
    "coincident": _COINCIDENT,
    "nan-coordinate": ROCK_SALT.replace("Cl Cl4 0.5 0.5 0.5", "Cl Cl4 nan 0.5 0.5"),
    "nan-cell": ROCK_SALT.replace("_cell_length_a 5.64", "_cell_length_a nan"),
    "no-volume": ROCK_SALT.replace("_cell_angle_gamma 90", "_cell_angle_gamma 0"),
    "impossible-cell": ROCK_SALT.replace("_cell_angle_gamma 90", "_cell_angle_gamma 179.9").replace(
        "alpha 90", "alpha 20"
    ),
    "single": _ONE,
    "five-hundred": _large(),
    "noble": cif(["Ne", "Ar"], a=5.0),
    "deuterium": cif(["D", "D", "O"], a=4.0),
    "partial": ROCK_SALT.replace("Na Na0 0.0 0.0 0.0 1", "Na Na0 0.0 0.0 0.0 0.5"),
    "unknown-element": ROCK_SALT.replace("Na Na0", "Qq Qq0"),
    "no-atoms": ROCK_SALT[: ROCK_SALT.index("Na Na0")],
    "not-a-cif": "this is prose",
    "empty": "",
    "tiny-cell": cif(["Li", "O"], a=0.2),
    "far-atoms": cif(["Li"], a=60.0),
}
"""Name and text; `UNREADABLE` are those that no crystal can be made of."""

UNREADABLE = (
    "nan-coordinate",
    "nan-cell",
    "no-volume",
    "impossible-cell",
    "partial",
    "unknown-element",
    "no-atoms",
    "not-a-cif",
    "empty",
    "tiny-cell",
)


def write_disasters(path: Path) -> Path:
    """The CSV of all of them."""
    path.write_text(csv_text([(name, text, "") for name, text in DISASTERS.items()]))
    return path
