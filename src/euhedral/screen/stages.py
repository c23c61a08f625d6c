"""The table of stages: name -> config and class, in the order of the funnel. Third parties add theirs by entry points."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from euhedral.errors import ConfigError
from euhedral.screen.stage import Stage

ENTRY_POINT_GROUP = "euhedral.stages"

STAGES: Mapping[str, tuple[str, str]] = {
    "prefilter": (
        "euhedral.screen.prefilter_stage:PrefilterConfig",
        "euhedral.screen.prefilter_stage:PrefilterStage",
    ),
    "relax": ("euhedral.screen.relax_stage:RelaxStageConfig", "euhedral.screen.relax_stage:RelaxStage"),
    "hull": ("euhedral.screen.hull_stage:HullConfig", "euhedral.screen.hull_stage:HullStage"),
    "novelty": ("euhedral.screen.novelty_stage:NoveltyConfig", "euhedral.screen.novelty_stage:NoveltyStage"),
}

DEFAULT_STAGES = ("prefilter", "relax", "hull", "novelty")
"""What a funnel has where nobody says otherwise."""


def names() -> list[str]:
    """All stages in the order of the funnel; those of entry points (`euhedral.stages`) come last, by name."""
    others = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - set(STAGES)
    return [*STAGES, *sorted(others)]


def lookup(name: str) -> tuple[type, type[Stage]]:
    """Config class and stage class of a name. Raises ConfigError for a name that nobody registered.

    An entry point's value is an object with attributes `config` and `stage`, the two classes.
    """
    if name in STAGES:
        config, stage = (_import(target) for target in STAGES[name])
        return config, stage
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            entry = point.load()
            return entry.config, entry.stage
    raise ConfigError(f"no stage is called {name!r}; there are {', '.join(names())}")


def in_order(chosen: Sequence[str]) -> list[str]:
    """The chosen stages, each once, in the order of the funnel. Raises ConfigError for an unknown one."""
    known = names()
    for name in chosen:
        if name not in known:
            lookup(name)
    return [name for name in known if name in chosen]


def make(name: str, settings: Mapping[str, Any] | None = None) -> Stage:
    """A stage with the settings given, the others as they are by default; numbers and flags may be text.

    Raises:
        ConfigError: on an unknown stage or setting (naming the nearest), or a value that does not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    config, stage = lookup(name)
    known = [field.name for field in dataclasses.fields(config)]
    for key in settings or {}:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"stage {name} has no setting {key!r}{hint}; it has: {', '.join(known)}")
    try:
        return stage(TypeAdapter(config).validate_python(dict(settings or {})))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"]))
        raise ConfigError(f"{place}: {first['msg']} (got {first.get('input')!r})") from None


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
