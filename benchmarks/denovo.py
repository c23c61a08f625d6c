"""De novo generation: validity, symmetry, uniqueness and novelty of formulas, beside MP-20 itself.

    python benchmarks/denovo.py --number 1000
    python benchmarks/denovo.py --number 1000 --as-drawn

The first draws as `euhedral generate` does: charge-neutral compositions as often as in the training data, crystals moved
onto the symmetry that they nearly have, overlapping atoms drawn again. The second leaves out all three, and shows what the
network itself has learned.
The same figures of as many crystals of MP-20 val stand beside the generated ones: no generator needs to beat the data.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from euhedral.crystal.batch import CrystalBatch
from euhedral.evaluate.symmetry import summarize_symmetry
from euhedral.evaluate.uniqueness import find_duplicates, known_formula_mask, reduced_formulas, unique_share
from euhedral.evaluate.validity import assess, summarize_validity
from euhedral.models.joint_flow import JointFlow, with_sampling
from euhedral.sample.generate import Generator
from mp20 import DATA, open_store, subset


def judge(crystals: CrystalBatch, known: set[str], workers: int) -> dict[str, float]:
    published = summarize_validity(assess(crystals, "cdvae"), "cdvae")
    current = summarize_validity(assess(crystals, "smact"), "smact")
    symmetry = summarize_symmetry(crystals, symprec=0.1)
    return {
        "structural validity %": 100 * published.structure,
        "SMACT validity, CDVAE rule %": 100 * published.composition,
        "SMACT validity, current rule %": 100 * current.composition,
        "P1 (moyopy, symprec 0.1 Å) %": 100 * symmetry.share_p1,
        "unique %": 100 * unique_share(find_duplicates(crystals, workers=workers)),
        "formula in MP-20 train %": 100 * known_formula_mask(crystals, known).double().mean().item(),
        "elements a crystal": sum(len(c.species.unique()) for c in crystals) / len(crystals),
        "density g/cm3": crystals.density.mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other SamplingDefaults")
    parser.add_argument(
        "--as-drawn", action="store_true", help="neither composition test, nor idealization, nor draws again"
    )
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()

    train = open_store(arguments.train)
    known = {f for f in reduced_formulas(train.crystals(range(len(train)))) if f is not None}
    generator = Generator.load(arguments.model)
    model = generator.model
    changes = {name: float(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    if changes and isinstance(model, JointFlow):
        model.config = with_sampling(model.config, **changes)
    started = time.perf_counter()
    draw = generator.unselected if arguments.as_drawn else generator.generate
    crystals = draw(n=arguments.number, steps=arguments.steps, seed=arguments.seed)
    seconds = time.perf_counter() - started
    ours = judge(crystals, known, arguments.workers)
    theirs = judge(subset(open_store(arguments.val), arguments.number, 0), known, arguments.workers)
    print(
        f"{arguments.number} crystals, {arguments.steps} steps, {len(crystals) / seconds:.1f} crystals/s {changes or ''}"
    )
    print("| figure | generated | MP-20 val |\n|---|---:|---:|")
    for name, value in ours.items():
        print(f"| {name} | {value:.2f} | {theirs[name]:.2f} |")
    if arguments.save:
        arguments.save.write_text(
            json.dumps({"generated": ours, "val": theirs, "seconds": seconds, "changes": changes})
        )


if __name__ == "__main__":
    main()
