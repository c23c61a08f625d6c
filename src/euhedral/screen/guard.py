"""Calls of a potential that raises, and crystals that stop being ones on their way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError, EuhedralError
from euhedral.screen.neighbours import find_bonds
from euhedral.screen.potential import Potential, Prediction

if TYPE_CHECKING:
    from euhedral.screen.relaxation import RelaxConfig


def predict_all(potential: Potential, batch: CrystalBatch, keys: Sequence[int] | None) -> Prediction:
    """What the potential says, in float64 on the CPU; an exception is the reason of the one crystal that causes it.

    A batch that raises is halved until the crystals at fault are alone, which also gets a batch through that was too large
    for the memory.
    """
    try:
        return _checked(potential.predict(batch, keys=keys), batch)
    # Whatever a potential raises is the outcome of a crystal, and none of the others' business.
    except Exception as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            return _concat(
                [
                    predict_all(potential, batch[:middle], None if keys is None else keys[:middle]),
                    predict_all(potential, batch[middle:], None if keys is None else keys[middle:]),
                ]
            )
        return _nothing(batch, f"{type(error).__name__}: {error}"[:300])


def find_fault(crystal: CrystalBatch, config: RelaxConfig) -> str | None:
    """Why distances say that this is no crystal any more, or None.

    Args:
        crystal: one crystal, float64.
        config: its `closest` and `farthest`.
    """
    try:
        bonds = find_bonds(crystal.frac, crystal.cell[0], config.farthest)
    except CrystalError as error:
        return str(error)
    lengths = torch.linalg.norm(bonds.vectors(crystal.frac, crystal.cell[0]), dim=1)
    if lengths.numel() and float(lengths.min()) < config.closest:
        return f"two atoms are {float(lengths.min()):.2f} Å apart"
    partners = torch.bincount(torch.cat([bonds.first, bonds.second]), minlength=crystal.species.shape[0])
    if bool((partners == 0).any()):
        return f"an atom has no other within {config.farthest:g} Å"
    return None


def _checked(said: Prediction, batch: CrystalBatch) -> Prediction:
    energy, forces, stress = (
        torch.as_tensor(value).detach().to("cpu", torch.float64)
        for value in (said.energy_per_atom, said.forces, said.stress_gpa)
    )
    count, atoms = len(batch), batch.species.shape[0]
    if energy.shape != (count,) or forces.shape != (atoms, 3) or stress.shape != (count, 3, 3):
        raise EuhedralError(
            f"for {count} crystals of {atoms} atoms the potential gave energies {tuple(energy.shape)}, forces "
            f"{tuple(forces.shape)}, stresses {tuple(stress.shape)}; expected ({count},), ({atoms}, 3), ({count}, 3, 3)"
        )
    if len(said.reasons) != count:
        raise EuhedralError(
            f"for {count} crystals the potential gave {len(said.reasons)} reasons; None where all is well"
        )
    return Prediction(energy_per_atom=energy, forces=forces, stress_gpa=stress, reasons=tuple(said.reasons))


def _concat(parts: Sequence[Prediction]) -> Prediction:
    return Prediction(
        energy_per_atom=torch.cat([part.energy_per_atom for part in parts]),
        forces=torch.cat([part.forces for part in parts]),
        stress_gpa=torch.cat([part.stress_gpa for part in parts]),
        reasons=tuple(reason for part in parts for reason in part.reasons),
    )


def _nothing(batch: CrystalBatch, reason: str) -> Prediction:
    return Prediction(
        energy_per_atom=torch.full((len(batch),), torch.nan, dtype=torch.float64),
        forces=torch.full((batch.species.shape[0], 3), torch.nan, dtype=torch.float64),
        stress_gpa=torch.full((len(batch), 3, 3), torch.nan, dtype=torch.float64),
        reasons=(reason,) * len(batch),
    )
