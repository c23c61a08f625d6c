"""Structure prediction of any trained model on MP-20 val, one sample a crystal, beside two trivial baselines.

    python benchmarks/recipe_csp.py --model RUN_FOLDER --number 100 --steps 1000

The baselines are those of `euhedral.contest.trivial`. Convention of matches as in csp.py.
Evaluations are counted at the network, a crystal each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from euhedral.contest.trivial import TrivialPredictor
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.store import CrystalStore
from euhedral.evaluate.matching import match_pairs, summarize_matches
from euhedral.nets.base import NoisyCrystals
from euhedral.sample.generate import Generator
from mp20 import DATA, open_store, subset


def baselines(reference: CrystalBatch, train: CrystalStore, seed: int) -> dict[str, CrystalBatch]:
    rng = torch.Generator().manual_seed(seed)
    predictor = TrivialPredictor(train.crystals(list(range(len(train)))))
    contents = [crystal.species.tolist() for crystal in reference]
    missing = sum(not predictor.templates(content) for content in contents)
    print(
        f"templates missing for {missing} of {len(reference)} crystals; {predictor.volume:.2f} Å³ an atom in training"
    )
    return {
        "random": predictor.random(contents, rng=rng),
        "template": predictor.template(contents, rng=rng),
    }


def counting(evaluated: list[int]) -> Callable[[nn.Module, tuple[NoisyCrystals, ...]], None]:
    """A hook of a network that notes how many crystals it is evaluated for."""

    def note(net: nn.Module, inputs: tuple[NoisyCrystals, ...]) -> None:
        evaluated.append(len(inputs[0].time))

    return note


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
        # Families name their one network so; beside it there may be facts of the training crystals.
        generator.model.get_submodule("net").register_forward_pre_hook(counting(evaluated))
        started = time.perf_counter()
        predicted = generator.predict(contents, steps=count, seed=arguments.seed, batch=arguments.batch)
        speed = len(reference) / (time.perf_counter() - started)
        row(f"{Path(model).name}, {count} steps", f"{sum(evaluated) / len(reference):.0f}", predicted, f"{speed:.3f}")


if __name__ == "__main__":
    main()
