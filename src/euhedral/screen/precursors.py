"""Precursors for a target: reactions of simple phases on the hull, held against what else the same phases could form.

For every set of precursors that balances with the gases allowed,

    driving force = -(energy of the products - energy of the reactants) / (atoms of one side),
    margin        = driving force - max(0, highest driving force of a competing phase),

where a competing phase is any other phase on the hull that the same precursors (all or some of them) and the same gases of the
reaction can form, each driving force per atom of its own reaction. Reactions that release energy come first, and of these
the one of largest margin. To weigh routes by what competes on a computed hull is the idea of Aykol, Montoya and Hummelshøj
(J. Am. Chem. Soc. 143, 9244, 2021) and of the reaction networks of McDermott, Dwaraknath and Persson (Nat. Commun. 12, 3097,
2021); the formula is simpler than theirs, and nucleation barriers, of which the former estimate the structural part, are not
in it.

All energies are at 0 K: no temperature, no entropy of gases, no kinetics. A route is a suggestion of what to look at first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.elements import SYMBOLS
from euhedral.crystal.formula import parse_formula
from euhedral.errors import ConfigError, DataError, RequestError
from euhedral.screen.hull import Hull
from euhedral.screen.method import EnergyMethod, check_same_method
from euhedral.screen.precursor_phases import (
    candidates_of,
    gases_of,
    is_halide,
    rivals_of,
    without_elements,
    without_halogens,
)
from euhedral.screen.reactions import Reaction, Substance, make_reaction
from euhedral.screen.reference import Composition, formula_of, reduced_composition

if TYPE_CHECKING:
    from numpy.typing import NDArray

GASES = ("O2", "CO2", "N2", "H2O", "F2", "Cl2")
CAVEAT = "0 K energies: no temperature, no entropy of gases, no kinetics"
_AT_ONCE = 20_000
_MOST_SETS = 20_000
"""Sets above `most_precursors` are looked at if there are no more of them than this."""
_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class PrecursorConfig:
    """Which reactions are looked at.

    Attributes:
        most_precursors: of a reaction, gases not counted, 1 to 4. Only where no set balances are larger ones looked at, as
            an alloy of four elements needs.
        gases: that may be taken or released, by formula; those that the reference does not have are left out.
        kept: routes that are given, the best ones.

    Raises:
        ConfigError: on a value out of range or a gas that is no formula.
    """

    most_precursors: int = 3
    gases: tuple[str, ...] = GASES
    kept: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.most_precursors <= 4:
            raise ConfigError(f"most_precursors must be 1 to 4, not {self.most_precursors}")
        if self.kept < 1:
            raise ConfigError(f"kept must be at least 1, not {self.kept}")
        for gas in self.gases:
            try:
                parse_formula(gas)
            except RequestError as error:
                raise ConfigError(f"gases: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Competitor:
    """A phase that the same precursors could form instead.

    Attributes:
        formula: reduced.
        id: of the entry in the reference.
        driving_force: eV per atom of one side of its reaction.
    """

    formula: str
    id: str
    driving_force: float


@dataclass(frozen=True, kw_only=True)
class Route:
    """A reaction to the target and what competes with it.

    Attributes:
        reaction: balanced.
        competing: phases with a driving force, the highest first.
    """

    reaction: Reaction
    competing: tuple[Competitor, ...]

    @property
    def driving_force(self) -> float:
        """eV per atom of one side; negative where energy has to be put in."""
        return -self.reaction.energy

    @property
    def competing_driving_force(self) -> float:
        """That of the best competing phase, 0 where none has one."""
        return self.competing[0].driving_force if self.competing else 0.0

    @property
    def margin(self) -> float:
        """Driving force less that of the best competing phase, eV/atom."""
        return self.driving_force - self.competing_driving_force


def find_routes(
    composition: Mapping[int, float] | Composition,
    energy: float,
    hull: Hull,
    *,
    method: EnergyMethod,
    config: PrecursorConfig | None = None,
    allow_other_model: bool = False,
) -> tuple[Route, ...]:
    """The best routes to a target, the best first; empty where no set of precursors balances.

    Precursors are those of `candidates_of`. Elements that another candidate brings with oxygen or a halogen are weighed in
    only where nothing else releases energy and, for a target with a halogen, nothing else balances; so are fluorine and
    chlorine as gases. A phase of the target's own composition is neither a precursor nor a competitor: the energy above the
    hull tells of it.

    Args:
        composition: of the target, amounts by atomic number.
        energy: of the target, eV/atom.
        hull: of the reference that the energies of all others are from.
        method: of the target's energy.
        config: as by default where not given.
        allow_other_model: as of `Hull.above_hull`.

    Raises:
        DataError: on a composition that is none, an energy that is no number, or an element that the reference lacks.
        MismatchError: where the target's energy is of another method than the reference.
    """
    check_same_method(method, hull.reference.method, allow_other_model=allow_other_model)
    config = config or PrecursorConfig()
    reduced = reduced_composition(composition)
    if not np.isfinite(energy):
        raise DataError(f"the energy of the target is {energy}; expected a number in eV/atom")
    if missing := [SYMBOLS[z] for z, _ in reduced if z not in hull.reference.elements]:
        raise DataError(f"the hull's reference has no entry for the pure element {', '.join(missing)}")
    target = Substance(formula=formula_of(reduced), energy=energy)
    gases = gases_of(hull, target, config.gases)
    candidates = candidates_of(hull, target, gases)
    found = _rated(hull, target, without_elements(target, candidates), without_halogens(gases), config.most_precursors)
    if not (found if is_halide(target) else any(route.driving_force > 0 for route in found)):
        found = _rated(hull, target, candidates, gases, config.most_precursors) or found
    return tuple(sorted(found, key=_order)[: config.kept])


def _rated(
    hull: Hull, target: Substance, candidates: Sequence[Substance], gases: Sequence[Substance], most: int
) -> list[Route]:
    """All routes, in no order."""
    found = []
    for precursors, taken in _balanced(target, candidates, gases, most):
        rivals = rivals_of(hull, target, precursors, gases)
        competing = _competing(precursors, taken, rivals)
        found.append(Route(reaction=make_reaction(precursors, target, taken), competing=competing))
    return found


def _order(route: Route) -> tuple:
    """Smaller is better; the last ones only decide between equals."""
    precursors = [substance.formula for _, substance in route.reaction.reactants]
    return (
        route.driving_force <= 0,
        -round(route.margin, 9),
        len(precursors),
        -round(route.driving_force, 9),
        precursors,
    )


def _matrix(substances: Sequence[Substance], elements: Sequence[int]) -> NDArray[np.float64]:
    """Atoms of each substance, (elements, substances)."""
    return np.array([[float(s.amounts.get(z, 0)) for s in substances] for z in elements]).reshape(len(elements), -1)


def _balanced(
    target: Substance, candidates: Sequence[Substance], gases: Sequence[Substance], most: int
) -> list[tuple[list[Substance], list[Substance]]]:
    """Sets of precursors with the gases that balance them, where none can be left out; larger sets only if need be."""
    elements = sorted(set(target.amounts).union(*(s.amounts for s in (*candidates, *gases))))
    aim = _matrix([target], elements)[:, 0]
    found: list[tuple[list[Substance], list[Substance]]] = []
    for size in range(1, len(elements) + 1):
        if size > most and (found or math.comb(len(candidates), size) > _MOST_SETS):
            break
        for taken in _subsets(gases):
            # One precursor alone has the target's composition; more columns than elements balance in many ways.
            if size + len(taken) <= len(elements) and (size > 1 or taken):
                found += [(chosen, taken) for chosen in _sets(candidates, taken, size, elements, aim)]
    return found


def _sets(
    candidates: Sequence[Substance],
    taken: Sequence[Substance],
    size: int,
    elements: Sequence[int],
    aim: NDArray[np.float64],
) -> Iterator[list[Substance]]:
    """Sets of so many precursors that balance with exactly these gases."""
    columns, sky = _matrix(candidates, elements), _matrix(taken, elements)
    sets = combinations(range(len(candidates)), size)
    while chosen := list(islice(sets, _AT_ONCE)):
        left = columns[:, np.array(chosen)].transpose(1, 0, 2)
        right = np.broadcast_to(sky, (len(chosen), *sky.shape))
        for row in np.flatnonzero(_solutions(np.concatenate([left, right], axis=2), aim, size)):
            yield [candidates[i] for i in chosen[row]]


def _subsets(gases: Sequence[Substance]) -> list[list[Substance]]:
    return [list(chosen) for size in range(len(gases) + 1) for chosen in combinations(gases, size)]


def _solutions(systems: NDArray[np.float64], aim: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Which systems (sets, elements, columns) have one solution, with positive precursors and every gas in use."""
    inverse = np.linalg.pinv(systems)
    amounts = inverse @ aim
    # Independent columns have the identity as inverse times system.
    unique = np.abs(inverse @ systems - np.eye(systems.shape[2])).max(axis=(1, 2)) < _TINY
    exact = np.abs((systems @ amounts[..., None])[..., 0] - aim).max(axis=1) < _TINY
    used = (amounts[:, :size] > _TINY).all(axis=1) & (np.abs(amounts[:, size:]) > _TINY).all(axis=1)
    return unique & exact & used


