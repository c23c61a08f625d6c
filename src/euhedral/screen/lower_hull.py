"""The lower convex hull of one chemical system, its facets found as they are asked for.

The energy of the hull at a composition `x` is that of the best mixture of the entries (Ong et al., Chem. Mater. 2008,
20, 1798):

    E(x) = min over w >= 0 of sum_i w_i E_i,  where  sum_i w_i x_i = x.

This linear program is solved by the simplex method: a basis of as many entries as elements gives the chemical potentials
`mu` with `mu . x_i = E_i` for its entries, and is optimal for every composition inside it once no entry lies below
`mu . x_i`. Such a basis is a facet of the hull, and the next composition inside it costs one product. A hull with all its
facets, by contrast, grows out of hand with seven elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BELOW = 1e-10
"""An entry is below a facet if it is so by more than this, in eV/atom."""
INSIDE = 1e-11
"""Share of an entry, below zero, up to which a composition is inside a facet."""
PIVOTS_BEFORE_BLAND = 50
"""Steps after which the entry that enters is the first below (Bland's rule), which cannot cycle."""


class LowerHull:
    """Lower hull over the entries of one chemical system.

    Args:
        fractions: atomic fractions, (entries, elements).
        energies: eV/atom, (entries,).
        corners: the entry of each pure element, (elements,).
    """

    def __init__(
        self, fractions: NDArray[np.float64], energies: NDArray[np.float64], corners: NDArray[np.intp]
    ) -> None:
        self.corner_energies = energies[corners]
        formation = energies - fractions @ self.corner_energies
        formation[corners] = 0.0
        # What lies above the mixture of the pure elements is on no facet.
        kept = formation < 0
        kept[corners] = True
        self.entries = np.flatnonzero(kept)
        self._fractions = fractions[kept]
        self._formation = formation[kept]
        self._corners = np.searchsorted(self.entries, corners)
        self._facets: list[tuple[NDArray[np.intp], NDArray[np.float64]]] = []
        self._inverses = np.zeros((0, len(corners), len(corners)))

    def mixture(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.intp], NDArray[np.float64]]:
        """Energy of the hull, and the mixture that has it.

        Args:
            x: atomic fractions that add up to 1, (elements,).

        Returns:
            Energy relative to the pure elements in eV/atom; entries of the mixture, (phases,); their shares of the atoms,
            (phases,), which add up to 1.
        """
        if len(self._facets):
            shares = self._inverses @ x
            inside = np.flatnonzero(shares.min(axis=1) >= -INSIDE)
            if len(inside):
                return self._answer(self._facets[inside[0]], shares[inside[0]])
        basis, inverse = self._solve(x)
        facet = (basis, self._formation[basis])
        self._facets.append(facet)
        self._inverses = np.concatenate([self._inverses, inverse[None]])
        return self._answer(facet, inverse @ x)

    def _answer(
        self, facet: tuple[NDArray[np.intp], NDArray[np.float64]], shares: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.intp], NDArray[np.float64]]:
        basis, formation = facet
        present = shares > 1e-8
        shares = shares[present] / shares[present].sum()
        return float(shares @ formation[present]), self.entries[basis[present]], shares

    def _solve(self, x: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
        """The optimal basis (entries) and the inverse that gives shares of it, by the primal simplex method."""
        basis = self._corners.copy()
        inverse = np.linalg.inv(self._fractions[basis].T)
        for pivot in range(100 * len(self._fractions) + 1000):
            potentials = self._formation[basis] @ inverse
            excess = self._formation - self._fractions @ potentials
            excess[basis] = 0.0
            below = np.flatnonzero(excess < -BELOW)
            if not len(below):
                return basis, inverse
            bland = pivot >= PIVOTS_BEFORE_BLAND
            entering = int(below[0]) if bland else int(excess.argmin())
            basis[self._leaving(basis, inverse @ x, inverse @ self._fractions[entering], bland)] = entering
            inverse = np.linalg.inv(self._fractions[basis].T)
        raise AssertionError("the simplex method did not end, which Bland's rule excludes")

    @staticmethod
    def _leaving(
        basis: NDArray[np.intp], shares: NDArray[np.float64], direction: NDArray[np.float64], bland: bool
    ) -> int:
        """The place in the basis that reaches zero first.

        Of several that do so together it is by Bland's rule that of the first entry, else the largest divisor, which
        keeps the next basis well conditioned.
        """
        ahead = np.flatnonzero(direction > 1e-10)
        ratios = np.maximum(shares[ahead], 0.0) / direction[ahead]
        first = ahead[ratios <= ratios.min() + 1e-14]
        return int(first[basis[first].argmin() if bland else direction[first].argmax()])
