"""Periodic geometry: wrapping, exact minimum images in cells of any shape, reduced, primitive and larger cells.

Minimum images are exact because the cell is reduced first. In a Minkowski-reduced basis |b1| <= |b2| <= |b3| with
Gram-Schmidt lengths h1, h2, h3, the covering radius is at most sqrt(h1² + h2² + h3²) / 2, h3² >= |b3|² / 2 and
h2² >= 3 |b2|² / 4. The nearest image therefore lies in one of the layers round(.) + {-1, 0, 1} along h3
(1/2 + sqrt(5)/2 < 2), in it on one of the rows round(.) + {-1, 0, 1} along h2 (1/2 + sqrt(7/12) < 2), and on a row it
is the point that rounding finds: nine images are enough (nearest-plane enumeration; Nguyen and Stehlé, ACM TALG 2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PAIRS_AT_ONCE = 65_536
"""Atom pairs held in memory at a time; bounds the memory of all-pairs work (about 50 MB)."""
MAX_SUPERCELL_ATOMS = 1_000_000
"""Largest number of atoms that `supercell` makes."""

_MAX_PASSES = 200
# Changes below this share are rounding: without it, cells with vectors of equal length would never settle.
_IMPROVEMENT = 1e-9
# moyopy's Niggli reduction takes time in proportion to the skew; cells beyond this defect are Minkowski-reduced first.
_SKEWED = 50.0


def wrap(frac: Tensor) -> Tensor:
    """Fractional coordinates brought into [0, 1), never 1.0 even where rounding would give it."""
    wrapped = frac - torch.floor(frac)
    return torch.where(wrapped >= 1, torch.zeros_like(wrapped), wrapped)


def wrap_centered(difference: Tensor) -> Tensor:
    """Fractional differences brought into [-1/2, 1/2)."""
    wrapped = difference - torch.floor(difference + 0.5)
    # Adding 1/2 may round up to the next whole number; what is just below -1/2 then belongs just below +1/2.
    return torch.where(wrapped < -0.5, wrapped + 1, wrapped)


def minimum_image_distances(
    frac_i: Float[Tensor, "*b 3"], frac_j: Float[Tensor, "*b 3"], cell: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b"]:
    """Shortest distance in Å between each atom i and all periodic images of atom j; exact in cells of any shape.

    Args:
        frac_i: fractional coordinates, (..., 3).
        frac_j: fractional coordinates, (..., 3).
        cell: rows a, b, c in Å, (3, 3) for all pairs or (..., 3, 3).

    Returns:
        Distances of the broadcast shape, NaN where cell or coordinates are not finite or the cell has no volume.
    """
    return torch.linalg.norm(minimum_image_vectors(frac_i, frac_j, cell), dim=-1)


def minimum_image_vectors(
    frac_i: Float[Tensor, "*b 3"], frac_j: Float[Tensor, "*b 3"], cell: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b 3"]:
    """Shortest Cartesian vector in Å from each atom i to an image of atom j; see `minimum_image_distances`."""
    transform, inverse = minkowski_transform(cell.reshape(-1, 3, 3))
    shape = cell.shape
    reduced = (transform @ cell.reshape(-1, 3, 3).double()).reshape(shape)
    lower, frame = _lower_triangle(reduced)
    difference = torch.einsum("...i,...ij->...j", wrap_centered((frac_j - frac_i).double()), inverse.reshape(shape))
    vectors = _image_candidates(wrap_centered(difference), lower)
    nearest = vectors.square().sum(-1).argmin(-1)[..., None, None]
    chosen = vectors.gather(-2, nearest.expand(*nearest.shape[:-1], 3)).squeeze(-2)
    return torch.einsum("...i,...ij->...j", chosen, frame).to(cell.dtype)


def pair_distances(batch: CrystalBatch) -> list[Float[Tensor, "n n"]]:
    """Minimum-image distances in Å between all atoms of each crystal: one (n, n) matrix a crystal, zero diagonal."""
    matrices = [torch.zeros(n, n, dtype=batch.cell.dtype, device=batch.cell.device) for n in batch.num_atoms.tolist()]
    geometry = _ReducedBatch(batch)
    for first, second in _pair_chunks(batch):
        distances = geometry.distances(first, second).to(batch.cell.dtype)
        owners, counts = batch.owner[first].unique_consecutive(return_counts=True)
        start = 0
        for crystal, count in zip(owners.tolist(), counts.tolist(), strict=True):
            part = slice(start, start + count)
            i, j = first[part] - batch.first_atom[crystal], second[part] - batch.first_atom[crystal]
            matrices[crystal][i, j] = matrices[crystal][j, i] = distances[part]
            start += count
    return matrices


def smallest_distance(batch: CrystalBatch) -> Float[Tensor, " crystals"]:
    """Smallest distance in Å between two atoms of each crystal, an atom's own periodic images included, (crystals,).

    Exact in cells of any shape. NaN for crystals that are not ones: no atoms, numbers that are not finite, no volume.
    """
    geometry = _ReducedBatch(batch)
    smallest = geometry.shortest_vector.clone()
    for first, second in _pair_chunks(batch):
        smallest.scatter_reduce_(0, batch.owner[first], geometry.distances(first, second), "amin")
    broken = torch.zeros_like(batch.num_atoms)
    broken.index_add_(0, batch.owner, (~torch.isfinite(batch.frac).all(1)).long())
    smallest[(broken > 0) | (batch.num_atoms < 1)] = torch.nan
    return smallest.to(batch.cell.dtype)


def minkowski_transform(cell: Float[Tensor, "b 3 3"]) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3 3"]]:
    """Unimodular T, and its inverse, such that the rows of T @ cell are Minkowski-reduced, shortest first.

    Greedy reduction (Semaev, CaLC 2001; Nguyen and Stehlé, ACM TALG 2009), all cells at once, in float64.

    Returns:
        Whole numbers as float64, (b, 3, 3) each; NaN for cells that are not finite or have no volume.
    """
    with torch.no_grad():
        cell = cell.detach().double()
        scale = cell.abs().amax((1, 2), keepdim=True)
        usable = (torch.isfinite(scale) & (scale > 0)).flatten()
        eye = torch.eye(3, dtype=torch.float64, device=cell.device).expand_as(cell)
        unit = torch.where(usable[:, None, None], cell / scale, eye)
        basis, transform = unit, eye.clone()
        for _ in range(_MAX_PASSES):
            basis, transform, changed = _greedy_pass(basis, transform)
            if not changed:
                break
        usable &= _is_reduced(transform @ unit)
        inverse = _unimodular_inverse(transform)
        usable &= (transform @ inverse == eye).all(2).all(1)
        bad = ~usable[:, None, None]
        return transform.masked_fill(bad, torch.nan), inverse.masked_fill(bad, torch.nan)


def niggli_reduce(batch: CrystalBatch) -> CrystalBatch:
    """The same crystals in their Niggli cells, right-handed; nothing is rotated or moved (Křivý and Gruber, 1976).

    Raises:
        CrystalError: on a cell that is not finite or has no volume.
    """
    import moyopy

    cells = batch.cell.detach().cpu().double()
    defect = torch.linalg.norm(cells, dim=-1).prod(-1) / torch.linalg.det(cells).abs()
    start = torch.eye(3, dtype=torch.float64).repeat(len(batch), 1, 1)
    if bool((skewed := ~(defect < _SKEWED)).any()):
        start[skewed] = minkowski_transform(cells[skewed])[0]
        cells = start @ cells
    steps = []
    for index, cell in enumerate(cells.tolist()):
        try:
            steps.append(moyopy.niggli_reduce(cell)[1])
        except ValueError as error:
            raise CrystalError(f"crystal {index} of {len(batch)} has no Niggli cell: {error}") from error
    transform = torch.tensor(steps, dtype=torch.float64).reshape(-1, 3, 3).transpose(1, 2) @ start
    return change_cell(batch, transform.to(batch.cell.device))


def primitive(batch: CrystalBatch, symprec: float = 0.01) -> CrystalBatch:
    """The same crystals in primitive cells; atoms stay where they are (no idealisation).

    Of the atoms that a translation carries into each other within `symprec`, the first one is kept.

    Args:
        batch: crystals.
        symprec: tolerance in Å within which a translation is one of the crystal.

    Raises:
        CrystalError: on a crystal whose translations cannot be found.
    """
    from euhedral.crystal.symmetry import symmetry_dataset

    parts = []
    for index, crystal in enumerate(batch):
        try:
            dataset, reduced = symmetry_dataset(crystal, symprec)
        except CrystalError as error:
            raise CrystalError(f"crystal {index} of {len(batch)} has no primitive cell: {error}") from error
        mapping = torch.tensor(dataset.mapping_std_prim, dtype=torch.int64)
        kept = torch.tensor([int((mapping == site).nonzero()[0, 0]) for site in mapping.unique().tolist()])
        linear = torch.tensor(dataset.prim_std_linear, dtype=torch.float64).T
        cell = linear @ reduced.cell[0].double()
        frac = reduced.frac[kept].double() @ torch.linalg.inv(linear)
        dtype = batch.cell.dtype
        parts.append(
            CrystalBatch(
                frac=wrap(frac.to(dtype)),
                cell=cell.to(dtype)[None],
                species=reduced.species[kept],
                num_atoms=torch.tensor([kept.numel()]),
            )
        )
    return CrystalBatch.concat(parts).to(batch.cell.device)


def supercell(batch: CrystalBatch, matrix: Sequence[Sequence[int]] | Sequence[int] | Tensor) -> CrystalBatch:
    """The same crystals in cells `matrix @ cell`, with |det(matrix)| times the atoms.

    Args:
        batch: crystals.
        matrix: whole numbers, (3, 3), or (3,) for its diagonal.

    Raises:
        CrystalError: on a matrix that is not of whole numbers or is singular, or on more than MAX_SUPERCELL_ATOMS atoms.
    """
    given = torch.as_tensor(matrix, dtype=torch.float64)
    given = torch.diag(given) if given.shape == (3,) else given
    if given.shape != (3, 3) or not bool((given == given.round()).all()) or not bool((given.abs() < 1e6).all()):
        raise CrystalError(f"a supercell needs 3 or (3, 3) whole numbers, not {matrix}")
    upper = _hermite([[int(x) for x in row] for row in given.tolist()])
    copies = upper[0][0] * upper[1][1] * upper[2][2]
    if copies == 0:
        raise CrystalError(f"the supercell matrix {matrix} is singular; its rows must be independent")
    if copies * batch.species.numel() > MAX_SUPERCELL_ATOMS:
        raise CrystalError(f"the supercell has {copies * batch.species.numel()} atoms; at most {MAX_SUPERCELL_ATOMS}")
    device, dtype = batch.cell.device, batch.cell.dtype
    shifts = torch.cartesian_prod(*(torch.arange(upper[k][k], dtype=torch.float64) for k in range(3))).to(device)
    matrix_, inverse = given.to(device), torch.linalg.inv(given).to(device)
    frac = (batch.frac.double()[:, None, :] + shifts.reshape(1, copies, 3)).reshape(-1, 3) @ inverse
    return CrystalBatch(
        frac=wrap(wrap(frac).to(dtype)),
        cell=(matrix_ @ batch.cell.double()).to(dtype),
        species=batch.species.repeat_interleave(copies),
        num_atoms=batch.num_atoms * copies,
    )


class _ReducedBatch:
    """A batch seen from its Minkowski-reduced cells, ready for distances between pairs of its atoms."""

    def __init__(self, batch: CrystalBatch) -> None:
        transform, inverse = minkowski_transform(batch.cell)
        self.lower, _ = _lower_triangle(transform @ batch.cell.double())
        self.frac = torch.einsum("ai,aij->aj", batch.frac.double(), inverse[batch.owner])
        self.owner = batch.owner

    @property
    def shortest_vector(self) -> Tensor:
        """Length of the shortest lattice vector of each crystal in Å, (crystals,)."""
        return self.lower[:, 0, 0]

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Minimum-image distance in Å of each pair of atoms, (pairs,), float64."""
        difference = wrap_centered(self.frac[second] - self.frac[first])
        vectors = _image_candidates(difference, self.lower[self.owner[first]])
        return vectors.square().sum(-1).amin(-1).sqrt()


