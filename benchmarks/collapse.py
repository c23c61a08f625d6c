"""Collapse of symmetry and of modes, and the detectors that tell of it, on models that have it.

    python benchmarks/collapse.py --minutes 5 --out /tmp/collapse

Four models are trained for the same time on MP-20 train: CDVAE with its divergence weighed as published and a thousand times as
much, and the recipe `crystalflow` with its equivariant backbone and with one that is not. Crystals of each are compared with as
many of MP-20 val (`euhedral.evaluate.collapse`); of a latent model the numbers of its latent vectors that say anything are
counted. Minutes are of the processor, for one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.evaluate.collapse import active_units, find_collapse
from euhedral.models.cdvae import CDVAE
from euhedral.recipes import shipped
from euhedral.sample.generate import Generator, holds_together
from euhedral.train.config import Recipe
from euhedral.train.folder import RUN
from euhedral.train.run import resume, train
from mp20 import DATA, open_store, subset

STEPS: Mapping[str, int] = {"cdvae": 100, "crystalflow": 100}


def recipes() -> dict[str, Recipe]:
    """What is trained, by name."""
    cdvae, flow = shipped.find("cdvae"), shipped.find("crystalflow")
    heavy = {**cdvae.model["weights"], "divergence": 1000 * cdvae.model["weights"]["divergence"]}
    plain = {"kind": "plain_message_passing", "width": 256, "layers": 4}
    return {
        "cdvae": cdvae,
        "cdvae, divergence x 1000": replace(cdvae, model={**cdvae.model, "weights": heavy}),
        "crystalflow": flow,
        "crystalflow, not equivariant": replace(flow, model={**flow.model, "net": plain}),
    }


def trained(recipe: Recipe, run: Path, data: Path, minutes: float) -> Path:
    """The model, trained or gone on with."""
    settings: dict[str, Any] = {"max_minutes": minutes, "max_epochs": 10**9, "max_atoms": 20, "clock": "processor"}
    if (run / RUN).is_file():
        return resume(run)
    return train(data, run, recipe=recipe.with_changes(**settings))


def drawn(generator: Generator, number: int, steps: int) -> CrystalBatch:
    """Crystals as the model draws them; what falls apart is left out."""
    crystals = generator.unselected(n=number, steps=steps, batch=64)
    return crystals[torch.nonzero(holds_together(crystals))[:, 0]]


def latent_units(generator: Generator, reference: CrystalBatch) -> str:
    """Numbers of the latent vectors that vary over real crystals, of all."""
    if not isinstance(generator.model, CDVAE):
        return ""
    with torch.no_grad():
        means = generator.model.encode(reference.to(torch.float32)).mean
    return f"{active_units(means.numpy())} of {means.shape[1]}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--out", type=Path, default=Path("collapse"))
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=200)
    given = parser.parse_args()
    store, reference = open_store(given.train), subset(open_store(given.val), max(given.number, 500), 0)
    print("| model | P1 % (real) | distance of space groups | formulas (real) | active units | collapse of |")
    print("|---|---:|---:|---:|---:|---|")
    for name, recipe in recipes().items():
        run = given.out / name.replace(", ", "_").replace(" ", "_")
        generator = Generator.load(str(trained(recipe, run, store.path, given.minutes)))
        crystals = drawn(generator, given.number, STEPS[name.partition(",")[0]])
        found = find_collapse(crystals, reference, workers=2)
        told = [word for word, is_so in (("symmetry", found.of_symmetry), ("modes", found.of_modes)) if is_so]
        print(
            f"| {name} | {100 * found.p1:.1f} ({100 * found.p1_reference:.1f}) | {found.space_group_distance:.2f} | "
            f"{found.formulas:.0f} ({found.formulas_reference:.0f}) | {latent_units(generator, reference)} | "
            f"{', '.join(told) or 'nothing'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
