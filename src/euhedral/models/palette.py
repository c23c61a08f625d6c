"""Elements that masked atoms of each crystal may take, kept while they are revealed one at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from euhedral.models.base import SampleRequest
from euhedral.noise.masked import MASKED, MaskedSpecies


@dataclass(frozen=True, kw_only=True, eq=False)
class Palette:
    """What is still allowed and owed; see `SampleRequest`.

    Attributes:
        allowed: elements that a masked atom may take, (b, 119).
        addable: elements that an open place may take, (b, 119).
        opens: open places that still wait for an element, (b,).
        owed: atoms of each element that must still come, (b, 119).
    """

    allowed: Tensor
    addable: Tensor
    opens: Tensor
    owed: Tensor

    @classmethod
    def of(cls, request: SampleRequest, device: torch.device) -> Palette:
        """The palette that a request begins with."""
        return cls(
            allowed=request.allowed.to(device),
            addable=request.addable.to(device),
            opens=request.open_elements.to(device),
            owed=torch.zeros_like(request.allowed, dtype=torch.int64, device=device)
            if request.owed is None
            else request.owed.to(device),
        )

    def reveal(self, species: Tensor, logits: Tensor, *, rng: torch.Generator) -> tuple[Tensor, Palette]:
        """Reveal one masked atom of each crystal.

        Elements for open places come first; where no more atoms are masked than are owed, it is one of those.

        Args:
            species: atomic numbers, 0 where masked, (b, n).
            logits: by atomic number, (b, n, 119).
            rng: on the CPU.

        Returns:
            The species, and the palette of what comes next.
        """
        opening = (self.opens > 0)[:, None]
        bound = self._bound((species == MASKED).sum(1))
        usable = torch.where(opening, self.addable & ~self.allowed, torch.where(bound, self.owed > 0, self.allowed))
        logits = logits.masked_fill(~usable[:, None], float("-inf"))
        after = MaskedSpecies().reveal(species.cpu(), logits.cpu(), 1, rng=rng).to(species.device)
        new = torch.where(after != species, after, torch.zeros_like(after)).amax(1)
        took = opening[:, 0] & (new > 0)
        hot = functional.one_hot(new, usable.shape[1])
        return after, replace(
            self,
            allowed=self.allowed | (hot.bool() & took[:, None]),
            opens=self.opens - took.long(),
            owed=(self.owed - hot).clamp_min(0),
        )

    def reachable(self, left: Tensor) -> Tensor:
        """Elements that may still come, (b, 119), where as many atoms are open as `left`, (b,), says."""
        open_to = torch.where((self.opens > 0)[:, None], self.allowed | self.addable, self.allowed)
        return torch.where(self._bound(left), self.owed > 0, open_to)

    def _bound(self, left: Tensor) -> Tensor:
        return (left <= self.owed.sum(1))[:, None]
