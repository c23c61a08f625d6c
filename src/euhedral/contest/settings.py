"""How a contest is held, the same for every entrant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from euhedral.errors import ConfigError
from euhedral.models import registry
from euhedral.train.clock import Clock
from euhedral.train.config import Recipe

MAX_ATOMS = 20
"""Largest cell of MP-20, the data that the published figures are of."""


@dataclass(frozen=True, kw_only=True)
class ContestSettings:
    """Settings of a contest.

    Attributes:
        minutes: of training for each recipe that is trained; those that are fitted at once take what they take.
        predictions: validation crystals whose structure is predicted from the species of their cell, one sample each.
        samples: crystals that are generated with nothing given.
        evaluations: most evaluations of a network a crystal; a recipe that asks for more takes fewer steps. 0 leaves
            every recipe its own number.
        max_atoms: larger crystals are neither trained on nor predicted.
        batch: crystals that are sampled at once.
        seed: of everything that is drawn.
        clock: what minutes and rates count, see `euhedral.train.clock.seconds_by`.
    """

    minutes: float = 20.0
    predictions: int = 200
    samples: int = 500
    evaluations: int = 200
    max_atoms: int = MAX_ATOMS
    batch: int = 64
    seed: int = 0
    clock: Clock = "wall"

    def __post_init__(self) -> None:
        for name, least in (("predictions", 1), ("samples", 1), ("evaluations", 0), ("max_atoms", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.clock not in get_args(Clock):
            raise ConfigError(f"clock must be wall or processor, not {self.clock!r}")
        if not 0 < self.minutes < 1e9:
            raise ConfigError(f"the budget must be a positive number of minutes, not {self.minutes:g}")

    def steps_of(self, recipe: Recipe) -> int:
        """Steps along the path that a recipe is sampled with: its own, else its family's, or what evaluations allow.

        Raises ConfigError for an unknown family.
        """
        own = _own_steps(recipe)
        # One a step at least, where nobody counted them.
        evaluations = max(recipe.about.evaluations, own)
        if not self.evaluations or evaluations <= self.evaluations:
            return own
        return max(1, own * self.evaluations // evaluations)

    def evaluations_of(self, recipe: Recipe) -> int:
        """Evaluations of the network in these steps; 0 where nobody counted them."""
        return round(recipe.about.evaluations * self.steps_of(recipe) / max(1, _own_steps(recipe)))


def _own_steps(recipe: Recipe) -> int:
    return recipe.about.steps or registry.lookup(recipe.family)[1].steps
