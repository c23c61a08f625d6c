"""Two ways in which generators fail while each crystal looks sound: all without symmetry, or all alike.

Both are told by comparison with as many real crystals, since what is usual depends on the number of samples and on the data.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.errors import ConfigError
from euhedral.evaluate.symmetry import SymmetrySummary, space_group_distance, summarize_symmetry
from euhedral.evaluate.uniqueness import reduced_formulas

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from euhedral.crystal.batch import CrystalBatch

P1_EXCESS = 0.3
"""Share of crystals without symmetry, beyond that of real ones, from which symmetry counts as collapsed."""
FEWEST_FORMULAS = 0.5
"""Effective number of formulas, over that of as many real crystals, below which modes count as collapsed."""
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """What was found.

    Attributes:
        p1: share of samples without symmetry but translations, those without a space group among them.
        p1_reference: the same of the real crystals.
        space_group_distance: total variation distance of the space groups of both, NaN where none was found.
        formulas: effective number of formulas of the samples (`effective_number`).
        formulas_reference: the same of as many real crystals.
    """

    p1: float
    p1_reference: float
    space_group_distance: float
    formulas: float
    formulas_reference: float

    @property
    def of_symmetry(self) -> bool:
        """Whether far more samples lack symmetry than real crystals do."""
        return self.p1 - self.p1_reference > P1_EXCESS

    @property
    def of_modes(self) -> bool:
        """Whether the samples have far fewer formulas than as many real crystals do."""
        return self.formulas < FEWEST_FORMULAS * self.formulas_reference


def find_collapse(
    crystals: CrystalBatch,
    reference: CrystalBatch,
    *,
    symprec: float = 0.1,
    workers: int = 1,
    seed: int = 0,
) -> Collapse:
    """Compare samples with real crystals.

    Args:
        crystals: samples.
        reference: real crystals, at least as many; as many are drawn with the seed.
        symprec: tolerance in Å of the search for symmetry.
        workers: processes of that search.
        seed: of the draw.

    Raises:
        ConfigError: without samples, or with fewer real crystals than samples.
    """
    if not 0 < len(crystals) <= len(reference):
        raise ConfigError(
            f"{len(crystals)} samples cannot be compared with {len(reference)} real crystals; give at least one, and as "
            "many real ones"
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(reference))[: len(crystals)])
    some = reference[rows.tolist()]
    found, known = (summarize_symmetry(batch, symprec=symprec, workers=workers) for batch in (crystals, some))
    return Collapse(
        p1=_share_p1(found),
        p1_reference=_share_p1(known),
        space_group_distance=space_group_distance(found, known),
        formulas=effective_number(reduced_formulas(crystals)),
        formulas_reference=effective_number(reduced_formulas(some)),
    )


def effective_number(kinds: Sequence[object]) -> float:
    """exp(-sum p log p) over the shares p of each kind: how many equally frequent kinds are as diverse (Hill, 1973)."""
    shares = np.array(list(Counter(kinds).values()), dtype=np.float64) / max(len(kinds), 1)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else math.nan


def active_units(means: ArrayLike) -> int:
    """Numbers of a latent vector that say anything: those whose mean varies over crystals by more than 0.01.

    Where a variational autoencoder weighs its divergence too much, the others carry nothing and the decoder ignores them
    (posterior collapse; Burda et al., ICLR 2016, Section 5).

    Args:
        means: of the latent vectors of many crystals, (crystals, latent).
    """
    values = np.asarray(means, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ConfigError(f"means of at least two latent vectors are needed, (crystals, latent), not {values.shape}")
    return int((values.var(0) > ACTIVE_VARIANCE).sum())


def _share_p1(summary: SymmetrySummary) -> float:
    return (summary.numbers.get(1, 0) + len(summary.failures)) / summary.crystals
