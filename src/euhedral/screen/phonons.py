"""Phonons of a crystal by finite displacements: whether it is at the bottom of a well, and its harmonic thermodynamics."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap
from euhedral.crystal.symmetry import conventional
from euhedral.errors import ConfigError, CrystalError, EuhedralError
from euhedral.screen.settle import SettleConfig, predict_cells, settle

if TYPE_CHECKING:
    from euhedral.screen.potential import Potential

THZ_IN_K = 47.99243073366221
"""h * 1 THz / k, in K."""
_MISSING = 'phonons need phonopy: pip install "euhedral[properties]"'
GAS_CONSTANT = 8.31446261815324
"""J/K/mol."""


@dataclass(frozen=True, kw_only=True)
class PhononConfig:
    """How atoms are displaced, and when a mode counts as imaginary.

    Attributes:
        length: opposite faces of the supercell are at least this far apart, Å.
        max_atoms: of the supercell; a crystal that needs more is not done.
        displacement: of one atom, Å. phonopy's own 0.01 is for exact forces: of 24 known crystals CHGNet then finds four
            unstable, aluminium and iron among them, and at 0.03 only cubic SrTiO3, which is (benchmarks/known_crystals.py).
        tolerance: a frequency below minus this is imaginary, THz. Finite supercells and noise of forces put the acoustic
            branches of sound crystals a little below 0 near the centre of the zone.
        mesh_length: density of the mesh of wave vectors, Å: as many along an axis as its reciprocal edge times this.
        temperature: of the heat capacity, entropy and free energy, K.
        settle: how the crystal is relaxed before.

    Raises:
        ConfigError: on a value out of range.
    """

    length: float = 10.0
    max_atoms: int = 400
    displacement: float = 0.03
    tolerance: float = 0.3
    mesh_length: float = 60.0
    temperature: float = 300.0
    settle: SettleConfig = field(default_factory=SettleConfig)

    def __post_init__(self) -> None:
        for name in ("length", "displacement", "mesh_length", "temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        if not self.tolerance >= 0:
            raise ConfigError(f"tolerance must be at least 0 THz, not {self.tolerance}")
        if self.max_atoms < 1:
            raise ConfigError(f"max_atoms must be at least 1, not {self.max_atoms}")


@dataclass(frozen=True, kw_only=True)
class Phonons:
    """Phonons of one crystal. Imaginary frequencies are written as negative ones.

    Attributes:
        crystal: the settled crystal.
        config: how they were computed.
        supercell: atoms of the supercell.
        displacements: displaced supercells that forces were computed of.
        drift: largest entry of the sum of the force constants over all atoms, eV/Å2, before it was made 0: the acoustic
            sum rule says that it is, so that it measures the error of forces and supercell.
        lowest_commensurate: lowest frequency at the wave vectors that fit the supercell, where nothing is interpolated, THz.
        lowest: lowest frequency at those and on the mesh, THz.
        highest: highest frequency on the mesh, THz.
        debye_temperature: of the second moment of the spectrum, h/k sqrt(5/3 <f²>), K; None with imaginary modes.
        zero_point: eV/atom; None with imaginary modes, as the next three.
        free_energy: of the vibrations at the temperature of the config, eV/atom.
        entropy: k per atom.
        heat_capacity: at constant volume, k per atom; 3 when hot.
        phonopy: the `phonopy.Phonopy` with force constants, for whatever else it can do.
    """

    crystal: CrystalBatch
    config: PhononConfig
    supercell: int
    displacements: int
    drift: float
    lowest_commensurate: float
    lowest: float
    highest: float
    debye_temperature: float | None
    zero_point: float | None
    free_energy: float | None
    entropy: float | None
    heat_capacity: float | None
    phonopy: Any

    @property
    def stable(self) -> bool:
        """Whether no mode is imaginary beyond the tolerance."""
        return self.lowest >= -self.config.tolerance


def phonons(crystal: CrystalBatch, potential: Potential, config: PhononConfig | None = None) -> Phonons:
    """Phonons of one crystal in the harmonic approximation, without the splitting by long-range fields of ionic crystals.

    Raises:
        CrystalError: if it cannot be relaxed, or its supercell would be too large.
        EuhedralError: if phonopy is not installed.
    """
    config = config or PhononConfig()
    settled, _ = settle(crystal, potential, config.settle)
    return phonons_of_settled(settled, potential, config)


def phonons_of_settled(settled: CrystalBatch, potential: Potential, config: PhononConfig) -> Phonons:
    """As `phonons`, of a crystal on whose atoms there are no forces: all its displaced cells go into one round of calls."""
    model, drift = _force_constants(settled, potential, config)
    lowest, highest, moment = _mesh(model, config.mesh_length)
    commensurate = _commensurate(model)
    stable = min(lowest, commensurate) >= -config.tolerance
    warm = _thermodynamics(model, config.temperature) if stable else (None,) * 4
    return Phonons(
        crystal=settled,
        config=config,
        supercell=len(model.supercell),
        displacements=len(model.supercells_with_displacements),
        drift=drift,
        lowest_commensurate=commensurate,
        lowest=min(lowest, commensurate),
        highest=highest,
        debye_temperature=THZ_IN_K * float(np.sqrt(5 / 3 * moment)) if stable else None,
        zero_point=warm[0],
        free_energy=warm[1],
        entropy=warm[2],
        heat_capacity=warm[3],
        phonopy=model,
    )


def check_phonopy() -> None:
    """Raise EuhedralError where phonopy is not installed."""
    if importlib.util.find_spec("phonopy") is None:
        raise EuhedralError(_MISSING)


def choose_supercell(crystal: CrystalBatch, *, length: float, symprec: float) -> tuple[CrystalBatch, tuple[int, ...]]:
    """The cell to repeat and how often: the primitive or the conventional standard cell, whichever needs fewer atoms.

    Each edge is repeated until the faces that it joins are `length` apart, so that a displaced atom and its images are at
    least that far from each other.

    Args:
        crystal: one crystal.
        length: Å.
        symprec: Å, of the standard cells.
    """
    cells = [crystal]
    # Without a symmetry there is no standard cell, and the crystal's own has to do.
    with suppress(CrystalError):
        cells = [conventional(crystal, symprec, to_primitive=to_primitive) for to_primitive in (True, False)]
    found = []
    for cell in cells:
        apart = 1 / torch.linalg.norm(torch.linalg.inv(cell.cell[0].double()), dim=0)
        # The tenth of a promille keeps rounding from adding a layer to a crystal that fits exactly.
        times = tuple(max(1, int(np.ceil(length / gap - 1e-4))) for gap in apart.tolist())
        found.append((int(np.prod(times)) * cell.species.shape[0], cell, times))
    _, cell, times = min(found, key=lambda one: one[0])
    return cell, times


def write_band_structure(target: str | BinaryIO, found: Phonons, *, title: str = "") -> None:
    """Draw the bands along the high-symmetry lines of the crystal (seekpath).

    Args:
        target: a path whose ending says what it becomes (.svg, .png, .pdf), or an open file, which gets PNG.
        found: the phonons.
        title: above the picture.

    Raises:
        CrystalError: if no path of high symmetry is found.
        EuhedralError: if seekpath is not installed, or the file cannot be written.
    """
    from matplotlib.figure import Figure
    from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath

    try:
        paths, labels, connections = get_band_qpoints_by_seekpath(found.phonopy.primitive, 51)
    except ImportError as error:
        raise EuhedralError('band structures need seekpath: pip install "euhedral[properties]"') from error
    except Exception as error:  # seekpath raises whatever spglib's symmetry makes of a cell
        raise CrystalError(f"no path of high symmetry was found: {error}") from error
    found.phonopy.run_band_structure(paths, path_connections=connections, labels=labels)
    bands = found.phonopy.get_band_structure_dict()
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for distance, frequencies in zip(bands["distances"], bands["frequencies"], strict=True):
        axes.plot(distance, frequencies, color="#1f5fa8", linewidth=1)
    ticks, names = _ticks(bands["distances"], labels, connections)
    axes.set_xticks(ticks, names)
    for tick in ticks:
        axes.axvline(tick, color="#cccccc", linewidth=0.6, zorder=0)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlim(ticks[0], ticks[-1])
    axes.set_ylabel("frequency, THz (imaginary below 0)")
    axes.set_title(title)
    try:
        figure.savefig(target, dpi=120, format=None if isinstance(target, str) else "png")
    except (OSError, ValueError) as error:
        raise EuhedralError(f"cannot write the band structure {target}: {error}") from error


def _force_constants(settled: CrystalBatch, potential: Potential, config: PhononConfig) -> tuple[Any, float]:
    """phonopy's model with its force constants, and how far these were from the acoustic sum rule."""
    cell, times = choose_supercell(settled, length=config.length, symprec=config.settle.symprec)
    atoms = int(np.prod(times)) * cell.species.shape[0]
    if atoms > config.max_atoms:
        raise CrystalError(
            f"faces {config.length:g} Å apart need a supercell of {atoms} atoms, more than the {config.max_atoms} allowed"
        )
    model = _phonopy(cell, times)
    model.generate_displacements(distance=config.displacement)
    displaced = [_from_phonopy(one) for one in model.supercells_with_displacements]
    said = predict_cells(displaced, potential, atoms_at_once=config.settle.atoms_at_once)
    model.forces = said.forces.numpy().reshape(len(displaced), atoms, 3)
    model.produce_force_constants(show_drift=False)
    constants = model.force_constants
    drift = float(max(np.abs(constants.sum(axis=0)).max(), np.abs(constants.sum(axis=1)).max()))
    model.symmetrize_force_constants(show_drift=False)
    return model, drift


