"""Coordination of sites by Voronoi faces, electronegativity and distance, as probabilities of each coordination number.

The algorithm and the constants are those of pymatgen's CrystalNN with its defaults and without oxidation states (Pan,
Ganose, Horton, Aykol, Persson, Zimmermann and Jain, Inorg. Chem. 60, 1590, 2021). A face weighs
Ω² / A · (1 + 3 sqrt(|ΔX| / 3.3)), over the largest of its site, times a cutoff that falls from 1 to 0 between 0.5 and
1 Å beyond the sum of the covalent radii. Weights are rounded to three decimals, and the neighbours of weight w and
above form the shell that has the probability of the part of a quarter disc between w and the next smaller weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.elements import COVALENT_RADII, ELECTRONEGATIVITIES, SYMBOLS
from euhedral.evaluate.order_parameters import MOTIFS, order_parameters
from euhedral.evaluate.voronoi import Faces, voronoi_faces

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGHEST_COORDINATION = 24
"""Largest coordination number that the fingerprint has a place for."""
LARGEST_RADIUS_NUMBER = 96
"""Atomic number of the last element with a covalent radius in the published algorithm (Cm)."""

_CHEMISTRY = 3.0
_LARGEST_DIFFERENCE = 3.3
_NEAR, _FAR = 0.5, 1.0
# Where the published algorithm takes other states than our table: sp2 carbon, high-spin Mn, Fe and Co.
_RADII = {6: 0.73, 25: 1.50, 26: 1.42, 27: 1.38}


def fingerprint_labels() -> tuple[str, ...]:
    """Names of the 61 numbers, as matminer has them: 'wt CN_1', 'sgl_bd CN_1', 'wt CN_2', ..."""
    labels = []
    for number in range(1, HIGHEST_COORDINATION + 1):
        labels += [f"{name} CN_{number}" for name in ("wt", *MOTIFS.get(number, ()))]
    return tuple(labels)


@dataclass(frozen=True, kw_only=True)
class SiteFingerprints:
    """Fingerprints of the sites of several crystals.

    Attributes:
        values: NaN where a site has none, (sites, 61).
        coordination: the most probable coordination number of each site, NaN where it has none, (sites,).
        reasons: why a site has no fingerprint, by its number.
    """

    values: NDArray[np.float64]
    coordination: NDArray[np.float64]
    reasons: dict[int, str]


def site_fingerprints(
    crystals: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], float]],
) -> SiteFingerprints:
    """Fingerprints of all sites of several crystals, one crystal after the other.

    Args:
        crystals: (reduced cell, fractional coordinates, atomic numbers, longest diagonal of the original cell) each;
            see `voronoi_faces`.
    """
    species = np.concatenate([numbers for _, _, numbers, _ in crystals])
    faces, reasons, first = [], {}, 0
    for cell, frac, numbers, diagonal in crystals:
        found, failed = voronoi_faces(cell, frac, diagonal)
        reasons.update({first + site: reason for site, reason in failed.items()})
        faces.append((first, found))
        first += len(numbers)
    joined = Faces(
        site=np.concatenate([found.site + start for start, found in faces]),
        neighbour=np.concatenate([found.neighbour + start for start, found in faces]),
        vector=np.concatenate([found.vector for _, found in faces]),
        solid_angle=np.concatenate([found.solid_angle for _, found in faces]),
        area=np.concatenate([found.area for _, found in faces]),
    )
    return fingerprints_of_faces(joined, species, reasons)


def fingerprints_of_faces(faces: Faces, species: NDArray[np.int64], reasons: dict[int, str]) -> SiteFingerprints:
    """Fingerprints from Voronoi faces; `reasons` names the sites that have none."""
    sites = len(species)
    weight = face_weights(faces, species)
    reasons = dict(reasons)
    for site in np.unique(faces.site[np.isnan(weight)]).tolist():
        large = max(species[site], *species[faces.neighbour[faces.site == site]])
        reasons.setdefault(site, f"no covalent radius for {SYMBOLS[large]}")
    weights, order = _by_site(faces.site, weight, sites)
    probability = coordination_probabilities(weights)
    values = np.zeros((sites, len(fingerprint_labels())))
    column = 0
    for number in range(1, HIGHEST_COORDINATION + 1):
        if number <= weights.shape[1]:
            values[:, column] = probability[:, number]
        motifs = len(MOTIFS.get(number, ()))
        if motifs and number <= weights.shape[1]:
            likely = np.nonzero(probability[:, number])[0]
            if len(likely):
                shell = order[likely, :number]
                place = slice(column + 1, column + 1 + motifs)
                values[likely, place] = probability[likely, number, None] * order_parameters(
                    faces.vector[shell], weight[shell]
                )
        column += 1 + motifs
    coordination = _most_probable(probability)
    failed = list(reasons)
    values[failed], coordination[failed] = np.nan, np.nan
    return SiteFingerprints(values=values, coordination=coordination, reasons=reasons)


def face_weights(faces: Faces, species: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of each face from 0 to 1, not yet rounded, (faces,); NaN where an element has no covalent radius."""
    radii, electronegativity = _element_tables()
    own, other = species[faces.site], species[faces.neighbour]
    # The faces of no extent at the corners of symmetric cells weigh nothing.
    real = faces.area > 1e-20
    weight = np.where(real, faces.solid_angle**2 / np.where(real, faces.area, 1.0), 0.0)
    difference = np.nan_to_num(np.abs(electronegativity[own] - electronegativity[other]))
    weight *= 1 + _CHEMISTRY * np.sqrt(difference / _LARGEST_DIFFERENCE)
    highest = np.zeros(len(species))
    np.maximum.at(highest, faces.site, weight)
    weight /= highest[faces.site]
    beyond = np.linalg.norm(faces.vector, axis=1) - (radii[own] + radii[other])
    return weight * 0.5 * (np.cos(np.pi * np.clip((beyond - _NEAR) / (_FAR - _NEAR), 0, 1)) + 1)


