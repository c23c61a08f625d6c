"""Structure prediction of any trained model on MP-20 val, one sample a crystal, beside two trivial baselines.

    python benchmarks/recipe_csp.py --model RUN_FOLDER --number 100 --steps 1000

Random: coordinates uniform, edges and angles of a triclinic cell at random, the volume that of the mean training crystal an
atom. Template: a training crystal of the same numbers of each kind of atom in the cell (A2B4, say), drawn at random, its
elements replaced in the order of their counts, scaled to the volume of the mean training crystal an atom; where there is
none, the random structure. Convention of matches as in csp.py. Evaluations are counted at the network, a crystal each.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.lattice import cell_from_parameters
from euhedral.data.store import CrystalStore
from euhedral.evaluate.matching import match_pairs, summarize_matches
from euhedral.sample.generate import Generator
from mp20 import DATA, open_store, subset


def kinds(species: list[int]) -> tuple[int, ...]:
    """Atoms of each element, sorted: (2, 4) for A2B4."""
    return tuple(sorted(Counter(species).values()))


def random_crystal(species: list[int], volume: float, rng: torch.Generator) -> CrystalBatch:
    lengths = 1 + 0.5 * torch.rand(3, generator=rng, dtype=torch.float64)
    angles = 60 + 60 * torch.rand(3, generator=rng, dtype=torch.float64)
    cell = cell_from_parameters(lengths, angles)
    while not bool(cell.isfinite().all()) or float(torch.linalg.det(cell)) < 0.2:
        cell = cell_from_parameters(lengths, 60 + 60 * torch.rand(3, generator=rng, dtype=torch.float64))
    cell = cell * (volume * len(species) / torch.linalg.det(cell)) ** (1 / 3)
    frac = torch.rand(len(species), 3, generator=rng, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor(species))])


def substituted(template: CrystalBatch, species: list[int], volume: float, rng: torch.Generator) -> CrystalBatch:
    """The template with other elements, matched by their counts; ties at random."""

    def ordered(values: list[int]) -> list[int]:
        counts = sorted(Counter(values).items())
        ties = torch.rand(len(counts), generator=rng).tolist()
        return [z for _, _, z in sorted((count, tie, z) for (z, count), tie in zip(counts, ties, strict=True))]

    swap = dict(zip(ordered(template.species.tolist()), ordered(species), strict=True))
    cell = template.cell.double()[0]
    cell = cell * (volume * len(species) / torch.linalg.det(cell).abs()) ** (1 / 3)
    new = torch.tensor([swap[z] for z in template.species.tolist()])
    return CrystalBatch.from_crystals([(cell, template.frac.double(), new)])


def baselines(reference: CrystalBatch, train: CrystalStore, seed: int) -> dict[str, CrystalBatch]:
    rng = torch.Generator().manual_seed(seed)
    known = train.crystals(list(range(len(train))))
    volume = float(known.volume.sum() / known.num_atoms.sum())
    by_kinds: dict[tuple[int, ...], list[int]] = {}
    start = known.first_atom.tolist()
    species = known.species.tolist()
    for index, (first, count) in enumerate(zip(start, known.num_atoms.tolist(), strict=True)):
        by_kinds.setdefault(kinds(species[first : first + count]), []).append(index)
    random, template, missing = [], [], 0
    for crystal in reference:
        content = crystal.species.tolist()
        random.append(random_crystal(content, volume, rng))
        choices = by_kinds.get(kinds(content), [])
        missing += not choices
        if choices:
            chosen = choices[int(torch.randint(len(choices), (), generator=rng))]
            template.append(substituted(known[chosen], content, volume, rng))
        else:
            template.append(random[-1])
    print(f"templates missing for {missing} of {len(reference)} crystals; {volume:.2f} Å³ an atom in training")
    return {"random": CrystalBatch.concat(random), "template": CrystalBatch.concat(template)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[], help="run folders or shipped weights")
    parser.add_argument(
        "--steps", nargs="+", type=int, default=[1000], help="steps of each model; one for all, or each"
    )
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    steps = arguments.steps * len(arguments.model) if len(arguments.steps) == 1 else arguments.steps
    if len(steps) != len(arguments.model):
        parser.error("give --steps once, or once for each --model")

    reference = subset(open_store(arguments.val), arguments.number, arguments.seed)
    print("| system | evaluations | match rate % | RMSE | match % (published filter) | crystals/s |")
    print("|---|---:|---:|---:|---:|---:|")

    def row(name: str, evaluations: str, predicted: CrystalBatch, speed: str) -> None:
        records = match_pairs(predicted.to(reference.cell.dtype), reference, workers=arguments.workers)
        figures = summarize_matches(records).figures
        plain, filtered = figures["unfiltered"], figures["both_valid"]
        print(
            f"| {name} | {evaluations} | {100 * plain.match_rate:.1f} | {plain.rmse or float('nan'):.3f} | "
            f"{100 * filtered.match_rate:.1f} | {speed} |",
            flush=True,
        )

    for name, predicted in baselines(reference, open_store(arguments.train), arguments.seed).items():
        row(name, "0", predicted, "")
    contents = [crystal.species.tolist() for crystal in reference]
    for model, count in zip(arguments.model, steps, strict=True):
        generator = Generator.load(model)
        evaluated: list[int] = []
        (net,) = generator.model.children()
        net.register_forward_pre_hook(lambda _, inputs, seen=evaluated: seen.append(len(inputs[0].time)))
        started = time.perf_counter()
        predicted = generator.predict(contents, steps=count, seed=arguments.seed, batch=arguments.batch)
        speed = len(reference) / (time.perf_counter() - started)
        row(f"{Path(model).name}, {count} steps", f"{sum(evaluated) / len(reference):.0f}", predicted, f"{speed:.3f}")


if __name__ == "__main__":
    main()
