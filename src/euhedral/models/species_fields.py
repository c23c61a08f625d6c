"""The ways in which a joint model treats species, by name; see `models.species_state`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from euhedral.models.species_classes import (
    AbsorbingField,
    AbsorbingSpeciesConfig,
    GivenSpecies,
    GivenSpeciesConfig,
    UniformField,
    UniformSpeciesConfig,
)
from euhedral.models.species_codes import (
    BayesianSpecies,
    BayesianSpeciesConfig,
    CodedSpecies,
    CodedSpeciesConfig,
    SimplexSpecies,
    SimplexSpeciesConfig,
)
from euhedral.models.species_state import SpeciesField

SpeciesFieldConfig = Annotated[
    GivenSpeciesConfig
    | AbsorbingSpeciesConfig
    | UniformSpeciesConfig
    | CodedSpeciesConfig
    | SimplexSpeciesConfig
    | BayesianSpeciesConfig,
    Field(discriminator="kind"),
]
_FIELDS: dict[str, Any] = {
    "given": GivenSpecies,
    "absorbing": AbsorbingField,
    "uniform": UniformField,
    "coded": CodedSpecies,
    "simplex": SimplexSpecies,
    "bayesian": BayesianSpecies,
}


def species_field(config: Any) -> SpeciesField:
    """The field of a configuration, by its kind."""
    return _FIELDS[config.kind](config)
