"""Crystals of the elements whose ground state MP-20 is not known to hold, relaxed by CHGNet.

Each element has the crystal that it is observed in (Donohue, The Structures of the Elements, 1974; rounded, for the
relaxation decides), no other: CHGNet puts some that nobody has seen below it (hcp Ne by 0.10 eV/atom, hcp I by 0.06,
bcc Pa by 0.05), and every formation energy would inherit that.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
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
OBSERVED = {
    "fcc": "Ne Al Ar Ca Ni Cu Sr Rh Pd Ce Yb Ir Pt Au Ac Th",
    "bcc": "Li Na K V Fe Rb Nb Mo Cs Ba Eu Ta",
    "hcp": "He Sc Ti Zn Y Gd Tb Dy Ho Er Lu Hf Re Os Tl",
    "dhcp": "La Pr Nd Pm",
    "Sm type": "Sm",
    "diamond": "Ge Sn",
    "alpha-B12": "B",
    "black P": "P",
    "alpha-S8": "S",
    "alpha-Mn": "Mn",
    "alpha-Ga": "Ga",
    "alpha-Np": "Np",
}
"""Elements by crystal, at low temperature; Li and Na, whose own is in doubt, at room temperature. Se, Te, Cl, I, In, Hg, Pa
and U are left to MP-20, which has theirs."""


def prototype(z: int) -> tuple[str, Structure] | None:
    """Name and unrelaxed crystal of an element, or None."""
    symbol, d = SYMBOLS[z], _neighbour_distance(z)
    name = next((name for name, elements in OBSERVED.items() if symbol in elements.split()), None)
    if name is None:
        return None
    face_centred = Lattice([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    body_centred = Lattice([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    if name == "fcc":
        return name, Structure(face_centred.scale((d * math.sqrt(2)) ** 3 / 4), [symbol], [[0, 0, 0]])
    if name == "bcc":
        return name, Structure(body_centred.scale((2 * d * 0.97 / math.sqrt(3)) ** 3 / 2), [symbol], [[0, 0, 0]])
    if name == "diamond":
        lattice = face_centred.scale((4 * 2 * COVALENT_RADII[z] / math.sqrt(3)) ** 3 / 4)
        return name, Structure(lattice, [symbol] * 2, [[0, 0, 0], [0.25, 0.25, 0.25]])
    if name in STACKINGS:
        layers = STACKINGS[name]
        places = {"A": (0, 0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}
        lattice = Lattice.hexagonal(d, d * math.sqrt(2 / 3) * len(layers))
        return name, Structure(
            lattice, [symbol] * len(layers), [[*places[x], i / len(layers)] for i, x in enumerate(layers)]
        )
    group, lattice, sites = _OWN[name]
    return name, Structure.from_spacegroup(group, lattice, [symbol] * len(sites), sites).get_primitive_structure()


def _neighbour_distance(z: int) -> float:
    """A first guess in Å, from metallic radii, van der Waals radii of noble gases, or covalent ones."""
    element = Element.from_Z(z)
    if element.is_noble_gas:
        return 2 * float(element.van_der_waals_radius)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metallic = element.metallic_radius
    return 2 * float(metallic) if metallic and not math.isnan(metallic) else 2.2 * COVALENT_RADII[z]


_OWN: dict[str, tuple[str, Lattice, list[list[float]]]] = {
    "alpha-B12": ("R-3m", Lattice.hexagonal(4.91, 12.57), [[0.119, 0.238, 0.891], [0.196, 0.392, 0.024]]),
    "alpha-S8": (
        "Fddd:2",
        Lattice.orthorhombic(10.46, 12.87, 24.49),
        [[0.856, 0.953, 0.952], [0.784, 0.030, 0.076], [0.707, 0.980, 0.004], [0.786, 0.907, 0.129]],
    ),
    "black P": ("Cmce", Lattice.orthorhombic(3.31, 10.48, 4.38), [[0, 0.102, 0.081]]),
    "alpha-Mn": (
        "I-43m",
        Lattice.cubic(8.91),
        [[0, 0, 0], [0.317, 0.317, 0.317], [0.357, 0.357, 0.034], [0.089, 0.089, 0.282]],
    ),
    "alpha-Ga": ("Cmce", Lattice.orthorhombic(4.52, 7.66, 4.53), [[0, 0.154, 0.081]]),
    "alpha-Np": ("Pnma", Lattice.orthorhombic(6.66, 4.72, 4.89), [[0.036, 0.25, 0.208], [0.319, 0.25, 0.842]]),
}


def relaxed_elements(elements: list[int], kept: Path) -> list[dict[str, Any]]:
    """Element, prototype, energy in eV/atom and atoms of each element's prototype that could be relaxed.

    Elements that are finished are kept in the folder `kept`.
    """
    kept.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for z in elements:
        path = kept / f"element-{z}.json"
        if not path.exists():
            tried = prototype(z)
            relaxed = None if tried is None else _relaxed(z, *tried)
            path.write_text(json.dumps([] if relaxed is None else [relaxed]))
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
        # Whatever it raises (atoms that drift apart), the other elements go on.
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
