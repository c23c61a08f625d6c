"""Texts of small crystals that the tests of the readers and the conversion read."""

from __future__ import annotations

import numpy as np

ROCK_SALT = """data_NaCl
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_Int_Tables_number 1
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na Na0 0.0 0.0 0.0 1
Na Na1 0.0 0.5 0.5 1
Na Na2 0.5 0.0 0.5 1
Na Na3 0.5 0.5 0.0 1
Cl Cl4 0.5 0.5 0.5 1
Cl Cl5 0.5 0.0 0.0 1
Cl Cl6 0.0 0.5 0.0 1
Cl Cl7 0.0 0.0 0.5 1
"""


def cif(symbols: list[str], *, a: float = 4.0, seed: int = 0, name: str = "x") -> str:
    """A P1 cell with one atom of each symbol, at places that have no symmetry."""
    rng = np.random.default_rng(seed)
    # The volume grows with the atoms; the places come from a grid so that no two coincide.
    grid = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3, indexing="ij"), -1).reshape(-1, 3)
    frac = (grid[rng.permutation(27)[: len(symbols)]] + rng.uniform(0, 0.1, (len(symbols), 3))) % 1
    places = zip(symbols, frac, strict=True)
    sites = "\n".join(f"{s} {s}{i} {x:.6f} {y:.6f} {z:.6f} 1" for i, (s, (x, y, z)) in enumerate(places))
    return (
        f"data_{name}\n_cell_length_a {a}\n_cell_length_b {a * 1.1}\n_cell_length_c {a * 1.3}\n"
        "_cell_angle_alpha 85\n_cell_angle_beta 95\n_cell_angle_gamma 100\n_symmetry_Int_Tables_number 1\n"
        "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"
        "loop_\n_atom_site_type_symbol\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        f"_atom_site_occupancy\n{sites}\n"
    )


def csv_text(rows: list[tuple[str, ...]], header: str = "material_id,cif,band_gap") -> str:
    """A CSV with every field quoted."""
    lines = [header]
    lines += [",".join('"' + field.replace('"', '""') + '"' for field in row) for row in rows]
    return "\n".join(lines) + "\n"
