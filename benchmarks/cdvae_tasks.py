"""The three tasks of CDVAE (Xie et al., ICLR 2022, Section 5) with a trained model: reconstruction, generation, optimisation.

    euhedral train --recipe cdvae --data TRAIN --out RUN --max-minutes 60
    python benchmarks/cdvae_tasks.py --model RUN --number 200

Reconstruction: crystals of MP-20 val are encoded, decoded with their species and held against themselves, by the tolerances of
`benchmarks/csp.py`, which are the paper's. Generation: crystals of latent vectors of the prior, judged by the protocol `cdvae`.
Optimisation: latent vectors of val crystals are moved by gradient descent until the model predicts the smallest formation
energy of them; what their decoded crystals have is judged by the regressor of `property_regressor.py`, which learns from val
without knowing the model, beside the crystals that were begun with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import property_regressor
from euhedral.evaluate.matching import match_pairs, summarize_matches
from euhedral.evaluate.run import evaluate
from euhedral.models.base import SampleRequest
from euhedral.models.cdvae import CDVAE
from euhedral.models.cdvae_tasks import optimise, reconstruct
from euhedral.sample.generate import Generator, holds_together
from mp20 import DATA, open_store, subset

PROPERTY = "formation_energy_per_atom"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run of the recipe cdvae")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200, help="of Langevin dynamics")
    parser.add_argument("--descent", type=int, default=1000, help="steps of gradient descent")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    generator = Generator.load(given.model)
    model = generator.model.float()
    if not isinstance(model, CDVAE):
        raise SystemExit("give --model a run of the recipe cdvae")
    real = subset(open_store(given.val), given.number, 0)
    crystals, rng = real.to(torch.float32), torch.Generator().manual_seed(0)

    decoded = reconstruct(model, crystals, rng=rng, steps=given.steps)
    figures = summarize_matches(match_pairs(decoded.to(real.cell.dtype), real, workers=given.workers)).figures
    found = figures["unfiltered"]
    print(f"reconstruction: {100 * found.match_rate:.1f} % of {len(real)} match, RMSE {found.rmse or float('nan'):.3f}")

    drawn = generator.unselected(n=given.number, steps=given.steps)
    report = evaluate(drawn.to(real.cell.dtype), real, protocol="cdvae", workers=given.workers, potential=False)
    names = ("validity.structure", "validity.composition", "coverage.recall", "coverage.precision")
    told = {figure.name: figure.value for result in report.results for figure in result.figures}
    print("generation: " + ", ".join(f"{name} {told[name]:.3f}" for name in names if told.get(name) is not None))

    with torch.no_grad():
        begun = model.encode(crystals).mean
    moved = optimise(model, begun, PROPERTY, steps=given.descent)
    judge = property_regressor.fit(given.val)
    parts = [
        model.decode(
            moved.latent[i : i + 1],
            SampleRequest.of(torch.zeros(1, int(real.num_atoms[i]), dtype=torch.int64), steps=given.steps),
            rng=rng,
        )
        for i in range(len(real))
    ]
    kept = [part for part in parts if bool(holds_together(part).all())]
    ends = np.concatenate([np.asarray(judge.predict(part)[PROPERTY]) for part in kept])
    before = np.asarray(judge.predict(real)[PROPERTY])
    change = f"{float(moved.before.mean()):.2f} to {float(moved.after.mean()):.2f} eV/atom"
    print(f"optimisation of {PROPERTY}: predicted {change}")
    judged = int(np.isfinite(ends).sum())
    print(
        f"by the judge {np.nanmean(before):.2f} to {np.nanmean(ends):.2f} eV/atom, {judged} of {len(parts)} crystals judged"
    )


if __name__ == "__main__":
    main()
