"""The contract that every generative family shares: a loss to train with, and samples on request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from euhedral.crystal.batch import CrystalBatch
from euhedral.models.conditions import Conditions
from euhedral.models.held import Held
from euhedral.models.steering import Steering

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class LossTerms:
    """A scalar to minimise and its parts, detached, for logs."""

    total: Tensor
    terms: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class CompositionTest:
    """A yes-or-no test of compositions, and the answer that is wanted of each crystal.

    Attributes:
        test: from complete species, (b, n), to a verdict of each, (b,) bool, on the CPU.
        wanted: the verdict to draw toward, (b,) bool.
        redraws: how often a composition with another verdict is drawn again before it is given as it is.
    """

    test: Callable[[Int[Tensor, "b n"]], Bool[Tensor, " b"]]
    wanted: Bool[Tensor, " b"]
    redraws: int

    def missed(self, species: Int[Tensor, "b n"]) -> Int[Tensor, " k"]:
        """Positions whose verdict is not the one wanted."""
        return torch.nonzero(self.test(species.cpu()) != self.wanted)[:, 0]


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleRequest:
    """Crystals to draw, all of one atom count.

    Attributes:
        species: atomic numbers that are fixed, 0 where the model chooses, (b, n).
        allowed: elements that the model may choose, by atomic number, (b, 119).
        addable: elements that an open place may take, (b, 119).
        open_elements: how many elements of `addable`, outside `allowed`, each crystal takes in, (b,); see "Li-*-O".
        owed: atoms of each element that there must be among those whose species is not fixed, (b, 119), or None; with as
            many owed as there are such atoms, the model shares them out over its sites.
        conditions: what is asked of each crystal.
        guidance: strength of classifier-free guidance toward the conditions; 1 is plain conditioning, 0 ignores them.
        steps: steps along the path, at least one evaluation of the network each.
        composition_test: what the species that the model chooses are tested for, or None.
        held: coordinates and lattices that stay as they are, or None; for models with `holds_parts`.
        steering: a property model that leads the crystals, or None; for models with `can_be_steered`.
    """

    species: Int[Tensor, "b n"]
    allowed: Bool[Tensor, "b 119"]
    addable: Bool[Tensor, "b 119"]
    open_elements: Int[Tensor, " b"]
    conditions: Conditions
    owed: Int[Tensor, "b 119"] | None = None
    guidance: float = 1.0
    steps: int = 24
    composition_test: CompositionTest | None = None
    held: Held | None = None
    steering: Steering | None = None

    @classmethod
    def of(cls, species: Int[Tensor, "b n"], **changes: Any) -> SampleRequest:
        """A request with nothing asked but the species that are given; 0 may become any element.

        Args:
            species: atomic numbers, on the CPU.
            **changes: other fields.
        """
        size = len(species)
        any_element = torch.ones(size, 119, dtype=torch.bool)
        any_element[:, 0] = False
        request = cls(
            species=species,
            allowed=any_element,
            addable=any_element,
            open_elements=torch.zeros(size, dtype=torch.int64),
            conditions=Conditions.unknown(size),
        )
        return replace(request, **changes)

    @property
    def shares_out(self) -> bool:
        """Whether all compositions are given, and the species of some sites are not."""
        chosen = (self.species == 0).sum(1)
        return self.owed is not None and bool((chosen > 0).any()) and bool((chosen == self.owed.sum(1)).all())

    def rows(self, index: Int[Tensor, " k"]) -> SampleRequest:
        """The request for some of its crystals."""
        test = self.composition_test
        return replace(
            self,
            species=self.species[index],
            allowed=self.allowed[index],
            addable=self.addable[index],
            open_elements=self.open_elements[index],
            conditions=self.conditions[index],
            owed=None if self.owed is None else self.owed[index],
            composition_test=None if test is None else replace(test, wanted=test.wanted[index]),
            held=None if self.held is None else self.held.rows(index),
        )


class GenerativeModel(nn.Module, ABC):
    """A family of generative models; subclasses are final and hold a frozen `config`.

    Attributes:
        config: everything that defines the model.
        holds_parts: whether `sample` keeps what `SampleRequest.held` says.
        can_be_steered: whether `sample` follows `SampleRequest.steering`, from when all species are known.
        species_first: whether species are chosen before the structure, where no sites are held.
        chooses_species: whether it chooses species that are not given; else it predicts structures of compositions alone.
        steps: along its path, where neither a request nor the recipe that it was trained by says; 0: there is none, it
            draws at once.
        reads_properties: whether `sample` follows the properties of `SampleRequest.conditions`.
        reads_space_group: whether it follows their space group, or has it by construction.
    """

    config: Any
    holds_parts: bool = False
    can_be_steered: bool = False
    species_first: bool = False
    chooses_species: bool = True
    steps: int = 100
    reads_properties: bool = True
    reads_space_group: bool = True

    @abstractmethod
    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """Training loss of crystals of one atom count; raises ValueError where counts differ."""

    def _equal_count(self, batch: CrystalBatch) -> int:
        """The atom count that all crystals of a batch must have for a loss. Raises ValueError where counts differ."""
        count = int(batch.num_atoms[0])
        if not bool((batch.num_atoms == count).all()):
            name = type(self).__name__
            raise ValueError(f"{name}.loss needs crystals of one atom count; batch them with EqualSizeBatches")
        return count

    @abstractmethod
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """Draw one crystal for each row of the request, in order."""
