"""The table of metrics: from a name to the function that turns crystals into figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from euhedral.evaluate.context import Context, Measured
from euhedral.evaluate.measures_crystal import measure_symmetry, measure_templates, measure_validity
from euhedral.evaluate.measures_distribution import (
    measure_coverage,
    measure_divergence,
    measure_diversity,
    measure_mmd,
    measure_wasserstein,
)
from euhedral.evaluate.measures_potential import measure_embedding, measure_energy
from euhedral.evaluate.measures_prediction import measure_everyone, measure_match, measure_relaxation
from euhedral.evaluate.measures_request import measure_requested_group, measure_targets
from euhedral.evaluate.measures_set import measure_novel, measure_sun, measure_unique
from euhedral.evaluate.measures_supply import measure_supply

Measure = Callable[[Context, Mapping[str, Any]], Measured]

MEASURES: Mapping[str, Measure] = {
    "validity": measure_validity,
    "symmetry": measure_symmetry,
    "coverage": measure_coverage,
    "wasserstein": measure_wasserstein,
    "divergence": measure_divergence,
    "mmd": measure_mmd,
    "diversity": measure_diversity,
    "supply": measure_supply,
    "unique": measure_unique,
    "novel": measure_novel,
    "sun": measure_sun,
    "match": measure_match,
    "match_everyone": measure_everyone,
    "relaxation": measure_relaxation,
    "templates": measure_templates,
    "energy": measure_energy,
    "embedding": measure_embedding,
    "requested_group": measure_requested_group,
    "targets": measure_targets,
}
