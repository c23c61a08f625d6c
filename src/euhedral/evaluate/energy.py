"""Energies per atom of crystals as they are, by CHGNet; see `embedding` for the model and what makes a crystal fail.

For the distribution of energies, not for stability: neither the crystals are relaxed nor a hull is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from euhedral.evaluate.distribution import CrystalValues
from euhedral.evaluate.embedding import chgnet_predictions

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.evaluate.comparison import Progress


def energies_per_atom(
    batch: CrystalBatch, *, workers: int = 1, seconds_per_crystal: float = 30.0, progress: Progress | None = None
) -> CrystalValues:
    """Energy of each crystal in eV/atom, NaN with a reason where it failed.

    Where embeddings are needed too, `embedding.chgnet_predictions` gives both at the cost of one.

    Args:
        batch: crystals.
        workers: processes, one thread each.
        seconds_per_crystal: a crystal that takes longer is ended and gets that reason.
        progress: called with (crystals done, crystals).

    Raises:
        ConfigError: on no workers, or a time that is not positive.
        EuhedralError: if chgnet is not installed, or worker processes cannot be started.
    """
    predictions = chgnet_predictions(batch, workers=workers, seconds_per_crystal=seconds_per_crystal, progress=progress)
    return CrystalValues(values=predictions.energies, reasons=predictions.reasons)
