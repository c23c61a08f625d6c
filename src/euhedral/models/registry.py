"""The table of generative families: name -> config and class. Third parties add theirs by entry points."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import typing
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from euhedral.errors import ConfigError
from euhedral.models.base import GenerativeModel

ENTRY_POINT_GROUP = "euhedral.models"

MODELS: Mapping[str, tuple[str, str]] = {
    "joint_flow": ("euhedral.models.joint_flow:JointFlowConfig", "euhedral.models.joint_flow:JointFlow"),
    "joint_diffusion": (
        "euhedral.models.joint_diffusion:JointDiffusionConfig",
        "euhedral.models.joint_diffusion:JointDiffusion",
    ),
}


def names() -> list[str]:
    """All families, the shipped ones and those of installed entry points (`euhedral.models`)."""
    return sorted({*MODELS, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def lookup(name: str) -> tuple[type, type[GenerativeModel]]:
    """Config class and model class of a family. Raises ConfigError for a name that nobody registered.

    An entry point's value is an object with attributes `config` and `model`, the two classes.
    """
    if name in MODELS:
        config, model = (_import(target) for target in MODELS[name])
        return config, model
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            family = point.load()
            return family.config, family.model
    raise ConfigError(f"unknown model family {name!r}{nearest(name, names())}; known: {', '.join(names())}")


def build(name: str, config: Mapping[str, Any]) -> GenerativeModel:
    """Make a model of a family from plain values, as JSON or YAML holds them. Raises ConfigError on unknown keys."""
    config_class, model_class = lookup(name)
    return model_class(parse_config(config_class, config))


def name_of(model: GenerativeModel) -> str:
    """The registry name of a model's family."""
    for name in names():
        if lookup(name)[1] is type(model):
            return name
    raise ConfigError(
        f"{type(model).__name__} is not registered; add it to MODELS or as an {ENTRY_POINT_GROUP} entry point"
    )


def parse_config(config_class: type, values: Mapping[str, Any]) -> Any:
    """Parse plain values into a frozen dataclass, strictly.

    Raises:
        ConfigError: for an unknown key (naming the nearest known one) or a value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(config_class, values, "")
    try:
        return TypeAdapter(config_class).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the configuration"
        raise ConfigError(f"{place}: {first['msg']} (got {first.get('input')!r})") from None


def plain_config(config: Any) -> dict[str, Any]:
    """A config dataclass as nested plain dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def nearest(word: str, known: list[str]) -> str:
    """', did you mean X?' for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _refuse_unknown(config_class: type, values: Mapping[str, Any], place: str) -> None:
    hints = typing.get_type_hints(config_class)
    known = [f.name for f in dataclasses.fields(config_class)]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"unknown key {place}{key}{nearest(key, known)}; known: {', '.join(known)}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown(typing.cast(type, hints[key]), value, f"{place}{key}.")


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
