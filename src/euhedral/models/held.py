"""Parts of crystals that stay as they are while a model draws the rest: seeds, motifs, host lattices (inpainting).

Before each evaluation held coordinates and lattices are put where the noise process would have them at that time (Lugmayr
et al., RePaint, CVPR 2022, Eq. 8), where a process takes its noise on the path that begins at their place. Networks do not
know the origin, so what they say of all atoms is shifted by what they miss of the held ones; in the end the crystal is moved
to where the held atoms belong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap, wrap_centered
from euhedral.noise.base import Corrupted

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Noising(Protocol):
    """The part of a noise process that is needed here."""

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """See `noise.path.Path.corrupt`."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """What is held, alike in all crystals of a request but for its values.

    Attributes:
        sites: atoms whose coordinates are held, (n,).
        frac: their fractional coordinates, (b, k, 3).
        cell: the lattice, (b, 3, 3) in Å; None leaves it to the model.
    """

    sites: Bool[Tensor, " n"]
    frac: Float[Tensor, "b k 3"]
    cell: Float[Tensor, "b 3 3"] | None = None

    @property
    def whole(self) -> bool:
        """Whether the structure is held, so that at most species are to be chosen."""
        return self.cell is not None and bool(self.sites.all())

    def rows(self, index: Int[Tensor, " m"]) -> Held:
        """The same for some of the crystals."""
        return replace(self, frac=self.frac[index], cell=None if self.cell is None else self.cell[index])

    def impose(
        self, value: Tensor, t: Tensor, process: Noising, start: Tensor, *, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Values (b, n, ...) with those of held atoms at time t, and what a network should say of these, (b, k, ...).

        Args:
            value: of all atoms.
            t: time of each crystal, (b,).
            process: of the coordinates.
            start: noise that the sampling began with, shaped as `value`, for processes that take it.
            rng: on the CPU.
        """
        if not self.frac.shape[1]:
            return value, value[:, :0]
        # Widths and means may depend on the number of atoms: the others take part where they began.
        clean = start[..., :3].cpu().clone()
        clean[:, self.sites] = self.frac.to(clean)
        noised = process.corrupt(clean, t.cpu(), rng=rng, start=start.cpu())
        value = value.clone()
        value[:, self.sites] = noised.noisy[:, self.sites].to(value)
        return value, noised.target[:, self.sites].to(value)

    def placed(self, frac: Tensor) -> Tensor:
        """Coordinates (b, n, 3) with those that are held."""
        frac = frac.clone()
        frac[:, self.sites] = self.frac.to(frac)
        return frac

    def centred(self, guess: Tensor, target: Tensor) -> Tensor:
        """What a network says of all atoms, (b, n, ...), shifted so that it is right of the held ones on average."""
        if not target.shape[1]:
            return guess
        return guess + (target - guess[:, self.sites]).mean(1, keepdim=True)

    def settled(self, frac: Tensor) -> Tensor:
        """Clean coordinates (b, n, 3) moved to where the held atoms belong, these exactly there."""
        if not self.frac.shape[1]:
            return frac
        held = self.frac.to(frac)
        away = wrap_centered(held - frac[:, self.sites])
        # The mean over a torus: all are within a half of the first.
        first = away[:, :1]
        return self.placed(wrap(frac + first + wrap_centered(away - first).mean(1, keepdim=True)))

    def finished(self, crystals: CrystalBatch) -> CrystalBatch:
        """Crystals with the lattice that is held, exactly."""
        return crystals if self.cell is None else replace(crystals, cell=self.cell.to(crystals.cell))
