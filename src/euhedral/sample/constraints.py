"""Whether what came out obeys what was asked, counted on the crystals themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.crystal.kept_operations import keeps_operations
from euhedral.evaluate.validity import content_validity
from euhedral.sample.request import ResolvedRequest
from euhedral.sample.template import Template

SUPERGROUPS = "without those that are more symmetric by chance"


@dataclass(frozen=True, kw_only=True)
class ConstraintShare:
    """How many crystals meet one constraint.

    Attributes:
        met: crystals that meet it.
        total: crystals judged.
        kind: "by construction", "drawn again until met" or "soft"; `SUPERGROUPS` of a space group that is there by
            construction, where chance may have made a crystal more symmetric.
    """

    met: int
    total: int
    kind: str

    @property
    def share(self) -> float:
        """met / total, 1 where nothing was judged."""
        return self.met / self.total if self.total else 1.0

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {"met": self.met, "total": self.total, "share": self.share, "kind": self.kind}


def verify(
    resolved: ResolvedRequest, crystals: CrystalBatch, space_groups: Sequence[int], *, symmetric: bool = False
) -> Mapping[str, ConstraintShare]:
    """Count the crystals that meet each constraint of the request.

    Args:
        resolved: the request.
        crystals: what came out.
        space_groups: number found of each crystal, 0 where none was.
        symmetric: whether the model makes crystals of the space group that is asked for (`models.symmetric`); those of
            a supergroup, which chance made more symmetric, are then counted beside it.
    """
    request, species = resolved.request, [crystal.species.tolist() for crystal in crystals]
    verdicts: dict[str, tuple[list[bool], str]] = {}
    hard = "by construction"
    if resolved.composition is not None:
        verdicts["formula"] = ([_is_multiple(Counter(s), resolved.composition) for s in species], hard)
    if request.z is not None and resolved.composition is not None:
        atoms = request.z * sum(resolved.composition.values())
        verdicts["z"] = ([len(s) == atoms for s in species], hard)
    if request.chemical_system is not None:
        size = len(resolved.required) + resolved.open_elements
        verdicts["chemical_system"] = ([resolved.required <= set(s) and len(set(s)) == size for s in species], hard)
    if request.elements is not None or request.exclude_elements is not None:
        palette = resolved.allowed | (resolved.required if resolved.composition is None else frozenset())
        verdicts["elements"] = ([set(s) <= palette for s in species], hard)
    if request.num_atoms is not None:
        verdicts["num_atoms"] = ([len(s) in resolved.num_atoms for s in species], hard)
    if request.template is not None:
        kept = request.template.ordered
        verdicts["template"] = ([_holds(crystal, kept) for crystal in crystals], hard)
    if request.charge_neutral:
        verdicts["charge_neutral"] = ([content_validity(s).valid for s in species], "drawn again until met")
    if request.space_group is not None:
        kind = SUPERGROUPS if symmetric else "soft"
        verdicts["space_group"] = ([number == request.space_group for number in space_groups], kind)
        if symmetric:
            kept = keeps_operations(crystals, request.space_group)
            verdicts["space_group_or_supergroup"] = (kept.tolist(), hard)
    return {
        name: ConstraintShare(met=sum(flags), total=len(flags), kind=kind) for name, (flags, kind) in verdicts.items()
    }


def _holds(crystal: CrystalBatch, kept: Template) -> bool:
    """Whether a crystal begins with what is kept of a template, to single precision."""
    species, placed = torch.tensor(kept.species), kept.positions
    named = species > 0
    away = wrap_centered(crystal.frac[: len(placed)].double() - placed)
    same_cell = kept.cell is None or torch.allclose(
        crystal.cell[0].double(), torch.tensor(kept.cell).double(), atol=1e-4
    )
    return (
        torch.equal(crystal.species[: len(species)][named], species[named])
        and bool((away.abs() < 1e-5).all())
        and same_cell
    )


def _is_multiple(counts: Mapping[int, int], unit: Mapping[int, int]) -> bool:
    if counts.keys() != unit.keys():
        return False
    first = next(iter(unit))
    units, rest = divmod(counts[first], unit[first])
    return rest == 0 and all(counts[z] == k * units for z, k in unit.items())
