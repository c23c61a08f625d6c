"""Flow matching on the probability simplex: straight lines from uniform points to corners.

The linear flow matching of Stark et al. (Dirichlet Flow Matching, ICML 2024, Section 3). Of k classes a point of the simplex
has coordinates of about 1 / k, so that the class of a noisy one is plain from t = log(k) / k on: let more of the steps fall
before it (`models.species_codes.SimplexSpecies`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from euhedral.noise.straight import StraightFlow


class SimplexFlow(StraightFlow):
    """Straight lines from x_0 ~ Dirichlet(1, ..., 1) to a corner x_1.

    Values have shape (..., k), not negative and of sum one. The mean velocity at x_t is that to the probabilities of the
    classes given x_t (`velocity_from_clean`).
    """

    def start(
        self, shape: tuple[int, ...], dtype: torch.dtype, *, rng: torch.Generator, device: torch.device | str
    ) -> Tensor:
        """Uniform points of the simplex."""
        parts = -torch.log1p(-torch.rand(shape, generator=rng, device=device, dtype=torch.float64))
        return (parts / parts.sum(-1, keepdim=True)).to(dtype)
