"""What a training run is told: optimisation settings, the recipe file that holds them, and the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from euhedral.errors import ConfigError
from euhedral.models import registry
from euhedral.train.clock import Clock

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; the defaults train the default model.

    Attributes:
        batch_size: crystals in a step of one device.
        learning_rate: the constant rate between warm-up and decay.
        warmup_steps: steps over which the rate rises linearly from 0.
        decay_share: last share of the run over which the rate falls linearly to `final_rate`.
        final_rate: rate at the end, as a share of `learning_rate`.
        weight_decay: of AdamW.
        betas: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: decay a step of the averaged weights, which are the ones that are kept.
        max_epochs: passes over the data after which training ends.
        max_minutes: minutes of training, over all resumes, after which it ends; the schedule ends with whichever of the
            two limits comes first. The learning rate then follows the clock, so only runs without it repeat exactly.
        clock: what `max_minutes` counts, see `euhedral.train.clock.seconds_by`.
        max_atoms: crystals with more atoms are left out.
        precision: `bfloat16` computes in mixed precision; `auto` does where the device has it in hardware.
        compile: compile the network first: some minutes, then steps are about a fifth faster on two CPU cores
            (`benchmarks/training_speed.py --compile`); on a CPU it takes a C++ compiler.
        devices: how many devices; 0 takes all GPUs, or one CPU process.
        accelerator: `auto`, `cpu`, `gpu` or another that Lightning knows.
        checkpoint_minutes: minutes between two saves of the whole state.
        log_steps: steps between two rows of the log.
        validation_epochs: epochs between two validation losses, where there is validation data.
        patience: steps in a row without a finite gradient after which training stops.
        seed: of the order of the data and of all random numbers.
    """

    batch_size: int = 128
    learning_rate: float = 8e-4
    warmup_steps: int = 300
    decay_share: float = 0.35
    final_rate: float = 0.01
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    max_epochs: int = 200
    max_minutes: float | None = None
    clock: Clock = "wall"
    max_atoms: int = 64
    precision: Precision = "auto"
    compile: bool = False
    devices: int = 0
    accelerator: str = "auto"
    checkpoint_minutes: float = 5.0
    log_steps: int = 50
    validation_epochs: int = 1
    patience: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("batch_size", 1, 10**7),
            ("learning_rate", 0.0, 1.0),
            ("warmup_steps", 0, 10**9),
            ("decay_share", 0.0, 1.0),
            ("final_rate", 0.0, 1.0),
            ("weight_decay", 0.0, 1e3),
            ("gradient_clip", 1e-12, 1e12),
            ("ema_decay", 0.0, 1.0),
            ("max_epochs", 1, 10**9),
            ("max_minutes", 0.0, 1e9),
            ("max_atoms", 1, 10**6),
            ("devices", 0, 10**5),
            ("checkpoint_minutes", 0.0, 1e9),
            ("log_steps", 1, 10**9),
            ("validation_epochs", 1, 10**9),
            ("patience", 1, 10**9),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} must be between {low:g} and {high:g}, got {value!r}")
        if self.clock not in get_args(Clock):
            raise ConfigError(f"clock must be wall or processor, got {self.clock!r}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must lie in [0, 1), got {self.betas}")

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Warm-up, constant, linear decay (Hu et al., MiniCPM, COLM 2024, Section 4.1: the WSD schedule).

        Args:
            step: steps made before this one.
            progress: share of the run that is done, 0 to 1.
        """
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = max(0.0, 1.0 - progress)
        decay = 1.0 if left >= self.decay_share else max(self.final_rate, left / self.decay_share)
        return self.learning_rate * warmup * decay


@dataclass(frozen=True, kw_only=True)
class About:
    """Where a recipe comes from, and how its models are sampled; training does not depend on it.

    Attributes:
        title: what it is.
        paper: where it was published.
        steps: steps along the path that its models are sampled with where no others are asked for; 0: those of the family
            (`GenerativeModel.steps`).
        evaluations: evaluations of the network for one crystal in these steps; 0 where nobody counted them.
        status: what of it is there, and what is not.
    """

    title: str = ""
    paper: str = ""
    steps: int = 0
    evaluations: int = 0
    status: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model and how it is trained, as a YAML file holds them.

    Attributes:
        family: name in the registry of models.
        model: changes to the family's default configuration, nested as it is; statistics of the data are filled in.
        train: settings of the run.
        published: changes to `model` and `train`, under these keys, that give the published size of a recipe whose own
            is for a laptop; empty where its own is the published one.
        about: where it comes from.
    """

    family: str = "joint_flow"
    model: Mapping[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    published: Mapping[str, Any] = field(default_factory=dict)
    about: About = field(default_factory=About)

    def at_published_size(self) -> Recipe:
        """The recipe with its `published` changes made. Raises ConfigError where they do not fit."""
        if unknown := set(self.published) - {"model", "train"}:
            raise ConfigError(f"published: unknown key {', '.join(sorted(unknown))}; known: model, train")
        changed = replace(
            self,
            model=_merged(self.model, self.published.get("model", {})),
            train=with_changes(self.train, **self.published.get("train", {})),
            published={},
        )
        model_config(changed)
        return changed

    def with_changes(self, **changes: Any) -> Recipe:
        """The recipe with other settings of `TrainConfig`; None leaves a setting as it is. Raises ConfigError."""
        return replace(self, train=with_changes(self.train, **changes))


def with_changes(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The same settings with some changed; None leaves one as it is. Raises ConfigError on what is not allowed."""
    given = {name: value for name, value in changes.items() if value is not None}
    kept = {f.name: getattr(config, f.name) for f in fields(config)}
    return registry.parse_config(TrainConfig, {**kept, **given})


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from YAML, strictly.

    Raises:
        ConfigError: where there is no such file, it is not YAML, a key is unknown (the nearest known one is named), or
            a value is of the wrong type or out of range.
    """
    import yaml

    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe '{path}': {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise ConfigError(
            f"'{path}' must hold the keys family, model and train (and may hold published and about), "
            f"got {type(document).__name__}"
        )
    try:
        recipe: Recipe = registry.parse_config(Recipe, document)
        model_config(recipe)
        recipe.at_published_size()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return recipe


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings with some entries changed."""
    merged = dict(values)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def model_config(recipe: Recipe, **filled: Any) -> Any:
    """The configuration of the recipe's model.

    Args:
        recipe: its `family` and `model` are read.
        filled: values that the data gives; those that the family's configuration has no field for are left out, and
            those that the recipe sets itself are kept.

    Raises:
        ConfigError: on an unknown family, an unknown key or a wrong value.
    """
    config_class, _ = registry.lookup(recipe.family)
    known = {f.name for f in fields(config_class)}
    values = {name: value for name, value in filled.items() if name in known}
    try:
        return registry.parse_config(config_class, {**values, **recipe.model})
    except ConfigError as error:
        raise ConfigError(f"model: {error}") from None
