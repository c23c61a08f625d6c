"""Voronoi cells of the sites of a crystal: the neighbours that share a face, its solid angle and its area.

The cell of a site at the origin, among neighbours at p, is the set of x with x · q <= 1 for every q = 2 p / |p|². Its
faces and vertices are the vertices and facets of the convex hull of the points q (polar duality), and hulls of a
hundred points in three dimensions take a twentieth of the time of the tessellation that they replace.

Only neighbours within a cutoff take part, and the cutoff doubles until the cell is closed, up to the longest diagonal
of the crystal's cell: this is the convention of pymatgen's VoronoiNN, and it matters in open structures, whose cells
reach beyond half the cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST_CUTOFF = 7.0
"""Radius in Å of the first search for neighbours."""
MOST_NEIGHBOURS = 50_000
"""A cell that is not closed by this many neighbours is given up; bounds time and memory."""

COINCIDENT = "atoms coincide"
OPEN_CELL = "no closed Voronoi cell"
NO_FACE = "no Voronoi face within the cutoff"

_VECTORS_AT_ONCE = 1_000_000
_SAME_PLACE = 1e-6
# Vertices farther than 1e11 Å are rounding: the cell has no end in that direction.
_CLOSED = 1e-11


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Faces of the Voronoi cells of several sites, one after the other.

    Attributes:
        site: the site whose face it is, ascending, (faces,).
        neighbour: the atom on the other side, (faces,).
        vector: from the site to that atom in Å, (faces, 3).
        solid_angle: under which the site sees the face, in sr, (faces,).
        area: in Å², (faces,).
    """

    site: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    vector: NDArray[np.float64]
    solid_angle: NDArray[np.float64]
    area: NDArray[np.float64]


def voronoi_faces(
    cell: NDArray[np.float64], frac: NDArray[np.float64], longest_diagonal: float
) -> tuple[Faces, dict[int, str]]:
    """Faces of the Voronoi cell of every site of one crystal.

    Args:
        cell: rows a, b, c in Å, (3, 3); take a reduced cell, for the work grows with its skew.
        frac: fractional coordinates in [0, 1), (n, 3).
        longest_diagonal: of the cell that the crystal came in, in Å; the largest cutoff.

    Returns:
        The faces, and the sites without any, with their reasons (`COINCIDENT`, `OPEN_CELL`, `NO_FACE`).
    """
    found: list[tuple[NDArray[np.int64], NDArray[np.float64], _Hull]] = []
    sites: list[int] = []
    reasons: dict[int, str] = {}
    for site, neighbour, vector in _neighbours(cell, frac, np.arange(len(frac)), FIRST_CUTOFF):
        cutoff, limit = FIRST_CUTOFF, longest_diagonal + 0.01
        hull = None
        while True:
            if len(vector) and np.einsum("ij,ij->i", vector, vector).min() < _SAME_PLACE**2:
                reasons[site] = COINCIDENT
                break
            hull = _hull(vector)
            if hull is not None:
                found.append((neighbour, vector, hull))
                sites.append(site)
                break
            if cutoff >= limit or len(vector) > MOST_NEIGHBOURS:
                reasons[site] = OPEN_CELL
                break
            if _no_face(vector):
                reasons[site] = NO_FACE
                break
            cutoff = min(2 * cutoff, limit + 0.001)
            ((_, neighbour, vector),) = _neighbours(cell, frac, np.array([site]), cutoff)
    return _measure(sites, found), reasons


@dataclass(frozen=True, kw_only=True)
class _Hull:
    """Hull of the dual points: triangles of neighbours, the triangle opposite each corner, and Voronoi vertices."""

    simplices: NDArray[np.int32]
    adjacent: NDArray[np.int32]
    vertices: NDArray[np.float64]


def _hull(vector: NDArray[np.float64]) -> _Hull | None:
    """None where the neighbours do not close the cell."""
    from scipy.spatial import ConvexHull, QhullError

    if len(vector) < 4:
        return None
    try:
        hull = ConvexHull(2 * vector / np.einsum("ij,ij->i", vector, vector)[:, None])
    except QhullError:  # all neighbours in one plane
        return None
    normal, offset = hull.equations[:, :3], hull.equations[:, 3:]
    if offset.max() > -_CLOSED:
        return None
    return _Hull(simplices=hull.simplices, adjacent=hull.neighbors, vertices=-normal / offset)


def _no_face(vector: NDArray[np.float64]) -> bool:
    """True if the site is a corner of one Delaunay tetrahedron only, where the published algorithm gives up.

    A face has at least three vertices, one of which may be at infinity, and no pair of atoms has as many then.
    """
    from scipy.spatial import Delaunay, QhullError

    try:
        tetrahedra = Delaunay(np.concatenate([np.zeros((1, 3)), vector])).simplices
    except QhullError:
        return False
    return int((tetrahedra == 0).any(1).sum()) == 1


