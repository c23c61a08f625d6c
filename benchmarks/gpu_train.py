"""Train the default model at full speed on one GPU (or a CPU), with nothing but torch, numpy and scipy installed.

    PYTHONPATH=src python benchmarks/gpu_train.py --data train.npz --val val.npz --out RUN --max-seconds 3000

The data file holds `num_atoms (c,)`, `cell (c, 3, 3)`, `frac (atoms, 3)`, `species (atoms,)` and `labels (c, 4)`: space
group, formation energy, energy above hull, band gap, NaN where unknown. All of it lives on the device, grouped by atom
count; lattice logarithms are computed once. A step is one batch of one atom count in bfloat16. A CUDA graph of the step
is not possible, as the matrix exponential of the noisy lattices reads norms back to the host; with batches of thousands
the launches hide behind the kernels anyway. `--compile` fuses the elementwise work of the network instead.

The learning rate follows the clock: warm-up, constant, linear decay that ends at `--max-seconds`, counted over all
resumes. RUN/state.safetensors is replaced every minute; run the same command again to go on. At the end RUN/model holds
the averaged weights in float16, ready for `euhedral.load`.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.lattice import log_symmetric
from euhedral.models import joint_flow
from euhedral.models.checkpoint import SCHEMA_VERSION
from euhedral.models.conditions import Conditions
from euhedral.models.joint_flow import JointFlow, JointFlowConfig
from euhedral.nets.pair_features import PairFeaturesConfig

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8"}
NAMED = {name: dtype for dtype, name in DTYPES.items()}
LOG_LATTICE: list[Tensor] = []
"""Lattice coordinates of the batch at hand; `batch_of` puts them in, the model's loss reads them."""


@dataclass(frozen=True, eq=False)
class Group:
    """All crystals of one atom count, on the device."""

    frac: Tensor
    cell: Tensor
    species: Tensor
    log_lattice: Tensor
    labels: Tensor
    system: Tensor


