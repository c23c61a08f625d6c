"""Fields of species: an exact network's elements come out as often as they occur, and requests are obeyed on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional

from euhedral.models.species_fields import SpeciesField, SpeciesFieldConfig, UniformField, species_field
from euhedral.noise.d3pm import IGNORED
from euhedral.testing import models as contract

KINDS: dict[str, dict[str, Any]] = {
    "absorbing": {"kind": "absorbing"},
    "uniform": {"kind": "uniform"},
    "one-hot": {"kind": "coded", "code": "one_hot"},
    "one-hot, exploding": {
        "kind": "coded",
        "code": "one_hot",
        "path": {"kind": "variance_exploding", "widths": {"sigma_max": 5.0}},
    },
    "simplex": {"kind": "simplex"},
    "bayesian": {"kind": "bayesian"},
}
CHANCES = torch.zeros(119)
CHANCES[[8, 26, 57]] = torch.tensor([0.6, 0.3, 0.1])
CPU = torch.device("cpu")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def field_of(name: str) -> SpeciesField:
    return species_field(TypeAdapter(SpeciesFieldConfig).validate_python(KINDS[name]))


def walked(field: SpeciesField, request: Any, steps: int, logits_of: Any) -> Tensor:
    size = len(request.species)
    state, source = field.start(request, rng=rng(), device=CPU), rng(1)
    for step in range(steps):
        now, later = torch.full((size,), step / steps), torch.full((size,), (step + 1) / steps)
        shown = field.show(state, now, rng=source)
        state = field.step(state, logits_of(shown, now), now, later, rng=source)
    return state.species


def test_a_field_of_uniform_noise_draws_elements_as_often_as_they_occur() -> None:
    """The posterior of the clean species given a noisy one, in closed form."""

    def exact(shown: Any, t: Tensor) -> Tensor:
        hot = functional.one_hot(shown.species, 119)
        seen = t[:, None, None] * hot + (1 - t[:, None, None]) / 118
        return (CHANCES * seen).log()

    species = walked(field_of("uniform"), contract.free_request(3000, 2), 40, exact)
    found = torch.bincount(species.flatten(), minlength=119).float() / species.numel()
    torch.testing.assert_close(found, CHANCES, atol=0.025, rtol=0)


def test_a_field_of_points_of_the_simplex_draws_elements_as_often_as_they_occur() -> None:
    field = field_of("simplex")

    def exact(shown: Any, t: Tensor) -> Tensor:
        points = functional.pad(shown.features.square(), (1, 0))
        reached = points >= (t**3)[:, None, None] - 1e-6
        weight = CHANCES * reached
        return (weight + 1e-12 * CHANCES).log()

    species = walked(field, contract.free_request(3000, 2), 60, exact)
    found = torch.bincount(species.flatten(), minlength=119).float() / species.numel()
    torch.testing.assert_close(found, CHANCES, atol=0.025, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_requests_are_obeyed(name: str) -> None:
    field = field_of(name)
    species = torch.zeros(20, 5, dtype=torch.int64)
    species[:, 1], species[:, 3] = 8, 26
    owed = torch.zeros(20, 119, dtype=torch.int64)
    owed[:, 57] = 1
    request = contract.free_request(20, 5, species=species, allowed=contract.elements_mask(20, [8, 57]), owed=owed)
    noise = rng(3)

    def guess(shown: Any, t: Tensor) -> Tensor:
        return torch.randn(20, 5, field.codes or 119, generator=noise)

    found = walked(field, request, 6, guess)
    assert torch.equal(found[:, [1, 3]], species[:, [1, 3]])
    assert set(found[:, [0, 2, 4]].flatten().tolist()) <= {8, 57}
    assert bool((found == 57).any(1).all())


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_is_least_at_the_truth_and_knows_nothing_of_what_is_given(name: str) -> None:
    field = field_of(name)
    species = torch.randint(1, 90, (400, 3), generator=rng())
    given = torch.arange(400) % 2 == 0
    noisy = field.corrupt(species, torch.rand(400, generator=rng(4)), given, rng=rng(5))
    if field.codes:
        right = noisy.target.nan_to_num(0.0)
        wrong = right + 1.0
    else:
        right = 20 * functional.one_hot(species, 119).float()
        wrong = right.roll(1, -1)
    times = torch.full((400,), 0.5)
    best = float(field.loss(right, noisy, times))
    assert best < 1e-3 < float(field.loss(wrong, noisy, times))
    careless = torch.where(given[:, None, None], torch.randn(right.shape, generator=rng(6)), right)
    assert float(field.loss(careless, noisy, times)) == pytest.approx(best, abs=1e-6)
    if noisy.shown.features is None:
        assert torch.equal(noisy.shown.species[given], species[given])
    assert bool((noisy.shown.known[given] == 1).all())


def test_uniform_noise_shows_other_elements_and_keeps_the_share_of_the_time() -> None:
    field = field_of("uniform")
    assert isinstance(field, UniformField)
    species = torch.full((4000, 2), 26)
    noisy = field.corrupt(species, torch.full((4000,), 0.3), torch.zeros(4000, dtype=torch.bool), rng=rng())
    kept = float((noisy.shown.species == 26).float().mean())
    assert kept == pytest.approx(0.3 + 0.7 / 118, abs=0.02)
    assert bool((noisy.shown.species > 0).all()) and bool((noisy.target == species).all())
    assert bool((noisy.target != IGNORED).all())
