"""What every backbone reads and gives: dense batches of crystals of one size; `nets.ragged` takes any sizes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyCrystals:
    """Noisy crystals of one atom count n.

    Attributes:
        frac: fractional coordinates, (b, n, 3).
        cell: symmetric cells in Å, (b, 3, 3).
        lattice: standardised coordinates of the log-lattice that give `cell`, (b, 6).
        species: atomic numbers, 0 where masked, (b, n).
        time: structure time, 0 noise to 1 crystal, (b,).
        known: species time, the share of species that is known, (b,).
        features: further channels of each atom, such as a noisy code of its species or its velocity, (b, n, k); None
            for a backbone that was made without any.
    """

    frac: Float[Tensor, "b n 3"]
    cell: Float[Tensor, "b 3 3"]
    lattice: Float[Tensor, "b 6"]
    species: Int[Tensor, "b n"]
    time: Float[Tensor, " b"]
    known: Float[Tensor, " b"]
    features: Float[Tensor, "b n k"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """What is asked of the crystals, as a network reads it.

    Attributes:
        space_group: 1 to 230, 0 unknown, (b,).
        properties: standardised values, any number where unknown, (b, p).
        has_property: which properties are known, (b, p).
        chemical_system: elements of the crystal by atomic number, all false where unknown, (b, 119).
        extra: further columns that adapters read, as they are in the data, NaN unknown, (b, k); None: none known.
    """

    space_group: Int[Tensor, " b"]
    properties: Float[Tensor, "b p"]
    has_property: Bool[Tensor, "b p"]
    chemical_system: Bool[Tensor, "b 119"]
    extra: Float[Tensor, "b k"] | None = None


Inputs = TypeVar("Inputs", NoisyCrystals, Context)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a backbone says of noisy crystals, in float32.

    Attributes:
        frac: vector for each atom in fractional coordinates, without mean over the atoms, (b, n, 3); (b, n, 3 m) where
            a backbone was made to give m of them.
        lattice: vector for the standardised log-lattice, (b, 6).
        species: logits by atomic number (index 0 unused), (b, n, 119), or a code of the species where a backbone was
            made for one, (b, n, k).
        space_group: logits by number (index 0 unused), (b, 231).
    """

    frac: Float[Tensor, "b n v"]
    lattice: Float[Tensor, "b 6"]
    species: Float[Tensor, "b n s"]
    space_group: Float[Tensor, "b 231"]


def rows_of(value: Inputs, rows: Int[Tensor, " k"]) -> Inputs:
    """Some of the crystals, or what is asked of them."""
    given = {one.name: getattr(value, one.name) for one in fields(value)}
    return replace(value, **{name: tensor[rows] for name, tensor in given.items() if tensor is not None})


def features_of(noisy: NoisyCrystals) -> Tensor:
    """The further channels of each atom. Raises ValueError where a backbone that reads some is given none."""
    if noisy.features is None:
        raise ValueError("this backbone was made to read features of atoms; give NoisyCrystals.features")
    return noisy.features
