"""Figures of a set of crystals: which of them are unique."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from euhedral.evaluate.comparison import Tolerances
from euhedral.evaluate.context import Context, Measured
from euhedral.evaluate.measures_crystal import unbuildable
from euhedral.evaluate.report import Failure
from euhedral.evaluate.uniqueness import DuplicateRecord, find_duplicates

_UNIQUE_VERSION = 1


def measure_unique(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Share of crystals that differ from all before them."""
    records = duplicate_records(context, settings)
    unique = np.array([record.unique for record in records], dtype=bool)
    broken = unbuildable(context, context.samples)
    return Measured(
        figures=(context.share("discovery.unique", unique, better="higher", note=tolerance_note(settings)),),
        failures=tuple(
            Failure(index=record.index, stage="unique", reason=record.reason)
            for record in records
            if record.reason is not None and broken[record.index] is None
        ),
        columns={"duplicate_of": [record.duplicate_of for record in records], "unique": unique.tolist()},
    )


def duplicate_records(context: Context, settings: Mapping[str, Any]) -> list[DuplicateRecord]:
    """Whether each crystal is the first of its kind."""
    tolerances = tolerances_of(settings)

    def find() -> list[list[Any]]:
        records = find_duplicates(
            context.crystals,
            workers=context.workers,
            seconds_per_pair=context.seconds_per_crystal,
            tolerances=tolerances,
            progress=context.reporter("unique"),
        )
        return [[record.duplicate_of, record.reason] for record in records]

    def remember() -> list[DuplicateRecord]:
        kept = {"stol": tolerances.stol, "ltol": tolerances.ltol, "angle_tol": tolerances.angle_tol}
        rows = context.for_all("unique", _UNIQUE_VERSION, kept, [context.crystals], find)
        return [DuplicateRecord(index=i, duplicate_of=twin, reason=why) for i, (twin, why) in enumerate(rows)]

    return context.once(("unique", tolerances), remember)


def tolerances_of(settings: Mapping[str, Any]) -> Tolerances:
    """The matcher's tolerances among a metric's settings."""
    return Tolerances(
        stol=float(settings["stol"]), ltol=float(settings["ltol"]), angle_tol=float(settings["angle_tol"])
    )


def tolerance_note(settings: Mapping[str, Any]) -> str:
    """The matcher's tolerances in words."""
    return f"stol {settings['stol']:g}, ltol {settings['ltol']:g}, angle_tol {settings['angle_tol']:g}"
