"""What a relaxation is asked for and what comes out of it, crystal by crystal and of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import minimum_image_vectors
from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Outcome = Literal["converged", "step limit", "time limit", "diverged", "failed"]
"""`diverged`: it left what crystals are on its way; `failed`: the potential said nothing about it, or its process died."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
OPTIMIZERS = ("lbfgs", "fire")


@dataclass(frozen=True, kw_only=True)
class RelaxConfig:
    """When a relaxation is over, and how it goes.

    Attributes:
        force_limit: converged where no force on an atom is longer, eV/Å, and, if the cell moves, no row of the virial per
            atom (stress times volume over atoms) either, eV: the criterion of ASE's FrechetCellFilter.
        stress_limit_gpa: and where no component of the stress is larger, GPa; None asks for no more than `force_limit`.
        max_steps: steps that a crystal may take.
        max_seconds: wall time that a crystal may take, while it shares its potential's calls with others.
        relax_cell: whether the cell moves as well as the atoms.
        optimizer: of OPTIMIZERS.
        longest_step: bound on an atom's displacement in one step, Å.
        largest_strain: bound on the strain of the cell in one step (largest row of the symmetric logarithm).
        atoms_at_once: atoms that a call of the potential is filled up to; one crystal may have more.
        max_volume_change: a cell this many times larger or smaller than at the start has diverged.
        closest: atoms nearer than this have diverged, Å.
        farthest: an atom with no other nearer than this has diverged, Å.

    Raises:
        ConfigError: on a value out of range.
    """

    force_limit: float = 0.1
    stress_limit_gpa: float | None = None
    max_steps: int = 500
    max_seconds: float = 600.0
    relax_cell: bool = True
    optimizer: Literal["lbfgs", "fire"] = "lbfgs"
    longest_step: float = 0.2
    largest_strain: float = 0.1
    atoms_at_once: int = 128
    max_volume_change: float = 5.0
    closest: float = 0.4
    farthest: float = 6.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"no optimizer is called {self.optimizer!r}; there are {', '.join(OPTIMIZERS)}")
        for name in ("force_limit", "max_seconds", "longest_step", "largest_strain", "closest", "farthest"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.stress_limit_gpa is not None and not self.stress_limit_gpa > 0:
            raise ConfigError(f"stress_limit_gpa must be above 0 or None, not {self.stress_limit_gpa}")
        if self.max_steps < 0:
            raise ConfigError(f"max_steps must be at least 0, not {self.max_steps}")
        if self.atoms_at_once < 1:
            raise ConfigError(f"atoms_at_once must be at least 1, not {self.atoms_at_once}")
        if not self.max_volume_change > 1:
            raise ConfigError(f"max_volume_change must be above 1, not {self.max_volume_change}")


@dataclass(frozen=True, kw_only=True)
class RelaxedCrystal:
    """One crystal after its relaxation.

    Attributes:
        index: its position among the crystals that were given.
        crystal: where it ended, one crystal, float64; where it diverged, the last place at which it had an energy, and
            where it failed or never had one, where it began.
        energy_per_atom: eV/atom; NaN where it diverged or failed.
        start_energy_per_atom: eV/atom; NaN where there was none.
        largest_force: longest force on an atom, eV/Å; NaN as the energy.
        stress_gpa: GPa, (3, 3); NaN as the energy.
        steps: steps that it took; the potential was called once more.
        seconds: wall time from its first to its last call.
        outcome: of OUTCOMES.
        reason: why, where it did not converge.
        rmsd: of its atoms from where they began, Å, see `displacement_rmsd`.
    """

    index: int
    crystal: CrystalBatch
    energy_per_atom: float
    start_energy_per_atom: float
    largest_force: float
    stress_gpa: Float[torch.Tensor, "3 3"]
    steps: int
    seconds: float
    outcome: Outcome
    reason: str | None
    rmsd: float


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """All crystals after their relaxation, in the order in which they were given; fields as in `RelaxedCrystal`.

    Attributes:
        crystals: float64.
        potential: name of the potential.
        energies_per_atom: eV/atom, (crystals,).
        start_energies_per_atom: eV/atom, (crystals,).
        largest_forces: eV/Å, (crystals,).
        stresses_gpa: GPa, (crystals, 3, 3).
        steps: (crystals,).
        seconds: (crystals,).
        outcomes: one a crystal.
        reasons: one a crystal, None where it converged.
        rmsd: Å, (crystals,).
    """

    crystals: CrystalBatch
    potential: str
    energies_per_atom: Float[torch.Tensor, " crystals"]
    start_energies_per_atom: Float[torch.Tensor, " crystals"]
    largest_forces: Float[torch.Tensor, " crystals"]
    stresses_gpa: Float[torch.Tensor, "crystals 3 3"]
    steps: Int[torch.Tensor, " crystals"]
    seconds: Float[torch.Tensor, " crystals"]
    outcomes: tuple[Outcome, ...]
    reasons: tuple[str | None, ...]
    rmsd: Float[torch.Tensor, " crystals"]

    @classmethod
    def from_crystals(cls, relaxed: Sequence[RelaxedCrystal], potential: str) -> Relaxation:
        """Put single results together, in the order of their indices."""
        ordered = sorted(relaxed, key=lambda one: one.index)

        def column(name: str) -> torch.Tensor:
            return torch.tensor([getattr(one, name) for one in ordered], dtype=torch.float64)

        stresses = [one.stress_gpa for one in ordered]
        return cls(
            crystals=CrystalBatch.concat([one.crystal for one in ordered]),
            potential=potential,
            energies_per_atom=column("energy_per_atom"),
            start_energies_per_atom=column("start_energy_per_atom"),
            largest_forces=column("largest_force"),
            stresses_gpa=torch.stack(stresses) if stresses else torch.zeros(0, 3, 3, dtype=torch.float64),
            steps=column("steps").long(),
            seconds=column("seconds"),
            outcomes=tuple(one.outcome for one in ordered),
            reasons=tuple(one.reason for one in ordered),
            rmsd=column("rmsd"),
        )

    def counts(self) -> Mapping[Outcome, int]:
        """How many crystals ended in each way."""
        return {outcome: self.outcomes.count(outcome) for outcome in OUTCOMES}


def displacement_rmsd(start: CrystalBatch, end: CrystalBatch) -> Float[torch.Tensor, " crystals"]:
    """Root mean square displacement in Å between crystals whose atoms are in the same order, (crystals,), float64.

    sqrt(mean_i |d_i|²) with d_i = u_i - mean_j u_j, where u_i is the minimum-image vector of what atom i moved relative to the
    first atom, by fractional coordinates in the mean of the two cells: a strain of the whole crystal and a common shift
    count nothing. NaN where a cell or coordinate is not finite.
    """
    cell = (start.cell.double() + end.cell.double()) / 2
    owner, count = start.owner, start.num_atoms[:, None]
    before, after = (batch.frac.double() - batch.frac.double()[start.first_atom[owner]] for batch in (start, end))
    moved = minimum_image_vectors(before, after, cell[owner])
    zeros = torch.zeros(len(start), 3, dtype=torch.float64)
    mean = zeros.index_add(0, owner, moved) / count
    squares = (moved - mean[owner]).square()
    return (zeros.index_add(0, owner, squares).sum(1) / count[:, 0]).sqrt()
