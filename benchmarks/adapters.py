"""Fine-tuning by adapters: how well a few hundred crystals teach a trained model a column that it never knew.

    python benchmarks/adapters.py --crystals 500 --minutes 10 --out /tmp/adapters

Crystals of MP-20 val get two columns that can be calculated without error from any crystal: the density in g/cm³, a number, and
whether it holds oxygen, a halogen or neither, a class. Adapters learn both on the frozen default model (`euhedral finetune
--column`). Crystals are then drawn for targets of each, and what they have is calculated. Minutes are of the processor, for
one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.convert import to_cif
from euhedral.evaluate.collapse import effective_number
from euhedral.evaluate.distribution import densities
from euhedral.sample.generate import Generator
from euhedral.sample.weights import find_weights
from euhedral.train.config import Recipe, TrainConfig
from euhedral.train.folder import RUN
from euhedral.train.run import resume, train
from mp20 import DATA, open_store, subset

HALOGENS = frozenset({9, 17, 35, 53})
TARGETS = (2.5, 5.0, 10.0)


def kind(species: list[int]) -> str:
    """The class of a crystal."""
    if 8 in species:
        return "oxide"
    return "halide" if HALOGENS & set(species) else "other"


def write_table(crystals: CrystalBatch, path: Path) -> Path:
    """The crystals with their columns, as a user's CSV."""
    lines = ["cif,mass_density,kind"]
    for crystal, density in zip(crystals, densities(crystals).values, strict=True):
        text = to_cif(crystal).replace('"', '""')
        lines.append(f'"{text}",{density:.6f},{kind(crystal.species.tolist())}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def adapted(table: Path, run: Path, minutes: float) -> Path:
    """The model with adapters, trained or gone on with."""
    if (run / RUN).is_file():
        return resume(run)
    settings = TrainConfig(
        max_minutes=minutes, max_epochs=10**9, clock="processor", batch_size=64, learning_rate=1e-3, warmup_steps=50
    )
    return train(
        table, run, recipe=Recipe(train=settings), base=find_weights("default"), columns=("mass_density", "kind")
    )


def told(crystals: CrystalBatch) -> str:
    """Density, shares of the kinds and diversity."""
    density = np.asarray(densities(crystals).values)
    kinds = [kind(crystal.species.tolist()) for crystal in crystals]
    shares = ", ".join(f"{100 * kinds.count(name) / len(kinds):.0f}" for name in ("oxide", "halide", "other"))
    formulas = effective_number(crystals.formulas())
    return f"{np.nanmean(density):.2f} ± {np.nanstd(density):.2f} | {shares} | {formulas:.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("adapters"))
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=64, help="crystals of a row")
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0, 2.0])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    known = subset(open_store(given.val), given.crystals, 0)
    folder = adapted(write_table(known, given.out / "table.csv"), given.out / "run", given.minutes)
    generator = Generator.load(str(folder))
    print("| asked | strength | density, g/cm³ | oxides, halides, others % | formulas |\n|---|---:|---:|---:|---:|")
    print(f"| (the {len(known)} crystals) | | {told(known)} |")
    rows: list[tuple[str, float, Mapping[str, float | str]]] = [("nothing", 1.0, {})]
    rows += [(f"mass_density {t:g}", s, {"mass_density": t}) for t in TARGETS for s in given.strengths]
    rows += [(name, s, {"kind": name}) for name in ("oxide", "halide", "other") for s in given.strengths]
    rows += [("oxide, mass_density 2.5", given.strengths[0], {"kind": "oxide", "mass_density": 2.5})]
    for name, strength, asked in rows:
        crystals = generator.generate(n=given.number, properties=asked, guidance=strength, seed=0)
        print(f"| {name} | {strength:g} | {told(crystals)} |", flush=True)


if __name__ == "__main__":
    main()
