"""The stage of diffraction: the powder pattern of a crystal, and a measured one beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from euhedral.errors import ConfigError
from euhedral.screen.diffraction import (
    DiffractionConfig,
    MeasuredPattern,
    PowderPattern,
    agreement,
    powder_pattern,
    read_measured,
    strongest_lines,
)
from euhedral.screen.property_stage import Finding, PropertyStage
from euhedral.screen.stage import NOTHING, Column

if TYPE_CHECKING:
    from collections.abc import Mapping

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential
    from euhedral.screen.stage import Value


@dataclass(frozen=True, kw_only=True)
class DiffractionStageConfig:
    """The experiment, and what was measured.

    Attributes:
        measured: file of a measured pattern that each crystal is compared with, see `read_measured`.
        least_agreement: a crystal whose agreement is below it ends here; None lets all pass.
        wavelength: as the fields below in `DiffractionConfig`: Å, or a line such as CuKa.
        smallest_angle: of 2 theta, degrees.
        largest_angle: of 2 theta, degrees.
        width: of lines where patterns are compared, degrees.
        largest_scale: share by which the edges may differ from the measured crystal's, all alike.
        symprec: Å, of the conventional cell that planes are counted in.
        max_seconds: wall time of a crystal, where it is given to a process of its own.

    Raises:
        ConfigError: on a value out of range, or a least agreement with nothing measured.
    """

    measured: str | None = None
    least_agreement: float | None = None
    wavelength: float | str = "CuKa"
    smallest_angle: float = 5.0
    largest_angle: float = 90.0
    width: float = 0.2
    largest_scale: float = 0.03
    symprec: float = 0.01
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.least_agreement is not None and self.measured is None:
            raise ConfigError("least_agreement needs a measured pattern; give its file as diffraction.measured")
        if not self.max_seconds > 0:
            raise ConfigError(f"max_seconds must be above 0, not {self.max_seconds}")
        self.computing()

    def computing(self) -> DiffractionConfig:
        """The experiment."""
        return DiffractionConfig(
            wavelength=self.wavelength,
            smallest_angle=self.smallest_angle,
            largest_angle=self.largest_angle,
            width=self.width,
            largest_scale=self.largest_scale,
            symprec=self.symprec,
        )


class DiffractionStage(PropertyStage):
    """The X-ray powder pattern, and its agreement with a measured one."""

    name = "diffraction"
    version = 1
    needs_potential = False
    columns: ClassVar[Mapping[str, Column]] = {
        "xrd_lines": Column(meaning="2 theta in degrees, plane and intensity of the three strongest X-ray lines"),
        "xrd_agreement": Column(meaning="cosine of the pattern and the measured one; 1 is the same"),
        "xrd_scale": Column(meaning="of all edges, at which the agreement is largest"),
    }
    config: DiffractionStageConfig

    def portable_config(self) -> DiffractionStageConfig:
        """See `Stage`."""
        measured = self.config.measured
        return self.config if measured is None else replace(self.config, measured=str(Path(measured).absolute()))

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`. The measured pattern is read."""
        if self.config.measured is not None:
            _measured(self.config.measured)

    def measure(self, crystal: CrystalBatch, potential: Potential | None) -> Finding:
        """See `PropertyStage`. Raises DataError where the measured pattern cannot be read."""
        config = self.config.computing()
        pattern = powder_pattern(crystal, config)
        values: dict[str, Value] = {"xrd_lines": strongest_lines(pattern)}
        verdict = None
        if self.config.measured is not None:
            cosine, scale = agreement(pattern, _measured(self.config.measured), config)
            values |= {"xrd_agreement": cosine, "xrd_scale": scale}
            least = self.config.least_agreement
            if least is not None and cosine < least:
                verdict = f"the measured pattern is not its own: agreement {cosine:.3f}, below {least:g}"
        return Finding(values=values, files={"diffraction.csv": _table(pattern)}, verdict=verdict)

    def _calculator(self, values: Mapping[str, Value]) -> str:
        return ""


@lru_cache(maxsize=4)
def _measured(path: str) -> MeasuredPattern:
    return read_measured(path)


def _table(pattern: PowderPattern) -> bytes:
    lines = zip(pattern.two_theta, pattern.spacing, pattern.intensity, pattern.planes, strict=True)
    rows = [f"{angle:.4f},{d:.5f},{power:.3f},{' '.join(map(str, plane))}" for angle, d, power, plane in lines]
    return ("\n".join(["two_theta_deg,d_A,intensity,plane", *rows]) + "\n").encode()
