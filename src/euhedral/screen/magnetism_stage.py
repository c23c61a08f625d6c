"""The stage of magnetism: the moments that a potential gives the atoms of a crystal as it was relaxed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from euhedral.errors import ConfigError, CrystalError
from euhedral.screen.property_stage import Finding, PropertyStage
from euhedral.screen.relax_stage import check_calculator
from euhedral.screen.stage import Column, finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from euhedral.crystal.batch import CrystalBatch


@dataclass(frozen=True, kw_only=True)
class MagnetismStageConfig:
    """By what.

    Attributes:
        calculator: as of the stage of relaxation; that of the run's relaxation where not given, CHGNet where it had none.
        max_seconds: wall time of a crystal, where it is given to a process of its own.

    Raises:
        ConfigError: on a value out of range, or a calculator that is none.
    """

    calculator: str | None = None
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.calculator is not None:
            check_calculator(self.calculator)
        if not self.max_seconds > 0:
            raise ConfigError(f"max_seconds must be above 0, not {self.max_seconds}")


class MagnetismStage(PropertyStage):
    """Sizes of magnetic moments, of CHGNet or of an ASE calculator that gives them. How they are ordered is not known."""

    name = "magnetism"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "magnetic_moment": Column(unit="µB/atom", meaning="mean size of the atoms' magnetic moments, however ordered"),
        "largest_moment": Column(unit="µB", meaning="size of the largest magnetic moment of an atom"),
    }
    config: MagnetismStageConfig

    def measure(self, crystal: CrystalBatch, potential: Any) -> Finding:
        """See `PropertyStage`."""
        if not hasattr(potential, "moments"):
            raise CrystalError(f"{potential.name} gives no magnetic moments")
        moments = potential.moments(crystal)
        return Finding(
            values={
                "magnetic_moment": finite(float(moments.mean())),
                "largest_moment": finite(float(moments.max())),
            }
        )
