"""Train the default model on processor cores that other work shares: how the shipped weights were made.

    python benchmarks/cpu_train.py --out RUN --hours 3

One worker of one thread a core, each with crystals of its own; every `--tick` seconds their weights and moments are
averaged by the steps that each has taken (local SGD: Stich, ICLR 2019). Threads of one process wait for each other at
every operation, so that one busy core stalls them all; here it slows its own worker alone. Batches hold about
`--atoms` atoms, so that steps take alike. The rate follows the clock: warm-up, constant, linear decay.

RUN/state.safetensors is replaced every 90 seconds; the same command goes on from it, for `--hours` more, and a copy of it made
before the decay can be trained further. RUN/model holds the averaged weights in float16, ready for `euhedral.load`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from euhedral.data.store import CrystalStore
from euhedral.models.checkpoint import load_model, save_model
from euhedral.models.joint_flow import JointFlow, JointFlowConfig
from euhedral.sample.generate import fast_precision
from euhedral.sample.weights import find_weights
from euhedral.train.labels import LabelTable, statistics_of
from euhedral.train.loader import TrainingBatch
from mp20 import DATA, open_store

BETAS, CLIP, EMA_DECAY, WARM_UP = (0.9, 0.98), 1.0, 0.999, 100
KEPT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296", "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--from", dest="begin", metavar="MODEL", help="start with these weights, e.g. default")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other numbers of JointFlowConfig")
    parser.add_argument("--atoms", type=int, default=720, help="atoms of a batch")
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument(
        "--decay-share", type=float, default=0.35, help="share of the time in which the rate falls; 0: never"
    )
    parser.add_argument("--tick", type=float, default=45.0, help="seconds between averages")
    options = parser.parse_args()
    os.environ.update(KEPT)  # read by the workers, which are new processes
    options.out.mkdir(parents=True, exist_ok=True)
    store = open_store(options.train)
    statistics = statistics_of(store, LabelTable(store), max_atoms=20)
    model, past = first_model(options, statistics)
    state_file = options.out / "state.safetensors"
    if not state_file.exists():
        zeros = torch.zeros(sum(p.numel() for p in model.parameters()))
        weights = flattened(list(model.parameters()))
        values = {"weights": weights, "moment_1": zeros, "moment_2": zeros.clone(), "average": weights.clone()}
        keep(state_file, {**values, **past})
    state = load(state_file)
    shared = torch.stack([torch.cat([state[name] for name in ("weights", "moment_1", "moment_2")])] * options.workers)
    context = torch.multiprocessing.get_context("spawn")
    barrier, done = (
        context.Barrier(options.workers),
        torch.zeros(options.workers, 3, dtype=torch.float64).share_memory_(),
    )
    begun = time.time()
    arguments = (options, store.path, model.config, shared.share_memory_(), done, barrier, begun)
    workers = [context.Process(target=work, args=(rank, *arguments)) for rank in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    export(options, statistics, model)


def first_model(options: Any, statistics: Any) -> tuple[JointFlow, dict[str, float]]:
    """The model that training begins with, and what its weights have seen: new ones, or those of `--from`."""
    torch.manual_seed(0)
    past = {"steps": 0, "crystals": 0, "seconds": 0.0}
    model = JointFlow(JointFlowConfig(**statistics.config_values()))
    if options.begin:
        checkpoint = load_model(find_weights(options.begin))
        if not isinstance(checkpoint.model, JointFlow):
            raise SystemExit(f"{options.begin} is no JointFlow model")
        model, training = checkpoint.model, checkpoint.meta["training"]
        past = {
            "steps": training["steps"],
            "crystals": training["crystals_seen"],
            "seconds": 3600.0 * training["hours"],
        }
    changes = {name: float(value) for name, _, value in (text.partition("=") for text in options.set)}
    model.config = replace(model.config, **changes)  # type: ignore[arg-type]
    return model, past


def work(
    rank: int,
    options: Any,
    store_path: Path,
    config: JointFlowConfig,
    shared: Tensor,
    done: Tensor,
    barrier: Any,
    begun: float,
) -> None:
    """One worker; the first of them keeps the averaged weights and writes the state."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]})
    torch.set_num_threads(1)
    state = load(options.out / "state.safetensors")
    model = JointFlow(config)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=options.rate, betas=BETAS, weight_decay=options.weight_decay, fused=True
    )
    seed = state["steps"] * options.workers + rank
    rng = torch.Generator().manual_seed(seed)
    source = batches(CrystalStore.open(store_path), options.atoms, np.random.default_rng(seed))
    take_over(parameters, optimizer, shared[rank], first=True)
    ticks, steps, crystals, kept, losses = 0, 0, 0, time.time(), []
    average, first_step = state["average"], state["steps"]
    while True:
        now = (time.time() - begun) / (3600 * options.hours)
        fall = min(1.0, max(0.01, (1 - now) / options.decay_share)) if options.decay_share else 1.0
        for group in optimizer.param_groups:
            group["lr"] = options.rate * fall * min(1.0, (state["steps"] - first_step + 1) / WARM_UP)
        batch = next(source)
        with fast_precision(torch.device("cpu")):
            loss = model.loss(batch.crystals, batch.conditions, rng=rng).total
        (loss * len(batch) / 64).backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss))
        steps, crystals, state["steps"] = steps + 1, crystals + len(batch), state["steps"] + 1
        if (time.time() - begun) / options.tick < ticks + 1:
            continue
        ticks = int((time.time() - begun) / options.tick)
        done[rank] = torch.tensor([steps, crystals, now >= 1])
        total, mean = synchronise(rank, parameters, optimizer, shared, done, barrier)
        state["crystals"] += int(total[1])
        average.lerp_(mean[: average.numel()], 1 - EMA_DECAY ** (total[0] / options.workers))
        over = total[2] > 0  # the same for all, whatever their clocks say
        if rank == 0:
            print(
                f"{state['crystals']} crystals, loss {np.mean(losses):.4f}, {total[1] / options.tick:.0f}/s", flush=True
            )
            if over or time.time() - kept > 90:
                kept = time.time()
                names = ("weights", "moment_1", "moment_2")
                tensors = {name: part.clone() for name, part in zip(names, mean.chunk(3), strict=True)}
                keep(
                    options.out / "state.safetensors",
                    {**state, **tensors, "average": average, "seconds": state["seconds"] + time.time() - begun},
                )
        steps, crystals, losses = 0, 0, []
        parent = torch.multiprocessing.parent_process()
        if over or (parent is not None and not parent.is_alive()):  # killed, it would leave the workers to themselves
            return


