"""Properties of well-known crystals by a potential, against experiment.

    python benchmarks/known_crystals.py
    python benchmarks/known_crystals.py --calculator chgnet-r2scan --thermal

Each crystal begins 2 % too large and is settled by the stages of the funnel themselves: lattice constant, bulk and shear
modulus of the elastic tensor, bulk modulus of the equation of state, and whether phonons have an imaginary mode. With
`--thermal`, linear expansion and heat capacity at 300 K of a few.

Measured lattice constants (with the zero-point expansion taken off, so that they compare with a potential without vibrations)
and bulk moduli (at low temperature) are those that Wellendorff et al., J. Chem. Phys. 140, 144107 (2014) test functionals on,
from Haas et al., Phys. Rev. B 79, 085104 (2009) and references there; but SrTiO3 at 298 K: lattice constant of Okazaki and
Kawaminami, Mater. Res. Bull. 8, 545 (1973), modulus of Wachtman et al., J. Res. NBS 67A, 193 (1963). Expansion: Touloukian et
al., Thermophysical Properties of Matter 12 and 13 (1975, 1977); heat capacity: NIST-JANAF tables, 4th edition (1998).
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.convert import from_ase
from euhedral.screen import stages

if TYPE_CHECKING:
    from euhedral.screen.stage import StageRecord

GAS_CONSTANT = 8.31446
TOO_LARGE = 1.02


@dataclass(frozen=True)
class Known:
    """Edge of the conventional cell in Å and bulk modulus in GPa; linear expansion in 1e-6/K and J/K/mol of atoms."""

    formula: str
    lattice: str
    edge: float
    bulk_modulus: float
    expansion: float | None = None
    heat_capacity: float | None = None


KNOWN = (
    Known("C", "diamond", 3.555, 443),
    Known("Si", "diamond", 5.422, 99.2, 2.6, 20.00),
    Known("Ge", "diamond", 5.644, 75.8),
    Known("Al", "fcc", 4.019, 79.4, 23.1, 24.21),
    Known("Ni", "fcc", 3.509, 188),
    Known("Cu", "fcc", 3.595, 142, 16.5, 24.44),
    Known("Pd", "fcc", 3.876, 195),
    Known("Ag", "fcc", 4.063, 109),
    Known("Pt", "fcc", 3.913, 278.3),
    Known("Au", "fcc", 4.061, 180),
    Known("Fe", "bcc", 2.855, 168.3),
    Known("Mo", "bcc", 3.141, 272.5),
    Known("W", "bcc", 3.161, 314),
    Known("LiF", "rocksalt", 3.974, 69.8),
    Known("NaF", "rocksalt", 4.570, 51.4),
    Known("NaCl", "rocksalt", 5.565, 26.6, 39.6, 25.25),
    Known("MgO", "rocksalt", 4.188, 165, 10.5, 18.55),
    Known("CaO", "rocksalt", 4.781, 115),
    Known("TiC", "rocksalt", 4.318, 233),
    Known("TiN", "rocksalt", 4.226, 277),
    Known("BN", "zincblende", 3.594, 372.3),
    Known("SiC", "zincblende", 4.348, 225),
    Known("GaAs", "zincblende", 5.641, 75.6),
    Known("SrTiO3", "perovskite", 3.905, 173.7),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calculator", default="chgnet", help="as of euhedral screen")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--thermal", action="store_true", help="expansion and heat capacity too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    crystals = CrystalBatch.concat([_crystal(known) for known in KNOWN])
    found = {
        name: _measure(name, crystals, arguments.calculator, arguments.workers, settings)
        for name, settings in (
            ("equation_of_state", {}),
            ("elastic", {"reject_unstable": False}),
            ("phonons", {"reject_unstable": False}),
        )
    }
    print(
        "| crystal | a, Å | measured | K, GPa (elastic) | K (equation of state) | measured | G, GPa | lowest phonon, THz |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    edges, moduli, curves = [], [], []
    for i, known in enumerate(KNOWN):
        curve, elastic, shaken = (found[name][i].values for name in ("equation_of_state", "elastic", "phonons"))
        edge = _edge(known, curve.get("eos_volume"))
        print(
            f"| {known.formula} | {_text(edge, 3)} | {known.edge:.3f} | {_text(elastic.get('bulk_modulus'))} | "
            f"{_text(curve.get('eos_bulk_modulus'))} | {known.bulk_modulus:.0f} | {_text(elastic.get('shear_modulus'))} | "
            f"{_text(shaken.get('lowest_frequency'), 2)} |"
        )
        edges.append((edge, known.edge))
        moduli.append((elastic.get("bulk_modulus"), known.bulk_modulus))
        curves.append((curve.get("eos_bulk_modulus"), known.bulk_modulus))
    print()
    for what, pairs in (("a", edges), ("K of the elastic tensor", moduli), ("K of the equation of state", curves)):
        print(f"{what}: {_errors(pairs)}")
    stable = sum(record.values.get("dynamically_stable") is True for record in found["phonons"])
    print(f"no imaginary phonon: {stable} of {len(KNOWN)}")
    for name, records in found.items():
        for known, record in zip(KNOWN, records, strict=True):
            if record.reason is not None:
                print(f"{known.formula}, {name}: {record.outcome}, {record.reason}")
    if arguments.thermal:
        _thermal(arguments.calculator, arguments.workers)


def _thermal(calculator: str, workers: int) -> None:
    chosen = [known for known in KNOWN if known.expansion is not None]
    crystals = CrystalBatch.concat([_crystal(known) for known in chosen])
    head = ("crystal", "expansion, 1e-6/K", "measured", "C_p, J/K/mol", "measured", "roughness, meV/atom")
    print(f"\n| {' | '.join(head)} |\n|---|{'---:|' * (len(head) - 1)}")
    for known, record in zip(chosen, _measure("thermal", crystals, calculator, workers, {}), strict=True):
        volumetric, heat = record.values.get("thermal_expansion"), record.values.get("heat_capacity_p")
        rough = record.values.get("thermal_roughness")
        told = [
            _text(volumetric / 3 if isinstance(volumetric, float) else None),
            f"{known.expansion:.1f}",
            _text(heat * GAS_CONSTANT if isinstance(heat, float) else None, 2),
            f"{known.heat_capacity:.2f}",
            _text(rough * 1000 if isinstance(rough, float) else None),
        ]
        print(f"| {known.formula} | {' | '.join(told)} |" + (f" {record.reason}" if record.reason else ""))


def _measure(
    name: str, crystals: CrystalBatch, calculator: str, workers: int, settings: dict[str, object]
) -> list[StageRecord]:
    started = time.perf_counter()
    stage = stages.make(name, {"calculator": calculator, **settings})
    records = sorted(stage.run(crystals, [{}] * len(crystals), workers=workers), key=lambda record: record.index)
    print(f"{name}: {len(records)} crystals in {time.perf_counter() - started:.1f} s", flush=True)
    return records


def _crystal(known: Known) -> CrystalBatch:
    import torch
    from ase.build import bulk

    edge = known.edge * TOO_LARGE
    if known.lattice != "perovskite":
        return from_ase([bulk(known.formula, known.lattice, a=edge)]).to(torch.float64)
    cell = edge * torch.eye(3, dtype=torch.float64)
    frac = torch.tensor([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([38, 22, 8, 8, 8]))])


def _edge(known: Known, volume: object) -> float | None:
    atoms = {"diamond": 8, "zincblende": 8, "rocksalt": 8, "fcc": 4, "bcc": 2, "perovskite": 5}[known.lattice]
    return (volume * atoms) ** (1 / 3) if isinstance(volume, float) else None


def _errors(pairs: list[tuple[object, float]]) -> str:
    errors = [100 * (float(one) / other - 1) for one, other in pairs if isinstance(one, float)]
    return (
        f"mean error {np.mean(errors):+.1f} %, mean absolute {np.mean(np.abs(errors)):.1f} %, largest "
        f"{max(errors, key=abs):+.1f} %, {len(errors)} of {len(pairs)}"
    )


def _text(value: object, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else "–"


if __name__ == "__main__":
    main()
