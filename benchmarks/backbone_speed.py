"""Speed of every backbone against atom count, and CSPNet beside a straightforward network of the published form.

    python benchmarks/backbone_speed.py --atoms 4 8 12 16 20 --rounds 3

Training is forward, backward, clipping and an AdamW step; sampling is forward alone, a crystal each evaluation. All compute on
the same random crystals, in turn, in the given precision; the straightforward CSPNet also in float32 as published. Figures are
crystals a second of processor time over all threads, as other work on the machine disturbs the clock; medians over rounds.
The allocator keeps memory for all where the environment raises MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_, which is
done here unless --stock is given.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cspnet_reference import ReferenceCSPNet
from euhedral.nets.backbones import backbone
from euhedral.nets.base import Context, NoisyCrystals
from euhedral.nets.cspnet import CSPNet, CSPNetConfig, MatrixPrediction
from euhedral.nets.egnn import EGNNConfig
from euhedral.nets.gemnet import GemNetConfig
from euhedral.nets.periodic_transformer import PeriodicTransformer, PeriodicTransformerConfig
from euhedral.nets.plain_message_passing import PlainMessagePassingConfig
from euhedral.testing.nets import random_inputs
from training_speed import keep_memory

LAPTOP: Mapping[str, Any] = {
    "CSPNet": CSPNetConfig(
        width=256, layers=4, frequencies=64, time_width=128, conditioned=True, lattice="log_symmetric", species=True
    ),
    "GemNet-T": GemNetConfig(width=128, blocks=3, triplet_width=32, radial=8, cutoff=6.0),
    "EGNN": EGNNConfig(width=192, layers=4),
    "periodic transformer": PeriodicTransformerConfig(width=192, blocks=4, heads=8, pair_width=64),
    "plain message passing": PlainMessagePassingConfig(width=256, layers=4),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network, how a scalar is had from it, and whether it computes in bfloat16."""

    name: str
    net: nn.Module
    scalar: Callable[[NoisyCrystals, Context], Tensor]
    bfloat16: bool


def entries(bfloat16: bool) -> list[Entry]:
    csp, transformer, reference = (
        CSPNet(CSPNetConfig()),
        PeriodicTransformer(PeriodicTransformerConfig()),
        ReferenceCSPNet(),
    )

    def of_csp(noisy: NoisyCrystals, context: Context) -> Tensor:
        guess = csp(noisy, context)
        assert isinstance(guess, MatrixPrediction)
        return guess.frac.square().mean() + guess.cell.square().mean()

    def of_transformer(noisy: NoisyCrystals, context: Context) -> Tensor:
        guess = transformer(noisy, context)
        parts = (guess.frac, guess.lattice, guess.species, guess.space_group)
        return torch.stack([part.square().mean() for part in parts]).sum()

    def of_reference(noisy: NoisyCrystals, context: Context) -> Tensor:
        frac, cell = reference(noisy.frac, noisy.cell, noisy.species % 100, noisy.time)
        return frac.square().mean() + cell.square().mean()

    # The compared pair first, side by side.
    rows = [
        Entry(name="CSPNet, straightforward, float32", net=reference, scalar=of_reference, bfloat16=False),
        Entry(name="CSPNet, float32", net=csp, scalar=of_csp, bfloat16=False),
    ]
    if bfloat16:
        rows += [
            Entry(name="CSPNet, straightforward, bfloat16", net=reference, scalar=of_reference, bfloat16=True),
            Entry(name="CSPNet, bfloat16", net=csp, scalar=of_csp, bfloat16=True),
            Entry(name="periodic transformer, bfloat16", net=transformer, scalar=of_transformer, bfloat16=True),
        ]
    rows.append(Entry(name="periodic transformer, float32", net=transformer, scalar=of_transformer, bfloat16=False))
    for name, config in LAPTOP.items():
        rows.append(laptop_entry(name, config, bfloat16))
    return rows


