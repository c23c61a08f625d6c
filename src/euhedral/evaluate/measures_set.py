"""Figures of discovery: which crystals are unique, which are novel, and which are stable besides."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from euhedral.evaluate.comparison import Tolerances
from euhedral.evaluate.context import Context, Measured, NotMeasurable
from euhedral.evaluate.discovery import judge_discovery
from euhedral.evaluate.measures_crystal import unbuildable
from euhedral.evaluate.novelty import NoveltyRecord, NoveltyRule, ReferenceIndex
from euhedral.evaluate.report import Failure
from euhedral.evaluate.uniqueness import DuplicateRecord, find_duplicates

_UNIQUE_VERSION = 2
_NOVEL_VERSION = 2


def measure_unique(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Share of crystals that differ from all before them, by the protocol's rule and others beside it."""
    main, *beside = settings["rule"], *settings.get("rules_beside", ())
    records = {rule: duplicate_records(context, settings, rule) for rule in (main, *beside)}
    figures = [
        context.share(
            "discovery.unique" if rule == main else f"discovery.unique_{rule}",
            np.array([record.unique for record in found], dtype=bool),
            better="higher",
            note=f"rule '{rule}'; {tolerance_note(settings)}",
        )
        for rule, found in records.items()
    ]
    broken = unbuildable(context, context.samples)
    return Measured(
        figures=tuple(figures),
        failures=tuple(
            Failure(index=record.index, stage="unique", reason=record.reason)
            for record in records[main]
            if record.reason is not None and broken[record.index] is None
        ),
        columns={
            "duplicate_of": [record.duplicate_of for record in records[main]],
            "unique": [record.unique for record in records[main]],
        },
    )


def duplicate_records(context: Context, settings: Mapping[str, Any], rule: NoveltyRule) -> list[DuplicateRecord]:
    """Whether each crystal is the first of its kind."""
    tolerances = tolerances_of(settings)

    def find() -> list[list[Any]]:
        records = find_duplicates(
            context.crystals,
            disordered=rule == "disordered",
            workers=context.workers,
            seconds_per_pair=context.seconds_per_crystal,
            tolerances=tolerances,
            progress=context.reporter(f"unique ({rule})"),
        )
        return [[record.duplicate_of, record.reason] for record in records]

    def remember() -> list[DuplicateRecord]:
        kept = {**asdict(tolerances), "rule": rule}
        rows = context.for_all("unique", _UNIQUE_VERSION, kept, [context.crystals], find)
        return [DuplicateRecord(index=i, duplicate_of=twin, reason=why) for i, (twin, why) in enumerate(rows)]

    return context.once(("unique", rule, tolerances), remember)


def tolerances_of(settings: Mapping[str, Any]) -> Tolerances:
    """The matcher's tolerances among a metric's settings."""
    return Tolerances(
        stol=float(settings["stol"]), ltol=float(settings["ltol"]), angle_tol=float(settings["angle_tol"])
    )


def tolerance_note(settings: Mapping[str, Any]) -> str:
    """The matcher's tolerances in words."""
    return f"stol {settings['stol']:g}, ltol {settings['ltol']:g}, angle_tol {settings['angle_tol']:g}"


def measure_novel(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Share of crystals that no known crystal equals, by the protocol's rule and others beside it."""
    main, *beside = settings["rule"], *settings.get("rules_beside", ())
    known = context.known()
    records = {rule: novelty_records(context, settings, rule) for rule in (main, *beside)}
    note = f"{len(known)} known crystals; {tolerance_note(settings)}"
    figures = [
        context.share(
            "discovery.novel" if rule == main else f"discovery.novel_{rule}",
            np.array([record.novel for record in found], dtype=bool),
            better="higher",
            note=f"rule '{rule}'; {note}",
        )
        for rule, found in records.items()
    ]
    broken = unbuildable(context, context.samples)
    return Measured(
        figures=tuple(figures),
        failures=tuple(
            Failure(index=record.index, stage="novel", reason=record.reason)
            for record in records[main]
            if record.reason is not None and broken[record.index] is None
        ),
        columns={
            "known_as": [record.reference for record in records[main]],
            "novel": [record.novel for record in records[main]],
        },
    )


def measure_sun(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Stable, unique and novel crystals, given energies above the hull."""
    if context.energies is None:
        raise NotMeasurable("needs energies above the hull (--energies, or labels e_above_hull of the samples)")
    unique = np.array([record.unique for record in duplicate_records(context, settings, settings["rule"])], dtype=bool)
    novel = np.array([record.novel for record in novelty_records(context, settings, settings["rule"])], dtype=bool)
    found = judge_discovery(
        context.energies,
        unique,
        novel,
        reasons=unbuildable(context, context.samples),
        stable_at=float(settings["stable_at"]),
        metastable_at=float(settings["metastable_at"]),
    )
    at, near = f"at most {found.stable_at:g} eV/atom", f"at most {found.metastable_at:g} eV/atom"
    note = f"unique and novel by rule '{settings['rule']}'"
    known = np.isfinite(found.e_above_hull)
    return Measured(
        figures=(
            context.share("discovery.energy_known", known, better="higher"),
            context.share("discovery.stable", found.stable, note=at, better="higher"),
            context.share("discovery.metastable", found.metastable, note=near, better="higher"),
            context.share("discovery.unique_novel", unique & novel, note=note, better="higher"),
            context.share("discovery.sun", found.sun_mask, note=f"stable: {at}; {note}", better="higher"),
            context.share("discovery.msun", found.msun_mask, note=f"stable: {near}; {note}", better="higher"),
        ),
        failures=tuple(
            Failure(index=i, stage="energy above the hull", reason=reason)
            for i, reason in enumerate(found.reasons)
            if reason is not None and unbuildable(context, context.samples)[i] is None
        ),
        columns={
            "e_above_hull": [float(e) if np.isfinite(e) else None for e in found.e_above_hull],
            "sun": found.sun_mask.tolist(),
            "msun": found.msun_mask.tolist(),
        },
    )


def novelty_records(context: Context, settings: Mapping[str, Any], rule: NoveltyRule) -> list[NoveltyRecord]:
    """Whether each crystal equals a known one."""
    known, tolerances = context.known(), tolerances_of(settings)

    def find() -> list[list[Any]]:
        index = context.once(("index", id(known)), lambda: ReferenceIndex.build(known.crystals, known.ids))
        records = index.find(
            context.crystals,
            rule=rule,
            workers=context.workers,
            seconds_per_pair=context.seconds_per_crystal,
            tolerances=tolerances,
            progress=context.reporter(f"novel ({rule})"),
        )
        return [[record.reference, record.rms, record.reason, record.compared] for record in records]

    def remember() -> list[NoveltyRecord]:
        # The names of the known crystals are part of the answer, and so of its key.
        kept = {**asdict(tolerances), "rule": rule, "ids": zlib.crc32("\n".join(known.ids).encode())}
        rows = context.for_all("novel", _NOVEL_VERSION, kept, [context.crystals, known.crystals], find)
        return [
            NoveltyRecord(index=i, reference=reference, rms=rms, reason=reason, compared=compared)
            for i, (reference, rms, reason, compared) in enumerate(rows)
        ]

    return context.once(("novel", rule, tolerances), remember)
