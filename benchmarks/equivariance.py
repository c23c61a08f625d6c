"""Equivariance ablation: backbones that respect the symmetries of a crystal against one that does not.

    python benchmarks/equivariance.py --minutes 10 --out /tmp/equivariance

First, how far what each backbone says of a noisy crystal moves when the same crystal is written otherwise: its frame
turned, its origin shifted, atoms listed in other cells. Distances are root mean squares of `Prediction.frac` over the
root mean square of what is said, with random weights. Then one recipe, `crystalflow`, is trained with each backbone for
the same time on the same crystals (`euhedral leaderboard`, minutes of the processor), what it predicts and generates is
judged, and the distances are measured once more with the trained weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from euhedral.contest.run import hold_contest
from euhedral.contest.settings import ContestSettings
from euhedral.contest.standing import to_markdown
from euhedral.crystal.geometry import wrap
from euhedral.models.checkpoint import load_model
from euhedral.models.joint_process import JointProcess
from euhedral.nets.backbones import backbone
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.cspnet import CSPNetConfig
from euhedral.nets.egnn import EGNNConfig
from euhedral.nets.periodic_transformer import PeriodicTransformerConfig
from euhedral.nets.plain_message_passing import PlainMessagePassingConfig
from euhedral.recipes import shipped
from euhedral.testing.nets import random_inputs, wake
from mp20 import DATA

BACKBONES: Mapping[str, Any] = {
    "cspnet": CSPNetConfig(width=256, layers=4, frequencies=64, time_width=128, conditioned=True),
    "periodic_transformer": PeriodicTransformerConfig(width=192, blocks=4, heads=8, pair_width=64),
    "egnn": EGNNConfig(width=192, layers=4),
    "plain_message_passing": PlainMessagePassingConfig(width=256, layers=4),
}


def turned(noisy: NoisyCrystals) -> NoisyCrystals:
    """The same crystals in another frame."""
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    return replace(noisy, cell=noisy.cell @ turn)


def shifted(noisy: NoisyCrystals) -> NoisyCrystals:
    """The same crystals from another origin."""
    return replace(noisy, frac=wrap(noisy.frac + torch.tensor([0.31, 0.47, 0.83])))


def relisted(noisy: NoisyCrystals) -> NoisyCrystals:
    """The same crystals with atoms listed in other cells."""
    whole = torch.randint(-2, 3, noisy.frac.shape, generator=torch.Generator().manual_seed(2))
    return replace(noisy, frac=noisy.frac + whole)


CHANGES: Mapping[str, Callable[[NoisyCrystals], NoisyCrystals]] = {
    "frame turned": turned,
    "origin shifted": shifted,
    "other cells": relisted,
}


Net = Callable[[NoisyCrystals, Context], Prediction]


def untrained(config: Any) -> Net:
    """A backbone with random weights, none of them zero."""
    torch.manual_seed(0)
    return wake(backbone(config, features=0, codes=0, vectors=1, species=True, matrix=False))


def trained(run: Path) -> Net:
    """The backbone of a trained model, which reads codes of species."""
    model = load_model(run).model
    assert isinstance(model, JointProcess)
    width = model.frac.features + model.species.features

    def with_codes(noisy: NoisyCrystals, context: Context) -> Prediction:
        codes = torch.randn(*noisy.species.shape, width, generator=torch.Generator().manual_seed(3))
        return model.net(replace(noisy, features=codes, species=torch.zeros_like(noisy.species)), context)

    return with_codes


def distances(net: Net) -> dict[str, float]:
    """How far the vectors of atoms move under each change, over their own size."""
    noisy, context = random_inputs(64, 10)
    with torch.no_grad():
        base = net(noisy, context).frac
        size = float(base.square().mean().sqrt())
        return {
            name: float((net(change(noisy), context).frac - base).square().mean().sqrt()) / size
            for name, change in CHANGES.items()
        }


def show(nets: Mapping[str, Net]) -> None:
    """Print their distances."""
    print("| backbone | " + " | ".join(CHANGES) + " |\n|---|" + "---:|" * len(CHANGES))
    for name, net in nets.items():
        print(f"| {name} | " + " | ".join(f"{value:.1e}" for value in distances(net).values()) + " |", flush=True)


def write_recipe(folder: Path, name: str, config: Any) -> Path:
    """The recipe with another backbone, as a file."""
    recipe = yaml.safe_load((shipped.FOLDER / "crystalflow.yaml").read_text(encoding="utf-8"))
    given = {key: value for key, value in vars(config).items() if isinstance(value, int | float | str | bool)}
    recipe["model"]["net"] = {
        key: value for key, value in given.items() if key not in ("features", "codes", "vectors", "species")
    }
    recipe.pop("published")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="of training of each backbone; 0 leaves it out")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="to train")
    parser.add_argument("--out", type=Path, default=Path("equivariance"))
    parser.add_argument("--data", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    given = parser.parse_args()
    show({name: untrained(config) for name, config in BACKBONES.items()})
    if not given.minutes:
        return
    given.out.mkdir(parents=True, exist_ok=True)
    recipes = [str(write_recipe(given.out, name, BACKBONES[name])) for name in given.backbones]
    settings = ContestSettings(minutes=given.minutes, evaluations=100, clock="processor")
    print(to_markdown(hold_contest(given.data, given.val, given.out / "contest", recipes=recipes, settings=settings)))
    show({name: trained(given.out / "contest" / name / "run" / "model") for name in given.backbones})


if __name__ == "__main__":
    main()