def _image_candidates(difference: Tensor, lower: Tensor) -> Tensor:
    """The nine images that can be nearest, Cartesian in the frame of `_lower_triangle`; see the module docstring.

    Args:
        difference: fractional, in the reduced cell, in [-1/2, 1/2), (..., 3).
        lower: reduced cell as a lower triangle, (..., 3, 3).

    Returns:
        Vectors in Å, (..., 9, 3).
    """
    steps = torch.tensor([-1.0, 0.0, 1.0], dtype=difference.dtype, device=difference.device)
    length1, length2, length3 = (lower[..., k, k, None, None] for k in range(3))
    # f1, f2, f3 are the fractional coordinates; along1, along2 the positions along the Gram-Schmidt directions.
    f3 = difference[..., 2, None, None] + steps[:, None]
    tilt2 = f3 * lower[..., 2, 1, None, None] / length2
    along2 = difference[..., 1, None, None] + tilt2
    along2 = along2 - along2.round() + steps
    f2 = along2 - tilt2
    along1 = (
        difference[..., 0, None, None]
        + (f2 * lower[..., 1, 0, None, None] + f3 * lower[..., 2, 0, None, None]) / length1
    )
    along1 = along1 - along1.round()
    vectors = torch.stack([along1 * length1, along2 * length2, (f3 * length3).expand_as(along2)], -1)
    return vectors.flatten(-3, -2)


