"""Histograms of simple quantities, of samples and reference over the same bins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.elements import SYMBOLS
from euhedral.evaluate.report import Distribution

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch

BINS = 50


def histogram(
    name: str,
    title: str,
    samples: NDArray[np.float64],
    reference: NDArray[np.float64] | None,
    *,
    unit: str = "",
    bins: int = BINS,
) -> Distribution:
    """Counts over equal bins that span the reference (else the samples); the outer bins take what lies beyond.

    Values that are not finite are left out. The range runs from the 0.1th to the 99.9th percentile, so that one absurd
    value does not leave all others in one bin.
    """
    finite = samples[np.isfinite(samples)]
    other = None if reference is None else reference[np.isfinite(reference)]
    spanning = other if other is not None and len(other) else finite
    low, high = np.percentile(spanning, [0.1, 99.9]) if len(spanning) else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, bins + 1)

    def counts(values: NDArray[np.float64]) -> tuple[int, ...]:
        return tuple(np.histogram(np.clip(values, low, high), edges)[0].tolist())

    return Distribution(
        name=name,
        title=title,
        unit=unit,
        edges=tuple(edges.tolist()),
        samples=counts(finite),
        reference=None if other is None else counts(other),
    )


def categories(
    name: str,
    title: str,
    samples: Sequence[int],
    reference: Sequence[int] | None,
    *,
    names: Sequence[str] | None = None,
) -> Distribution:
    """Counts of whole numbers, each a category, called by `names[number]` or by itself."""
    own = Counter(samples)
    other = None if reference is None else Counter(reference)
    present = sorted(own.keys() | (other or {}).keys())
    return Distribution(
        name=name,
        title=title,
        labels=tuple(names[number] if names else str(number) for number in present),
        samples=tuple(own[number] for number in present),
        reference=None if other is None else tuple(other[number] for number in present),
    )


def simple_distributions(samples: CrystalBatch, reference: CrystalBatch | None) -> tuple[Distribution, ...]:
    """Density, volume per atom, atom count, number of elements, and how many crystals hold each element.

    Both batches hold crystals that can be built only.
    """
    density, volume = _quantities(samples)
    their_density, their_volume = (None, None) if reference is None else _quantities(reference)
    elements = [_elements(batch) for batch in (samples, reference) if batch is not None]
    counts = [np.array([len(held) for held in batch], dtype=np.int64).tolist() for batch in elements]
    flat = [[z for held in batch for z in held] for batch in elements]
    return (
        histogram("density", "Density", density, their_density, unit="g/cm³"),
        histogram("volume_per_atom", "Volume per atom", volume, their_volume, unit="Å³"),
        categories(
            "num_atoms",
            "Atoms in the cell",
            samples.num_atoms.tolist(),
            None if reference is None else reference.num_atoms.tolist(),
        ),
        categories("num_elements", "Elements in a crystal", counts[0], None if reference is None else counts[1]),
        categories(
            "elements",
            "Crystals that hold an element",
            flat[0],
            None if reference is None else flat[1],
            names=SYMBOLS,
        ),
    )


def _quantities(batch: CrystalBatch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Density and volume per atom."""
    return batch.density.double().numpy(), (batch.volume.double() / batch.num_atoms).numpy()


def _elements(batch: CrystalBatch) -> list[set[int]]:
    species, held, start = batch.species.tolist(), [], 0
    for atoms in batch.num_atoms.tolist():
        held.append(set(species[start : start + atoms]))
        start += atoms
    return held
