"""Independent judge of formation energy and band gap, for measuring property steering.

    python benchmarks/property_regressor.py

Gradient-boosted trees on statistics of element properties and simple features of the structure, trained on the labels
of MP-20 val: the generator learns from train labels only, so the judge shares none with it. The printed errors are
cross-validated with all crystals of one reduced formula in the same fold, beside those of predicting the mean.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import COVALENT_RADII, ELECTRONEGATIVITIES, SYMBOLS
from euhedral.crystal.geometry import pair_distances
from euhedral.crystal.symmetry import space_group
from euhedral.data.store import CrystalStore
from euhedral.evaluate.uniqueness import reduced_formulas
from euhedral.evaluate.validity import structural_validity
from mp20 import DATA, open_store

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

TARGETS = ("formation_energy_per_atom", "band_gap")
UNITS = {"formation_energy_per_atom": "eV/atom", "band_gap": "eV"}
SYMPREC = 0.1  # the tolerance for generated crystals, also for the training crystals: both are seen through one lens
SHELL_WIDTH = 0.3  # Å beyond the nearest neighbour within which neighbours count

_NUMBERS = (
    "Z",
    "row",
    "group",
    "mendeleev_no",
    "atomic_mass",
    "atomic_radius",
    "van_der_waals_radius",
    "average_ionic_radius",
    "melting_point",
    "boiling_point",
    "molar_volume",
    "thermal_conductivity",
    "bulk_modulus",
    "electron_affinity",
    "ionization_energy",
    "max_oxidation_state",
    "min_oxidation_state",
    "is_metal",
)
_SHELL_CAPACITY = {"s": 2, "p": 6, "d": 10, "f": 14}
_ALONE = ("H", "Li", "B", "C", "N", "O", "F", "Na", "Si", "P", "S", "Cl", "K", "Se", "Br", "Te", "I")


@dataclass(frozen=True)
class Regressor:
    """Fitted trees by target, and the cross-validated mean absolute error of each (NaN where not asked for)."""

    trees: Mapping[str, HistGradientBoostingRegressor]
    errors: Mapping[str, float]

    def predict(self, batch: CrystalBatch) -> dict[str, NDArray[np.float64]]:
        """Predicted properties of each crystal by name, (crystals,) each; NaN for structures that are not valid."""
        valid = structural_validity(batch).numpy()
        values = {name: np.full(len(batch), np.nan) for name in self.trees}
        if valid.any():
            table = features(batch[np.flatnonzero(valid).tolist()])
            for name, tree in self.trees.items():
                values[name][valid] = tree.predict(table)
        return values


def fit(source: CrystalStore | Path | str, *, folds: int = 5, seed: int = 0) -> Regressor:
    """Train on all labelled crystals of a store or a benchmark CSV.

    Args:
        source: an open store, or the path of a CSV (plain or .gz).
        folds: parts of the cross-validation; 0 leaves it out.
        seed: of the folds and of the trees.
    """
    store = source if isinstance(source, CrystalStore) else open_store(Path(source))
    labels = {name: store.labels(name) for name in TARGETS}
    return fit_crystals(store.crystals(np.arange(len(store))), labels, folds=folds, seed=seed)


def fit_crystals(
    crystals: CrystalBatch, labels: Mapping[str, NDArray[np.float64]], *, folds: int = 5, seed: int = 0
) -> Regressor:
    """Train on crystals with labels by name, NaN where unknown; see `fit`."""
    table = features(crystals)
    groups = np.unique([str(f) for f in reduced_formulas(crystals)], return_inverse=True)[1]
    trees, errors = {}, {}
    for name, label in labels.items():
        known = np.isfinite(label)
        if folds:
            errors[name] = _cross_validate(name, table[known], label[known], groups[known], folds, seed)
        else:
            errors[name] = float("nan")
        trees[name] = _new_tree(seed).fit(table[known], label[known])
    return Regressor(trees=trees, errors=errors)


def features(batch: CrystalBatch) -> NDArray[np.float64]:
    """One row of composition and structure features a crystal; NaN where an element property is not known."""
    groups = [g.number for g in space_group(batch, symprec=SYMPREC)]
    rows = []
    for i, distances in enumerate(pair_distances(batch)):
        crystal = batch[i]
        species = crystal.species.numpy()
        volume = crystal.volume.item()
        structure = [volume / len(species), crystal.density.item(), float(groups[i]), float(len(species))]
        own_images = np.linalg.norm(crystal.cell[0].double().numpy(), axis=1).min()
        rows.append(
            np.concatenate(
                [composition_features(species), structure, _neighbour_features(species, distances.numpy(), own_images)]
            )
        )
    return np.stack(rows)


def composition_features(species: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean, spread, smallest, largest and range of each element property over the atoms; element shares."""
    table = _element_table()
    own = table[species]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a property that no atom has a value for stays NaN
        mean, low, high = np.nanmean(own, 0), np.nanmin(own, 0), np.nanmax(own, 0)
        spread = np.nanmean(np.abs(own - mean), 0)
    elements, counts = np.unique(species, return_counts=True)
    shares = counts / counts.sum()
    general = [len(elements), np.sqrt((shares**2).sum()), shares.max()]
    alone = [float((species == SYMBOLS.index(symbol)).mean()) for symbol in _ALONE]
    return np.concatenate([mean, spread, low, high, high - low, general, alone])