def _neighbours(
    cell: NDArray[np.float64], frac: NDArray[np.float64], sites: NDArray[np.int64], cutoff: float
) -> list[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """Atoms within `cutoff` of each site, itself excluded: (site, atom, vector), in no particular order."""
    reach = cutoff * np.linalg.norm(np.linalg.inv(cell), axis=0)
    low, high = frac[sites].min(0) - reach, frac[sites].max(0) + reach
    # Atom i has an image between low and high along each axis for these shifts.
    axes = [np.arange(np.floor(low[k]), np.ceil(high[k]) + 1) for k in range(3)]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    images = frac[:, None] + shifts
    atom, shift = np.nonzero(((images >= low) & (images <= high)).all(-1))
    home = (shifts == 0).all(1)[shift]
    points = images[atom, shift] @ cell
    found = []
    step = max(1, _VECTORS_AT_ONCE // max(1, len(points)))
    for start in range(0, len(sites), step):
        chosen = sites[start : start + step]
        vectors = points[None] - (frac[chosen] @ cell)[:, None]
        near = np.einsum("ijk,ijk->ij", vectors, vectors) <= cutoff**2
        near &= ~(home & (atom == chosen[:, None]))
        for row, site in enumerate(chosen.tolist()):
            kept = near[row]
            found.append((site, atom[kept], vectors[row, kept]))
    return found


def _measure(sites: list[int], found: list[tuple[NDArray[np.int64], NDArray[np.float64], _Hull]]) -> Faces:
    """Solid angles and areas of all faces of all cells at once.

    Every edge of a cell joins the vertices of two adjacent hull triangles and bounds the two faces whose neighbours
    these triangles share. A face is the fan of triangles from one of its vertices to its edges; the solid angle of a
    triangle is that of van Oosterom and Strackee (IEEE Trans. Biomed. Eng. 30, 125, 1983).
    """
    if not found:
        nothing = np.zeros(0)
        return Faces(
            site=np.zeros(0, np.int64),
            neighbour=np.zeros(0, np.int64),
            vector=np.zeros((0, 3)),
            solid_angle=nothing,
            area=nothing,
        )
    points = np.cumsum([0] + [len(neighbour) for neighbour, _, _ in found])
    corners = np.cumsum([0] + [len(hull.simplices) for _, _, hull in found])
    simplices = np.concatenate([hull.simplices + points[i] for i, (_, _, hull) in enumerate(found)]).astype(np.int64)
    adjacent = np.concatenate([hull.adjacent + corners[i] for i, (_, _, hull) in enumerate(found)]).astype(np.int64)
    vertices = np.concatenate([hull.vertices for _, _, hull in found])
    total = int(points[-1])
    apex = np.full(total, -1)
    apex[simplices] = np.arange(len(simplices))[:, None]
    ends, face = [], []
    for corner in range(3):
        here = np.arange(len(simplices))
        once = here < adjacent[:, corner]
        edge = np.stack([here[once], adjacent[once, corner]], 1)
        for other in ((corner + 1) % 3, (corner + 2) % 3):
            ends.append(edge)
            face.append(simplices[once, other])
    edges, faces = np.concatenate(ends), np.concatenate(face)
    a, b, c = vertices[apex[faces]], vertices[edges[:, 0]], vertices[edges[:, 1]]
    area = np.bincount(faces, 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1), minlength=total)
    solid_angle = np.bincount(faces, _triangle_angles(a, b, c), minlength=total)
    kept = apex >= 0
    site = np.repeat(np.array(sites, np.int64), np.diff(points))
    return Faces(
        site=site[kept],
        neighbour=np.concatenate([neighbour for neighbour, _, _ in found])[kept],
        vector=np.concatenate([vector for _, vector, _ in found])[kept],
        solid_angle=solid_angle[kept].astype(np.float64),
        area=area[kept].astype(np.float64),
    )


def _triangle_angles(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solid angles of triangles seen from the origin, tan(Ω/2) = |a · b × c| / (abc + (a·b)c + (a·c)b + (b·c)a)."""
    lengths = [np.linalg.norm(x, axis=1) for x in (a, b, c)]
    above = np.abs(np.einsum("ij,ij->i", a, np.cross(b, c)))
    below = (
        lengths[0] * lengths[1] * lengths[2]
        + np.einsum("ij,ij->i", a, b) * lengths[2]
        + np.einsum("ij,ij->i", a, c) * lengths[1]
        + np.einsum("ij,ij->i", b, c) * lengths[0]
    )
    return 2 * np.arctan2(above, below)
