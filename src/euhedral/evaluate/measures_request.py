"""Figures of what was asked for: the space group at stated tolerances, and the distance of properties from their targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.evaluate.bootstrap import ratio_interval
from euhedral.evaluate.context import Context, Measured, NotMeasurable, make_figure
from euhedral.evaluate.histograms import histogram
from euhedral.evaluate.measures_crystal import space_group_numbers
from euhedral.evaluate.report import Failure, Figure
from euhedral.evaluate.steering import TargetErrors, target_errors
from euhedral.evaluate.symmetry import is_subgroup

if TYPE_CHECKING:
    from euhedral.evaluate.requested import Target


def measure_requested_group(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Share of crystals with exactly the space group asked for, and with a supergroup of it, at each tolerance."""
    wanted = context.requested.space_group
    if wanted is None:
        raise NotMeasurable("needs the space group that was asked for (--space-group)")
    figures, columns = [], {}
    for symprec in settings["symprecs"]:
        numbers = space_group_numbers(context, context.samples, float(symprec))
        above = np.array([number not in (0, wanted) and is_subgroup(wanted, number) for number in numbers], dtype=bool)
        met = np.array([number == wanted for number in numbers], dtype=bool)
        note = f"asked for {wanted}; moyopy at {symprec:g} Å"
        figures.append(context.share(f"request.space_group_at_{symprec:g}", met, note=note, better="higher"))
        figures.append(context.share(f"request.supergroup_at_{symprec:g}", above, note=f"not in the former; {note}"))
        columns[f"space_group_at_{symprec:g}"] = numbers
    return Measured(figures=tuple(figures), columns=columns)


def measure_targets(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Mean absolute error and share within tolerance of each property, beside an unsteered set where there is one."""
    targets = context.requested.targets
    if not targets:
        raise NotMeasurable("needs a target (--target NAME=VALUE)")
    if missing := [name for name in targets if name not in context.values]:
        raise NotMeasurable(f"needs values of {', '.join(missing)} (--values TABLE), from a calculation or a surrogate")
    figures: list[Figure] = []
    failures: list[Failure] = []
    distributions = []
    for name, target in targets.items():
        values, beside = context.values[name], context.unsteered.get(name)
        own = _errors(values, target)
        figures += _figures(context, f"request.{name}", own, target)
        if beside is not None:
            figures += _figures(context, f"request.{name}_unsteered", _errors(beside, target), target)
        failures += [
            Failure(index=i, stage=name, reason=reason) for i, reason in enumerate(own.reasons) if reason is not None
        ]
        distributions.append(histogram(name, f"{name}, {target.value:g} asked for", values, beside))
    columns = {name: [float(v) if np.isfinite(v) else None for v in context.values[name]] for name in targets}
    return Measured(
        figures=tuple(figures), failures=tuple(failures), distributions=tuple(distributions), columns=columns
    )


def _errors(values: np.ndarray, target: Target) -> TargetErrors:
    return target_errors(values, target.value, tolerance=target.tolerance or 0.0)


def _figures(context: Context, name: str, found: TargetErrors, target: Target) -> list[Figure]:
    """Mean, mean absolute error and share within the tolerance of one set."""
    known = np.isfinite(found.errors)
    text = f"target {target.value:g}; over {int(known.sum())} of {len(known)}"
    figures = []
    for kind, values, better in (("mean", found.errors + target.value, ""), ("mae", np.abs(found.errors), "lower")):
        filled = np.where(known, values, 0.0)
        interval = ratio_interval(filled, known.astype(np.float64), rng=context.rng(f"{name}_{kind}"))
        value = float(values[known].mean()) if known.any() else None
        figures.append(
            make_figure(f"{name}_{kind}", value, interval, samples=len(known), note=text, better=better)  # type: ignore[arg-type]
        )
    if target.tolerance is not None:
        note = f"within {target.tolerance:g} of {target.value:g}"
        figures.append(context.share(f"{name}_within", found.within, note=note, better="higher"))
    return figures
