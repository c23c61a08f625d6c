"""Crystals of the elements whose ground state MP-20 is not known to hold, relaxed by CHGNet.

Close-packed and body-centred crystals are tried for every such element, double-hexagonal and samarium-type ones for
lanthanides and actinides, diamond for group 14; elements with larger cells have their own (after Donohue, The Structures
of the Elements, 1974, with rounded positions, for the relaxation decides).
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pymatgen.core import Element, Lattice, Structure

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import COVALENT_RADII, SYMBOLS
from euhedral.evaluate.embedding import CHECKPOINT, chgnet_predictions

MAX_FORCE = 0.02
"""eV/Å."""
MAX_STEPS = 300
STACKINGS = {"hcp": "AB", "dhcp": "ABAC", "Sm type": "ABABCBCAC"}


def prototypes(z: int) -> Iterator[tuple[str, Structure]]:
    """Name and unrelaxed crystal of each prototype that is tried for an element."""
    symbol, d = SYMBOLS[z], _neighbour_distance(z)
    face_centred = Lattice([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    body_centred = Lattice([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    yield "fcc", Structure(face_centred.scale((d * math.sqrt(2)) ** 3 / 4), [symbol], [[0, 0, 0]])
    yield "bcc", Structure(body_centred.scale((2 * d * 0.97 / math.sqrt(3)) ** 3 / 2), [symbol], [[0, 0, 0]])
    if SYMBOLS[z] in ("Si", "Ge", "Sn"):
        bond = 2 * COVALENT_RADII[z]
        lattice = face_centred.scale((4 * bond / math.sqrt(3)) ** 3 / 4)
        yield "diamond", Structure(lattice, [symbol] * 2, [[0, 0, 0], [0.25, 0.25, 0.25]])
    places = {"A": (0, 0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}
    for name, layers in STACKINGS.items():
        if name == "hcp" or 57 <= z <= 71 or z >= 89:
            lattice = Lattice.hexagonal(d, d * math.sqrt(2 / 3) * len(layers))
            frac = [[*places[layer], i / len(layers)] for i, layer in enumerate(layers)]
            yield name, Structure(lattice, [symbol] * len(layers), frac)
    if symbol in _OWN:
        name, group, lattice, sites = _OWN[symbol]
        crystal = Structure.from_spacegroup(group, lattice, [symbol] * len(sites), sites)
        yield name, crystal.get_primitive_structure()


def _neighbour_distance(z: int) -> float:
    """A first guess in Å, from metallic radii, van der Waals radii of noble gases, or covalent ones."""
    element = Element.from_Z(z)
    if element.is_noble_gas:
        return 2 * float(element.van_der_waals_radius)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metallic = element.metallic_radius
    return 2 * float(metallic) if metallic and not math.isnan(metallic) else 2.2 * COVALENT_RADII[z]


_OWN: dict[str, tuple[str, str, Lattice, list[list[float]]]] = {
    "B": ("alpha-B12", "R-3m", Lattice.hexagonal(4.91, 12.57), [[0.119, 0.238, 0.891], [0.196, 0.392, 0.024]]),
    "S": (
        "alpha-S8",
        "Fddd:2",
        Lattice.orthorhombic(10.46, 12.87, 24.49),
        [[0.856, 0.953, 0.952], [0.784, 0.030, 0.076], [0.707, 0.980, 0.004], [0.786, 0.907, 0.129]],
    ),
    "P": ("black P", "Cmce", Lattice.orthorhombic(3.31, 10.48, 4.38), [[0, 0.102, 0.081]]),
    "Mn": (
        "alpha-Mn",
        "I-43m",
        Lattice.cubic(8.91),
        [[0, 0, 0], [0.317, 0.317, 0.317], [0.357, 0.357, 0.034], [0.089, 0.089, 0.282]],
    ),
    "Ga": ("alpha-Ga", "Cmce", Lattice.orthorhombic(4.52, 7.66, 4.53), [[0, 0.154, 0.081]]),
    "Np": ("alpha-Np", "Pnma", Lattice.orthorhombic(6.66, 4.72, 4.89), [[0.036, 0.25, 0.208], [0.319, 0.25, 0.842]]),
}


def relaxed_elements(elements: list[int], kept: Path) -> list[dict[str, Any]]:
    """Element, prototype, energy in eV/atom and atoms of each prototype that could be relaxed.

    Elements that are finished are kept in the folder `kept`.
    """
    kept.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for z in elements:
        path = kept / f"element-{z}.json"
        if not path.exists():
            relaxed = [_relaxed(z, name, crystal) for name, crystal in prototypes(z)]
            path.write_text(json.dumps([one for one in relaxed if one is not None]))
        found += json.loads(path.read_text())
    return found


@lru_cache(maxsize=1)
def _optimizer() -> Any:
    from chgnet.model import CHGNet, StructOptimizer

    return StructOptimizer(model=CHGNet.load(model_name=CHECKPOINT, verbose=False))


def _relaxed(z: int, name: str, crystal: Structure) -> dict[str, Any] | None:
    """The record of one prototype; None, and a line that says why, where it cannot be relaxed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result: Any = _optimizer().relax(crystal, fmax=MAX_FORCE, steps=MAX_STEPS, verbose=False)
        # Whatever it raises (atoms that drift apart), the other prototypes go on.
        except Exception as error:
            print(f"{SYMBOLS[z]} {name}: {type(error).__name__}: {error}"[:200], file=sys.stderr)
            return None
    converged = len(result["trajectory"].energies) < MAX_STEPS
    relaxed = chgnet_predictions(CrystalBatch.from_pymatgen([result["final_structure"]]))
    if relaxed.reasons[0] is not None or not converged:
        print(f"{SYMBOLS[z]} {name}: {relaxed.reasons[0] or 'not converged'}", file=sys.stderr)
        return None
    energy = float(relaxed.energies[0])
    print(f"{SYMBOLS[z]} {name}: {energy:.4f} eV/atom, {len(crystal)} atoms", file=sys.stderr, flush=True)
    return {"element": z, "prototype": name, "energy": energy, "atoms": len(crystal)}
