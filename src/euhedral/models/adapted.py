"""A trained model that learned further conditions by adapters, its own weights untouched (MatterGen's fine-tuning)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.columns import Column
from euhedral.models.conditions import Conditions
from euhedral.models.joint_process import JointProcess
from euhedral.nets.adapters import AdaptedNet, AdapterInput

ADAPTED = "adapted"


@dataclass(frozen=True, kw_only=True)
class AdaptedConfig:
    """Everything that defines the model.

    Attributes:
        family: of the model that it was made from.
        model: that model's configuration, as plain values.
        columns: what it was told of beyond that.
        width: channels of the adapters.
    """

    family: str = "joint_flow"
    model: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    width: int = 128

    def __post_init__(self) -> None:
        # As a checkpoint gives it back, so that both are equal.
        object.__setattr__(self, "model", json.loads(json.dumps(self.model)))


class Adapted(GenerativeModel):
    """The other model with adapters in its backbone; loss and sampler are that model's.

    Raises:
        ConfigError: for a family whose backbone takes no adapters, or without a column.
    """

    def __init__(self, config: AdaptedConfig) -> None:
        from euhedral.models import registry

        super().__init__()
        self.config = config
        if config.family == ADAPTED:
            raise ConfigError("this model has adapters already: begin with the model that it was made from")
        if not config.columns:
            raise ConfigError("adapters condition on at least one column")
        self.base = registry.build(config.family, config.model)
        net = getattr(self.base, "net", None)
        if not isinstance(net, nn.Module) or config.family not in ADAPTABLE:
            raise ConfigError(f"{config.family} takes no adapters; families that do: {', '.join(ADAPTABLE)}")
        if isinstance(self.base, JointProcess) and not self.base.conditioned:
            raise ConfigError("this model reads no conditions at all; take a recipe whose network is conditioned")
        inputs = [AdapterInput(classes=len(one.classes), mean=one.mean, std=one.std) for one in config.columns]
        self.base.requires_grad_(False)
        self.base.net = AdaptedNet(net, inputs, config.width)
        for name in (
            "holds_parts",
            "can_be_steered",
            "species_first",
            "chooses_species",
            "steps",
            "reads_properties",
            "reads_space_group",
        ):
            setattr(self, name, getattr(self.base, name))

    def begin_from(self, base: GenerativeModel) -> None:
        """Take the weights of the model that this one is made from."""
        own = self.base.net
        assert isinstance(own, AdaptedNet)
        self.base.net = own.net
        try:
            self.base.load_state_dict(base.state_dict())
        finally:
            self.base.net = own

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """The other model's, with the columns shown as often as its conditions are."""
        return self.base.loss(batch, conditions, rng=rng)

    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """The other model's, told of `request.conditions.extra`."""
        return self.base.sample(request, rng=rng)


ADAPTABLE = ("joint_flow", "joint_process")
