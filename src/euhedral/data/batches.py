"""`EqualSizeBatches`: every crystal once an epoch, in batches of one atom count, so that nothing is padded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euhedral.errors import ConfigError, DataError


class Sized(Protocol):
    """What batches are made from, such as a `CrystalStore`."""

    @property
    def num_atoms(self) -> NDArray[Any]:
        """Atoms in each crystal, (crystals,)."""
        ...


class EqualSizeBatches:
    """Index arrays into a store; all crystals of a batch have the same atom count.

    The order is a function of `seed` and epoch alone. Iterating yields what is left of the current epoch and then moves
    to the next one; `state_dict` at any point resumes right after the last batch that was yielded.

    Args:
        store: gives `num_atoms`.
        crystals_per_batch: crystals in a batch; the last batch of each atom count is smaller.
        atoms_per_batch: instead, a bound on the atoms in a batch; at least one crystal.
        seed: of the shuffle.
        max_atoms: crystals with more atoms are left out.
        subset: positions to draw from, all by default; distinct.
        rank: which of `replicas` processes this is. Each sees its own share of every epoch's batches, and all shares
            are equally long: at most `replicas - 1` batches an epoch, others each time, are seen by none.
        replicas: processes that train together.

    Raises:
        ConfigError: on arguments out of range.
        DataError: where no crystal is left.
    """

    def __init__(
        self,
        store: Sized,
        crystals_per_batch: int | None = None,
        *,
        atoms_per_batch: int | None = None,
        seed: int,
        max_atoms: int | None = None,
        subset: ArrayLike | None = None,
        rank: int = 0,
        replicas: int = 1,
    ) -> None:
        if (crystals_per_batch is None) == (atoms_per_batch is None):
            raise ConfigError("give one of crystals_per_batch and atoms_per_batch")
        size = crystals_per_batch if crystals_per_batch is not None else atoms_per_batch
        if size is None or size < 1:
            raise ConfigError(f"a batch must hold at least one crystal or atom, got {size}")
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}")
        if not 0 <= rank < replicas:
            raise ConfigError(f"rank must be in [0, replicas), got {rank} of {replicas}")
        sizes = np.asarray(store.num_atoms)
        positions = _positions(subset, len(sizes))
        if max_atoms is not None:
            positions = positions[sizes[positions] <= max_atoms]
        if not len(positions):
            raise DataError(f"no crystals to train on: {len(sizes)} in the store, none with at most {max_atoms} atoms")
        self.seed = seed
        self.epoch = 0
        self.rank = rank
        self.replicas = replicas
        self._position = 0
        # Grouped once: crystals of one size are neighbours here, and each epoch shuffles within the groups.
        order = np.argsort(sizes[positions], kind="stable")
        self._members = positions[order]
        counts, first = np.unique(sizes[self._members], return_index=True)
        self._groups = list(zip(first.tolist(), [*first[1:].tolist(), len(self._members)], strict=True))
        self._sizes = [
            crystals_per_batch if crystals_per_batch is not None else max(1, size // int(count)) for count in counts
        ]
        total = sum(-(-(stop - start) // n) for (start, stop), n in zip(self._groups, self._sizes, strict=True))
        self._length = total // replicas
        if not self._length:
            raise DataError(f"{total} batches an epoch are fewer than {replicas} replicas; use smaller batches")
        described = np.concatenate([self._members, sizes[self._members].astype(np.int64), np.array(self._sizes)])
        self._fingerprint = zlib.crc32(described.astype("<i8").tobytes())

    def __len__(self) -> int:
        """Batches in an epoch, for one replica."""
        return self._length

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        batches = self._epoch_batches()
        while self._position < self._length:
            batch = batches[self._position * self.replicas + self.rank]
            self._position += 1
            yield batch
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch = epoch
        self._position = 0

    def state_dict(self) -> dict[str, int]:
        """Where the iteration is; JSON-able."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._position,
            "replicas": self.replicas,
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resume where `state_dict` was taken.

        Raises:
            ConfigError: where the state belongs to other data, batch sizes or replicas, or keys are missing.
        """
        missing = {"seed", "epoch", "position", "replicas", "fingerprint"} - set(state)
        if missing:
            raise ConfigError(f"the state of the batches lacks {', '.join(sorted(missing))}")
        if state["fingerprint"] != self._fingerprint or state["replicas"] != self.replicas:
            raise ConfigError(
                "the state of the batches belongs to another data set, batch size or number of replicas; "
                "resume with the same ones, or start the epoch anew"
            )
        if not 0 <= state["position"] <= self._length or state["epoch"] < 0:
            raise ConfigError(
                f"position {state['position']} of epoch {state['epoch']} is outside {self._length} batches"
            )
        self.seed = state["seed"]
        self.epoch = state["epoch"]
        self._position = state["position"]

    def _epoch_batches(self) -> list[NDArray[np.int64]]:
        rng = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        batches: list[NDArray[np.int64]] = []
        for (start, stop), size in zip(self._groups, self._sizes, strict=True):
            members = rng.permutation(self._members[start:stop])
            batches.extend(members[i : i + size] for i in range(0, len(members), size))
        return [batches[i] for i in rng.permutation(len(batches))]


def _positions(subset: ArrayLike | None, crystals: int) -> NDArray[np.int64]:
    if subset is None:
        return np.arange(crystals, dtype=np.int64)
    positions = np.asarray(subset)
    if positions.ndim != 1 or (positions.size and not np.issubdtype(positions.dtype, np.integer)):
        raise ConfigError(f"expected a list of positions as subset, got {positions.dtype} of shape {positions.shape}")
    positions = positions.astype(np.int64)
    if positions.size and (positions.min() < 0 or positions.max() >= crystals):
        raise ConfigError(f"the subset goes from {positions.min()} to {positions.max()}, the store has {crystals}")
    if len(np.unique(positions)) != len(positions):
        raise ConfigError("the subset names a crystal more than once; every crystal is seen once an epoch")
    return positions