def _lower_triangle(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Gram-Schmidt: lower triangle L and orthonormal rows Q with cell = L @ Q, (..., 3, 3) each; L33 may be negative."""
    a, b, _c = cell.unbind(-2)
    e1 = a / torch.linalg.norm(a, dim=-1, keepdim=True)
    b_across = b - (b * e1).sum(-1, keepdim=True) * e1
    e2 = b_across / torch.linalg.norm(b_across, dim=-1, keepdim=True)
    frame = torch.stack([e1, e2, torch.linalg.cross(e1, e2)], -2)
    return torch.tril(cell @ frame.transpose(-1, -2)), frame


def _greedy_pass(basis: Tensor, transform: Tensor) -> tuple[Tensor, Tensor, bool]:
    """One pass of the greedy reduction: sort, shorten b2 by b1, then b3 by the lattice of b1 and b2."""
    order = basis.square().sum(-1).argsort(dim=-1, stable=True)[..., None].expand_as(basis)
    basis, transform = basis.gather(1, order), transform.gather(1, order)
    basis, transform, second = _shorten(basis, transform, 1, _ways_for_second(basis))
    basis, transform, third = _shorten(basis, transform, 2, _ways_for_third(basis))
    return basis, transform, second or third


def _shorten(basis: Tensor, transform: Tensor, row: int, ways: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Take from vector `row` the multiples of b1 and b2, of the given (b, ways, 2), that leave it shortest."""
    left = basis[:, None, row] - ways @ basis[:, :2]
    squares = left.square().sum(-1).nan_to_num(torch.inf)
    best = squares.argmin(-1, keepdim=True)
    better = squares.gather(1, best).flatten() < basis[:, row].square().sum(-1) * (1 - _IMPROVEMENT)
    chosen = ways.gather(1, best[..., None].expand(-1, 1, 2)).masked_fill(~better[:, None, None], 0)
    basis, transform = basis.clone(), transform.clone()
    transform[:, row] -= (chosen @ transform[:, :2]).squeeze(1)
    basis[:, row] -= (chosen @ basis[:, :2]).squeeze(1)
    return basis, transform, bool(better.any())


def _ways_for_second(basis: Tensor) -> Tensor:
    """The one multiple of b1, and none of b2, to take from b2, (b, 1, 2)."""
    a, b, _ = basis.unbind(1)
    times = ((a * b).sum(-1) / (a * a).sum(-1)).round()
    return torch.stack([times, torch.zeros_like(times)], -1)[:, None]


def _ways_for_third(basis: Tensor) -> Tensor:
    """The nine ways to take b1 and b2 from b3 that can make it shortest, (b, 9, 2)."""
    a, b, c = basis.unbind(1)
    across = b - ((a * b).sum(-1) / (a * a).sum(-1))[:, None] * a
    along_b = (c * across).sum(-1) / (across * across).sum(-1)
    steps = torch.tensor([-1.0, 0.0, 1.0], dtype=basis.dtype, device=basis.device)
    times_b = along_b.round()[:, None] + steps
    rest = c[:, None] - times_b[..., None] * b[:, None]
    times_a = ((rest * a[:, None]).sum(-1) / (a * a).sum(-1)[:, None]).round()
    # On each row the nearest point is the rounded one; its neighbours cost little and absorb ties.
    return torch.stack(
        [(times_a[..., None] + steps).flatten(1), times_b[..., None].expand(-1, 3, 3).flatten(1)], -1
    ).nan_to_num(0.0, 0.0, 0.0)


def _is_reduced(basis: Tensor) -> Tensor:
    """Whether the inequalities hold that the nine images rest on, (b,), with room for rounding."""
    lower, _ = _lower_triangle(basis)
    squares = basis.square().sum(-1)
    a, b, c = squares.unbind(-1)
    return (
        (a > 0)
        & (a <= b * 1.001)
        & (b <= c * 1.001)
        & (lower[:, 1, 1] ** 2 > 0.74 * b)
        & (lower[:, 2, 2] ** 2 > 0.49 * c)
    )


def _unimodular_inverse(transform: Tensor) -> Tensor:
    """Exact inverse of whole-number matrices of determinant 1 or -1, by cofactors, (b, 3, 3)."""
    a, b, c = transform.unbind(1)
    cofactors = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)
    return cofactors * (a * cofactors[..., 0]).sum(-1)[:, None, None]


