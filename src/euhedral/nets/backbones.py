"""The shipped backbones by name, and one made for what a joint model needs of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from euhedral.nets.cspnet import CSPNet, CSPNetConfig
from euhedral.nets.egnn import EGNN, EGNNConfig
from euhedral.nets.gemnet import GemNet, GemNetConfig
from euhedral.nets.periodic_transformer import PeriodicTransformer, PeriodicTransformerConfig
from euhedral.nets.plain_message_passing import PlainMessagePassing, PlainMessagePassingConfig

BackboneConfig = Annotated[
    CSPNetConfig | PeriodicTransformerConfig | EGNNConfig | GemNetConfig | PlainMessagePassingConfig,
    Field(discriminator="kind"),
]
"""A backbone's size; a YAML file names it by `kind`."""

_BACKBONES: dict[str, Any] = {
    "cspnet": CSPNet,
    "periodic_transformer": PeriodicTransformer,
    "egnn": EGNN,
    "gemnet": GemNet,
    "plain_message_passing": PlainMessagePassing,
}


def names() -> list[str]:
    """All backbones."""
    return sorted(_BACKBONES)


def backbone(config: Any, *, features: int, codes: int, vectors: int, species: bool, matrix: bool) -> nn.Module:
    """A backbone that reads and gives what a model needs.

    Args:
        config: one of `BackboneConfig`; what follows stands over its own.
        features: channels of each atom that it reads.
        codes: numbers of each species that it predicts in place of logits; 0: logits.
        vectors: vectors of each atom that it predicts.
        species: whether it predicts species.
        matrix: whether it says of the lattice a matrix, which the CSPNet alone can.
    """
    needs: dict[str, Any] = {
        "features": features,
        "codes": codes,
        "vectors": vectors,
        "species": species,
        "space_group": False,
    }
    if isinstance(config, CSPNetConfig):
        needs["lattice"] = "matrix" if matrix else "log_symmetric"
    elif matrix:
        raise ValueError(f"{config.kind} gives six numbers of a lattice, not a matrix; use cspnet")
    return _BACKBONES[config.kind](replace(config, **needs))