def _phonopy(cell: CrystalBatch, times: tuple[int, ...]) -> Any:
    check_phonopy()
    from ase.data import atomic_masses
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import guess_primitive_matrix

    numbers = cell.species.numpy()
    atoms = PhonopyAtoms(
        numbers=numbers,
        cell=cell.cell[0].double().numpy(),
        scaled_positions=cell.frac.double().numpy(),
        masses=atomic_masses[numbers],
    )
    return Phonopy(atoms, supercell_matrix=np.diag(times), primitive_matrix=guess_primitive_matrix(atoms))


def _from_phonopy(atoms: Any) -> CrystalBatch:
    frac = torch.tensor(np.asarray(atoms.scaled_positions), dtype=torch.float64)
    cell = torch.tensor(np.asarray(atoms.cell), dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, wrap(frac), torch.tensor(np.asarray(atoms.numbers), dtype=torch.int64))])


def _mesh(model: Any, length: float) -> tuple[float, float, float]:
    """Lowest and highest frequency on a mesh, and the mean of the squares of the real ones, THz and THz²."""
    model.run_mesh(length, is_gamma_center=True)
    found = model.get_mesh_dict()
    frequencies, weights = np.asarray(found["frequencies"]), np.asarray(found["weights"], dtype=float)
    squares = (np.clip(frequencies, 0, None) ** 2).mean(axis=1)
    return float(frequencies.min()), float(frequencies.max()), float(squares @ weights / weights.sum())