def change_cell(batch: CrystalBatch, transform: Tensor) -> CrystalBatch:
    """The batch in the cells `transform @ cell`, for whole-number float64 transforms of determinant 1 or -1."""
    inverse = _unimodular_inverse(transform)
    frac = wrap(torch.einsum("ai,aij->aj", batch.frac.double(), inverse[batch.owner]))
    return CrystalBatch(
        frac=wrap(frac.to(batch.frac.dtype)),
        cell=(transform @ batch.cell.double()).to(batch.cell.dtype),
        species=batch.species,
        num_atoms=batch.num_atoms,
    )


def _hermite(matrix: list[list[int]]) -> list[list[int]]:
    """Upper triangle with the same row lattice as a 3x3 matrix of whole numbers, diagonal not negative."""
    rows = [row[:] for row in matrix]
    for k in range(3):
        for low in range(k + 1, 3):
            while rows[low][k]:
                times = rows[k][k] // rows[low][k]
                rows[k] = [x - times * y for x, y in zip(rows[k], rows[low], strict=True)]
                rows[k], rows[low] = rows[low], rows[k]
        if rows[k][k] < 0:
            rows[k] = [-x for x in rows[k]]
    return rows


def _pair_chunks(batch: CrystalBatch) -> Iterator[tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]]:
    """All pairs i < j of atoms of one crystal, in order, about PAIRS_AT_ONCE at a time."""
    atoms = torch.arange(batch.owner.shape[0], device=batch.owner.device)
    partners = (batch.first_atom + batch.num_atoms)[batch.owner] - atoms - 1
    ends = partners.cumsum(0)
    start, done = 0, 0
    while start < atoms.numel():
        stop = max(int(torch.searchsorted(ends, done + PAIRS_AT_ONCE, right=True)), start + 1)
        counts = partners[start:stop]
        first = torch.repeat_interleave(atoms[start:stop], counts)
        begins = counts.cumsum(0) - counts
        within = torch.arange(first.numel(), device=first.device) - torch.repeat_interleave(begins, counts)
        if first.numel():
            yield first, first + 1 + within
        start, done = stop, int(ends[stop - 1])
