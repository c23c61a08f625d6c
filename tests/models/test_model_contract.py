"""Every family of the registry passes the shipped contract; broken families are caught by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.models.adapted import ADAPTED
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.conditions import Conditions
from euhedral.models.fitted import FittedModel
from euhedral.models.registry import MODELS, lookup
from euhedral.testing import models as contract

CHECKS = (
    contract.check_loss,
    contract.check_refuses_mixed_counts,
    contract.check_sample,
    contract.check_seed,
    contract.check_fixed_species,
    contract.check_allowed_elements,
    contract.check_open_elements,
    contract.check_guidance,
)


# Those without a loss have tests of their own, which use the checks that concern samples.
TRAINED = [name for name in MODELS if not issubclass(lookup(name)[1], FittedModel)]


@pytest.fixture(scope="module", params=TRAINED)
def awake(request: pytest.FixtureRequest) -> GenerativeModel:
    return contract.tiny_model(request.param, awake=True)


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: Callable[[GenerativeModel], None], awake: GenerativeModel) -> None:
    check(awake)


def test_held_parts(awake: GenerativeModel) -> None:
    if awake.holds_parts:
        contract.check_held_parts(awake)


# Adapters alone learn no crystal; what they learn is tested with them.
@pytest.mark.parametrize("name", [name for name in TRAINED if name != ADAPTED])
def test_learns_one_crystal(name: str) -> None:
    contract.check_overfits(contract.tiny_model(name), steps=80)


def test_every_shipped_family_has_a_tiny_configuration() -> None:
    assert set(contract.TINY_CONFIGS) == set(MODELS)


def test_tiny_models_are_seeded_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again = (contract.tiny_model("joint_flow", seed=4).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = contract.tiny_model("joint_flow", seed=5).state_dict()
    assert not all(torch.equal(first[name], other[name]) for name in first)


class Faulty(GenerativeModel):
    """A sound model with one fault."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = contract.tiny_model("joint_flow", awake=True)
        self.config = self.inner.config

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        return self.inner.loss(batch, conditions, rng=rng)

    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        return self.inner.sample(request, rng=rng)


class KeepsGraph(Faulty):
    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        loss = super().loss(batch, conditions, rng=rng)
        return LossTerms(total=loss.total, terms={"total": loss.total})


class OwnNoise(Faulty):
    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        return super().loss(batch, conditions, rng=torch.Generator().manual_seed(0))


class TakesMixedCounts(Faulty):
    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        return super().loss(batch[:1], conditions[:1], rng=rng)


class ForgetsSpecies(Faulty):
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        return super().sample(replace(request, species=torch.zeros_like(request.species)), rng=rng)


class ForgetsAllowed(Faulty):
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        return super().sample(replace(request, allowed=contract.free_request(*request.species.shape).allowed), rng=rng)


class ForgetsOpenPlaces(Faulty):
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        return super().sample(replace(request, open_elements=torch.zeros_like(request.open_elements)), rng=rng)


class GlobalGenerator(Faulty):
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        return super().sample(request, rng=torch.Generator().manual_seed(int(torch.randint(2**31, ()))))


class ForgetsGuidance(Faulty):
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        return super().sample(replace(request, guidance=1.0), rng=rng)


class ForgetsConditions(Faulty):
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        return super().sample(replace(request, conditions=Conditions.unknown(len(request.species))), rng=rng)


class LeavesTheCell(Faulty):
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        batch = super().sample(request, rng=rng)
        return CrystalBatch(frac=batch.frac + 1, cell=batch.cell, species=batch.species, num_atoms=batch.num_atoms)


class InferenceTensors(Faulty):
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        with torch.inference_mode():
            return super().sample(request, rng=rng)


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (KeepsGraph, "not detached"),
        (OwnNoise, "ignores the seed"),
        (TakesMixedCounts, "expected ValueError"),
        (ForgetsSpecies, "changed species that were given"),
        (ForgetsAllowed, "are allowed"),
        (ForgetsOpenPlaces, "elements were open"),
        (GlobalGenerator, "the same seed"),
        (ForgetsGuidance, "guidance 0"),
        (ForgetsConditions, "conditions do not change"),
        (InferenceTensors, "inference tensors"),
    ],
)
def test_contract_catches(faulty: type[Faulty], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        contract.check_model(faulty())


def test_contract_refuses_what_is_no_crystal() -> None:
    from euhedral.errors import CrystalError

    with pytest.raises(CrystalError, match=r"outside \[0, 1\)"):
        contract.check_sample(LeavesTheCell())


def test_overfitting_fails_without_learning() -> None:
    with pytest.raises(AssertionError, match="in 3 steps on one crystal"):
        contract.check_overfits(contract.tiny_model("joint_flow"), steps=3, rate=0.0)