def _neighbour_features(species: NDArray, distances: NDArray, own_images: float) -> NDArray[np.float64]:
    """Nearest distances, in Å and in sums of covalent radii, number and electronegativity of the nearest neighbours."""
    distances = np.array(distances, dtype=np.float64)
    np.fill_diagonal(distances, own_images)  # the nearest image of the atom itself, exact in a reduced cell
    radii = np.array(COVALENT_RADII)[species]
    ratio = distances / (radii[:, None] + radii)
    nearest, closest = distances.min(1), ratio.min(1)
    weight = np.exp(-(((ratio - closest[:, None]) * (radii[:, None] + radii) / SHELL_WIDTH) ** 2))
    electronegativity = np.nan_to_num(np.array(ELECTRONEGATIVITIES)[species], nan=0.0)
    difference = electronegativity - electronegativity[:, None]
    total = weight.sum(1)
    contrast = (weight * np.abs(difference)).sum(1) / total
    like = (weight * (species == species[:, None])).sum(1) / total
    columns = [(v.min(), v.mean(), v.max(), v.std()) for v in (nearest, closest, contrast, like, total)]
    return np.array(columns).ravel()


@lru_cache(maxsize=1)
def _element_table() -> NDArray[np.float64]:
    """Properties by atomic number, (119, properties), from pymatgen's tables; NaN where unknown."""
    from pymatgen.core.periodic_table import Element

    rows = [np.full(len(_NUMBERS) + 2 + 2 * len(_SHELL_CAPACITY) + 1, np.nan)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns for each value that it lacks
        for z in range(1, len(SYMBOLS)):
            element = Element.from_Z(z)
            numbers = [_number(element, name) for name in _NUMBERS]
            rows.append(np.array([*numbers, ELECTRONEGATIVITIES[z], COVALENT_RADII[z], *_valence(element)]))
    return np.stack(rows)


def _valence(element: object) -> list[float]:
    """Electrons and empty places of the outermost s, p, d and f shells, and the electrons of all of them."""
    outermost: dict[str, tuple[int, int]] = {}
    try:
        structure = element.full_electronic_structure  # pyright: ignore[reportAttributeAccessIssue]
    except KeyError:  # pymatgen's table has no such entry for the heaviest elements
        return [float("nan")] * (2 * len(_SHELL_CAPACITY) + 1)
    for shell, kind, electrons in structure:
        if shell >= outermost.get(kind, (0, 0))[0]:
            outermost[kind] = (shell, electrons)
    period = max(shell for shell, _ in outermost.values())
    # A full inner p, d or f shell is core: d counts down to one shell below the outermost, f down to two.
    depth = {"s": 0, "p": 0, "d": 1, "f": 2}
    filled = []
    for kind in _SHELL_CAPACITY:
        shell, electrons = outermost.get(kind, (0, 0))
        filled.append(float(electrons if shell >= period - depth[kind] else 0))
    empty = [capacity - n if n else 0.0 for capacity, n in zip(_SHELL_CAPACITY.values(), filled, strict=True)]
    return [*filled, *empty, sum(filled)]


def _number(element: object, name: str) -> float:
    try:
        value = getattr(element, name)
    except KeyError:  # pymatgen's table has no such entry for the heaviest elements
        return float("nan")
    return float("nan") if value is None else float(value)


def _new_tree(seed: int) -> HistGradientBoostingRegressor:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        learning_rate=0.06, max_iter=500, max_leaf_nodes=24, min_samples_leaf=10, l2_regularization=1.0,
        max_features=0.3, random_state=seed,
    )  # fmt: skip


def _cross_validate(
    name: str, table: NDArray[np.float64], label: NDArray[np.float64], groups: NDArray[np.int64], folds: int, seed: int
) -> float:
    from sklearn.model_selection import GroupKFold

    predicted = np.empty_like(label)
    constant = np.empty_like(label)
    for train, held_out in GroupKFold(folds, shuffle=True, random_state=seed).split(table, label, groups):
        predicted[held_out] = _new_tree(seed).fit(table[train], label[train]).predict(table[held_out])
        constant[held_out] = label[train].mean()
    error, plain = np.abs(predicted - label).mean(), np.abs(constant - label).mean()
    explained = 1 - ((predicted - label) ** 2).sum() / ((label - label.mean()) ** 2).sum()
    print(
        f"{name}: MAE {error:.4f} {UNITS[name]} (mean as prediction {plain:.4f}), R2 {explained:.3f}, bias "
        f"{(predicted - label).mean():+.4f}; {len(label)} crystals, {folds} folds by formula, seed {seed}",
        flush=True,
    )
    return float(error)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the cross-validated errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz", help="CSV with known labels")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args(arguments)
    fit(parsed.val, folds=parsed.folds, seed=parsed.seed)


if __name__ == "__main__":
    main()