def _competing(
    precursors: Sequence[Substance], gases: Sequence[Substance], rivals: Sequence[Substance]
) -> tuple[Competitor, ...]:
    """Phases with a driving force from the same precursors and gases, the highest first."""
    if not rivals:
        return ()
    sides = [*precursors, *gases]
    elements = sorted(set().union(*(s.amounts for s in (*sides, *rivals))))
    system, aims = _matrix(sides, elements), _matrix(rivals, elements)
    amounts = np.linalg.pinv(system) @ aims
    exact = np.abs(system @ amounts - aims).max(axis=0) < _TINY
    weighed = amounts[: len(precursors)]
    possible = exact & (weighed > -_TINY).all(axis=0) & (weighed > _TINY).any(axis=0)
    atoms, energies = (np.array([value(s) for s in sides]) for value in (lambda s: s.atoms, lambda s: s.energy))
    before = (amounts * (atoms * energies)[:, None]).sum(axis=0)
    after = np.array([s.atoms * s.energy for s in rivals])
    forces = (before - after) / (np.maximum(amounts, 0.0) * atoms[:, None]).sum(axis=0).clip(_TINY)
    found = [
        Competitor(formula=s.formula, id=s.id, driving_force=float(force))
        for s, force, can in zip(rivals, forces, possible, strict=True)
        if can and force > 0
    ]
    return tuple(sorted(found, key=lambda rival: (-rival.driving_force, rival.formula)))
