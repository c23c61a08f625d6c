"""Potentials to test with: a pair well whose minimum is known, and ones that hang, raise, die or say nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Sequence

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.screen.neighbours import find_bonds
from euhedral.screen.potential import EV_PER_A3_IN_GPA, Prediction

HANGS, RAISES, DIES, SAYS_NOTHING, EXPLODES = 2, 3, 4, 5, 6
"""Atomic numbers that make `Moody` do so."""


class PairWell:
    """A Morse well of depth 1 eV at 2.5 Å between all pairs nearer than 7 Å; forces and stress by hand.

    Args:
        log: gets the keys of each call.
    """

    name = "pair well"
    length, width = 2.5, 2.0

    def __init__(self, log: list[tuple[Hashable, ...]] | None = None) -> None:
        self.log = log

    def predict(self, batch: CrystalBatch, *, keys: Sequence[Hashable] | None = None) -> Prediction:
        if self.log is not None:
            self.log.append(tuple(keys or ()))
        energies, forces, stresses = [], [], []
        for crystal in batch:
            frac, cell = crystal.frac.double(), crystal.cell[0].double()
            bonds = find_bonds(frac, cell, 7.0)
            vectors = bonds.vectors(frac, cell)
            lengths = torch.linalg.norm(vectors, dim=1)
            decay = torch.exp(-self.width * (lengths - self.length))
            pulls = (2 * self.width * (decay - decay**2) / lengths)[:, None] * vectors
            energies.append((decay**2 - 2 * decay).sum() / frac.shape[0])
            forces.append(torch.zeros_like(frac).index_add(0, bonds.first, pulls).index_add(0, bonds.second, -pulls))
            stresses.append(vectors.T @ pulls / torch.linalg.det(cell).abs() * EV_PER_A3_IN_GPA)
        return Prediction(
            energy_per_atom=torch.stack(energies),
            forces=torch.cat(forces),
            stress_gpa=torch.stack(stresses),
            reasons=(None,) * len(batch),
        )


class Moody(PairWell):
    """As `PairWell`, but misbehaves for crystals that have one of the elements above."""

    name = "moody"

    def predict(self, batch: CrystalBatch, *, keys: Sequence[Hashable] | None = None) -> Prediction:
        present = set(batch.species.tolist())
        if HANGS in present:
            time.sleep(1000)
        if RAISES in present:
            raise ValueError("no idea about lithium")
        if DIES in present:
            os._exit(7)
        said = super().predict(batch, keys=keys)
        energy, stress = said.energy_per_atom.clone(), said.stress_gpa.clone()
        for i, crystal in enumerate(batch):
            if SAYS_NOTHING in crystal.species:
                energy[i] = torch.nan
            if EXPLODES in crystal.species:
                stress[i] = -1000 * torch.eye(3, dtype=torch.float64)
        return Prediction(energy_per_atom=energy, forces=said.forces, stress_gpa=stress, reasons=said.reasons)
