"""How a joint model treats the lattice: as which numbers, along which path, from which noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from euhedral.crystal.lattice import cell_from_parameters
from euhedral.errors import ConfigError
from euhedral.models.lattice_maps import (
    LatticeMap,
    LogSymmetricMap,
    MatrixMap,
    ParameterMap,
    Representation,
    SymmetricMap,
    closable,
)
from euhedral.noise.bayesian import GaussianBayesian, GaussianBayesianConfig
from euhedral.noise.euclidean_paths import EUCLIDEAN_PATHS, EuclideanPathConfig
from euhedral.noise.flow_paths import GaussianFlowPathConfig
from euhedral.noise.path import Path

LatticePathConfig = Annotated[EuclideanPathConfig | GaussianBayesianConfig, Field(discriminator="kind")]
_PATHS: dict[str, Any] = {**EUCLIDEAN_PATHS, "gaussian_bayesian": GaussianBayesian}


@dataclass(frozen=True, kw_only=True)
class LatticeFieldConfig:
    """What of the lattice is generated, and how.

    Attributes:
        representation: see `models.lattice_maps`; `tangent`, `logit` and `cosine` are lengths and angles.
        path: from noise to the numbers.
        alike: the three lengths share one mean and one standard deviation, so that axes may be exchanged.
        informed: noise is a cell of log-normal lengths, as the training crystals have, and uniform angles (FlowMM and OMatG);
            for `matrix` with a flow or an interpolant. Else noise is that of the path.
    """

    representation: Representation = "log_symmetric"
    path: LatticePathConfig = field(default_factory=GaussianFlowPathConfig)
    alike: bool = False
    informed: bool = False

    def __post_init__(self) -> None:
        if self.informed and (
            self.representation != "matrix" or self.path.kind not in ("gaussian_flow", "interpolant")
        ):
            raise ConfigError("informed noise of the lattice takes the representation matrix and a flow or interpolant")
        if self.representation == "matrix" and _PATHS[self.path.kind].explodes:
            raise ConfigError(
                f"{self.path.kind} takes values of order one, which a matrix in Å is not: log_symmetric is"
            )


class LatticeField:
    """A map and a path.

    Args:
        config: see there.
        lattice: mean and standard deviation of the log-symmetric coordinates in training, (2, 6).
        lengths: the same of log(length / Å) - log(N) / 3, (2, 3).
    """

    def __init__(self, config: LatticeFieldConfig, *, lattice: Tensor, lengths: Tensor) -> None:
        self.config = config
        self.path: Path = _PATHS[config.path.kind](config.path)
        if config.alike:
            lengths = lengths.mean(1, keepdim=True).expand(2, 3).clone()
        self.lengths = lengths
        self.map: LatticeMap = _map(config.representation, lattice, lengths)

    @property
    def matrix(self) -> bool:
        """Whether the numbers are the matrix of the cell."""
        return isinstance(self.map, MatrixMap)

    def encode(self, cell: Tensor, num_atoms: Tensor) -> Tensor:
        """The numbers of cells."""
        return self.map.encode(cell, num_atoms)

    def prior(self, num_atoms: Tensor, *, rng: torch.Generator) -> Tensor:
        """Noise, on the generator's device; atom counts are (b,)."""
        if not self.config.informed:
            return self.path.prior((len(num_atoms), *self.map.shape), rng=rng)
        device = rng.device
        lengths, sizes = self.lengths.to(device), num_atoms.to(device).log()[:, None] / 3
        drawn = torch.randn(len(num_atoms), 3, generator=rng, device=device)
        angles = 60 + 60 * torch.rand(len(num_atoms), 3, generator=rng, device=device)
        return cell_from_parameters((lengths[0] + lengths[1] * drawn + sizes).exp(), closable(angles))

    def step(
        self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, num_atoms: Tensor, *, rng: torch.Generator
    ) -> Tensor:
        """Numbers at a later time, within the bounds of the map.

        In a diffusion, the clean numbers that a prediction means are kept near the data (`LatticeMap.near`): at the first of
        few steps noise is divided by next to nothing, and what is wrong of it after little training would make giant or flat
        cells.
        """
        guess = self.path.within(value, guess, t, lambda clean: self.map.near(clean, num_atoms))
        return self.bounded(self.path.step(value, guess, t, later, rng=rng))

    def cell(self, value: Tensor, num_atoms: Tensor) -> Tensor:
        """Cells (b, 3, 3) of numbers on their way."""
        bound = self.map.bound
        return self.map.decode(self.path.clean(value).nan_to_num(0.0).clamp(-bound, bound), num_atoms)

    def shown(self, value: Tensor, t: Tensor, num_atoms: Tensor) -> Tensor:
        """Six numbers of order one that a network reads, (b, 6)."""
        return self.map.shown(self.path.shown(value, t), num_atoms)

    def bounded(self, value: Tensor) -> Tensor:
        """Numbers within the bounds of the map, for those that a path keeps near them."""
        if self.path.explodes:
            return value
        return value.clamp(-self.map.bound, self.map.bound)


def _map(representation: Representation, lattice: Tensor, lengths: Tensor) -> LatticeMap:
    if representation == "matrix":
        return MatrixMap(lengths)
    if representation == "log_symmetric":
        return LogSymmetricMap(lattice[0], lattice[1])
    if representation == "symmetric":
        return SymmetricMap()
    angles: Literal["tangent", "logit", "cosine"] = representation
    return ParameterMap(lengths[0], lengths[1], angles)
