"""The paths of Euclidean values of order one, by name; a recipe names one by its `kind`."""

from __future__ import annotations

from typing import Any

from euhedral.noise.diffusion_paths import (
    VarianceExplodingPath,
    VarianceExplodingPathConfig,
    VariancePreservingPath,
    VariancePreservingPathConfig,
)
from euhedral.noise.edm import EDM, EDMConfig
from euhedral.noise.flow_paths import GaussianFlowPath, GaussianFlowPathConfig
from euhedral.noise.interpolant import Interpolant, InterpolantConfig

EuclideanPathConfig = (
    GaussianFlowPathConfig | VariancePreservingPathConfig | VarianceExplodingPathConfig | EDMConfig | InterpolantConfig
)
EUCLIDEAN_PATHS: dict[str, Any] = {
    "gaussian_flow": GaussianFlowPath,
    "variance_preserving": VariancePreservingPath,
    "variance_exploding": VarianceExplodingPath,
    "edm": EDM,
    "interpolant": Interpolant,
}
