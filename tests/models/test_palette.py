"""The palette: what masked atoms may become while they are revealed one at a time."""

from __future__ import annotations

import torch

from euhedral.models.base import SampleRequest
from euhedral.models.palette import Palette


def filled(request: SampleRequest, logits: torch.Tensor, seed: int = 0) -> list[list[int]]:
    species, palette = request.species, Palette.of(request, torch.device("cpu"))
    rng = torch.Generator().manual_seed(seed)
    while bool((species == 0).any()):
        species, palette = palette.reveal(species, logits.expand(*species.shape, 119), rng=rng)
    return [sorted(row) for row in species.tolist()]


def elements(*chosen: int) -> torch.Tensor:
    return torch.zeros(1, 119).index_fill(1, torch.tensor(chosen), 1)


def test_what_is_owed_comes_whatever_the_model_says() -> None:
    owed = (elements(3) + 2 * elements(8)).long()
    likes_iron = 50 * elements(26)[0]
    empty = torch.zeros(1, 3, dtype=torch.int64)
    assert filled(SampleRequest.of(empty, owed=owed), likes_iron) == [[3, 8, 8]]
    # With more places than are owed the others are the model's choice.
    assert filled(SampleRequest.of(torch.zeros(1, 5, dtype=torch.int64), owed=owed), likes_iron) == [[3, 8, 8, 26, 26]]
    # What the model chooses itself of what is owed counts.
    likes_oxygen = 50 * elements(8)[0]
    assert filled(SampleRequest.of(torch.zeros(1, 4, dtype=torch.int64), owed=owed), likes_oxygen) == [[3, 8, 8, 8]]


def test_open_places_and_what_is_owed_go_together() -> None:
    request = SampleRequest.of(
        torch.zeros(1, 3, dtype=torch.int64),
        allowed=elements(3, 8).bool(),
        addable=elements(3, 8, 25, 26).bool(),
        open_elements=torch.ones(1, dtype=torch.int64),
        owed=(elements(3) + elements(8)).long(),
    )
    assert filled(request, 9 * elements(25)[0]) == [[3, 8, 25]]


def test_species_go_where_the_model_wants_them() -> None:
    logits = torch.zeros(1, 2, 119)
    logits[0, 0, 3], logits[0, 1, 8] = 50, 50
    request = SampleRequest.of(torch.zeros(1, 2, dtype=torch.int64), owed=(elements(3) + elements(8)).long())
    species, palette = request.species, Palette.of(request, torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    for _ in range(2):
        species, palette = palette.reveal(species, logits, rng=rng)
    assert species.tolist() == [[3, 8]] and not bool(palette.owed.any())