def _commensurate(model: Any) -> float:
    """Lowest frequency in THz at the wave vectors whose waves the supercell holds a whole number of."""
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    matrix = np.rint(np.linalg.inv(model.primitive_matrix) @ model.supercell_matrix).astype(int)
    model.run_qpoints(get_commensurate_points(matrix))
    return float(np.min(model.get_qpoints_dict()["frequencies"]))


def _thermodynamics(model: Any, temperature: float) -> tuple[float, float, float, float]:
    """Zero-point energy and free energy in eV/atom, entropy and heat capacity in k per atom."""
    from ase.units import kJ, mol

    model.run_thermal_properties(temperatures=[0.0, temperature], cutoff_frequency=1e-3)
    found, atoms = model.get_thermal_properties_dict(), len(model.primitive)
    free = np.asarray(found["free_energy"]) * kJ / mol / atoms
    entropy, capacity = (float(found[name][1]) / GAS_CONSTANT / atoms for name in ("entropy", "heat_capacity"))
    return float(free[0]), float(free[1]), entropy, capacity


def _ticks(distances: Any, labels: Any, connections: Any) -> tuple[list[float], list[str]]:
    """Where the corners of the path are, and their names; two where the path jumps."""
    ticks, names = [float(distances[0][0])], [str(labels[0])]
    position = 1
    for line, connected in zip(distances, connections, strict=True):
        name = str(labels[position])
        position += 1
        if not connected and position < len(labels):
            name = f"{name}|{labels[position]}"
            position += 1
        ticks.append(float(line[-1]))
        names.append(name)
    return ticks, names
