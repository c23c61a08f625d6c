"""What families of Wyckoff templates share: the book of those of the training crystals, and the scales of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.models.conditions import PropertyScale
from euhedral.models.known_units import KnownUnits, lattice_scales
from euhedral.models.lattice_maps import WIDEST
from euhedral.models.symmetric import SymmetricModel
from euhedral.models.templates import TemplateBook
from euhedral.noise.gaussian import VariancePreserving, VariancePreservingConfig, noise_within
from euhedral.noise.gaussian_flow import GaussianFlow
from euhedral.noise.joint import JointNoise

LatticePath = Literal["variance_preserving", "gaussian_flow"]
"""Of the lattice, within what its crystal family leaves free: DDPM, or a straight flow whose velocity is predicted."""

SMALLEST, LARGEST, SKEWEST = 0.0, 4.0, 2.5
"""Bounds of the lattice at the end: the volume coordinate (1 to 1020 Å³ an atom), and the size of the others."""


class TemplateModel(SymmetricModel):
    """A symmetric model with a book of templates; its config has `templates`, `orbits`, `symprec`, and scales of lattice and
    properties.

    Attributes:
        noise: of coordinates, the log-symmetric lattice and species.
    """

    noise: JointNoise[Any, VariancePreserving | GaussianFlow, Any]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.book = TemplateBook(config.templates, config.orbits)
        self._units = KnownUnits(config.symprec)
        self.scale = PropertyScale(config.property_mean, config.property_std)
        for name in ("lattice_mean", "lattice_std"):
            self.register_buffer(name, torch.tensor(getattr(config, name)), persistent=False)
        self.lattice_mean: Tensor
        self.lattice_std: Tensor

    @classmethod
    def informed(cls, config: Any, crystals: CrystalBatch) -> Self:
        """See `SymmetricModel`."""
        known = KnownUnits(config.symprec)
        units = known.of(crystals)
        mean, std = lattice_scales(units)
        book = TemplateBook.of(units)
        templates, orbits = book.letters.shape
        model = cls(replace(config, lattice_mean=mean, lattice_std=std, templates=templates, orbits=orbits))
        model.book, model._units = book, known
        return model

    def holds(
        self, space_group: int, num_atoms: int, *, composition: Mapping[int, int] | None = None, elements: int = 1
    ) -> bool:
        """See `SymmetricModel`."""
        return self.book.holds(space_group, num_atoms, composition, elements)

    def _lattice_step(self, value: Tensor, guess: Tensor, now: Tensor, later: Tensor, rng: torch.Generator) -> Tensor:
        """Standardised lattices (b, 6) at a later time, given the noise or velocity that the network finds in them; what it
        means is kept near the data, as by `LatticeField.step`."""
        process = self.noise.cell
        if isinstance(process, GaussianFlow):
            clean = _near(process.clean_from_velocity(value, guess, now))
            return process.advance(value, process.velocity_from_clean(value, clean, now), later - now)
        return process.reverse(value, noise_within(process, value, guess, now, _near), now, later, rng=rng)

    def _lattice_of(self, value: Tensor) -> Tensor:
        """Log-symmetric coordinates (b, 6) of standardised lattices, within bounds."""
        lattice = value * self.lattice_std + self.lattice_mean
        return torch.cat([lattice[:, :5].clamp(-SKEWEST, SKEWEST), lattice[:, 5:].clamp(SMALLEST, LARGEST)], 1)


def lattice_process(path: LatticePath, schedule: VariancePreservingConfig) -> VariancePreserving | GaussianFlow:
    """The process of a path. Raises ConfigError where a flow, which has no schedule, is given one."""
    if path == "variance_preserving":
        return VariancePreserving(schedule)
    if schedule != VariancePreservingConfig():
        raise ConfigError("cell is the schedule of the path variance_preserving; leave it out with gaussian_flow")
    return GaussianFlow()


def _near(lattice: Tensor) -> Tensor:
    return lattice.clamp(-WIDEST, WIDEST)
