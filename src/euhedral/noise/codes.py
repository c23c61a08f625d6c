"""Species as continuous codes, so that noise of Euclidean values can be added to them.

`AnalogBits` (Chen et al., ICLR 2023; FlowMM, Section 4.2): the binary digits of the atomic number as -1 and 1, seven for
all elements. `OneHot` (CDVAE, DiffCSP, CrystalFlow): one channel an element.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

ELEMENTS = 118


class SpeciesCode(ABC):
    """A code of species and the element that a noisy one is nearest to.

    Attributes:
        width: channels of a code.
        least: least number of a code.
        most: most of one.
    """

    width: int
    least: float
    most: float

    @abstractmethod
    def encode(self, species: Tensor) -> Tensor:
        """Codes (crystals, atoms, width) of atomic numbers (crystals, atoms); those of 0 are not used."""

    def logits(self, code: Tensor, *, sharpness: float = 50.0) -> Tensor:
        """Logits by atomic number, (crystals, atoms, 119): minus squared distances to the codes of elements.

        Args:
            code: noisy codes.
            sharpness: factor of the squared distances; so large, the nearest element that is allowed all but always
                wins.
        """
        table = self.encode(torch.arange(ELEMENTS + 1, device=code.device)[None])[0].to(code)
        # |c - e|^2 less |c|^2, which is the same for all elements.
        return sharpness * (2 * code @ table.T - table.square().sum(-1))


class AnalogBits(SpeciesCode):
    """Seven binary digits of the atomic number, as -1 and 1."""

    width, least, most = 7, -1.0, 1.0

    def encode(self, species: Tensor) -> Tensor:
        """See the class."""
        digits = species[..., None] >> torch.arange(self.width, device=species.device)
        return (2 * (digits % 2) - 1).float()


class OneHot(SpeciesCode):
    """One channel for each of the 118 elements, times `scale`, so that the noise of order one does not drown it."""

    width, least = ELEMENTS, 0.0

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = self.most = scale

    def encode(self, species: Tensor) -> Tensor:
        """See the class."""
        return self.scale * functional.one_hot(species.clamp_min(0), ELEMENTS + 1)[..., 1:].float()
