"""A resolved request laid out as batches of crystals of one atom count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from euhedral.crystal.geometry import wrap
from euhedral.models.base import CompositionTest, SampleRequest
from euhedral.models.columns import position_of
from euhedral.models.conditions import PROPERTIES, Conditions
from euhedral.models.held import Held
from euhedral.sample.request import ResolvedRequest
from euhedral.sample.template import Template

REDRAWS_TOWARD_SHARE, REDRAWS_TOWARD_ALL = 6, 60
"""How often a composition is drawn again toward the share of the training data, and where all are to be neutral."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedBatch:
    """Crystals to draw together.

    Attributes:
        first: position of the first of them in the run.
        size: how many.
        num_atoms: atoms in each.
        seed: seed of the batch's random numbers.
    """

    first: int
    size: int
    num_atoms: int
    seed: int

    @property
    def indices(self) -> range:
        """Positions of the crystals in the run."""
        return range(self.first, self.first + self.size)


def plan(resolved: ResolvedRequest, *, crystals_per_batch: int) -> list[PlannedBatch]:
    """Share the crystals out over atom counts and cut them into batches, smallest cells first.

    Each number of formula units gets the same share, the smaller ones what is left over; for de novo requests atom counts
    are drawn from the training distribution with the request's seed. The plan depends on the request alone, so that a run
    can go on.
    """
    counts = sorted(resolved.num_atoms)
    if resolved.composition is not None:
        each, left = divmod(resolved.request.n, len(counts))
        shares = [each + (place < left) for place in range(len(counts))]
    else:
        weights = torch.tensor([resolved.num_atoms[c] for c in counts], dtype=torch.float64)
        rng = torch.Generator().manual_seed(_mixed_seed(resolved.request.seed, 0))
        draws = torch.multinomial(weights, resolved.request.n, replacement=True, generator=rng)
        shares = torch.bincount(draws, minlength=len(counts)).tolist()
    batches: list[PlannedBatch] = []
    first = 0
    for count, share in zip(counts, shares, strict=True):
        done = 0
        while done < share:
            size = min(crystals_per_batch, share - done)
            seed = _mixed_seed(resolved.request.seed, len(batches) + 1)
            batches.append(PlannedBatch(first=first, size=size, num_atoms=count, seed=seed))
            done, first = done + size, first + size
    return batches


def sample_request(resolved: ResolvedRequest, batch: PlannedBatch) -> SampleRequest:
    """What the model is asked for in one batch.

    Elements that must occur are given one atom each: atoms are exchangeable, so fixing them is conditioning on their
    presence, and what comes out holds them by construction.
    """
    size, count, request = batch.size, batch.num_atoms, resolved.request
    fixed: list[int] = []
    if resolved.composition is not None:
        units = count // sum(resolved.composition.values())
        fixed = [z for z, k in sorted(resolved.composition.items()) for _ in range(k * units)]
    elif resolved.required:
        fixed = sorted(resolved.required)
    owed: Counter[int] = Counter()
    if request.template is not None:
        fixed, owed = _species_around(request.template, fixed)
    species = torch.zeros(size, count, dtype=torch.int64)
    species[:, : len(fixed)] = torch.tensor(fixed, dtype=torch.int64)
    opens = resolved.open_elements
    allowed, addable = torch.zeros(size, 119, dtype=torch.bool), torch.zeros(size, 119, dtype=torch.bool)
    allowed[:, sorted(resolved.required if opens else resolved.allowed)] = True
    addable[:, sorted(resolved.allowed)] = True
    return SampleRequest(
        species=species,
        allowed=allowed,
        addable=addable,
        open_elements=torch.full((size,), opens, dtype=torch.int64),
        conditions=_conditions(resolved, size),
        owed=torch.tensor([owed[z] for z in range(119)]).expand(size, 119) if owed else None,
        guidance=request.guidance,
        steps=resolved.steps,
        composition_test=_neutrality(resolved, batch),
        held=None if request.template is None else _held(request.template, batch),
    )


def _species_around(template: Template, fixed: Sequence[int]) -> tuple[list[int], Counter[int]]:
    """Species of the first atoms, those of the template, 0 where the model chooses, and what it must choose among others.

    Elements that must occur are owed once, those of a formula as often as it says. Where no position waits for a species,
    the other atoms are exchangeable, and those that are owed come next; else the model shares them out.
    """
    kept = list(template.ordered.species)
    owed = Counter(fixed) - Counter(kept)
    return (kept, owed) if template.undecided else ([*kept, *sorted(owed.elements())], Counter())


def _held(template: Template, batch: PlannedBatch) -> Held:
    # Single precision may round a coordinate up to 1.
    kept, placed = template.ordered, wrap(template.positions.float())
    cell = None if kept.cell is None else torch.tensor(kept.cell, dtype=torch.float32).expand(batch.size, 3, 3)
    return Held(
        sites=torch.arange(batch.num_atoms) < len(placed), frac=placed.expand(batch.size, *placed.shape), cell=cell
    )


def _neutrality(resolved: ResolvedRequest, batch: PlannedBatch) -> CompositionTest | None:
    """The charge-neutrality rule, wanted of a share of the crystals drawn with the batch's seed.

    A composition x has then the probability p(verdict) p(x | verdict), the first from the data, the second the model's.
    """
    if (share := resolved.neutral_share) is None:
        return None
    rng = torch.Generator().manual_seed(_mixed_seed(batch.seed, 0))
    redraws = REDRAWS_TOWARD_ALL if resolved.request.charge_neutral else REDRAWS_TOWARD_SHARE
    return CompositionTest(test=_neutral, wanted=torch.rand(batch.size, generator=rng) < share, redraws=redraws)


def _neutral(species: torch.Tensor) -> torch.Tensor:
    from euhedral.evaluate.validity import content_validity

    return torch.tensor([content_validity(content).valid for content in species.tolist()], dtype=torch.bool)


def halves(batch: PlannedBatch) -> Iterator[PlannedBatch]:
    """The batch in two, for when memory runs out."""
    middle = batch.size // 2
    for first, size in ((0, middle), (middle, batch.size - middle)):
        yield PlannedBatch(
            first=batch.first + first, size=size, num_atoms=batch.num_atoms, seed=_mixed_seed(batch.seed, first + 1)
        )


def _conditions(resolved: ResolvedRequest, size: int) -> Conditions:
    request, conditions = resolved.request, Conditions.unknown(size)
    if request.space_group is not None:
        conditions.space_group.fill_(request.space_group)
    extra = torch.full((size, len(resolved.columns)), float("nan"))
    for name, value in request.properties.items():
        if (place := position_of(resolved.columns, name)) is not None:
            extra[:, place] = resolved.columns[place].encoded(value)
        elif name in resolved.told:
            conditions.properties[:, PROPERTIES.index(name)] = float(value)
    if resolved.required and not resolved.open_elements:
        conditions.chemical_system[:, sorted(resolved.required)] = True
    return replace(conditions, extra=extra) if resolved.columns else conditions


def _mixed_seed(seed: int, stream: int) -> int:
    """A seed for one stream of a run; splitmix64, so that neighbouring seeds share nothing."""
    mask = 2**64 - 1
    value = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & mask
    return (value ^ (value >> 31)) >> 1
