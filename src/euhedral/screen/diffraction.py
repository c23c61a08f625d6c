"""Powder diffraction: what a crystal's pattern is, and how well it is that of a measurement."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.symmetry import conventional
from euhedral.errors import ConfigError, CrystalError, DataError

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

BACKGROUND_DEGREES = 3.0
"""What is wider than this is background, degrees of 2 theta."""


@dataclass(frozen=True, kw_only=True)
class DiffractionConfig:
    """The experiment.

    Attributes:
        wavelength: Å, or a line of an X-ray tube such as CuKa, CuKa1, MoKa.
        smallest_angle: of 2 theta, degrees.
        largest_angle: of 2 theta, degrees.
        width: full width at half maximum that the pattern's lines are given where they are compared, degrees.
        largest_scale: the crystal's edges may differ from the measured one's by this share, all alike: relaxed crystals are
            a little too large or too small.
        symprec: Å, of the conventional cell that planes are counted in.

    Raises:
        ConfigError: on a value out of range, or an unknown line.
    """

    wavelength: float | str = "CuKa"
    smallest_angle: float = 5.0
    largest_angle: float = 90.0
    width: float = 0.2
    largest_scale: float = 0.03
    symprec: float = 0.01

    def __post_init__(self) -> None:
        _wavelength(self.wavelength)
        if not 0 <= self.smallest_angle < self.largest_angle <= 180:
            raise ConfigError(
                f"angles must rise within 0 to 180 degrees, not from {self.smallest_angle} to {self.largest_angle}"
            )
        if not 0 < self.width < BACKGROUND_DEGREES:
            raise ConfigError(f"width must be between 0 and {BACKGROUND_DEGREES:g} degrees, not {self.width}")
        if not self.symprec > 0:
            raise ConfigError(f"symprec must be above 0 Å, not {self.symprec}")
        if not 0 <= self.largest_scale < 0.2:
            raise ConfigError(f"largest_scale must be at least 0 and below 0.2, not {self.largest_scale}")


@dataclass(frozen=True, kw_only=True)
class PowderPattern:
    """Lines of a powder, by rising angle.

    Attributes:
        two_theta: degrees, (lines,).
        spacing: d of the planes, Å, (lines,).
        intensity: the strongest is 100, (lines,).
        planes: Miller indices of one of the equivalent planes of each line.
        wavelength: Å.
    """

    two_theta: np.ndarray
    spacing: np.ndarray
    intensity: np.ndarray
    planes: tuple[tuple[int, ...], ...]
    wavelength: float


@dataclass(frozen=True, kw_only=True)
class MeasuredPattern:
    """Counts against the angle.

    Attributes:
        two_theta: degrees, rising, (points,).
        counts: (points,).
    """

    two_theta: np.ndarray
    counts: np.ndarray


def powder_pattern(crystal: CrystalBatch, config: DiffractionConfig | None = None) -> PowderPattern:
    """Kinematic X-ray pattern of one crystal by pymatgen: structure factors, multiplicities, Lorentz and polarization
    factors; without thermal motion, absorption and texture. Planes are those of the conventional standard cell.

    Raises:
        CrystalError: if it has no line within the angles, or an element whose scattering is not known.
    """
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    config = config or DiffractionConfig()
    wavelength = _wavelength(config.wavelength)
    standard = crystal
    # Without a symmetry there is no standard cell, and planes are counted in the crystal's own.
    with suppress(CrystalError):
        standard = conventional(crystal, config.symprec)
    (structure,) = standard.to_pymatgen()
    calculator = XRDCalculator(wavelength=wavelength)  # pyright: ignore[reportArgumentType]
    angles = f"between {config.smallest_angle:g} and {config.largest_angle:g} degrees of 2 theta"
    try:
        found = calculator.get_pattern(structure, two_theta_range=(config.smallest_angle, config.largest_angle))
    # Where no plane reflects, and for elements without scattering factors.
    except ValueError as error:
        raise CrystalError(f"there is no line {angles}: {error}") from error
    if not len(found.x):
        raise CrystalError(f"there is no line {angles}")
    return PowderPattern(
        two_theta=np.asarray(found.x),
        spacing=np.asarray(found.d_hkls),
        intensity=np.asarray(found.y),
        planes=tuple(tuple(int(i) for i in planes[0]["hkl"]) for planes in found.hkls),
        wavelength=wavelength,
    )


def read_measured(path: str | Path) -> MeasuredPattern:
    """A measured pattern: a text of two or more columns, 2 theta in degrees and counts; other lines are comments.

    Raises:
        DataError: if it cannot be read, or holds no rising angles.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"cannot read the measured pattern {path}: {error.strerror or error}") from error
    rows = [row for line in lines if (row := _two_numbers(line)) is not None]
    if len(rows) < 10:
        raise DataError(
            f"{path} has {len(rows)} lines of two numbers; expected a powder pattern: 2 theta in degrees and counts"
        )
    angles, counts = np.array(rows).T
    order = np.argsort(angles, kind="stable")
    angles, counts = angles[order], counts[order]
    if angles[0] < 0 or angles[-1] > 180 or not np.any(counts > 0):
        raise DataError(f"the first column of {path} must be 2 theta, 0 to 180 degrees, and the second counts above 0")
    angles, first = np.unique(angles, return_index=True)
    return MeasuredPattern(two_theta=angles, counts=counts[first])