def synchronise(
    rank: int,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    shared: Tensor,
    done: Tensor,
    barrier: Any,
) -> tuple[list[float], Tensor]:
    """Average weights and moments over the workers by their steps; sums of `done`, and the average."""
    moments = [optimizer.state[p] for p in parameters]
    parts = [flattened([m[name] for m in moments]) for name in ("exp_avg", "exp_avg_sq")]
    shared[rank].copy_(torch.cat([flattened(parameters), *parts]))
    barrier.wait()
    shares, total = done[:, 0] / done[:, 0].sum(), done.sum(0).tolist()
    mean = torch.einsum("w,wp->p", shares.float(), shared)
    barrier.wait()
    take_over(parameters, optimizer, mean)
    return total, mean


def batches(store: CrystalStore, atoms: int, random: np.random.Generator) -> Iterator[TrainingBatch]:
    """Crystals of one atom count, about `atoms` atoms a batch, epoch after epoch."""
    labels, counts = LabelTable(store), np.asarray(store.num_atoms)
    while True:
        epoch = []
        for n in np.unique(counts):
            rows = random.permutation(np.flatnonzero(counts == n))
            size = int(np.clip(round(atoms / n), 36, 160))
            epoch += [np.sort(rows[i : i + size]) for i in range(0, len(rows), size)]
        for i in random.permutation(len(epoch)):
            crystals = store.crystals(epoch[i])
            yield TrainingBatch(crystals, labels.conditions(epoch[i], crystals))


def flattened(tensors: list[Tensor] | list[torch.nn.Parameter]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def take_over(
    parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, values: Tensor, *, first: bool = False
) -> None:
    """Set weights and both moments from one row of values; at first the optimizer's state is made."""
    sizes = [p.numel() for p in parameters]
    weights, moment_1, moment_2 = (part.split(sizes) for part in values.chunk(3))
    for p, weight, one, two in zip(parameters, weights, moment_1, moment_2, strict=True):
        p.data.copy_(weight.view_as(p))
        if first:
            step = torch.tensor(1000.0 if bool(two.any()) else 0.0)
            optimizer.state[p] = {"step": step, "exp_avg": torch.empty_like(p), "exp_avg_sq": torch.empty_like(p)}
        optimizer.state[p]["exp_avg"].copy_(one.view_as(p))
        optimizer.state[p]["exp_avg_sq"].copy_(two.view_as(p))


def keep(file: Path, state: dict[str, Any]) -> None:
    """Replace a state at once; numbers go into its header."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    numbers = {name: json.dumps(value) for name, value in state.items() if name not in tensors}
    save_file(tensors, file.with_suffix(".partial"), metadata=numbers)
    os.replace(file.with_suffix(".partial"), file)


def load(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as opened:
        numbers = {name: json.loads(text) for name, text in opened.metadata().items()}
        return {**{name: opened.get_tensor(name) for name in opened.keys()}, **numbers}  # noqa: SIM118


def export(options: Any, statistics: Any, model: JointFlow) -> None:
    """Averaged weights as a checkpoint in float16."""
    state = load(options.out / "state.safetensors")
    parameters = list(model.parameters())
    for p, value in zip(parameters, state["average"].split([p.numel() for p in parameters]), strict=True):
        p.data.copy_(value.view_as(p))
    training = {
        "data": options.train.name,
        "crystals": statistics.crystals,
        "crystals_seen": state["crystals"],
        "steps": state["steps"],
        "hours": round(state["seconds"] / 3600, 2),
    }
    target = options.out / "model"
    save_model(target, model, {"statistics": statistics.to_meta(), "training": training}, dtype=torch.float16)
    print(f"{target}: {training}")


if __name__ == "__main__":
    main()
