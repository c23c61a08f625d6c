"""How far a relaxation moves atoms, as MatterGen measures it: a mapping far looser than that of a match, nothing scaled.

With L the lattice of the mean lengths and angles of a sample and its relaxed crystal, V its volume, N the atoms of the
sample, and rms the least root mean square displacement over the mappings of StructureMatcher(ltol=0.5, stol=0.5,
angle_tol=10, scale=False, attempt_supercell=True), in units of (V/N)^(1/3),

    RMSD = rms (V/N)^(1/3),        or 0.5 (V/N)^(1/3) where there is no mapping

(MatterGen, Zeni et al., Nature 2025, and its evaluation code). pymatgen is asked, pair by pair: crystals that change
their primitive cell are compared through supercells, which the matcher of this package leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import Crew, ask_each
from euhedral.errors import ConfigError, CrystalError
from euhedral.evaluate.comparison import PlainCrystal, Progress, plain_crystals

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

LARGEST_RMS = 0.5
"""Both the site tolerance and what a pair without a mapping counts, in units of (V/N)^(1/3)."""
NOT_MAPPED = "no mapping of the relaxed crystal onto it"
_PAIRS_AT_ONCE = 32

Pair = tuple[PlainCrystal, PlainCrystal]


@dataclass(frozen=True, kw_only=True)
class Displacement:
    """How far the atoms of one crystal moved.

    Attributes:
        rmsd: in Å; of a pair without a mapping what it counts, of one that cannot be built None.
        mapped: whether there is a mapping.
        reason: why there is none, or None.
    """

    rmsd: float | None
    mapped: bool
    reason: str | None = None


def relaxation_displacements(
    before: CrystalBatch,
    after: CrystalBatch,
    *,
    workers: int = 1,
    seconds_per_pair: float = 60.0,
    progress: Progress | None = None,
) -> list[Displacement]:
    """Displacement of each crystal of `before` into the crystal of `after` at its position.

    Args:
        before: crystals as generated.
        after: the same crystals relaxed.
        workers: processes, one thread each.
        seconds_per_pair: a pair that takes longer counts as one without a mapping.
        progress: called with (done, total).

    Raises:
        CrystalError: if the batches differ in length.
        ConfigError: on no workers or a time limit that is not positive.
    """
    from euhedral.evaluate.validity import construction_problems

    if len(before) != len(after):
        raise CrystalError(f"{len(before)} crystals and {len(after)} relaxed ones came; each needs its own")
    if not seconds_per_pair > 0:
        raise ConfigError(f"seconds_per_pair must be positive, not {seconds_per_pair}")
    problems = [
        own or (other and f"relaxed: {other}")
        for own, other in zip(construction_problems(before), construction_problems(after), strict=True)
    ]
    found = [Displacement(rmsd=None, mapped=False, reason=problem) for problem in problems]
    sound = [i for i, problem in enumerate(problems) if problem is None]
    pairs = list(zip(plain_crystals(before[sound]), plain_crystals(after[sound]), strict=True))
    starts = range(0, len(pairs), _PAIRS_AT_ONCE)
    jobs: list[Callable[[Worker], Any]] = [
        partial(ask_each, items=pairs[start : start + _PAIRS_AT_ONCE], seconds=seconds_per_pair) for start in starts
    ]
    done = len(before) - len(sound)
    with Crew(partial(Worker, least_rms, prepare=load_matcher), workers) as crew:
        for job, answers in crew.run(jobs):
            for k, answer in enumerate(answers, starts[job]):
                found[sound[k]] = _displacement(pairs[k], answer)
            done += len(answers)
            if progress is not None:
                progress(done, len(before))
    return found


def load_matcher() -> None:
    """Load pymatgen, so that the time limit of the first pair does not pay for it."""
    import pymatgen.core.structure_matcher  # noqa: F401


def least_rms(pairs: Sequence[Pair]) -> list[float | None]:
    """Least rms of each pair in units of (V/N)^(1/3), None without a mapping."""
    from pymatgen.core.periodic_table import Element
    from pymatgen.core.structure import Structure
    from pymatgen.core.structure_matcher import StructureMatcher

    matcher = StructureMatcher(ltol=0.5, stol=LARGEST_RMS, angle_tol=10, scale=False, attempt_supercell=True)
    found: list[float | None] = []
    for pair in pairs:
        before, after = (
            Structure(crystal.cell, list(map(Element.from_Z, crystal.species)), crystal.frac) for crystal in pair
        )
        match = matcher.get_rms_dist(before, after)
        found.append(None if match is None else float(match[0]))
    return found


def _displacement(pair: Pair, rms: float | Unanswered | None) -> Displacement:
    """In Å, by the mean lattice of the two cells as they are."""
    from pymatgen.core.lattice import Lattice

    own, other = (Lattice(crystal.cell).parameters for crystal in pair)
    mean = Lattice.from_parameters(*((a + b) / 2 for a, b in zip(own, other, strict=True)))
    unit = (mean.volume / len(pair[0].species)) ** (1 / 3)
    if isinstance(rms, float):
        return Displacement(rmsd=rms * unit, mapped=True)
    return Displacement(rmsd=LARGEST_RMS * unit, mapped=False, reason=NOT_MAPPED if rms is None else str(rms))
