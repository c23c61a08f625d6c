"""Small crystals in a store, and settings under which training takes a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from euhedral.crystal.elements import SYMBOLS
from euhedral.data.convert import convert
from euhedral.testing.crystals import random_crystals
from euhedral.train.config import About, Recipe, TrainConfig

TINY_NET = {"width": 32, "blocks": 1, "heads": 4, "pair_width": 16, "feedforward": 2}


def write_extxyz(path: Path, sizes: list[int], labels: list[dict[str, Any]], *, seed: int = 0) -> Path:
    crystals = random_crystals(sizes, rng=torch.Generator().manual_seed(seed))
    lines: list[str] = []
    for crystal, values in zip(crystals, labels, strict=True):
        lattice = " ".join(f"{x:.6f}" for x in crystal.cell.flatten().tolist())
        extra = " ".join(f"{name}={value}" for name, value in values.items())
        lines += [str(len(crystal.species)), f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T" {extra}']
        positions = (crystal.frac @ crystal.cell[0]).tolist()
        for z, (x, y, w) in zip(crystal.species.tolist(), positions, strict=True):
            lines.append(f"{SYMBOLS[z]} {x:.6f} {y:.6f} {w:.6f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(sizes: list[int], labels: list[dict[str, Any]] | None = None, *, seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("store")
        source = write_extxyz(folder / "crystals.extxyz", sizes, labels or [{} for _ in sizes], seed=seed)
        convert(source, folder / "crystals.arrow", reduce="none")
        return folder / "crystals.arrow"

    return make


@pytest.fixture(scope="session")
def tiny_store(make_store: Callable[..., Path]) -> Path:
    """10 crystals of two atoms and 11 of three, some labels unknown."""
    sizes = [2, 3] * 10 + [3]
    labels: list[dict[str, Any]] = [{"band_gap": 0.25 * i, "space_group": 1 + i} for i in range(len(sizes))]
    labels[3] = {"space_group": 225}
    labels[4] = {"band_gap": 1.0}
    return make_store(sizes, labels)


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Recipe]:
    def recipe(**changes: Any) -> Recipe:
        settings: dict[str, Any] = {
            "batch_size": 4,
            "max_epochs": 2,
            "log_steps": 1,
            "warmup_steps": 3,
            "precision": "float32",
            "accelerator": "cpu",
            "checkpoint_minutes": 1000.0,
        }
        return Recipe(model={"net": TINY_NET}, train=TrainConfig(**(settings | changes)), about=About(steps=11))

    return recipe
