"""Structure prediction on MP-20 val, one sample a crystal: match rate and RMSE against network evaluations.

    python benchmarks/csp.py --number 2000 --steps 2 4 9 24 49

Convention: StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10), RMSE over the matched; see ../shared/anchors.md or the
DiffCSP paper. The default filter counts every match ("unfiltered"); the table gives the published single-sample filter
beside it. Evaluations are counted at the network, a crystal each: guidance needs two a step, and the space group one
more. Sampling speed counts the network and the integration, after one warm-up batch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from euhedral.evaluate.matching import match_pairs, summarize_matches
from euhedral.models.joint_flow import JointFlow, with_sampling
from euhedral.sample.generate import Generator
from mp20 import DATA, open_store, subset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs="+", default=[7])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other SamplingDefaults")
    parser.add_argument("--idealize", action="store_true", help="move predictions onto the symmetry they nearly have")
    parser.add_argument("--save", type=Path, help="append one JSON line a row to this file")
    arguments = parser.parse_args()

    reference = subset(open_store(arguments.val), arguments.number, arguments.seed)
    generator = Generator.load(arguments.model)
    changes = {name: float(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    model = generator.model
    if not isinstance(model, JointFlow):
        raise SystemExit("this benchmark sets the sampling options of JointFlow models")
    model.config = with_sampling(model.config, **changes)
    contents = [crystal.species.tolist() for crystal in reference]
    generator.predict(contents[:4], steps=2)
    print(
        f"{len(reference)} crystals, {generator.device}, {torch.get_num_threads()} threads, sampling {model.config.sampling}"
    )
    evaluated = [0]
    model.net.register_forward_pre_hook(lambda _, inputs: evaluated.append(len(inputs[0].time)))
    print("| steps | evaluations | match rate % | RMSE | match % (published filter) | crystals/s |")
    print("|---:|---:|---:|---:|---:|---:|")
    for steps in arguments.steps:
        evaluated.clear()
        started = time.perf_counter()
        predicted = generator.predict(
            contents, steps=steps, seed=arguments.seed, batch=arguments.batch, idealize=arguments.idealize
        )
        seconds = time.perf_counter() - started
        records = match_pairs(predicted.to(reference.cell.dtype), reference, workers=arguments.workers)
        figures = summarize_matches(records).figures
        row = {
            "steps": steps,
            "evaluations": sum(evaluated) / len(reference),
            "match_rate": figures["unfiltered"].match_rate,
            "rmse": figures["unfiltered"].rmse,
            "match_rate_published_filter": figures["both_valid"].match_rate,
            "crystals_per_second": len(reference) / seconds,
            "idealize": arguments.idealize,
            **changes,
        }
        print(
            f"| {steps} | {row['evaluations']:.0f} | {100 * row['match_rate']:.1f} | {row['rmse'] or float('nan'):.4f} | "
            f"{100 * row['match_rate_published_filter']:.1f} | {row['crystals_per_second']:.1f} |",
            flush=True,
        )
        if arguments.save:
            with arguments.save.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
