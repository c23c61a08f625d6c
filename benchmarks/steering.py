"""Property steering: what is generated against what was asked, judged by an independent regressor.

    python benchmarks/steering.py --number 100 --strengths 0.5 1 2 4
    python benchmarks/steering.py --number 100 --strengths --gradient RUN --gradient-strengths 1 4 --beside 0

For each property and target, crystals are drawn without steering and at each strength of guidance, and the regressor of
`property_regressor.py` (it learns from MP-20 val, which the generator never saw) predicts their property. The same
draws without steering stand beside every target. What steering costs in diversity is told by the effective number of
formulas (`euhedral.evaluate.collapse.effective_number`). With --gradient, a model with a property head leads the crystals
beside the guidance (`generate --steer`); with guidance 0 it moves the structures of compositions that were not chosen for
the target, and the last column is what the model that leads says of them itself. Crystals that the regressor cannot
judge (overlapping atoms) are counted and left out. Errors include the regressor's own, which is printed first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import property_regressor
from euhedral.crystal.batch import CrystalBatch
from euhedral.evaluate.collapse import effective_number
from euhedral.models.conditions import PROPERTIES
from euhedral.models.property_predictor import PropertyPredictor
from euhedral.sample.generate import Generator
from euhedral.sample.predictor import load_predictor
from mp20 import DATA

TARGETS = {"formation_energy_per_atom": (-3.0, -1.5, 0.0), "band_gap": (0.0, 2.0, 4.0)}


def measure(values: np.ndarray, target: float) -> dict[str, float]:
    """Mean, spread and error of predicted values (crystals,) against a target, over those that could be judged."""
    judged = values[np.isfinite(values)]
    if not len(judged):
        return {"judged": 0, "mean": float("nan"), "std": float("nan"), "mae": float("nan")}
    return {
        "judged": len(judged),
        "mean": float(judged.mean()),
        "std": float(judged.std()),
        "mae": float(np.abs(judged - target).mean()),
    }


def print_row(row: Mapping[str, Any]) -> None:
    print(
        f"| {row['property']} | {row['target']:g} | {row['strength']} | {row['mean']:.2f} | {row['std']:.2f} | "
        f"{row['mae']:.2f} | {row['formulas']:.0f} | {row['judged']} | {row['leading']} |",
        flush=True,
    )


def opinion(leading: PropertyPredictor | None, crystals: CrystalBatch, name: str) -> str:
    """What the model that leads says of a property of the crystals, on average; nothing where none leads."""
    if leading is None:
        return ""
    with torch.no_grad():
        return f"{float(leading.properties_of(crystals.to(torch.float32))[:, PROPERTIES.index(name)].mean()):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument(
        "--val", type=Path, default=DATA / "mp_20" / "val.csv.gz", help="what the regressor learns from"
    )
    parser.add_argument("--number", type=int, default=100, help="crystals a target and strength")
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--gradient", metavar="RUN", help="a model with a property head, for gradient guidance too")
    parser.add_argument("--gradient-strengths", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--beside", type=float, default=1.0, help="strength of guidance beside the gradient")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="append one JSON line a row to this file")
    arguments = parser.parse_args()

    judge = property_regressor.fit(arguments.val)
    generator = Generator.load(arguments.model)
    leading = load_predictor(arguments.gradient, "cpu").model if arguments.gradient else None
    common = {"n": arguments.number, "steps": arguments.steps, "seed": arguments.seed}
    started = time.perf_counter()
    free = generator.generate(**common)
    plain = judge.predict(free)
    print(f"{arguments.number} crystals a row, {arguments.steps} steps, strengths {arguments.strengths}")
    print(
        "| property | target | strength | mean | std | MAE to target | formulas | judged | leading model |\n|---|"
        + "---:|" * 8
    )
    for name, targets in TARGETS.items():
        for target in targets:
            asked = {**common, "properties": {name: target}}
            drawn = {"0": (plain[name], free)}
            for strength in arguments.strengths:
                crystals = generator.generate(**asked, guidance=strength)
                drawn[f"{strength:g}"] = (judge.predict(crystals)[name], crystals)
            for strength in arguments.gradient_strengths if arguments.gradient else ():
                beside = {"guidance": arguments.beside, "steer": arguments.gradient, "steer_strength": strength}
                crystals = generator.generate(**asked, **beside)
                drawn[f"{arguments.beside:g}, gradient {strength:g}"] = (judge.predict(crystals)[name], crystals)
            for strength, (values, crystals) in drawn.items():
                row = {"property": name, "target": target, "strength": strength, **measure(values, target)}
                row["formulas"] = effective_number(crystals.formulas())
                row["leading"] = opinion(leading, crystals, name)
                print_row(row)
                if arguments.save:
                    with arguments.save.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
