"""Figures of single crystals: whether they can be read and built, validity, symmetry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.evaluate import wyckoff
from euhedral.evaluate.bootstrap import statistic_interval
from euhedral.evaluate.context import Context, Measured, make_figure
from euhedral.evaluate.histograms import categories, simple_distributions
from euhedral.evaluate.report import Distribution, Failure, Figure
from euhedral.evaluate.symmetry import (
    SpaceGroups,
    SymmetrySummary,
    find_space_groups,
    space_group_distance,
    summarize_space_groups,
)
from euhedral.evaluate.validity import (
    CompositionRule,
    CompositionVerdict,
    composition_validity,
    construction_problems,
    describe_rule,
    structure_problems,
)

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.samples import Samples

_SYMMETRY_VERSION = 1
_TEMPLATE_VERSION = 2
_STRUCTURE_VERSION = 1


def unbuildable(context: Context, samples: Samples) -> list[str | None]:
    """Why each crystal cannot be read or built, or None; the reader's own reason where there is one."""

    def find() -> list[str | None]:
        problems = construction_problems(samples.crystals)
        return [reason or problem for reason, problem in zip(samples.reasons, problems, strict=True)]

    return context.once(("unbuildable", id(samples)), find)


def buildable(context: Context, samples: Samples) -> list[int]:
    """Positions of the crystals that can be built."""
    return [i for i, problem in enumerate(unbuildable(context, samples)) if problem is None]


def structure_verdicts(context: Context, samples: Samples) -> list[str | None]:
    """Why each structure is invalid, or None."""

    def find() -> list[str | None]:
        batch, broken = samples.crystals, unbuildable(context, samples)
        texts = context.for_each(
            "structure validity",
            _STRUCTURE_VERSION,
            {},
            batch,
            lambda part, _: [(problem or "").encode() for problem in structure_problems(part)],
            stage="validity",
        )
        return [reason or text.decode() or None for reason, text in zip(broken, texts, strict=True)]

    return context.once(("structure", id(samples)), find)


def composition_verdicts(context: Context, samples: Samples, rule: CompositionRule) -> list[CompositionVerdict]:
    """The verdict of a rule on each composition; unread crystals are invalid for the reader's reason."""

    def find() -> list[CompositionVerdict]:
        verdicts = composition_validity(samples.crystals, rule)
        return [
            verdict if reason is None else CompositionVerdict(valid=False, reason=reason)
            for verdict, reason in zip(verdicts, samples.reasons, strict=True)
        ]

    return context.once(("composition", rule, id(samples)), find)


