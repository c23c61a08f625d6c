"""What the evaluator says of real crystals: MP-20 val against itself, and two disjoint halves of MP-20 train.

    python benchmarks/noise_floor.py --number 5000

Against itself every crystal must match at no distance. Two halves of one set differ by chance alone, so that their
figures are the best that a perfect generator would reach with as many samples: the noise floor. Energies and embeddings
(CHGNet) are left out unless --potential is given.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch

import euhedral
from euhedral.evaluate.report import Report
from mp20 import DATA, open_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=5000, help="crystals of a half; at most half of train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--potential", action="store_true", help="with energies and embeddings, 12 ms a crystal")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    options = {"workers": arguments.workers, "cache": None, "potential": arguments.potential}

    val = open_store(arguments.val).crystals(slice(None), dtype=torch.float64)
    show("MP-20 val against itself", euhedral.evaluate(val, val, protocol=["csp", "cdvae"], **options))
    train = open_store(arguments.train)
    order = np.random.default_rng(arguments.seed).permutation(len(train))
    halves = [
        train.crystals(np.sort(order[start : start + arguments.number]), dtype=torch.float64)
        for start in (0, arguments.number)
    ]
    show("two halves of MP-20 train", euhedral.evaluate(*halves, protocol=["cdvae", "mattergen", "lemat"], **options))


def show(title: str, report: Report) -> None:
    print(f"\n{title}\n\n| figure | value | 95 % interval |\n|---|---:|---:|")
    seen = set()
    for result in report.results:
        for figure in result.figures:
            if figure.name not in seen:
                print(f"| {figure.name} | {figure.text(figure.value)} | {figure.interval_text} |", flush=True)
            seen.add(figure.name)
    print(f"\n{len({failure.index for failure in report.failures})} crystals failed somewhere; {report.seconds}")


if __name__ == "__main__":
    main()
