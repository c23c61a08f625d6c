"""Whether a crystal is like those that were made: a classifier trained from positive and unlabelled crystals.

Databases know what was reported by experiment and never what cannot be made, so that there are positive and unlabelled
crystals and no negative ones. The classifier is bagged (Mordelet and Vert, Pattern Recognition Letters 37, 201, 2014): each
of its members learns to tell the positives from a random part of the unlabelled that is as large, so that a positive
that hides among the unlabelled misleads few of them, and the score is the mean of what the members say. A member is a sum
of small trees by gradient boosting (Friedman, Annals of Statistics 29, 1189, 2001) whose sum `F` gives `1 / (1 + exp(-F))`.

A score of 0.5 means that such features are as common among reported crystals as among the unlabelled ones of training. It is
no probability that a synthesis succeeds, and a low score does not say that a crystal cannot be made.

File: safetensors, with what was trained on what as JSON in its header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from euhedral.errors import CheckpointError, ConfigError, OutputError
from euhedral.screen.synthesis_features import feature_names, features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch

FORMAT = 1
"""Version of the file."""
DEFAULT_FILE = "synthesizability.safetensors"
_HEADER = "euhedral-synthesizability"
_ARRAYS = ("feature", "threshold", "left", "right", "value")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the members are made.

    Attributes:
        members: classifiers whose mean is the score.
        trees: of each.
        leaves: of each tree, at most.
        rate: of learning.
        share: of the crystals that a tree sees.

    Raises:
        ConfigError: on a value out of range.
    """

    members: int = 20
    trees: int = 100
    leaves: int = 8
    rate: float = 0.08
    share: float = 0.7

    def __post_init__(self) -> None:
        if not (self.members >= 1 and self.trees >= 1 and 2 <= self.leaves <= 64):
            raise ConfigError(
                f"members and trees must be at least 1 and leaves 2 to 64, not {self.members}, {self.trees}, {self.leaves}"
            )
        if not (0 < self.rate <= 1 and 0 < self.share <= 1):
            raise ConfigError(f"rate and share must be above 0 and at most 1, not {self.rate} and {self.share}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """The trees of all members; make it with `train`, `load_judge` or `default_judge`.

    Attributes:
        feature: that a node asks for, -1 at a leaf, (members, trees, nodes).
        threshold: up to which the way goes left, in float32 numbers of the feature, (members, trees, nodes).
        left: next node, (members, trees, nodes).
        right: next node, (members, trees, nodes).
        value: what a leaf adds to `F`, (members, trees, nodes).
        provenance: data and choices behind it, plain JSON values.
    """

    feature: NDArray[np.int16]
    threshold: NDArray[np.float64]
    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    value: NDArray[np.float32]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def score(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score from 0 to 1 of each row of features, NaN where one is not finite.

        Args:
            table: (crystals, features) as `synthesis_features.features` gives them.
        """
        known = np.isfinite(table).all(axis=1)
        scores = np.full(len(table), np.nan)
        if known.any():
            rows = table[known].astype(np.float32)
            total = np.zeros(int(known.sum()))
            for member in range(len(self.feature)):
                total += 1 / (1 + np.exp(-self._sum(member, rows)))
            scores[known] = total / len(self.feature)
        return scores

    def _sum(self, member: int, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """`F` of one member, (crystals,)."""
        feature, threshold = self.feature[member], self.threshold[member]
        trees = np.arange(len(feature))
        node = np.zeros((len(rows), len(feature)), dtype=np.intp)
        line = np.arange(len(rows))[:, None]
        for _ in range(feature.shape[1]):
            asked = feature[trees, node]
            inside = asked >= 0
            if not inside.any():
                break
            goes_left = rows[line, np.maximum(asked, 0)] <= threshold[trees, node]
            following = np.where(goes_left, self.left[member][trees, node], self.right[member][trees, node])
            node = np.where(inside, following, node)
        return self.value[member][trees, node].astype(np.float64).sum(axis=1)

    def save(self, path: str | Path) -> None:
        """Write the trees. Raises OutputError where the file exists or cannot be written."""
        from safetensors.numpy import save_file

        path = Path(path)
        if path.exists():
            raise OutputError(f"'{path}' exists; choose another name or remove it")
        header = {"format": FORMAT, "features": feature_names(), "provenance": dict(self.provenance)}
        try:
            save_file({name: getattr(self, name) for name in _ARRAYS}, path, metadata={_HEADER: json.dumps(header)})
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror or error}") from None


def load_judge(path: str | Path) -> Judge:
    """Read what `Judge.save` wrote.

    Raises:
        CheckpointError: where there is no such file, or it is damaged, of another kind, version or set of features.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no file '{path}'")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"'{path}' holds no judge of synthesizability, or is damaged: {error}") from None
    if header.get("format") != FORMAT or tuple(header.get("features", ())) != feature_names():
        raise CheckpointError(
            f"'{path}' was trained for other features or has version {header.get('format')} (this program: {FORMAT}); "
            "train it again with benchmarks/synthesizability.py"
        )
    return Judge(**arrays, provenance=header["provenance"])


@lru_cache(maxsize=1)
def default_judge() -> Judge:
    """The one that the package carries; `docs/synthesis.md` has its data and figures."""
    return load_judge(Path(__file__).with_name(DEFAULT_FILE))


def synthesizability(batch: CrystalBatch, judge: Judge | None = None) -> tuple[NDArray[np.float64], list[str | None]]:
    """Score of each crystal, and why one has none (NaN), or None.

    Args:
        batch: crystals.
        judge: the shipped one where not given.

    Raises:
        ConfigError: where the table of the elements (extra `evaluate`) is not installed.
    """
    table, reasons = features(batch)
    return (judge or default_judge()).score(table), reasons


def train(
    positives: NDArray[np.float64],
    unlabelled: NDArray[np.float64],
    config: TrainingConfig | None = None,
    *,
    rng: torch.Generator,
    provenance: Mapping[str, Any] | None = None,
) -> Judge:
    """Bagged learning from positive and unlabelled crystals (Mordelet and Vert 2014, algorithm 1).

    Args:
        positives: features of crystals that were made, (positives, features), all finite.
        unlabelled: of crystals of which nothing is known, (unlabelled, features), all finite.
        config: as by default where not given.
        rng: source of the draws.
        provenance: plain JSON values to keep with the trees.

    Raises:
        ConfigError: on no crystals, features that are not finite, or where scikit-learn is missing.
    """
    config = config or TrainingConfig()
    for name, table in (("positive", positives), ("unlabelled", unlabelled)):
        if not len(table) or not np.isfinite(table).all():
            raise ConfigError(f"the features of the {name} crystals must be finite and of at least one crystal")
    try:
        from sklearn.ensemble import GradientBoostingClassifier
    except ImportError:
        raise ConfigError('training needs scikit-learn: install it with `pip install "euhedral[evaluate]"`') from None

    number = min(len(positives), len(unlabelled))
    labels = np.r_[np.ones(len(positives)), np.zeros(number)]
    members = []
    for _ in range(config.members):
        drawn = torch.randperm(len(unlabelled), generator=rng)[:number].numpy()
        member = GradientBoostingClassifier(
            n_estimators=config.trees,
            max_leaf_nodes=config.leaves,
            max_depth=config.leaves - 1,
            learning_rate=config.rate,
            subsample=config.share,
            max_features="sqrt",
            random_state=int(torch.randint(2**31, (1,), generator=rng)),
        )
        members.append(_arrays(member.fit(np.concatenate([positives, unlabelled[drawn]]), labels), labels, config))
    stacked = {name: np.stack([member[name] for member in members]) for name in _ARRAYS}
    return Judge(**cast(dict[str, Any], stacked), provenance=dict(provenance or {}))


def _arrays(member: Any, labels: NDArray[np.float64], config: TrainingConfig) -> dict[str, NDArray[Any]]:
    """The trees of one fitted classifier, (trees, nodes) each; the prior is shared out among the trees."""
    shape = (config.trees, 2 * config.leaves - 1)
    arrays: dict[str, NDArray[Any]] = {
        "feature": np.full(shape, -1, dtype=np.int16),
        "threshold": np.zeros(shape, dtype=np.float64),
        "left": np.zeros(shape, dtype=np.uint8),
        "right": np.zeros(shape, dtype=np.uint8),
        "value": np.zeros(shape, dtype=np.float32),
    }
    prior = float(np.log(labels.mean() / (1 - labels.mean()))) / config.trees
    for i, (stage,) in enumerate(member.estimators_):
        tree = stage.tree_
        inside = tree.children_left >= 0
        count = len(inside)
        arrays["feature"][i, :count] = np.where(inside, tree.feature, -1)
        arrays["threshold"][i, :count] = np.where(inside, tree.threshold, 0.0)
        arrays["left"][i, :count] = np.where(inside, tree.children_left, 0)
        arrays["right"][i, :count] = np.where(inside, tree.children_right, 0)
        arrays["value"][i, :count] = np.where(inside, 0.0, tree.value[:, 0, 0] * config.rate + prior)
    return arrays
