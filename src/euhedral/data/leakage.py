"""What a test set shares with a training set: ids, exact content, compounds and chemical systems.

A shared compound is not yet a shared crystal (it can be another polymorph); whether it is takes a structure matcher,
which is an evaluator's work: `euhedral data leakage` adds it, for the crystals that are named here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from euhedral.data.groups import chemical_system_keys, content_keys, formula_keys
from euhedral.errors import DataError

if TYPE_CHECKING:
    from euhedral.data.store import CrystalStore

Kind: TypeAlias = Literal["id", "exact content", "structure", "reduced formula", "chemical system"]
EXAMPLES = 10
_CHUNK = 16_384


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What two sets share of one kind.

    Attributes:
        kind: what is shared.
        test_rows: positions of the test crystals that share it, ascending.
        train_rows: positions of the training crystals that do, ascending.
        test_crystals: size of the test set, the denominator of `share`.
        examples: at most ten of the ids, formulas or chemical systems, in the order of the test set.
        undecided: test crystals of which it could not be found out (a pair of structures that took too long).
    """

    kind: Kind
    test_rows: tuple[int, ...]
    train_rows: tuple[int, ...]
    test_crystals: int
    examples: tuple[str, ...]
    undecided: int = 0

    @property
    def share(self) -> float:
        """Share of the test crystals."""
        return len(self.test_rows) / self.test_crystals

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the positions."""
        return {
            "kind": self.kind,
            "test_crystals": len(self.test_rows),
            "share": self.share,
            "train_crystals": len(self.train_rows),
            "examples": list(self.examples),
            "undecided": self.undecided,
        }


def leakage(train: CrystalStore, test: CrystalStore) -> list[Overlap]:
    """Overlaps by id, exact content (`content_keys`), reduced formula and chemical system, in this order.

    Raises:
        DataError: where one of the two is empty.
    """
    for name, store in (("training", train), ("test", test)):
        if not len(store):
            raise DataError(f"the {name} set '{store.path}' holds no crystals, so nothing can be shared")
    train_keys, test_keys = _all_keys(train), _all_keys(test)
    ids = test.ids()
    found = []
    for kind in ("id", "exact content", "reduced formula", "chemical system"):
        labels = ids if kind == "exact content" else test_keys[kind]
        found.append(overlap(kind, train_keys[kind], test_keys[kind], labels))
    return found


def overlap(
    kind: Kind, train_keys: Sequence[Hashable], test_keys: Sequence[Hashable], labels: Sequence[Hashable]
) -> Overlap:
    """What two lists of keys share; `labels` are the examples' names, one a test crystal."""
    shared = set(train_keys) & set(test_keys)
    rows = tuple(i for i, key in enumerate(test_keys) if key in shared)
    return Overlap(
        kind=kind,
        test_rows=rows,
        train_rows=tuple(i for i, key in enumerate(train_keys) if key in shared),
        test_crystals=len(test_keys),
        examples=tuple(dict.fromkeys(str(labels[i]) for i in rows))[:EXAMPLES],
    )


def _all_keys(store: CrystalStore) -> dict[Kind, list[Any]]:
    keys: dict[Kind, list[Any]] = {"id": [], "exact content": [], "reduced formula": [], "chemical system": []}
    keys["id"] = store.ids()
    for start in range(0, len(store), _CHUNK):
        batch = store.crystals(slice(start, start + _CHUNK))
        keys["exact content"] += content_keys(batch)
        keys["reduced formula"] += formula_keys(batch)
        keys["chemical system"] += chemical_system_keys(batch)
    return keys