def agreement(
    pattern: PowderPattern, measured: MeasuredPattern, config: DiffractionConfig | None = None
) -> tuple[float, float]:
    """How well a crystal's pattern is that of a measurement: the cosine of the two, and the scale of its edges for it.

    What is broad in the measurement is taken off as background, the lines are made Gaussians, and all edges are scaled alike
    within `largest_scale` to where the cosine is largest. 1 is the same up to a factor, 0 nothing in common.

    Raises:
        CrystalError: if the measurement has no part within the angles.
    """
    config = config or DiffractionConfig()
    step = config.width / 5
    low, high = max(config.smallest_angle, measured.two_theta[0]), min(config.largest_angle, measured.two_theta[-1])
    if high - low < BACKGROUND_DEGREES:
        raise CrystalError(
            f"the measurement has {measured.two_theta[0]:g} to {measured.two_theta[-1]:g} degrees of 2 theta, too little "
            f"of {config.smallest_angle:g} to {config.largest_angle:g}"
        )
    grid = np.arange(low, high, step)
    peaks = _without_background(np.interp(grid, measured.two_theta, measured.counts), step)
    if not peaks.any():
        raise CrystalError("nothing is left of the measurement without its background")
    best = (0.0, 1.0)
    # Lines move by less than a third of their width from one scale to the next, up to 2 theta of 120 degrees.
    turn = 2 * math.tan(math.radians(min(config.largest_angle, 120) / 2))
    count = math.ceil(config.largest_scale / (math.radians(config.width) / 3 / turn))
    for scale in 1 + config.largest_scale * np.linspace(-1, 1, 2 * count + 1) if count else (1.0,):
        drawn = broadened(pattern, grid, width=config.width, scale=float(scale))
        norm = np.linalg.norm(drawn) * np.linalg.norm(peaks)
        cosine = float(drawn @ peaks / norm) if norm > 0 else 0.0
        best = max(best, (cosine, float(scale)))
    return best


def broadened(pattern: PowderPattern, two_theta: np.ndarray, *, width: float, scale: float = 1.0) -> np.ndarray:
    """The pattern at angles, each line a Gaussian of full width `width` in degrees; edges times `scale`."""
    sines = pattern.wavelength / (2 * pattern.spacing * scale)
    seen = sines < 1
    centers = 2 * np.degrees(np.arcsin(sines[seen]))
    sigma = width / (2 * math.sqrt(2 * math.log(2)))
    return np.exp(-0.5 * ((two_theta[:, None] - centers) / sigma) ** 2) @ pattern.intensity[seen]


def strongest_lines(pattern: PowderPattern, count: int = 3) -> str:
    """'28.4 (111) 100, 47.3 (022) 61': angles, planes and intensities of the strongest lines."""
    chosen = np.argsort(-pattern.intensity, kind="stable")[:count]
    return ", ".join(
        f"{pattern.two_theta[i]:.2f} ({' '.join(map(str, pattern.planes[i]))}) {pattern.intensity[i]:.0f}"
        for i in chosen
    )


def _without_background(counts: np.ndarray, step: float) -> np.ndarray:
    """Morphological opening takes what is narrower than the background's width, which is then what stays."""
    from scipy.ndimage import grey_opening, uniform_filter1d

    size = 2 * round(BACKGROUND_DEGREES / 2 / step) + 1
    background = uniform_filter1d(grey_opening(counts, size=size, mode="nearest"), size, mode="nearest")
    return np.clip(counts - background, 0, None)


def _wavelength(given: float | str) -> float:
    from pymatgen.analysis.diffraction.xrd import WAVELENGTHS

    if isinstance(given, str):
        if given in WAVELENGTHS:
            return float(WAVELENGTHS[given])
        try:
            given = float(given)
        except ValueError:
            raise ConfigError(f"no X-ray line is called {given!r}; there are {', '.join(WAVELENGTHS)}") from None
    if not 0 < given < 10:
        raise ConfigError(f"a wavelength must be between 0 and 10 Å, not {given}")
    return float(given)


def _two_numbers(line: str) -> tuple[float, float] | None:
    parts = line.replace(",", " ").replace(";", " ").split()
    try:
        pair = float(parts[0]), float(parts[1])
    except (IndexError, ValueError):
        return None
    return pair if math.isfinite(pair[0]) and math.isfinite(pair[1]) else None
