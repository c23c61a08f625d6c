"""What a user asks for, checked before anything is computed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from euhedral.config import nearest
from euhedral.crystal.elements import SYMBOLS
from euhedral.crystal.formula import parse_chemical_system, parse_elements, parse_formula, reduced
from euhedral.errors import RequestError
from euhedral.models.columns import Column, position_of
from euhedral.models.conditions import PROPERTIES
from euhedral.sample.template import Template

_EXAMPLES = {
    "formula": "'LiMnO2'",
    "chemical_system": "'Li-Mn-O'",
    "elements": "'Li,Mn,O'",
    "exclude_elements": "'Pb,Cd'",
}
MOST_CRYSTALS = 10_000_000
FARTHEST = 10.0
"""Standard deviations of a property in training that a target may be from its mean."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A request for crystals; fields left at None are the model's choice.

    Attributes:
        n: number of crystals.
        formula: composition to predict structures of, e.g. "LiMnO2"; reduced to its formula unit.
        z: formula units in a cell; enumerated where not given.
        chemical_system: exactly these elements, e.g. "Li-Mn-O"; "*" leaves a place open.
        elements: elements that may occur, e.g. "Li,Mn,O".
        exclude_elements: elements that may not occur.
        num_atoms: atoms in a cell, one number or (lowest, highest).
        space_group: 1 to 230; a soft condition, unless the model makes crystals of Wyckoff positions (`models.symmetric`).
        properties: targets by name of `PROPERTIES`, in their units, or of the columns that a model's adapters learned,
            numbers or classes; soft conditions.
        charge_neutral: True draws only compositions that pass the published charge-neutrality rule (SMACT; see
            `evaluate.validity`), False leaves them as the model draws them; None draws as many of them as the training
            data hold, where the model knows how many.
        idealize: move each crystal onto the symmetry that it nearly has (`crystal.idealize`); not where a template is
            given, whose parts stay where they are.
        steer: a trained model with a property head, by name or folder (`models.property_predictor`), whose gradient leads
            the crystals toward `properties`, beside what the model itself makes of them.
        steer_strength: of that gradient; 0 is off.
        template: parts of a structure that every crystal has (`sample.template`); the atom count is the structure's where
            neither it nor a formula is given, and where the lattice is kept the nearest that a formula has.
        guidance: strength of guidance toward soft conditions; 1 is plain conditioning.
        steps: steps along the path of the model; as many as its recipe says where None (`euhedral recipes`).
        seed: the same seed on the same machine gives the same crystals.
    """

    n: int = 16
    formula: str | None = None
    z: int | None = None
    chemical_system: str | None = None
    elements: str | None = None
    exclude_elements: str | None = None
    num_atoms: int | tuple[int, int] | None = None
    space_group: int | None = None
    properties: Mapping[str, float | str] = field(default_factory=dict)
    charge_neutral: bool | None = None
    idealize: bool = True
    guidance: float = 1.0
    steps: int | None = None
    seed: int = 0
    template: Template | None = None
    steer: str | None = None
    steer_strength: float = 1.0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> GenerationRequest:
        """A request from fields by name. Raises RequestError for a field that is none, naming the nearest."""
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise RequestError(f"a request has no {name!r}{nearest(name, known)}; it has {', '.join(known)}")
        return cls(**given)

    def __post_init__(self) -> None:
        for name in ("n", "seed"):
            _refuse_type(name, getattr(self, name), Integral, "a whole number")
        for name in ("z", "space_group", "steps"):
            _refuse_type(name, getattr(self, name), Integral | None, "a whole number")
        _refuse_type("guidance", self.guidance, Real, "a number")
        _refuse_type("steer", self.steer, str | None, "the name or folder of a model")
        _refuse_type("steer_strength", self.steer_strength, Real, "a number")
        for name in ("formula", "chemical_system", "elements", "exclude_elements"):
            _refuse_type(name, getattr(self, name), str | None, "a text such as " + _EXAMPLES[name])
        _refuse_type("template", self.template, Template | None, "a euhedral.Template")
        for limit in self.num_atoms if isinstance(self.num_atoms, tuple) else (self.num_atoms,):
            _refuse_type("num_atoms", limit, Integral | None, "a whole number or two of them")
        if not isinstance(self.properties, Mapping):
            raise RequestError(
                f"properties must be numbers by name, such as {{'band_gap': 2.0}}, not {self.properties!r}"
            )
        for name, value in self.properties.items():
            if name in PROPERTIES:
                _refuse_type(f"the target of {name}", value, Real, "a number")
            else:
                _refuse_type(f"the target of {name}", value, Real | str, "a number or the name of a class")

    def to_json(self) -> dict[str, Any]:
        """The request as plain values."""
        return {**asdict(self), "properties": dict(self.properties)}


def _refuse_type(name: str, value: object, wanted: Any, expected: str) -> None:
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise RequestError(f"{name} must be {expected}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a trained model can be asked for, from its checkpoint.

    Attributes:
        elements: atomic numbers seen in training.
        num_atoms: how many training crystals have each atom count.
        num_atoms_by_space_group: the same within each space group.
        neutral_share: share of the training crystals that pass the charge-neutrality rule, None if not known.
        property_scale: mean and standard deviation of properties in training, where the model knows them.
        properties: those of `PROPERTIES` that it learned to follow; none for a model that reads none.
        space_group: whether it follows a space group.
        steers: whether a property model can lead its crystals.
        steps: along its path, where a request does not say; 0 for a model that draws at once.
        columns: columns of the data that the model's adapters learned, in their order.
    """

    elements: frozenset[int]
    num_atoms: Mapping[int, int]
    num_atoms_by_space_group: Mapping[int, Mapping[int, int]]
    neutral_share: float | None = None
    property_scale: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    properties: frozenset[str]
    space_group: bool = True
    steers: bool = True
    steps: int
    columns: tuple[Column, ...] = ()

    @property
    def max_atoms(self) -> int:
        """Largest cell that the model was trained on."""
        return max(self.num_atoms)

    @classmethod
    def from_meta(
        cls, meta: Mapping[str, Any], *, config: Any = None, columns: tuple[Column, ...] = (), steps: int = 7
    ) -> Capabilities:
        """Read from what training put in a checkpoint, and from the model's config; `steps` where the former does not say."""
        statistics = meta["statistics"]
        known = statistics.get("property_known")
        return cls(
            elements=frozenset(int(z) for z in statistics["elements"]),
            num_atoms={int(n): int(c) for n, c in statistics["num_atoms"].items()},
            num_atoms_by_space_group={
                int(g): {int(n): int(c) for n, c in counts.items()}
                for g, counts in statistics["num_atoms_by_space_group"].items()
            },
            property_scale=_property_scale(config)
            | {one.name: (one.mean, one.std) for one in columns if not one.classes},
            properties=frozenset(name for name in PROPERTIES if known is None or known.get(name)),
            steps=int(meta.get("steps") or steps),
            columns=columns,
            neutral_share=None if (share := statistics.get("neutral_share")) is None else float(share),
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest:
    """A request that can be met.

    Attributes:
        request: as the user gave it.
        composition: atoms of one formula unit by atomic number, or None.
        required: elements that must occur (of the chemical system, and of a template in its open places).
        allowed: elements that may occur.
        open_elements: places of the chemical system still open.
        num_atoms: atom counts to draw from, with weights.
        neutral_share: share of the crystals to draw from charge-neutral compositions, the others from the rest; None
            draws them as they come.
        steps: along the path of the model.
        told: properties that the model is told; the others lead by a property model alone.
        columns: of the model's adapters.
    """

    request: GenerationRequest
    composition: Mapping[int, int] | None
    required: frozenset[int]
    allowed: frozenset[int]
    open_elements: int
    num_atoms: Mapping[int, float]
    neutral_share: float | None = None
    steps: int
    told: frozenset[str]
    columns: tuple[Column, ...] = ()


def resolve(request: GenerationRequest, capabilities: Capabilities) -> ResolvedRequest:
    """Check a request against what a model can do.

    Raises:
        RequestError: for anything that cannot be met, saying what to do.
    """
    _check_numbers(request)
    _check_path(request, capabilities)
    _check_targets(request, capabilities)
    allowed = _palette(request, capabilities)
    composition, required, opens = None, frozenset[int](), 0
    if request.formula is not None:
        if request.chemical_system is not None:
            raise RequestError("give either --formula or --chemical-system: a formula fixes its elements already")
        composition = reduced(parse_formula(request.formula))[0]
        _refuse_outside(frozenset(composition), allowed, f"formula {request.formula}")
    elif request.z is not None:
        raise RequestError("--z counts formula units, so it needs --formula")
    if request.chemical_system is not None:
        required, opens = parse_chemical_system(request.chemical_system)
        _refuse_outside(required, allowed, f"chemical system {request.chemical_system}")
        if request.template is not None:
            _refuse_outside(request.template.elements, allowed, "the template")
            required, opens = _taking_in(request.template, required, opens)
        if opens and len(allowed - required) < opens:
            raise RequestError(
                f"{request.chemical_system} leaves {opens} places open, but --elements and --exclude-elements leave only "
                f"{len(allowed - required)} elements for them"
            )
        if opens == 0:
            allowed = required
    counts = _atom_counts(request, capabilities, composition, len(required) + opens)
    if request.template is not None:
        counts = _counts_around(request.template, counts, composition, required=required, allowed=allowed, opens=opens)
        if request.num_atoms is None and request.z is None and request.template.cell is not None:
            own = len(request.template)
            counts = {min(counts, key=lambda count: abs(count - own)): 1.0}
    return ResolvedRequest(
        request=request,
        composition=composition,
        required=required,
        allowed=allowed,
        open_elements=opens,
        num_atoms=counts,
        neutral_share=_neutral_share(request, capabilities, composition),
        steps=capabilities.steps if request.steps is None else request.steps,
        told=capabilities.properties,
        columns=capabilities.columns,
    )


def _taking_in(template: Template, required: frozenset[int], opens: int) -> tuple[frozenset[int], int]:
    """A chemical system, elements and open places, with the other elements of a template in open places."""
    more = template.elements - required
    if len(more) > opens:
        symbols = ", ".join(SYMBOLS[z] for z in sorted(more))
        raise RequestError(
            f"the template asks for {symbols}, and --chemical-system has {opens} open places for them: keep less of the "
            "template, or ask for another system"
        )
    return required | more, opens - len(more)


def _counts_around(
    template: Template,
    counts: Mapping[int, float],
    composition: Mapping[int, int] | None,
    *,
    required: frozenset[int],
    allowed: frozenset[int],
    opens: int,
) -> dict[int, float]:
    """Atom counts at which what is kept of a template fits, and leaves something to generate."""
    kept = template.ordered
    elements = frozenset(composition) if composition is not None else required if required else allowed
    _refuse_outside(kept.elements, elements, "the template")
    fits: dict[int, float] = {}
    for count, weight in counts.items():
        left = count - sum(z > 0 for z in kept.species)
        if composition is not None:
            units = count // sum(composition.values())
            held = Counter(kept.species)
            enough = all(held[z] <= k * units for z, k in composition.items())
        else:
            enough = left >= len(required - kept.elements) + opens
        drawn = left > 0 or kept.cell is None or len(kept.positions) < count
        if len(kept) <= count and enough and drawn:
            fits[count] = weight
    if not fits:
        raise RequestError(
            f"what is kept of the template ({len(kept)} of {len(template)} sites) does not fit into what is asked for, or "
            "leaves nothing to generate: keep less of it, or ask for other --num-atoms, --formula or --chemical-system"
        )
    return fits


def _neutral_share(
    request: GenerationRequest, capabilities: Capabilities, composition: Mapping[int, int] | None
) -> float | None:
    if composition is None:
        wanted = {None: capabilities.neutral_share, True: 1.0, False: None}
        return wanted[request.charge_neutral]
    if request.charge_neutral:
        from euhedral.evaluate.validity import content_validity

        verdict = content_validity([z for z, k in composition.items() for _ in range(k)])
        if not verdict.valid:
            raise RequestError(
                f"{request.formula} is not charge-neutral ({verdict.reason}); leave --charge-neutral out"
            )
    return None


def _check_path(request: GenerationRequest, capabilities: Capabilities) -> None:
    """Refuse what is said of the way along the path where it would change nothing."""
    if not capabilities.steps:
        if request.steps is not None:
            raise RequestError("this model takes no steps, it draws at once: leave out --steps")
        if request.guidance not in (0, 1):
            raise RequestError("this model is not led along a path: leave out --guidance, or ignore conditions with 0")
    learned = [*capabilities.properties, *(column.name for column in capabilities.columns)]
    # Some models read the elements of a formula, which fixes them in all.
    closed = request.formula or (request.chemical_system and "*" not in request.chemical_system)
    if request.guidance != 1 and not (request.space_group or closed or set(learned) & set(request.properties)):
        raise RequestError(
            "--guidance is how strongly a space group, a chemical system without open places or a property that the model "
            "learned leads it: ask for one, or leave it out"
        )


def _check_numbers(request: GenerationRequest) -> None:
    if not 1 <= request.n <= MOST_CRYSTALS:
        raise RequestError(f"-n must be between 1 and {MOST_CRYSTALS:,}, not {request.n}")
    if request.z is not None and request.z < 1:
        raise RequestError(f"z counts the formula units of a cell, so that it is at least 1, not {request.z}")
    if request.steps is not None and not 1 <= request.steps <= 10_000:
        raise RequestError(f"--steps must be between 1 and 10,000, not {request.steps}")
    if not (math.isfinite(request.guidance) and 0 <= request.guidance <= 100):
        raise RequestError(f"--guidance must be between 0 and 100, not {request.guidance}")
    if not (math.isfinite(request.steer_strength) and 0 <= request.steer_strength <= 1000):
        raise RequestError(f"--steer-strength must be between 0 and 1000, not {request.steer_strength}")
    if request.steer is None and request.steer_strength != 1:
        raise RequestError("--steer-strength is that of the gradient of a property model: name the model with --steer")
    if request.steer is not None and not set(request.properties) & set(PROPERTIES):
        raise RequestError(f"--steer leads toward a target: give one with --property ({', '.join(PROPERTIES)})")
    if not 0 <= request.seed < 2**63:
        raise RequestError(f"--seed must be between 0 and 2^63 - 1, not {request.seed}")
    if request.space_group is not None and not 1 <= request.space_group <= 230:
        raise RequestError(f"--space-group must be a number from 1 to 230, not {request.space_group}")


def _check_targets(request: GenerationRequest, capabilities: Capabilities) -> None:
    if request.space_group is not None and not capabilities.space_group:
        raise RequestError(
            "this model reads no space group, so that --space-group would change nothing: leave it out, or take the default "
            "model or a recipe that has it by construction: diffcsp_pp, symmcd"
        )
    for name, value in request.properties.items():
        if (place := position_of(capabilities.columns, name)) is not None:
            capabilities.columns[place].encoded(value)
            continue
        if name not in PROPERTIES:
            known = [*PROPERTIES, *(one.name for one in capabilities.columns)]
            raise RequestError(f"unknown property {name!r}; this model knows {', '.join(known)}")
        assert not isinstance(value, str)
        if not math.isfinite(value):
            raise RequestError(f"the target of {name} must be a finite number, not {value}")
        if name != "formation_energy_per_atom" and value < 0:
            raise RequestError(f"{name} cannot be negative (asked for {value})")
        if name not in capabilities.properties and request.steer is None:
            learned = ", ".join(sorted(capabilities.properties)) or "none"
            raise RequestError(
                f"this model has not learned to follow {name} (it has learned: {learned}): leave it out, or take a model that "
                "has, such as the default one"
                + (", or lead the crystals by a property model with --steer" if capabilities.steers else "")
            )
    for name, value in request.properties.items():
        if name not in capabilities.property_scale or isinstance(value, str):
            continue
        mean, std = capabilities.property_scale[name]
        if abs(value - mean) > FARTHEST * std:
            raise RequestError(
                f"{name} of {value:g} is far from all that the model was trained on ({mean:.3g} on average, with a standard "
                f"deviation of {std:.3g}); ask for {_range_text(name, mean, std)}"
            )


def _range_text(name: str, mean: float, std: float) -> str:
    low, high = mean - FARTHEST * std, mean + FARTHEST * std
    positive = name in PROPERTIES and name != "formation_energy_per_atom"
    return f"at most {high:.3g}" if positive else f"{low:.3g} to {high:.3g}"


def _property_scale(config: Any) -> dict[str, tuple[float, float]]:
    means, stds = getattr(config, "property_mean", ()), getattr(config, "property_std", ())
    return {name: (float(m), float(s)) for name, m, s in zip(PROPERTIES, means, stds, strict=False) if s > 0}


def _palette(request: GenerationRequest, capabilities: Capabilities) -> frozenset[int]:
    allowed = capabilities.elements
    if request.elements is not None:
        wanted = parse_elements(request.elements)
        _refuse_outside(wanted, allowed, "--elements")
        allowed = wanted
    if request.exclude_elements is not None:
        allowed = allowed - parse_elements(request.exclude_elements)
    if not allowed:
        raise RequestError("--elements and --exclude-elements leave no element to build crystals from")
    return allowed


def _refuse_outside(wanted: frozenset[int], allowed: frozenset[int], what: str) -> None:
    missing = sorted(wanted - allowed)
    if missing:
        symbols = ", ".join(SYMBOLS[z] for z in missing)
        raise RequestError(
            f"{what} asks for {symbols}, which is excluded by the request or absent from the training data; "
            "remove it or change --elements / --exclude-elements (`euhedral info` lists the known elements)"
        )


def _atom_counts(
    request: GenerationRequest, capabilities: Capabilities, composition: Mapping[int, int] | None, fewest: int
) -> dict[int, float]:
    lowest, highest = _count_range(request, capabilities)
    if request.template is not None and request.num_atoms is None and composition is None:
        if len(request.template) > highest:
            raise RequestError(
                f"the template has {len(request.template)} atoms, more than this model was trained on (at most {highest})"
            )
        lowest = highest = len(request.template)
    weights = dict(capabilities.num_atoms)
    if request.space_group is not None:
        weights = dict(capabilities.num_atoms_by_space_group.get(request.space_group, weights))
    if composition is None:
        counts = {n: float(w) for n, w in weights.items() if max(lowest, fewest) <= n <= highest}
        asked = request.num_atoms is not None or request.template is not None
        if not counts and asked and max(lowest, fewest) <= highest:
            counts = {n: 1.0 for n in range(max(lowest, fewest), highest + 1)}
        if not counts:
            raise RequestError(
                f"no atom count fits: {fewest} different elements are asked for in cells of {lowest} to {highest} atoms"
            )
        return counts
    unit = sum(composition.values())
    units = [request.z] if request.z is not None else range(1, capabilities.max_atoms // unit + 1)
    sizes = [z * unit for z in units if lowest <= z * unit <= highest]
    if not sizes:
        asked = f" with z = {request.z}" if request.z is not None else ""
        raise RequestError(
            f"{request.formula}{asked} does not fit: a formula unit has {unit} atoms and cells of {lowest} to {highest} "
            f"atoms were asked for (this model was trained on at most {capabilities.max_atoms})"
        )
    return dict.fromkeys(sizes, 1.0)


def _count_range(request: GenerationRequest, capabilities: Capabilities) -> tuple[int, int]:
    if request.num_atoms is None:
        return 1, capabilities.max_atoms
    low, high = (request.num_atoms, request.num_atoms) if isinstance(request.num_atoms, int) else request.num_atoms
    if not 1 <= low <= high:
        raise RequestError(f"--num-atoms must be a count of at least 1 or a range such as 4-12, not {low}-{high}")
    if high > capabilities.max_atoms:
        raise RequestError(
            f"--num-atoms {high} is more than this model was trained on (at most {capabilities.max_atoms} atoms in a cell)"
        )
    return low, high