@dataclass
class Progress:
    """What a resumed run needs beside tensors; random numbers depend on seed and step alone."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    crystals: int = 0
    seconds: float = 0.0
    skipped: int = 0


def main() -> None:
    options = arguments()
    torch.set_float32_matmul_precision("high")
    device = torch.device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    arrays = dict(np.load(options.data))
    groups = grouped(arrays, device, options.max_atoms)
    validation = grouped(dict(np.load(options.val)), device, options.max_atoms) if options.val else {}
    config = model_config(arrays, groups, options)
    torch.manual_seed(options.seed)
    # Lattice logarithms are known: their eigenvectors need not be found again in every step.
    joint_flow.log_symmetric = lambda cell, num_atoms: LOG_LATTICE[0]
    model = JointFlow(config).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.lr, betas=(0.9, 0.98), weight_decay=options.weight_decay, fused=True
    )
    average = [p.detach().clone() for p in model.parameters()]
    progress = Progress()
    state = options.out / "state.safetensors"
    if state.exists():
        progress = load_state(state, model, optimizer, average, config)
        print(f"resumed at step {progress.step} after {progress.seconds:.0f} s", flush=True)
    elif options.start:
        model.load_state_dict({k: v.float() for k, v in read_tensors(options.start / "model.safetensors")[0].items()})
        average = [p.detach().clone() for p in model.parameters()]
    total = sum(p.numel() for p in model.parameters())
    print(f"{sum(len(g.cell) for g in groups.values())} crystals, {total / 1e6:.2f} M weights, {device}", flush=True)
    network = model.net
    if options.compile:
        # Sizes change with every batch; one dynamic graph serves them all. What cannot be compiled runs as it is.
        torch._dynamo.config.suppress_errors = True
        torch._dynamo.config.cache_size_limit = 64
        network.forward = torch.compile(network.forward, dynamic=True)
    train(model, optimizer, average, progress, groups, validation, options, arrays)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="folder of a checkpoint of the same architecture to start from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-seconds", type=float, required=True, help="of the whole run; the schedule ends there")
    parser.add_argument("--session-seconds", type=float, default=float("inf"), help="of this process; saves and stops")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--decay-share", type=float, default=0.35)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--max-atoms", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument("--save-seconds", type=float, default=60.0)
    parser.add_argument("--log-seconds", type=float, default=20.0)
    parser.add_argument("--width", type=int)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--pair-width", type=int)
    parser.add_argument("--radial", type=int)
    parser.add_argument("--name", default="", help="of the training data, for the checkpoint's record")
    return parser.parse_args()


def grouped(arrays: dict[str, np.ndarray], device: torch.device, max_atoms: int) -> dict[int, Group]:
    """Crystals by atom count, dense and on the device."""
    counts = arrays["num_atoms"].astype(np.int64)
    first = np.cumsum(counts) - counts
    groups: dict[int, Group] = {}
    for n in np.unique(counts[counts <= max_atoms]).tolist():
        chosen = np.flatnonzero(counts == n)
        atoms = first[chosen][:, None] + np.arange(n)
        species = torch.from_numpy(arrays["species"][atoms].astype(np.int64))
        cell = torch.from_numpy(arrays["cell"][chosen].astype(np.float64))
        system = torch.zeros(len(chosen), 119, dtype=torch.bool).scatter_(1, species, True)
        groups[n] = Group(
            frac=torch.from_numpy(arrays["frac"][atoms].astype(np.float32)).to(device),
            cell=cell.float().to(device),
            species=species.to(device),
            log_lattice=log_symmetric(cell, torch.full((len(chosen),), n)).float().to(device),
            labels=torch.from_numpy(arrays["labels"][chosen].astype(np.float32)).to(device),
            system=system.to(device),
        )
    return groups


def model_config(
    arrays: dict[str, np.ndarray], groups: dict[int, Group], options: argparse.Namespace
) -> JointFlowConfig:
    """The default model with statistics of the data, and other sizes where asked for."""
    lattice = torch.cat([g.log_lattice for g in groups.values()]).double().cpu()
    values = torch.cat([g.labels[:, 1:] for g in groups.values()]).double().cpu()
    known = torch.isfinite(values)
    count = known.sum(0).clamp_min(1)
    mean = torch.where(known, values, 0.0).sum(0) / count
    std = (torch.where(known, (values - mean).square(), 0.0).sum(0) / count).sqrt()
    default = JointFlowConfig()
    sizes = {name: getattr(options, name) for name in ("width", "blocks", "heads", "pair_width")}
    net = replace(default.net, **{name: value for name, value in sizes.items() if value is not None})
    if options.radial is not None:
        net = replace(net, pairs=PairFeaturesConfig(radial=options.radial))
    return replace(
        default,
        net=net,
        lattice_mean=tuple(lattice.mean(0).tolist()),
        lattice_std=tuple(scale(lattice.std(0, correction=0)).tolist()),
        property_mean=tuple(mean.tolist()),
        property_std=tuple(scale(std).tolist()),
    )


def scale(std: Tensor) -> Tensor:
    return torch.where(std > 1e-6, std, torch.ones_like(std))


def batch_of(group: Group, index: Tensor) -> tuple[CrystalBatch, Conditions]:
    """A batch of one atom count; the counts stay on the CPU, so that nothing waits for them."""
    frac, labels = group.frac[index], group.labels[index]
    size, n = frac.shape[:2]
    crystals = CrystalBatch(
        frac=frac.reshape(-1, 3),
        cell=group.cell[index],
        species=group.species[index].reshape(-1),
        num_atoms=torch.full((size,), n),
    )
    space_group = torch.nan_to_num(labels[:, 0], nan=0.0).long()
    conditions = Conditions(space_group=space_group, properties=labels[:, 1:], chemical_system=group.system[index])
    LOG_LATTICE[:] = [group.log_lattice[index]]
    return crystals, conditions


def epoch_batches(groups: dict[int, Group], batch: int, seed: int, epoch: int) -> list[tuple[int, np.ndarray]]:
    """Every crystal once, in batches of near-equal size within each atom count; a function of seed and epoch."""
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    batches: list[tuple[int, np.ndarray]] = []
    for n, group in groups.items():
        order = rng.permutation(len(group.cell))
        batches += [(n, part) for part in np.array_split(order, max(1, round(len(order) / batch)))]
    return [batches[i] for i in rng.permutation(len(batches))]


def learning_rate(options: argparse.Namespace, step: int, share: float) -> float:
    left = max(0.0, 1.0 - share)
    decay = 1.0 if left >= options.decay_share else max(0.01, left / options.decay_share)
    return options.lr * min(1.0, (step + 1) / max(1, options.warmup)) * decay


def autocast(device: torch.device, options: argparse.Namespace) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=not options.no_bf16)


def random_source(device: torch.device, *words: int) -> torch.Generator:
    mixed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1
    return torch.Generator(device=device).manual_seed(mixed)


def train(
    model: JointFlow,
    optimizer: torch.optim.Optimizer,
    average: list[Tensor],
    progress: Progress,
    groups: dict[int, Group],
    validation: dict[int, Group],
    options: argparse.Namespace,
    arrays: dict[str, np.ndarray],
) -> None:
    begun = mark = saved = logged = time.monotonic()
    window: dict[str, Tensor] = {}
    counted, seen_then = 0, progress.crystals
    device = model.lattice_mean.device
    while progress.seconds < options.max_seconds and mark - begun < options.session_seconds:
        batches = epoch_batches(groups, options.batch, options.seed, progress.epoch)
        if progress.position >= len(batches):
            progress.epoch, progress.position = progress.epoch + 1, 0
            continue
        n, chosen = batches[progress.position]
        rate = learning_rate(options, progress.step, progress.seconds / options.max_seconds)
        for values in step_through(model, optimizer, average, progress, groups[n], chosen, rate, options):
            for name, value in values.items():
                window[name] = window[name] + value if name in window else value
            counted += 1
        now = time.monotonic()
        if now - logged > options.log_seconds:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            now = time.monotonic()
            report(progress, window, counted, rate, (progress.crystals - seen_then) / (now - logged), options.out)
            window, counted, seen_then, logged = {}, 0, progress.crystals, now
        progress.seconds += now - mark
        mark = now
        if now - saved > options.save_seconds:
            save_state(options.out / "state.safetensors", model, optimizer, average, progress)
            saved = now
    save_state(options.out / "state.safetensors", model, optimizer, average, progress)
    loss = validation_loss(model, average, validation, options) if validation else None
    finished = progress.seconds >= options.max_seconds
    write_model(options, model, average, progress, arrays, loss)
    print(f"{'finished' if finished else 'stopped'} after {progress.seconds:.0f} s, validation {loss}", flush=True)


def step_through(
    model: JointFlow,
    optimizer: torch.optim.Optimizer,
    average: list[Tensor],
    progress: Progress,
    group: Group,
    chosen: np.ndarray,
    rate: float,
    options: argparse.Namespace,
) -> list[dict[str, Tensor]]:
    """One update; gives the values for the log. A gradient that is not finite leaves the weights as they are."""
    device = group.cell.device
    for settings in optimizer.param_groups:
        settings["lr"] = rate
    crystals, conditions = batch_of(group, torch.from_numpy(chosen).to(device))
    rng = random_source(device, options.seed, progress.step)
    with autocast(device, options):
        loss = model.loss(crystals, conditions, rng=rng)
    optimizer.zero_grad(set_to_none=True)
    (loss.total * (len(chosen) / options.batch)).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    progress.step += 1
    progress.position += 1
    progress.crystals += len(chosen)
    if not bool(torch.isfinite(norm)):
        progress.skipped += 1
        if progress.skipped > 100 + progress.step // 100:
            raise SystemExit(
                f"{progress.skipped} steps without a finite gradient up to step {progress.step}: lower --lr"
            )
        return []
    optimizer.step()
    decay = min(options.ema, (1 + progress.step) / (10 + progress.step))
    get_ema_multi_avg_fn(decay)(average, [p.detach() for p in model.parameters()], progress.step)
    return [{"loss": loss.total.detach(), **loss.terms, "gradient_norm": norm}]


def report(progress: Progress, window: dict[str, Tensor], counted: int, rate: float, speed: float, out: Path) -> None:
    means = {name: float(value) / max(counted, 1) for name, value in window.items()}
    text = " ".join(f"{name} {value:.4f}" for name, value in means.items())
    memory = f" {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else ""
    print(
        f"{progress.seconds:7.0f} s  step {progress.step} epoch {progress.epoch} lr {rate:.2e} {text}  "
        f"{speed:.0f} crystals/s{memory}" + (f" skipped {progress.skipped}" if progress.skipped else ""),
        flush=True,
    )
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps({**asdict(progress), "rate": rate, "crystals_per_second": speed, **means}) + "\n")


@torch.no_grad()
def validation_loss(
    model: JointFlow, average: list[Tensor], groups: dict[int, Group], options: argparse.Namespace
) -> float:
    """Mean loss of the averaged weights, with noise that is the same each time."""
    own = [p.data for p in model.parameters()]
    for parameter, value in zip(model.parameters(), average, strict=True):
        parameter.data = value
    total, crystals = 0.0, 0
    for number, (n, chosen) in enumerate(epoch_batches(groups, options.batch, 0, 0)):
        device = groups[n].cell.device
        batch, conditions = batch_of(groups[n], torch.from_numpy(chosen).to(device))
        with autocast(device, options):
            loss = model.loss(batch, conditions, rng=random_source(device, 1, number))
        total, crystals = total + float(loss.total) * len(chosen), crystals + len(chosen)
    for parameter, value in zip(model.parameters(), own, strict=True):
        parameter.data = value
    return total / crystals


def write_model(
    options: argparse.Namespace,
    model: JointFlow,
    average: list[Tensor],
    progress: Progress,
    arrays: dict[str, np.ndarray],
    loss: float | None,
) -> None:
    """A checkpoint folder as `euhedral.models.checkpoint` reads it, float16."""
    folder = options.out / "model"
    folder.mkdir(exist_ok=True)
    names = [name for name, _ in model.named_parameters()]
    weights = {**model.state_dict(), **dict(zip(names, average, strict=True))}
    write_tensors(
        folder / "model.safetensors",
        {name: value.half() if value.is_floating_point() else value for name, value in weights.items()},
    )
    training: dict[str, Any] = {
        "data": options.name or options.data.stem,
        "crystals": int((arrays["num_atoms"] <= options.max_atoms).sum()),
        "steps": progress.step,
        "epochs": progress.epoch,
        "crystals_seen": progress.crystals,
        "hours": round(progress.seconds / 3600, 4),
        "batch_size": options.batch,
        "learning_rate": options.lr,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device,
        "precision": "float32" if options.no_bf16 else "bf16-mixed",
    }
    if loss is not None:
        training["validation_loss"] = loss
    document = {
        "schema_version": SCHEMA_VERSION,
        "family": "joint_flow",
        "config": asdict(model.config),
        "meta": {"statistics": statistics(arrays, options.max_atoms), "training": training},
    }
    replace_file(folder / "config.json", (json.dumps(document, indent=1) + "\n").encode())


def statistics(arrays: dict[str, np.ndarray], max_atoms: int) -> dict[str, Any]:
    """What requests are checked against; as `euhedral.train.labels` counts it."""
    sizes = arrays["num_atoms"].astype(np.int64)
    used = sizes <= max_atoms
    number = np.nan_to_num(arrays["labels"][:, 0]).astype(np.int64)
    return {
        "crystals": int(used.sum()),
        "elements": [int(z) for z in np.unique(arrays["species"][np.repeat(used, sizes)])],
        "num_atoms": counted(sizes[used]),
        "num_atoms_by_space_group": {
            str(g): counted(sizes[used & (number == g)]) for g in np.unique(number[used]).tolist() if g > 0
        },
    }


def counted(values: np.ndarray) -> dict[str, int]:
    return {str(n): int(c) for n, c in zip(*np.unique(values, return_counts=True), strict=True)}


def save_state(
    path: Path, model: JointFlow, optimizer: torch.optim.Optimizer, average: list[Tensor], progress: Progress
) -> None:
    names = [name for name, _ in model.named_parameters()]
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in zip(names, average, strict=True)}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    write_tensors(path, tensors, {"progress": json.dumps(asdict(progress)), "config": json.dumps(asdict(model.config))})


def load_state(
    path: Path, model: JointFlow, optimizer: torch.optim.Optimizer, average: list[Tensor], config: JointFlowConfig
) -> Progress:
    tensors, metadata = read_tensors(path)
    if json.loads(metadata["config"])["net"] != json.loads(json.dumps(asdict(config.net))):
        raise SystemExit(f"{path} is of a network of another size; choose another --out")
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for (name, _), value in zip(model.named_parameters(), average, strict=True):
        value.copy_(tensors[f"average.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".")
            state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads(metadata["progress"]))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """The safetensors format, written here since the package may be missing: length, JSON header, raw values."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    chunks: list[bytes] = []
    offset = 0
    for name, value in tensors.items():
        flat = value.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        header[name] = {
            "dtype": DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    replace_file(path, struct.pack("<Q", len(text)) + text + b"".join(chunks))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    body = memoryview(bytearray(content[8 + length :]))
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        # A copy, so that every tensor begins at an aligned address.
        raw = torch.frombuffer(body, dtype=torch.uint8)[start:stop].clone()
        tensors[name] = raw.view(NAMED[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def replace_file(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
