"""Crystals whose compositions miss the verdict that is wanted of them, drawn again."""

from __future__ import annotations

from collections.abc import Callable

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.models.base import SampleRequest
from euhedral.noise.masked import MASKED


def redrawn(
    draw: Callable[[SampleRequest, torch.Generator], CrystalBatch], request: SampleRequest, *, rng: torch.Generator
) -> CrystalBatch:
    """Crystals of a request; those that miss its `composition_test` are drawn again, as often as it says.

    Args:
        draw: one crystal for each row of a request.
        request: what is asked.
        rng: on the CPU.
    """
    crystals = draw(request, rng)
    if (test := request.composition_test) is None or not bool((request.species == MASKED).any()):
        return crystals
    for _ in range(test.redraws):
        missed = test.missed(crystals.species.reshape(request.species.shape))
        if not len(missed):
            break
        again = draw(request.rows(missed), rng)
        place = torch.arange(len(crystals))
        place[missed] = len(crystals) + torch.arange(len(missed))
        crystals = CrystalBatch.concat([crystals, again])[place]
    return crystals
