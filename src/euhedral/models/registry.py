"""The table of generative families: name -> config and class. Third parties add theirs by entry points."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from euhedral.config import Table, find_classes, nearest, parse_config, third_parties
from euhedral.errors import ConfigError
from euhedral.models.base import GenerativeModel

ENTRY_POINT_GROUP = "euhedral.models"

MODELS: Table = {
    "joint_flow": ("euhedral.models.joint_flow:JointFlowConfig", "euhedral.models.joint_flow:JointFlow"),
    "joint_process": (
        "euhedral.models.joint_process:JointProcessConfig",
        "euhedral.models.joint_process:JointProcess",
    ),
    "cdvae": ("euhedral.models.cdvae_net:CDVAEConfig", "euhedral.models.cdvae:CDVAE"),
    "adit": ("euhedral.models.adit:ADiTConfig", "euhedral.models.adit:ADiT"),
    "unimat": ("euhedral.models.unimat:UniMatConfig", "euhedral.models.unimat:UniMat"),
    "diffcsp_pp": ("euhedral.models.diffcsp_pp:DiffCSPPPConfig", "euhedral.models.diffcsp_pp:DiffCSPPP"),
    "symmcd": ("euhedral.models.symmcd:SymmCDConfig", "euhedral.models.symmcd:SymmCD"),
    "adapted": ("euhedral.models.adapted:AdaptedConfig", "euhedral.models.adapted:Adapted"),
    "symmetric_random": (
        "euhedral.models.ion_exchange:IonExchangeConfig",
        "euhedral.models.symmetric_random:SymmetricRandom",
    ),
    "ion_exchange": ("euhedral.models.ion_exchange:IonExchangeConfig", "euhedral.models.ion_exchange:IonExchange"),
}


def names() -> list[str]:
    """All families, the shipped ones and those of installed entry points (`euhedral.models`)."""
    return sorted({*MODELS, *third_parties(ENTRY_POINT_GROUP)})


def lookup(name: str) -> tuple[type, type[GenerativeModel]]:
    """Config class and model class of a family. Raises ConfigError for a name that nobody registered.

    An entry point's value is an object with attributes `config` and `model`, the two classes.
    """
    found = find_classes(MODELS, ENTRY_POINT_GROUP, name, "model")
    if found is not None:
        return found
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


def plain_config(config: Any) -> dict[str, Any]:
    """A config dataclass as nested plain dictionaries, ready for JSON."""
    return dataclasses.asdict(config)
