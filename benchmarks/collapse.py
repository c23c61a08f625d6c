"""Collapse of symmetry and of modes, and the detectors that tell of it, on models that have it.

    python benchmarks/collapse.py --minutes 20 --out /tmp/collapse

Four models are trained for the same time on MP-20 train: CDVAE with its divergence weighed as published and a thousand
times as much, and the recipe `crystalflow` with its equivariant backbone and with one that is not. The shipped model comes
beside them as it is, and with its species drawn at a low temperature. Crystals of each are compared with as many of MP-20
val (`euhedral.evaluate.collapse`); of a latent model the numbers of its latent vectors that say anything are counted, which
collapse where they are less than a twentieth. Minutes are of the processor, for one thread.
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
from euhedral.models.checkpoint import load_model
from euhedral.models.joint_flow import JointFlow, with_sampling
from euhedral.recipes import shipped
from euhedral.sample.generate import Generator, holds_together
from euhedral.train.config import Recipe
from euhedral.train.folder import RUN
from euhedral.train.run import resume, train
from mp20 import DATA, open_store, subset

STEPS = 100
SHIPPED: Mapping[str, dict[str, float]] = {
    "shipped": {},
    "shipped, species at temperature 0.1": {"species_temperature": 0.1},
}
FEWEST_ACTIVE = 0.05


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


def drawn(folder: Path, number: int) -> CrystalBatch:
    """Crystals as the model draws them; what falls apart is left out."""
    crystals = Generator.load(str(folder)).unselected(n=number, steps=STEPS, batch=64)
    return crystals[torch.nonzero(holds_together(crystals))[:, 0]]


def shipped_crystals(number: int, changes: Mapping[str, float]) -> CrystalBatch:
    """What a user of the shipped model gets."""
    generator = Generator.load()
    model = generator.model
    assert isinstance(model, JointFlow)
    model.config = with_sampling(model.config, **changes)
    return generator.generate(n=number)


def latent_units(folder: Path, reference: CrystalBatch) -> tuple[int, int] | None:
    """How many numbers of the latent vectors vary over real crystals, and how many there are."""
    model = load_model(folder).model
    if not isinstance(model, CDVAE):
        return None
    with torch.no_grad():
        means = model.encode(reference.to(torch.float32)).mean
    return active_units(means.numpy()), means.shape[1]


def row(name: str, crystals: CrystalBatch, reference: CrystalBatch, units: tuple[int, int] | None = None) -> str:
    """A line of the table."""
    found = find_collapse(crystals, reference, workers=2)
    collapsed = {
        "symmetry": found.of_symmetry,
        "modes": found.of_modes,
        "latent vectors": units is not None and units[0] < FEWEST_ACTIVE * units[1],
    }
    told = ", ".join(what for what, is_so in collapsed.items() if is_so)
    return (
        f"| {name} | {100 * found.p1:.1f} ({100 * found.p1_reference:.1f}) | {found.space_group_distance:.2f} | "
        f"{found.formulas:.0f} ({found.formulas_reference:.0f}) | {f'{units[0]} of {units[1]}' if units else ''} | "
        f"{told or 'nothing'} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path("collapse"))
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=200)
    given = parser.parse_args()
    store, reference = open_store(given.train), subset(open_store(given.val), max(given.number, 500), 0)
    print("| model | P1 % (real) | distance of space groups | formulas (real) | active units | collapse of |")
    print("|---|---:|---:|---:|---:|---|")
    for name, recipe in recipes().items():
        folder = trained(recipe, given.out / name.replace(", ", "_").replace(" ", "_"), store.path, given.minutes)
        print(row(name, drawn(folder, given.number), reference, latent_units(folder, reference)), flush=True)
    for name, changes in SHIPPED.items():
        print(row(name, shipped_crystals(given.number, changes), reference), flush=True)


if __name__ == "__main__":
    main()
