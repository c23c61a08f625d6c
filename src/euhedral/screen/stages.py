"""The table of stages: name -> config and class, in the order of the funnel. Third parties add theirs by entry points."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
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


def in_order(chosen: list[str]) -> list[str]:
    """The chosen stages, each once, in the order of the funnel. Raises ConfigError for an unknown one."""
    known = names()
    for name in chosen:
        if name not in known:
            lookup(name)
    return [name for name in known if name in chosen]


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
