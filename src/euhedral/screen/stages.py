"""The table of stages: name -> config and class, in the order of the funnel. Third parties add theirs by entry points."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from euhedral.config import Table, find_classes, nearest, parse_config, third_parties
from euhedral.errors import ConfigError
from euhedral.screen.stage import Stage

ENTRY_POINT_GROUP = "euhedral.stages"

STAGES: Table = {
    "prefilter": (
        "euhedral.screen.prefilter_stage:PrefilterConfig",
        "euhedral.screen.prefilter_stage:PrefilterStage",
    ),
    "relax": ("euhedral.screen.relax_stage:RelaxStageConfig", "euhedral.screen.relax_stage:RelaxStage"),
    "hull": ("euhedral.screen.hull_stage:HullConfig", "euhedral.screen.hull_stage:HullStage"),
    "novelty": ("euhedral.screen.novelty_stage:NoveltyConfig", "euhedral.screen.novelty_stage:NoveltyStage"),
    # Not in this package, where no module knows a model.
    "predict": ("euhedral.catalog.predict_stage:PredictConfig", "euhedral.catalog.predict_stage:PredictStage"),
    "magnetism": (
        "euhedral.screen.magnetism_stage:MagnetismStageConfig",
        "euhedral.screen.magnetism_stage:MagnetismStage",
    ),
    "synthesis": ("euhedral.screen.synthesis_stage:SynthesisConfig", "euhedral.screen.synthesis_stage:SynthesisStage"),
    "phonons": ("euhedral.screen.phonons_stage:PhononsStageConfig", "euhedral.screen.phonons_stage:PhononsStage"),
    "elastic": ("euhedral.screen.elastic_stage:ElasticStageConfig", "euhedral.screen.elastic_stage:ElasticStage"),
    "equation_of_state": (
        "euhedral.screen.equation_of_state_stage:EquationOfStateStageConfig",
        "euhedral.screen.equation_of_state_stage:EquationOfStateStage",
    ),
    "thermal": ("euhedral.screen.thermal_stage:ThermalStageConfig", "euhedral.screen.thermal_stage:ThermalStage"),
    "diffraction": (
        "euhedral.screen.diffraction_stage:DiffractionStageConfig",
        "euhedral.screen.diffraction_stage:DiffractionStage",
    ),
}

DEFAULT_STAGES = ("prefilter", "relax", "hull", "novelty")
"""What a funnel has where nobody says otherwise."""


def names() -> list[str]:
    """All stages in the order of the funnel; those of entry points (`euhedral.stages`) come last, by name."""
    return [*STAGES, *sorted(third_parties(ENTRY_POINT_GROUP) - set(STAGES))]


def lookup(name: str) -> tuple[type, type[Stage]]:
    """Config class and stage class of a name. Raises ConfigError for a name that nobody registered.

    An entry point's value is an object with attributes `config` and `stage`, the two classes.
    """
    found = find_classes(STAGES, ENTRY_POINT_GROUP, name, "stage")
    if found is not None:
        return found
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
    config, stage = lookup(name)
    known = [field.name for field in dataclasses.fields(config)]
    for key in settings or {}:
        if key not in known:
            raise ConfigError(f"stage {name} has no setting {key!r}{nearest(key, known)}; it has: {', '.join(known)}")
    return stage(parse_config(config, settings or {}, within=(name,)))
