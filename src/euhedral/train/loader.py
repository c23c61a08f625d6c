"""What a training step reads: crystals of one atom count with what is known of them, in the order of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.batches import EqualSizeBatches
from euhedral.data.store import CrystalStore
from euhedral.models.conditions import Conditions
from euhedral.train.labels import LabelTable
from euhedral.train.state import Progress


def batches_of(store: CrystalStore, batch_size: int, *, seed: int, max_atoms: int, **share: int) -> EqualSizeBatches:
    """Batches of a store's crystals; `share` holds `rank` and `replicas` where several processes train."""
    sized: Any = store  # its `num_atoms` is a cached property, which type checkers do not take for a property
    return EqualSizeBatches(sized, batch_size, seed=seed, max_atoms=max_atoms, **share)


class TrainingBatch:
    """Crystals and their conditions. Not a dataclass: Lightning takes those apart, and refuses frozen ones."""

    __slots__ = ("conditions", "crystals")

    def __init__(self, crystals: CrystalBatch, conditions: Conditions) -> None:
        self.crystals = crystals
        self.conditions = conditions

    def __len__(self) -> int:
        return len(self.crystals)

    def to(self, device: torch.device) -> TrainingBatch:
        """Move to a device."""
        if device.type == "cpu":
            return self
        return TrainingBatch(self.crystals.to(device), self.conditions.to(device))


class TrainingData:
    """Iterates over what is left of the current epoch; where that begins is read from the run's progress alone.

    Lightning fetches ahead and may begin an iteration twice, so nothing is counted here.
    """

    def __init__(self, store: CrystalStore, labels: LabelTable, batches: EqualSizeBatches, progress: Progress) -> None:
        self.store = store
        self.labels = labels
        self.batches = batches
        self._progress = progress
        if progress.batches:
            batches.load_state_dict({**progress.batches, **self._place()})
        progress.batches = batches.state_dict()

    def __iter__(self) -> Iterator[TrainingBatch]:
        self.batches.load_state_dict({**self.batches.state_dict(), **self._place()})
        for indices in self.batches:
            crystals = self.store.crystals(indices)
            yield TrainingBatch(crystals, self.labels.conditions(indices, crystals))

    def _place(self) -> dict[str, int]:
        return {"epoch": self._progress.epoch, "position": self._progress.position}


class ValidationData:
    """The same batches of other crystals each time; of several processes each takes its share."""

    def __init__(self, store: CrystalStore, labels: LabelTable, *, batch_size: int, max_atoms: int) -> None:
        self._store = store
        self._labels = labels
        self._batches = batches_of(store, batch_size, seed=0, max_atoms=max_atoms)

    def share(self, rank: int, replicas: int) -> Iterator[tuple[int, TrainingBatch]]:
        """Number and contents of each batch of this process."""
        self._batches.set_epoch(0)
        for number, indices in enumerate(self._batches):
            if number % replicas == rank:
                crystals = self._store.crystals(indices)
                yield number, TrainingBatch(crystals, self._labels.conditions(indices, crystals))
