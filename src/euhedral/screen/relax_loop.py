"""The loop that relaxes crystals in this process: some share each call of the potential, the others wait for a place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap
from euhedral.errors import CrystalError
from euhedral.screen.descent import Descent, Fire, Lbfgs
from euhedral.screen.guard import find_fault, predict_all
from euhedral.screen.potential import EV_PER_A3_IN_GPA, Potential, Prediction
from euhedral.screen.relaxation import Outcome, RelaxConfig, RelaxedCrystal, displacement_rmsd
from euhedral.screen.springs import CELL_COORDINATES, spring_compliance

if TYPE_CHECKING:
    from torch import Tensor

STEPS_BETWEEN_LOOKS = 20
"""A crystal's distances are looked at when it begins, when it ends, and after this many steps."""

_CELL = CELL_COORDINATES


@dataclass(kw_only=True)
class _Walk:
    """One crystal under way; `crystal` is where it last had an energy."""

    index: int
    start: CrystalBatch
    began: float
    crystal: CrystalBatch
    start_energy: float = math.nan
    steps: int = 0


class RelaxLoop:
    """Relaxes crystals that share the calls of a potential; each is replaced by a waiting one when it ends.

    Args:
        potential: of energies.
        config: limits.
        clock: gives seconds.

    Attributes:
        calls: calls of the potential so far.
        evaluations: crystals in all of these calls.
    """

    def __init__(
        self, potential: Potential, config: RelaxConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.calls = 0
        self.evaluations = 0
        self._potential, self._config, self._clock = potential, config, clock
        self._walks: list[_Walk] = []
        self._now = CrystalBatch.empty().to(torch.float64)
        self._descent: Descent = Fire() if config.optimizer == "fire" else Lbfgs()

    def run(
        self,
        crystals: Iterable[tuple[int, CrystalBatch]],
        on_done: Callable[[RelaxedCrystal], None],
        on_call: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        """Relax all crystals.

        Args:
            crystals: position and crystal; read as places become free.
            on_done: called with each crystal as it ends, in the order in which they end.
            on_call: called before each call of the potential with the positions of the crystals that it is about.
        """
        waiting = iter(crystals)
        following = next(waiting, None)
        while self._walks or following is not None:
            following = self._admit(following, waiting)
            if on_call is not None:
                on_call([walk.index for walk in self._walks])
            self._advance(on_done)

    def _admit(
        self, following: tuple[int, CrystalBatch] | None, waiting: Iterator[tuple[int, CrystalBatch]]
    ) -> tuple[int, CrystalBatch] | None:
        """Take in waiting crystals while there is room, one at least where there are none; the first that must wait."""
        fresh = []
        atoms = self._now.species.shape[0]
        while following is not None:
            index, crystal = following
            atoms += crystal.species.shape[0]
            if (self._walks or fresh) and atoms > self._config.atoms_at_once:
                break
            start = crystal.to("cpu").to(torch.float64)
            fresh.append(_Walk(index=index, start=start, began=self._clock(), crystal=start))
            following = next(waiting, None)
        if fresh:
            self._walks += fresh
            self._now = CrystalBatch.concat([self._now, *(walk.start for walk in fresh)])
            self._descent.add([self._compliance(walk.start) for walk in fresh])
        return following

    def _compliance(self, crystal: CrystalBatch) -> Tensor:
        """A first guess of the crystal's inverse Hessian; one where there are no bonds is not long for this world."""
        atoms = crystal.species.shape[0]
        try:
            return spring_compliance(crystal, stretch=max(1, atoms), relax_cell=self._config.relax_cell)
        except (CrystalError, RuntimeError):
            return torch.eye(_CELL + 3 * atoms, dtype=torch.float64)

    def _advance(self, on_done: Callable[[RelaxedCrystal], None]) -> None:
        """One call of the potential: crystals that are at their end leave, the others take a step."""
        self.calls += 1
        self.evaluations += len(self._walks)
        now = self._now
        said = predict_all(self._potential, now, [walk.index for walk in self._walks])
        largest = torch.zeros(len(now), dtype=torch.float64).scatter_reduce(
            0, now.owner, torch.linalg.norm(said.forces, dim=1), "amax"
        )
        virial = said.stress_gpa / EV_PER_A3_IN_GPA * now.volume[:, None, None]
        settled = self._settled(said, virial, largest).tolist()
        stay = torch.ones(len(now), dtype=torch.bool)
        for i, walk in enumerate(self._walks):
            crystal = now[i]
            ended = self._ended(walk, crystal, said, i, float(largest[i]), settled[i])
            if ended is not None:
                stay[i] = False
                on_done(ended)
        self._walks = [walk for walk, stays in zip(self._walks, stay.tolist(), strict=True) if stays]
        self._descent.keep(stay)
        self._now = now[stay]
        if self._walks:
            self._move(said.forces[stay[now.owner]], virial[stay])

    def _settled(self, said: Prediction, virial: Tensor, largest: Tensor) -> Tensor:
        limit = self._config.force_limit
        settled = largest <= limit
        if self._config.relax_cell:
            settled &= torch.linalg.norm(virial, dim=2).amax(1) / self._now.num_atoms <= limit
            if self._config.stress_limit_gpa is not None:
                settled &= said.stress_gpa.abs().amax((1, 2)) <= self._config.stress_limit_gpa
        return settled

    def _ended(
        self, walk: _Walk, crystal: CrystalBatch, said: Prediction, i: int, largest: float, settled: bool
    ) -> RelaxedCrystal | None:
        """The crystal's end, if it is here; otherwise it is noted that it came this far."""
        energy, config = float(said.energy_per_atom[i]), self._config
        seconds = self._clock() - walk.began
        fault = self._fault(walk, crystal, said, i, largest, settled)
        outcome: Outcome | None = None
        reason = fault
        if fault is not None:
            outcome = "diverged" if walk.steps else "failed"
        elif settled:
            outcome = "converged"
        elif walk.steps >= config.max_steps:
            outcome, reason = "step limit", f"largest force {largest:.3f} eV/Å after {walk.steps} steps"
        elif seconds > config.max_seconds:
            outcome, reason = "time limit", f"largest force {largest:.3f} eV/Å after {seconds:.0f} s"
        if fault is None:
            walk.crystal = crystal
            walk.start_energy = walk.start_energy if walk.steps else energy
        if outcome is None:
            return None
        final = CrystalBatch(
            frac=wrap(walk.crystal.frac), cell=walk.crystal.cell, species=crystal.species, num_atoms=crystal.num_atoms
        )
        return RelaxedCrystal(
            index=walk.index,
            crystal=final,
            energy_per_atom=math.nan if fault else energy,
            start_energy_per_atom=walk.start_energy,
            largest_force=math.nan if fault else largest,
            stress_gpa=torch.full((3, 3), torch.nan, dtype=torch.float64) if fault else said.stress_gpa[i],
            steps=walk.steps,
            seconds=seconds,
            outcome=outcome,
            reason=reason,
            rmsd=float(displacement_rmsd(walk.start, final)),
        )

    def _fault(
        self, walk: _Walk, crystal: CrystalBatch, said: Prediction, i: int, largest: float, settled: bool
    ) -> str | None:
        """Why this is no place for a crystal to be, or None."""
        energy, stressed = float(said.energy_per_atom[i]), bool(torch.isfinite(said.stress_gpa[i]).all())
        if (reason := said.reasons[i]) is not None:
            return reason
        if not math.isfinite(energy) or not math.isfinite(largest):
            return (
                find_fault(crystal, self._config)
                or f"the energy is {energy:g} eV/atom and the largest force {largest:g} eV/Å"
            )
        if self._config.relax_cell and not stressed:
            return "the potential gives no stress; relax with relax_cell=False"
        change = float(crystal.volume / walk.start.volume)
        if not 1 / self._config.max_volume_change <= change <= self._config.max_volume_change:
            return f"the cell has {change:.2g} times the volume that it began with"
        if settled or walk.steps % STEPS_BETWEEN_LOOKS == 0 or walk.steps >= self._config.max_steps:
            return find_fault(crystal, self._config)
        return None

    def _move(self, forces: Tensor, virial: Tensor) -> None:
        """Take one step: positions first, in the frame of the old cell, and all of it strained then."""
        now, rows = self._now, len(self._now)
        within = torch.arange(now.owner.shape[0]) - now.first_atom[now.owner]
        stretch = now.num_atoms.double()[:, None, None]
        gradient = torch.zeros(rows, self._descent.width, dtype=torch.float64)
        if self._config.relax_cell:
            gradient[:, :_CELL] = (virial / stretch).flatten(1)
        gradient[:, _CELL:].view(rows, -1, 3)[now.owner, within] = -forces
        step = self._descent.step(gradient)
        strain = (step[:, :_CELL].view(rows, 3, 3)) / stretch
        moved = step[:, _CELL:].view(rows, -1, 3)
        longest = torch.linalg.norm(moved, dim=2).amax(1) / self._config.longest_step
        longest = torch.maximum(longest, torch.linalg.norm(strain, dim=2).amax(1) / self._config.largest_strain)
        longest = torch.maximum(longest, torch.linalg.norm(step, dim=1) / self._descent.longest_norm)
        scale = 1 / longest.clamp(min=1)
        self._descent.taken(step * scale[:, None])
        strain = scale[:, None, None] * (strain + strain.transpose(1, 2)) / 2
        displaced = (scale[:, None, None] * moved)[now.owner, within]
        frac = now.frac + torch.linalg.solve(now.cell[now.owner], displaced[:, None], left=False)[:, 0]
        self._now = CrystalBatch(
            frac=frac, cell=now.cell @ torch.linalg.matrix_exp(strain), species=now.species, num_atoms=now.num_atoms
        )
        for walk in self._walks:
            walk.steps += 1
