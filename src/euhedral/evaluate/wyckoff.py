"""Wyckoff templates: which orbits a crystal occupies, without its elements, coordinates and cell; and their novelty.

A template is the space group and, for each element, the Wyckoff letters of its orbits; elements are anonymous, so that
NaCl and MgO have the same one. A different choice of origin or axes within the same space group renames letters (in
perovskite a, b, c become b, a, d). The template is therefore the smallest, in alphabetical order, among those that the
Euclidean normaliser of the space group gives (Koch and Fischer, International Tables A, chapter 3.5), enantiomorphic
settings included. It does not depend on the cell in which the crystal is given.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal import symmetry_search
from euhedral.evaluate.symmetry_tasks import Progress, search_each

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch


@dataclass(frozen=True, kw_only=True, order=True)
class WyckoffTemplate:
    """Space group and occupied orbits.

    Attributes:
        space_group: 1 to 230.
        orbits: for each element, in alphabetical order, the letters of its orbits, e.g. ("a", "bb") for one element
            on a and another on two orbits b.
    """

    space_group: int
    orbits: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.space_group}: {' | '.join(self.orbits)}"


@dataclass(frozen=True, kw_only=True)
class TemplateRecord:
    """Template of one crystal, or the reason why it has none."""

    template: WyckoffTemplate | None
    reason: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateNovelty:
    """Which crystals have a template that no reference crystal has.

    Attributes:
        novel: (crystals,), False where no template was found.
        records: template or reason, one a crystal.
        known: different templates of the reference.
        symprec: tolerance in Å of the samples.
    """

    novel: NDArray[np.bool_]
    records: tuple[TemplateRecord, ...]
    known: int
    symprec: float

    @property
    def share(self) -> float:
        """Share of all crystals, failures included, with a novel template; NaN if there are none."""
        return float(self.novel.mean()) if len(self.novel) else math.nan

    @property
    def different(self) -> int:
        """Different novel templates."""
        return len({r.template for r, novel in zip(self.records, self.novel, strict=True) if novel})


def wyckoff_templates(
    batch: CrystalBatch,
    *,
    symprec: float = 0.1,
    workers: int = 1,
    seconds_per_crystal: float = 30.0,
    progress: Progress | None = None,
) -> list[TemplateRecord]:
    """Template of each crystal by moyopy, one record a crystal; arguments and errors as in `symmetry.find_space_groups`."""
    found = search_each(
        symmetry_search.wyckoff_orbits,
        batch,
        symprec=symprec,
        workers=workers,
        seconds_per_crystal=seconds_per_crystal,
        progress=progress,
    )
    return [
        TemplateRecord(
            template=None if reason is not None else WyckoffTemplate(space_group=answer[0], orbits=answer[1]),
            reason=reason,
        )
        for answer, reason in found
    ]


def template_novelty(
    batch: CrystalBatch, known: Collection[WyckoffTemplate], *, symprec: float = 0.1
) -> TemplateNovelty:
    """Which crystals have a template that is not among the known ones.

    Args:
        batch: generated crystals.
        known: templates of the reference, from `known_templates`; find them at a tolerance that suits the reference.
        symprec: tolerance in Å of the generated crystals.

    Raises:
        ConfigError: if `symprec` is not positive.
    """
    held = frozenset(known)
    records = wyckoff_templates(batch, symprec=symprec)
    novel = [record.template is not None and record.template not in held for record in records]
    return TemplateNovelty(
        novel=np.array(novel, dtype=np.bool_), records=tuple(records), known=len(held), symprec=symprec
    )


def known_templates(records: Sequence[TemplateRecord]) -> frozenset[WyckoffTemplate]:
    """The different templates of a reference; its crystals without one are left out."""
    return frozenset(record.template for record in records if record.template is not None)