def measure_validity(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Readable, finite and valid crystals, and the distributions of simple quantities."""
    samples = context.samples
    structure, broken = structure_verdicts(context, samples), unbuildable(context, samples)
    sound = np.array([problem is None for problem in structure], dtype=bool)
    rules: Sequence[CompositionRule] = (settings["rule"], *settings.get("rules_beside", ()))
    verdicts = {rule: composition_verdicts(context, samples, rule) for rule in rules}
    passed = {rule: np.array([v.valid for v in found], dtype=bool) for rule, found in verdicts.items()}
    main = rules[0]
    figures = [
        context.share(
            "validity.structure", sound, better="higher", note="closest atoms above 0.5 Å, volume above 0.1 Å³"
        ),
        context.share("validity.composition", passed[main], better="higher", note=f"rule '{main}'"),
        context.share("validity.both", sound & passed[main], better="higher", note=f"rule '{main}'"),
    ]
    figures += [
        context.share(f"validity.composition_{rule}", passed[rule], better="higher", note=f"rule '{rule}'")
        for rule in rules[1:]
    ]
    built = np.array([problem is None for problem in broken], dtype=bool)
    figures.append(
        context.share("validity.built", built, better="higher", note="read, finite numbers, a cell, elements")
    )
    figures.append(context.share("validity.right_handed", _right_handed(context) & built, note="det(cell) above 0"))
    failures = [
        Failure(index=i, stage="read", reason=reason) for i, reason in enumerate(samples.reasons) if reason is not None
    ]
    failures += [
        Failure(index=i, stage="structure", reason=problem)
        for i, problem in enumerate(structure)
        if problem is not None and samples.reasons[i] is None
    ]
    failures += [
        Failure(index=i, stage=f"composition ({main})", reason=verdict.reason)
        for i, verdict in enumerate(verdicts[main])
        if not verdict.valid and samples.reasons[i] is None
    ]
    columns: dict[str, Sequence[Any]] = {
        "structure_problem": structure,
        **{f"composition_{rule}": [verdict.reason for verdict in found] for rule, found in verdicts.items()},
        **{f"composition_{rule}_valid": mask.tolist() for rule, mask in passed.items()},
    }
    return Measured(
        figures=tuple(figures),
        failures=tuple(failures),
        distributions=_simple(context),
        columns=columns,
        tools={f"composition rule {rule}": describe_rule(rule) for rule in rules},
    )


def measure_symmetry(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Share of P1, and the distance of the space groups to those of the reference."""
    symprec = float(settings["symprec"])
    groups = _space_groups(context, context.samples, symprec)
    own, other = summarize_space_groups(groups), None
    note = f"moyopy, symprec {symprec:g} Å"
    found = int((groups.numbers > 0).sum())
    # Less is better here, so that a crystal without a space group must not count as one that is not P1.
    p1 = context.share(
        "symmetry.p1", own.numbers.get(1, 0), found, note=f"of the {found} with a space group; {note}", better="lower"
    )
    figures = [p1]
    if context.reference is not None:
        other = summarize_space_groups(_space_groups(context, context.reference, symprec))
        figures.append(
            context.share(
                "symmetry.p1_reference", other.numbers.get(1, 0), other.crystals, note=f"the reference; {note}"
            )
        )
        figures.append(_group_distance(context, own, other, note))
    return Measured(
        figures=tuple(figures),
        failures=tuple(
            Failure(index=i, stage="symmetry", reason=reason)
            for i, reason in own.failures
            if unbuildable(context, context.samples)[i] is None
        ),
        distributions=_symmetry_distributions(own, other),
        columns={"space_group": [number or None for number in groups.numbers.tolist()]},
        tools={"space groups": own.tool},
    )


def space_group_numbers(context: Context, samples: Samples, symprec: float) -> list[int]:
    """Space-group number of each crystal, 0 where none was found."""
    return _space_groups(context, samples, symprec).numbers.tolist()


def _right_handed(context: Context) -> np.ndarray:
    import torch

    return (torch.linalg.det(context.crystals.cell) > 0).numpy()


def _simple(context: Context) -> tuple[Distribution, ...]:
    own = context.crystals[buildable(context, context.samples)]
    reference = context.reference
    other = None if reference is None else reference.crystals[buildable(context, reference)]
    return simple_distributions(own, other)


def _space_groups(context: Context, samples: Samples, symprec: float) -> SpaceGroups:
    """Space group of each crystal, found once."""

    def compute(part: CrystalBatch, progress: Callable[[int, int], None]) -> list[bytes]:
        found = find_space_groups(
            part,
            symprec=symprec,
            workers=context.workers,
            seconds_per_crystal=context.seconds_per_crystal,
            progress=progress,
        )
        return [
            f"{number} {reason or ''}".encode() for number, reason in zip(found.numbers, found.reasons, strict=True)
        ]

    def find() -> SpaceGroups:
        tool = f"moyopy {version('moyopy')}"
        settings = {"symprec": symprec, "tool": tool}
        texts = context.for_each(
            "space group", _SYMMETRY_VERSION, settings, samples.crystals, compute, stage="symmetry"
        )
        split = [text.decode().partition(" ") for text in texts]
        return SpaceGroups(
            numbers=np.array([int(number) for number, _, _ in split], dtype=np.int64),
            reasons=tuple(
                problem or reason or None
                for problem, (_, _, reason) in zip(unbuildable(context, samples), split, strict=True)
            ),
            symprec=symprec,
            tool=tool,
        )

    return context.once(("space groups", symprec, id(samples)), find)


def _group_distance(context: Context, own: SymmetrySummary, other: SymmetrySummary, note: str) -> Figure:
    """Total variation distance with its interval, from resampled counts of space groups."""
    total, interval = sum(other.numbers.values()), None
    counts = np.array([own.numbers.get(number, 0) for number in range(1, 231)], dtype=np.int64)
    if total and counts.any():
        target = np.array([other.numbers.get(number, 0) / total for number in range(1, 231)])
        interval = statistic_interval(
            counts,
            lambda drawn: 0.5 * np.abs(drawn / counts.sum() - target).sum(axis=1),
            rng=context.rng("symmetry.space_group_distance"),
            distance=True,
        )
    return make_figure(
        "symmetry.space_group_distance",
        space_group_distance(own, other),
        interval,
        samples=own.crystals,
        note=f"total variation distance, 0 to 1; {note}",
        better="lower",
    )


def _symmetry_distributions(own: SymmetrySummary, other: SymmetrySummary | None) -> tuple[Distribution, ...]:
    def expanded(summary: SymmetrySummary) -> list[int]:
        return [number for number, crystals in summary.numbers.items() for _ in range(crystals)]

    systems = tuple(own.crystal_systems)
    return (
        categories("space_groups", "Space groups", expanded(own), None if other is None else expanded(other)),
        Distribution(
            name="crystal_systems",
            title="Crystal systems",
            labels=systems,
            samples=tuple(own.crystal_systems[name] for name in systems),
            reference=None if other is None else tuple(other.crystal_systems[name] for name in systems),
        ),
    )


def measure_templates(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Share of crystals whose Wyckoff template no known crystal has."""
    known = context.known()
    symprecs = float(settings["symprec"]), float(settings["symprec_known"])
    own = _templates(context, context.samples, symprecs[0])
    held = {template for template, _ in _templates(context, known, symprecs[1]) if template}
    novel = np.array([template != "" and template not in held for template, _ in own], dtype=bool)
    broken = unbuildable(context, context.samples)
    note = (
        f"moyopy, symprec {symprecs[0]:g} Å (samples) and {symprecs[1]:g} Å (known); "
        f"{len(held)} known templates of {len(known)} crystals"
    )
    return Measured(
        figures=(context.share("symmetry.novel_template", novel, note=note),),
        failures=tuple(
            Failure(index=i, stage="wyckoff template", reason=reason)
            for i, (_, reason) in enumerate(own)
            if reason and broken[i] is None
        ),
        columns={"wyckoff_template": [template or None for template, _ in own]},
    )


def _templates(context: Context, samples: Samples, symprec: float) -> list[tuple[str, str]]:
    """Wyckoff template of each crystal as text and, where there is none, why."""

    def compute(part: CrystalBatch, progress: Callable[[int, int], None]) -> list[bytes]:
        records = wyckoff.wyckoff_templates(
            part,
            symprec=symprec,
            workers=context.workers,
            seconds_per_crystal=context.seconds_per_crystal,
            progress=progress,
        )
        return [f"{record.template or ''}\t{record.reason or ''}".encode() for record in records]

    def find() -> list[tuple[str, str]]:
        settings = {"symprec": symprec, "tool": f"moyopy {version('moyopy')}"}
        found = context.for_each(
            "wyckoff template", _TEMPLATE_VERSION, settings, samples.crystals, compute, stage="wyckoff templates"
        )
        split = (text.decode().partition("\t") for text in found)
        return [(template, reason) for template, _, reason in split]

    return context.once(("templates", symprec, id(samples)), find)
