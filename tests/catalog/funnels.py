"""Crystals, stages and rows of a funnel with potentials to test with."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from euhedral.catalog.database import Catalogue
from euhedral.crystal.batch import CrystalBatch
from euhedral.screen.hull_stage import HullConfig, HullStage
from euhedral.screen.novelty_stage import NoveltyConfig, NoveltyStage
from euhedral.screen.prefilter_stage import PrefilterConfig, PrefilterStage
from euhedral.screen.relax_stage import RelaxStage, RelaxStageConfig
from euhedral.screen.stage import Column, Stage, StageRecord
from screen.potentials import RAISES, SAYS_NOTHING, Moody

TOY = "model=toy, functional=none, corrections=none"
ELEMENTS = [z for z in range(7, 60) if z not in (RAISES, SAYS_NOTHING)]


class Unhurried(Moody):
    """Takes a while for each call, so that something can happen in its midst; UNHURRIED says how many seconds."""

    def predict(self, batch, *, keys=None):
        time.sleep(float(os.environ.get("UNHURRIED", "0.05")))
        return super().predict(batch, keys=keys)


@dataclass(frozen=True, kw_only=True)
class GreedyConfig:
    pass


class Greedy(Stage):
    """Has not the memory for more than two crystals, nor for the one with index 5."""

    name = "greedy"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {}

    def run(self, crystals, earlier, *, workers):
        if len(crystals) > 2 or any(values["index"] == 5 for values in earlier):
            raise MemoryError("no room")
        return [StageRecord(index=i, outcome="passed") for i in range(len(crystals))]


def crystals_of_pairs(count: int, first: Sequence[int] = ()) -> CrystalBatch:
    """Cells of one atom of each element and another of the next, nearly at the well's minimum; no two alike."""
    cell = torch.eye(3, dtype=torch.float64) * 2.9
    frac = torch.tensor([[0.0, 0, 0], [0.52, 0.49, 0.5]], dtype=torch.float64)
    species = [*first, *ELEMENTS][:count]
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([z, z + 1])) for z in species])


def toy_reference(folder: Path) -> str:
    from euhedral.crystal.elements import SYMBOLS

    file = folder / "reference.csv"
    file.write_text("formula,energy_per_atom\n" + "".join(f"{symbol},-15\n" for symbol in SYMBOLS[1:95]))
    return str(file)


def toy_funnel(folder: Path, **relax: object) -> list[Stage]:
    config = RelaxStageConfig(**{"calculator": "screen.potentials:Moody"} | relax)  # pyright: ignore[reportArgumentType]
    hull = HullConfig(reference=toy_reference(folder), reference_method=TOY, energy_method=TOY, limit=None)
    return [
        PrefilterStage(PrefilterConfig()),
        RelaxStage(config),
        HullStage(hull),
        NoveltyStage(NoveltyConfig()),
    ]


def add_run(catalogue: Catalogue, crystals: CrystalBatch) -> int:
    names = [str(i) for i in range(len(crystals))]
    return catalogue.add_run(kind="screen", request={}, provenance={}, crystals=crystals, names=names)


def rows_of(catalogue: Catalogue, run: int) -> list[dict]:
    return [
        {key: value for key, value in row.items() if not key.endswith("_seconds")}
        for row in catalogue.table(run).to_pylist()
    ]