def laptop_entry(name: str, config: Any, bfloat16: bool) -> Entry:
    """A backbone at the size that the recipes for a laptop have."""
    net = backbone(config, features=0, codes=0, vectors=1, species=True, matrix=False)

    def scalar(noisy: NoisyCrystals, context: Context) -> Tensor:
        guess = net(noisy, context)
        return torch.stack([part.square().mean() for part in (guess.frac, guess.lattice, guess.species)]).sum()

    return Entry(name=f"{name}, recipes' size", net=net, scalar=scalar, bfloat16=bfloat16)


def precision(entry: Entry) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if entry.bfloat16 else contextlib.nullcontext()


def train_step(entry: Entry, optimizer: torch.optim.Optimizer, inputs: tuple[NoisyCrystals, Context]) -> None:
    with precision(entry):
        value = entry.scalar(*inputs)
    value.backward()
    nn.utils.clip_grad_norm_(entry.net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def evaluate(entry: Entry, inputs: tuple[NoisyCrystals, Context]) -> None:
    with torch.no_grad(), precision(entry):
        entry.scalar(*inputs)


def timed(entry: Entry, optimizer: torch.optim.Optimizer, inputs: tuple[NoisyCrystals, Context]) -> tuple[float, float]:
    """Crystals a processor second in training and in evaluation."""
    crystals, started = len(inputs[0].time), time.process_time()
    train_step(entry, optimizer, inputs)
    between = time.process_time()
    evaluate(entry, inputs)
    return crystals / (between - started), crystals / (time.process_time() - between)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", nargs="+", type=int, default=[4, 8, 12, 16, 20])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-bfloat16", action="store_true", help="for processors that do not multiply it")
    parser.add_argument("--stock", action="store_true", help="leave the allocator as it is")
    arguments = parser.parse_args()
    if not arguments.stock:
        keep_memory()

    rows = entries(not arguments.no_bfloat16)
    optimizers = {id(entry.net): torch.optim.AdamW(entry.net.parameters(), lr=1e-6, fused=True) for entry in rows}
    print(
        f"batch {arguments.batch}, {torch.get_num_threads()} threads, crystals a processor second, median of {arguments.rounds}"
    )
    print("| network | parameters | " + " | ".join(f"{n} atoms: train, evaluate" for n in arguments.atoms) + " |")
    print("|---|---:|" + "---:|" * len(arguments.atoms))
    cells: dict[str, list[str]] = {entry.name: [] for entry in rows}
    ratios: list[str] = []
    for atoms in arguments.atoms:
        inputs = random_inputs(arguments.batch, atoms, seed=atoms)
        speeds: dict[str, tuple[list[float], list[float]]] = {entry.name: ([], []) for entry in rows}
        for number in range(arguments.rounds + 1):
            for entry in rows:
                trained, sampled = timed(entry, optimizers[id(entry.net)], inputs)
                if number:  # the first warms up
                    speeds[entry.name][0].append(trained)
                    speeds[entry.name][1].append(sampled)
        middle = {name: tuple(statistics.median(x) for x in both) for name, both in speeds.items()}
        for name, (trained, sampled) in middle.items():
            cells[name].append(f"{trained:.0f}, {sampled:.0f}")
        base = middle[rows[0].name]
        for entry in rows[1:]:
            if entry.name.startswith("CSPNet"):
                own = middle[entry.name]
                ratios.append(f"{atoms} atoms, {entry.name}: {own[0] / base[0]:.2f}, {own[1] / base[1]:.2f}")
    for entry in rows:
        count = sum(parameter.numel() for parameter in entry.net.parameters()) / 1e6
        print(f"| {entry.name} | {count:.1f} M | " + " | ".join(cells[entry.name]) + " |")
    print("times the straightforward network in float32 (train, evaluate):", *ratios, sep="\n  ")


if __name__ == "__main__":
    main()