def coordination_probabilities(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each coordination number 0, 1, ..., (sites, faces + 1).

    Args:
        weights: rounded, each site's in falling order and filled up with zeros, (sites, faces).
    """
    after = np.concatenate([weights[:, 1:], np.zeros((len(weights), 1))], axis=1)
    probability = np.zeros((len(weights), weights.shape[1] + 1))
    probability[:, 1:] = _quarter_disc(weights) - _quarter_disc(after)
    probability[:, 0] = 1 - probability[:, 1:].sum(1)
    return probability


def _quarter_disc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the unit quarter disc left of x."""
    return (x * np.sqrt(1 - x**2) + np.arcsin(x)) / (0.5 * np.pi)


def _most_probable(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most probable coordination number; among equals the smallest above 0."""
    best = probability[:, 1:].argmax(1)
    top = np.take_along_axis(probability[:, 1:], best[:, None], 1)[:, 0]
    return np.where(top >= probability[:, 0], best + 1, 0).astype(np.float64)


def _by_site(
    site: NDArray[np.int64], weight: NDArray[np.float64], sites: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rounded weights of each site in falling order, and the faces they belong to; zeros where there are no more."""
    sorting = np.lexsort((-np.nan_to_num(weight), site))
    counts = np.bincount(site, minlength=sites)
    most = max(1, int(counts.max(initial=0)))
    place = np.arange(len(site)) - np.repeat(np.cumsum(counts) - counts, counts)
    weights, order = np.zeros((sites, most)), np.zeros((sites, most), np.int64)
    weights[site[sorting], place] = np.round(np.nan_to_num(weight[sorting]), 3)
    order[site[sorting], place] = sorting
    return weights, order


@lru_cache(maxsize=1)
def _element_tables() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    radii = np.array(COVALENT_RADII, dtype=float)
    radii[list(_RADII)] = list(_RADII.values())
    radii[LARGEST_RADIUS_NUMBER + 1 :] = np.nan
    return radii, np.array(ELECTRONEGATIVITIES, dtype=float)
