"""ADiT: the order of atoms, the flow of latents, and what learns from what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.models.adit import ADiT, ADiTConfig
from euhedral.models.given_species import draw_given
from euhedral.testing import models as contract
from euhedral.testing.crystals import perovskite, random_crystals


@pytest.fixture
def model() -> ADiT:
    found = contract.tiny_model("adit", awake=True)
    assert isinstance(found, ADiT)
    return found.eval()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Constant(nn.Module):
    """A denoiser that expects the same latents whatever it sees."""

    def __init__(self, latent: Tensor) -> None:
        super().__init__()
        self.latent = latent
        self.times: list[float] = []

    def forward(self, noisy: Tensor, time: Tensor, *told: object) -> Tensor:
        self.times.append(float(time[0]))
        return self.latent


@pytest.mark.parametrize("steps", [1, 7])
def test_the_flow_ends_in_the_latents_that_are_expected(model: ADiT, steps: int) -> None:
    latent = torch.randn(2, 5, 8, generator=rng())
    constant = Constant(latent)
    model.denoiser = constant  # pyright: ignore[reportAttributeAccessIssue]
    species = torch.tensor([[8, 8, 8, 22, 38]] * 2)
    found = model.sample(contract.free_request(2, 5, species=species, steps=steps), rng=rng(1))
    with torch.no_grad():
        decoded = model.decoder(latent)
    assert len(constant.times) == steps
    assert constant.times[0] == pytest.approx(model.config.first_time)
    torch.testing.assert_close(found.frac.view(2, 5, 3), decoded.frac, atol=1e-5, rtol=0)


def test_the_order_in_which_elements_are_given_is_that_of_the_crystal(model: ADiT) -> None:
    species, order = torch.tensor([[3, 8, 25, 26, 57]] * 2), torch.tensor([3, 0, 4, 1, 2])
    one = model.sample(contract.free_request(2, 5, species=species), rng=rng())
    other = model.sample(contract.free_request(2, 5, species=species[:, order]), rng=rng())
    assert torch.equal(other.species.view(2, 5), species[:, order])
    torch.testing.assert_close(other.frac.view(2, 5, 3), one.frac.view(2, 5, 3)[:, order])
    torch.testing.assert_close(other.cell, one.cell)


def test_reconstruction_keeps_the_order(model: ADiT) -> None:
    crystals = random_crystals([4, 4], rng=rng())
    order = torch.tensor([2, 0, 3, 1])
    moved = CrystalBatch(
        frac=crystals.frac.view(2, 4, 3)[:, order].reshape(-1, 3),
        cell=crystals.cell,
        species=crystals.species.view(2, 4)[:, order].reshape(-1),
        num_atoms=crystals.num_atoms,
    )
    one, other = model.reconstruct(crystals).validate(), model.reconstruct(moved)
    torch.testing.assert_close(other.frac.view(2, 4, 3), one.frac.view(2, 4, 3)[:, order])
    assert torch.equal(other.species.view(2, 4), one.species.view(2, 4)[:, order])


def test_the_autoencoder_learns_a_crystal() -> None:
    model = contract.tiny_model("adit")
    assert isinstance(model, ADiT)
    crystal = perovskite()
    batch = CrystalBatch.concat([crystal] * 8)
    conditions = contract.conditions_of(batch)
    optimizer, noise = torch.optim.Adam(model.parameters(), lr=5e-3), rng()
    for _ in range(60):
        model.loss(batch, conditions, rng=noise).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = model.eval().reconstruct(crystal)
    assert torch.equal(found.species, crystal.species)
    torch.testing.assert_close(found.volume, crystal.volume, rtol=0.1, atol=0)
    assert float(wrap_centered(found.frac - crystal.frac).abs().max()) < 0.1


def test_latents_teach_the_denoiser_alone(model: ADiT) -> None:
    batch = random_crystals([4] * 6, rng=rng())
    gradients = []
    for weight in (0.0, 1.0):
        config = replace(model.config, weights=replace(model.config.weights, latent=weight))
        other = ADiT(config)
        other.load_state_dict(model.state_dict())
        other.loss(batch, contract.conditions_of(batch), rng=rng(3)).total.backward()
        gradients.append(other)
    for name, parameter in gradients[0].named_parameters():
        one, two = parameter.grad, dict(gradients[1].named_parameters())[name].grad
        assert one is not None
        assert two is not None
        assert torch.equal(one, two) != name.startswith("denoiser"), name


def test_shifts_and_disturbances_can_be_left_out() -> None:
    config = replace(ADiTConfig(), net=contract.tiny_model("adit").config.net, shift=False, hidden=0.0)
    model = ADiT(config)
    batch = random_crystals([4] * 3, rng=rng())
    losses = {seed: model.loss(batch, contract.conditions_of(batch), rng=rng(seed)).terms for seed in (0, 1)}
    # What is left of chance in the divergence is nothing, and in the reconstruction the latents that are drawn.
    torch.testing.assert_close(losses[0]["divergence"], losses[1]["divergence"])
    assert not torch.equal(losses[0]["frac"], losses[1]["frac"])


def test_shares_of_given_species() -> None:
    given = draw_given(4000, 6, 0.4, rng=rng())
    whole, none = given.all(1).float().mean(), (~given.any(1)).float().mean()
    # Of those that have some given, 1 / 7 have each number from 0 to 6 of them.
    assert float(whole) == pytest.approx(0.4 + 0.3 / 7, abs=0.03)
    assert float(none) == pytest.approx(0.3 + 0.3 / 7, abs=0.03)
    assert bool(draw_given(50, 3, 1.0, rng=rng()).all())
