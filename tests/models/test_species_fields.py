"""Fields of species: an exact network's elements come out as often as they occur, and requests are obeyed on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional

from euhedral.errors import ConfigError
from euhedral.models.species_classes import UniformField
from euhedral.models.species_codes import (
    BayesianSpecies,
    BayesianSpeciesConfig,
    SimplexSpecies,
    SimplexSpeciesConfig,
)
from euhedral.models.species_fields import SpeciesFieldConfig, species_field
from euhedral.models.species_state import SpeciesField, SpeciesState
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


def walked(
    field: SpeciesField, request: Any, steps: int, logits_of: Any, *, until: float = 1.0
) -> tuple[SpeciesState, Tensor]:
    """The state at a time of the way from noise, and that time."""
    size = len(request.species)
    state, source = field.start(request, rng=rng(), device=CPU), rng(1)
    for step in range(round(until * steps)):
        now, later = torch.full((size,), step / steps), torch.full((size,), (step + 1) / steps)
        shown = field.show(state, now, rng=source)
        state = field.step(state, logits_of(shown, now), now, later, rng=source)
    return state, torch.full((size,), until)


def exactly(field: SpeciesField) -> Any:
    """Logits of the clean species given the noisy ones, in closed form, where elements occur with CHANCES."""

    def of_guess(shown: Any, t: Tensor) -> Tensor:
        hot = functional.one_hot(shown.species, 119)
        seen = t[:, None, None] * hot + (1 - t[:, None, None]) / 118
        return (CHANCES * seen).log()

    def of_point(shown: Any, t: Tensor) -> Tensor:
        points = functional.pad(shown.features.square(), (1, 0))
        # An Euler step may end a little outside of every corner's part: the nearest that occurs is meant.
        nearest = points == (points * (CHANCES > 0)).amax(-1, keepdim=True)
        return (CHANCES * ((points >= (t**3)[:, None, None]) | nearest)).log()

    def of_belief(shown: Any, t: Tensor) -> Tensor:
        # A belief is the likelihood of what was measured.
        return (CHANCES * functional.pad((shown.features + 1) / 2, (1, 0))).log()

    return {UniformField: of_guess, SimplexSpecies: of_point, BayesianSpecies: of_belief}[type(field)]


def shares(species: Tensor) -> Tensor:
    return torch.bincount(species.flatten(), minlength=119).float() / species.numel()


def test_guesses_are_on_their_way_what_noise_makes_of_the_elements() -> None:
    field = field_of("uniform")
    for until in (0.5, 0.9):
        state, _ = walked(field, contract.free_request(3000, 2), 40, exactly(field), until=until)
        wanted = until * CHANCES + (1 - until) / 118
        wanted[0] = 0
        torch.testing.assert_close(shares(state.value), wanted, atol=0.025, rtol=0)


def test_points_of_the_simplex_come_to_the_corners_as_often_as_elements_occur() -> None:
    field = field_of("simplex")
    state, _ = walked(field, contract.free_request(3000, 2), 100, exactly(field), until=0.95)
    assert float(state.value.amax(-1).min()) > 0.8
    torch.testing.assert_close(shares(state.value.argmax(-1) + 1), CHANCES, atol=0.025, rtol=0)


@pytest.mark.parametrize("end_back", [False, True])
def test_beliefs_come_to_the_elements_as_often_as_they_occur(end_back: bool) -> None:
    field = species_field(BayesianSpeciesConfig(accuracy=0.5, end_back=end_back))
    state, _ = walked(field, contract.free_request(3000, 2), 100, exactly(field), until=0.97)
    found = state.value.argmax(-1) + 1
    torch.testing.assert_close(shares(found)[[8, 26, 57]].sum(), torch.tensor(1.0), atol=0.03, rtol=0)
    if not end_back:  # which draws a belief of mixtures, not of elements
        torch.testing.assert_close(shares(found), CHANCES, atol=0.03, rtol=0)


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

    found = walked(field, request, 6, guess)[0].species
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
    else:
        clean = field.corrupt(species, torch.ones(400), torch.ones(400, dtype=torch.bool), rng=rng()).shown.features
        assert clean is not None and torch.equal(noisy.shown.features[given], clean[given])
        assert not torch.equal(noisy.shown.features[~given], clean[~given])
    assert bool((noisy.shown.known[given] == 1).all())


def test_uniform_noise_shows_other_elements_and_keeps_the_share_of_the_time() -> None:
    field = field_of("uniform")
    assert isinstance(field, UniformField)
    species = torch.full((4000, 2), 26)
    noisy = field.corrupt(species, torch.full((4000,), 0.3), torch.zeros(4000, dtype=torch.bool), rng=rng())
    kept = float((noisy.shown.species == 26).float().mean())
    assert kept == pytest.approx(0.3 + 0.7 / 118, abs=0.02)
    assert bool((noisy.shown.species > 0).all()) and bool((noisy.target == species).all())


@pytest.mark.parametrize("name", ["one-hot", "simplex", "bayesian"])
def test_fixed_species_beside_open_ones_are_as_noisy_as_the_others(name: str) -> None:
    """Training shows an element that is known for sure only where the whole crystal's are."""
    field = field_of(name)
    species = torch.zeros(2000, 2, dtype=torch.int64)
    species[:, 0] = 26
    request = contract.free_request(2000, 2, species=species)
    state, now = walked(field, request, 10, lambda *_: torch.zeros(2000, 2, field.codes or 119), until=0.5)
    shown = field.show(state, now, rng=rng(7)).features
    whole = torch.full((2000, 2), 26)
    trained = field.corrupt(whole, now, torch.zeros(2000, dtype=torch.bool), rng=rng(8)).shown.features
    assert shown is not None and trained is not None
    torch.testing.assert_close(shown[:, 0].mean(0), trained[:, 0].mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(shown[:, 0].std(0), trained[:, 0].std(0), atol=0.06, rtol=0)


def test_a_guess_heads_for_what_is_owed_where_nothing_else_may_come() -> None:
    owed = torch.zeros(500, 119, dtype=torch.int64)
    owed[:, 57] = 2
    state, _ = walked(
        field_of("uniform"),
        contract.free_request(500, 2, owed=owed),
        20,
        lambda *_: torch.zeros(500, 2, 119),
        until=0.95,
    )
    assert float((state.value == 57).float().mean()) > 0.85


@pytest.mark.parametrize("power", [0.0, -1.0])
def test_a_power_that_is_not_above_nothing_is_refused(power: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        SimplexSpeciesConfig(power=power)
