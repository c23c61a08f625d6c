"""Ion exchange: known crystals with other ions in their places, the baseline that generative models have to beat.

A training crystal of as many atoms is drawn, its elements are given the oxidation states that are usual and neutral, and
elements are exchanged for others of the same charge (`models.ions`); the cell is scaled by the radii of the ions, as
pymatgen's `RLSVolumePredictor` does. This is how new compounds have long been proposed (Hautier et al., Inorg. Chem. 50,
656, 2011), and what Szymanski and Bartel (arXiv 2501.02144) compare generative models with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.charges import guess_charges
from euhedral.crystal.geometry import wrap
from euhedral.errors import ConfigError, DataError, RequestError
from euhedral.models.base import SampleRequest
from euhedral.models.conditions import Conditions
from euhedral.models.fitted import FittedModel
from euhedral.models.ions import likely_renaming, likely_substitutes, radii

TRIES = 60
"""Training crystals that are tried for a crystal in which all elements can be exchanged as asked."""


@dataclass(frozen=True, kw_only=True)
class IonExchangeConfig:
    """Sizes of what is kept; filled in by `fitted`.

    Attributes:
        crystals: training crystals.
        atoms: of all of them.
        keep: probability that an element stays where it need not be exchanged; one at least is, if nothing is given.

    Raises:
        ConfigError: on a value out of range.
    """

    crystals: int = 0
    atoms: int = 0
    keep: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.keep < 1:
            raise ConfigError(f"keep must be from 0 to below 1, not {self.keep}")
        if self.crystals < 0 or self.atoms < self.crystals:
            raise ConfigError(f"there cannot be {self.crystals} crystals of {self.atoms} atoms together")


class IonExchange(FittedModel):
    """See the module. Of conditions, a space group chooses the parents where any has it; properties are ignored."""

    config: IonExchangeConfig
    frac: Tensor
    cell: Tensor
    species: Tensor
    num_atoms: Tensor
    space_group: Tensor

    def __init__(self, config: IonExchangeConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("frac", torch.zeros(config.atoms, 3))
        self.register_buffer("cell", torch.zeros(config.crystals, 3, 3))
        self.register_buffer("species", torch.zeros(config.atoms, dtype=torch.int64))
        self.register_buffer("num_atoms", torch.zeros(config.crystals, dtype=torch.int64))
        self.register_buffer("space_group", torch.zeros(config.crystals, dtype=torch.int64))

    @classmethod
    def fitted(cls, config: IonExchangeConfig, crystals: CrystalBatch, conditions: Conditions) -> Self:
        """See `FittedModel`."""
        if not len(crystals):
            raise DataError("ion exchange needs crystals to exchange ions in; the training data hold none")
        sizes = {"crystals": len(crystals), "atoms": crystals.species.shape[0]}
        model = cls(replace(config, **sizes))
        model.frac.copy_(crystals.frac)
        model.cell.copy_(crystals.cell)
        model.species.copy_(crystals.species)
        model.num_atoms.copy_(crystals.num_atoms)
        model.space_group.copy_(conditions.space_group)
        return model

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """See `GenerativeModel`.

        Raises:
            RequestError: where no training crystal has as many atoms.
        """
        size, count = request.species.shape
        chance = np.random.default_rng(int(torch.randint(0, 2**62, (1,), generator=rng)))
        rows = [self._draw(request, row, count, chance) for row in range(size)]
        test = request.composition_test
        for _ in range(test.redraws if test is not None else 0):
            assert test is not None
            species = torch.stack([species for _, _, species in rows])
            missed = test.missed(species).tolist()
            if not missed:
                break
            for row in missed:
                rows[row] = self._draw(request, row, count, chance)
        return CrystalBatch.from_crystals(rows).to(request.species.device)

    def _draw(
        self, request: SampleRequest, row: int, count: int, chance: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cell, coordinates and species of one crystal, species in the order of the request."""
        given = request.species[row].tolist()
        parents = self._parents_for(count, int(request.conditions.space_group[row]) if request.guidance > 0 else 0)
        if all(given):
            parent, exchange = self._predict(Counter(given), parents, chance)
        else:
            parent, exchange = self._invent(request, row, parents, chance)
        old = self._species(parent)
        new = old if exchange is None else np.array([exchange[z] for z in old.tolist()])
        if exchange is None:  # nothing fits: the given atoms on the sites, by chance
            new = self._scattered(request, row, chance)
        order = _order_of(given, new, chance)
        start = int(self._starts[parent])
        frac = self.frac[start : start + count][torch.from_numpy(order)]
        cell = self.cell[parent] * self._stretch(parent, old, new)
        # A coordinate just below 1 is 1 in float32.
        return cell.clone(), wrap(frac), torch.from_numpy(new[order].astype(np.int64))

    def _predict(
        self, wanted: Counter[int], parents: np.ndarray, chance: np.random.Generator
    ) -> tuple[int, Mapping[int, int] | None]:
        """A parent of the same stoichiometry and which of its elements becomes which, drawn by how likely that is."""
        found = likely_renaming([self._contents[parent] for parent in parents.tolist()], wanted, chance)
        return (int(chance.choice(parents)), None) if found is None else (int(parents[found[0]]), found[1])

    def _invent(
        self, request: SampleRequest, row: int, parents: np.ndarray, chance: np.random.Generator
    ) -> tuple[int, Mapping[int, int] | None]:
        """A parent and an exchange of some of its elements that gives every element that must be there."""
        given = Counter(z for z in request.species[row].tolist() if z)
        allowed = set(torch.nonzero(request.allowed[row])[:, 0].tolist())
        addable = set(torch.nonzero(request.addable[row])[:, 0].tolist()) - allowed - set(given)
        opens = int(request.open_elements[row])
        for _ in range(TRIES):
            parent = int(chance.choice(parents))
            exchange = self._exchange(self._contents[parent], given, allowed, addable, opens, chance)
            if exchange is not None:
                return parent, exchange
        return int(chance.choice(parents)), None

    def _exchange(
        self,
        have: Counter[int],
        given: Counter[int],
        allowed: set[int],
        addable: set[int],
        opens: int,
        chance: np.random.Generator,
    ) -> Mapping[int, int] | None:
        """Which element becomes which, or None where this parent does not do."""
        if len(have) < len(given) + opens or len(addable) < opens:
            return None
        left, exchange = sorted(have), dict[int, int]()
        for new in [*sorted(given), *[0] * opens]:
            places = [old for old in left if have[old] >= given.get(new, 1)]
            if not places:
                return None
            if new:
                weights = np.array([likely_substitutes(old, have)[new] for old in places])
                old = places[_pick(weights, chance)]
            else:
                old = places[int(chance.integers(len(places)))]
                options = sorted(addable - set(exchange.values()))
                new = options[_pick(likely_substitutes(old, have)[options], chance)]
            exchange[old] = new
            left.remove(old)
        for old in left:
            taken = set(exchange.values())
            options = sorted((allowed - taken) or allowed)
            if not options:
                return None
            if old in options and chance.random() < self.config.keep:
                exchange[old] = old
                continue
            weights = likely_substitutes(old, have)[options]
            if old in options and len(options) > 1:
                weights = weights * (np.array(options) != old)
            exchange[old] = options[_pick(weights, chance)]
        changed = any(old != new for old, new in exchange.items())
        return exchange if changed or len(allowed | set(given)) == 1 else None

    def _scattered(self, request: SampleRequest, row: int, chance: np.random.Generator) -> np.ndarray:
        """What is given, and elements that may be chosen, on sites by chance."""
        species = request.species[row].tolist()
        allowed = torch.nonzero(request.allowed[row])[:, 0].tolist()
        addable = sorted(set(torch.nonzero(request.addable[row])[:, 0].tolist()) - set(allowed) - set(species))
        free = [i for i, z in enumerate(species) if not z]
        opened = chance.choice(addable, int(request.open_elements[row]), replace=False).tolist() if free else []
        for i, z in zip(free, opened, strict=False):
            species[i] = int(z)
        for i in free[len(opened) :]:
            species[i] = int(chance.choice([*allowed, *opened]))
        return chance.permutation(np.array(species))

    def _parents_for(self, count: int, group: int) -> np.ndarray:
        found = self._by_count.get(count)
        if found is None:
            raise RequestError(
                f"no training crystal has {count} atoms, and ions are exchanged in those that have as many as asked; "
                f"there are crystals of {', '.join(map(str, sorted(self._by_count)))}"
            )
        groups = self.space_group.numpy()[found]
        return found[groups == group] if group and bool((groups == group).any()) else found

    @cached_property
    def _starts(self) -> np.ndarray:
        return (self.num_atoms.cumsum(0) - self.num_atoms).numpy()

    @cached_property
    def _by_count(self) -> dict[int, np.ndarray]:
        counts = self.num_atoms.numpy()
        return {int(n): np.flatnonzero(counts == n) for n in np.unique(counts)}

    @cached_property
    def _contents(self) -> list[Counter[int]]:
        """Atoms of each element in each training crystal."""
        return [Counter(self._species(parent).tolist()) for parent in range(self.config.crystals)]

    def _species(self, parent: int) -> np.ndarray:
        start = int(self._starts[parent])
        return self.species.numpy()[start : start + int(self.num_atoms[parent])]

    def _stretch(self, parent: int, old: np.ndarray, new: np.ndarray) -> float:
        """Edge after over edge before: the ratio of the ions' radii, each weighed by the cube root of its number."""
        charges = guess_charges(tuple(sorted(self._contents[parent].items()))) or {}
        before, after = 0.0, 0.0
        for (z, other), count in Counter(zip(old.tolist(), new.tolist(), strict=True)).items():
            small, large = radii(z, other, charges.get(z, 0))
            before, after = before + count ** (1 / 3) * small, after + count ** (1 / 3) * large
        return float(np.clip(after / before, 0.6, 1.7))


def _pick(weights: np.ndarray, chance: np.random.Generator) -> int:
    total = float(weights.sum())
    if not total > 0:
        return int(chance.integers(len(weights)))
    return int(chance.choice(len(weights), p=weights / total))


def _order_of(given: list[int], new: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Sites in the order of the request: where a species is given, a site that has it; the rest as it comes."""
    waiting = {z: chance.permutation(np.flatnonzero(new == z)).tolist() for z in set(given) if z}
    order = [waiting[z].pop() if z else -1 for z in given]
    rest = [site for site in range(len(new)) if site not in set(order)]
    return np.array([place if place >= 0 else rest.pop(0) for place in order])
