"""Structure prediction on MP-20 val, one sample a crystal: match rate and RMSE against network evaluations.

    python benchmarks/csp.py --number 2000 --rows 1x2 1x4 1x9 3x7 5x9

Convention: StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10), RMSE over the matched; see ../shared/anchors.md or the
DiffCSP paper. The default filter counts every match ("unfiltered"); the table gives the published single-sample filter
beside it. A row is candidates x steps; evaluations are counted at the network, a crystal each: guidance needs two a step,
and the space group one more. Sampling speed counts the network and the integration, after one warm-up batch. With --write
the predictions of the last row and their references go to a folder, for
`euhedral evaluate FOLDER/predicted.extxyz --reference FOLDER/reference.extxyz`.
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
    parser.add_argument("--rows", nargs="+", default=["3x7"], metavar="CANDIDATESxSTEPS")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other SamplingDefaults")
    parser.add_argument("--idealize", action="store_true", help="move predictions onto the symmetry they nearly have")
    parser.add_argument("--save", type=Path, help="append one JSON line a row to this file")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="keep the crystals of the last row")
    arguments = parser.parse_args()
    if arguments.write is not None and arguments.write.exists():
        parser.error(f"{arguments.write} exists; choose another folder")

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
    print("| candidates | steps | evaluations | match rate % | RMSE | match % (published filter) | crystals/s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row_name in arguments.rows:
        candidates, steps = (int(part) for part in row_name.split("x"))
        model.config = with_sampling(model.config, candidates=candidates)
        evaluated.clear()
        started = time.perf_counter()
        predicted = generator.predict(
            contents, steps=steps, seed=arguments.seed, batch=arguments.batch, idealize=arguments.idealize
        )
        seconds = time.perf_counter() - started
        records = match_pairs(predicted.to(reference.cell.dtype), reference, workers=arguments.workers)
        figures = summarize_matches(records).figures
        row = {
            "candidates": candidates,
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
            f"| {candidates} | {steps} | {row['evaluations']:.0f} | {100 * row['match_rate']:.1f} | "
            f"{row['rmse'] or float('nan'):.4f} | {100 * row['match_rate_published_filter']:.1f} | "
            f"{row['crystals_per_second']:.1f} |",
            flush=True,
        )
        if arguments.save:
            with arguments.save.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if arguments.write and row_name == arguments.rows[-1]:
            arguments.write.mkdir(parents=True)
            predicted.write(arguments.write / "predicted.extxyz")
            reference.write(arguments.write / "reference.extxyz")


if __name__ == "__main__":
    main()
