"""Tests of gradient guidance by a property model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.lattice import cell_from_log_symmetric
from euhedral.models.base import SampleRequest
from euhedral.models.joint_process import JointProcess, _State
from euhedral.models.steering import FARTHEST, Steering
from euhedral.nets.base import Prediction
from euhedral.nets.cspnet import MatrixPrediction
from euhedral.noise.torus import without_mean
from euhedral.recipes import shipped
from euhedral.testing import models as contract
from euhedral.testing.crystals import random_crystals
from euhedral.train.config import model_config

STATISTICS = {
    "lattice_mean": (0.0,) * 5 + (1.65,),
    "lattice_std": (0.1,) * 5 + (0.15,),
}
UNLED = ("kldm", "omatg_linear_sde", "omatg_trigonometric_ode")
"""Recipes whose paths keep velocities or a latent, or scale coordinates."""


def volumes(crystals: CrystalBatch) -> torch.Tensor:
    """log of the volume an atom, as the first of three properties."""
    value = (torch.linalg.det(crystals.cell).abs() / crystals.num_atoms).log()
    return torch.stack([value, torch.zeros_like(value), torch.zeros_like(value)], 1)


def heights(crystals: CrystalBatch) -> torch.Tensor:
    """Cartesian x of the first atom of each crystal, in Å."""
    first = torch.cat([torch.zeros(1, dtype=torch.int64), crystals.num_atoms.cumsum(0)[:-1]])
    value = torch.einsum("bi,bi->b", crystals.frac[first], crystals.cell[:, :, 0])
    return torch.stack([value, value, value], 1)


def steering(predict: object, target: float, **changes: float) -> Steering:
    targets = torch.tensor([target, math.nan, math.nan])
    return Steering(predict=predict, targets=targets, scale=torch.ones(3), **changes)  # type: ignore[arg-type]


def request_of(guide: Steering | None, steps: int = 12) -> SampleRequest:
    species = torch.tensor([[3, 26, 8, 8]] * 6)
    return replace(contract.free_request(6, 4, steps=steps, species=species), steering=guide)


def drawn(guide: Steering | None) -> torch.Tensor:
    model = contract.tiny_model("joint_flow")
    crystals = model.sample(request_of(guide), rng=torch.Generator().manual_seed(0)).validate()
    return volumes(crystals)[:, 0].exp()


def test_a_gradient_leads_to_the_target_and_strength_0_nowhere() -> None:
    free = drawn(None)
    torch.testing.assert_close(drawn(steering(volumes, math.log(30.0), strength=0.0)), free)
    gaps = [
        float((drawn(steering(volumes, math.log(30.0), strength=strength)).log() - math.log(30.0)).abs().mean())
        for strength in (0.0, 0.3, 3.0)
    ]
    assert gaps[2] < gaps[1] < gaps[0]
    assert gaps[2] < 0.5 * gaps[0]
    small = drawn(steering(volumes, math.log(8.0), strength=3.0))
    assert float(small.mean()) < float(free.mean())


def test_moves_of_atoms_follow_the_gradient_in_space_and_are_bounded() -> None:
    crystal = random_crystals([3] * 2, rng=torch.Generator().manual_seed(0))
    frac, species = crystal.frac.view(2, 3, 3), crystal.species.view(2, 3)
    num_atoms = torch.tensor([3, 3])
    lattice = torch.randn(2, 6, generator=torch.Generator().manual_seed(1)) * 0.1 + torch.tensor([0.0] * 5 + [1.6])

    def cell_of(value: torch.Tensor) -> torch.Tensor:
        return cell_from_log_symmetric(value, num_atoms)

    cell = cell_of(lattice)
    x = heights(replace(crystal, cell=cell))[:, 0]
    guide = steering(heights, 0.0, strength=1e-3, reach=0.4)
    along, strained = guide.moves(frac, lattice, species, cell_of=cell_of, left=0.5)
    moved = along @ cell
    # Strength times variance times the gradient of the likelihood, -(f - y) / (a s)², along x.
    torch.testing.assert_close(moved[:, 0, 0], -1e-3 * 0.2**2 * x / 0.25**2, rtol=1e-3, atol=1e-7)
    assert float(moved[:, 0, 1:].abs().max()) < 1e-6
    assert float(moved[:, 1:].abs().max()) == 0
    assert float(strained.abs().max()) > 0
    far, _ = steering(heights, 1e6, reach=0.4).moves(frac, lattice, species, cell_of=cell_of, left=0.5)
    torch.testing.assert_close((far @ cell)[:, 0].norm(dim=-1), torch.full((2,), FARTHEST * 0.2))


def test_a_model_that_breaks_moves_nothing() -> None:
    def broken(crystals: CrystalBatch) -> torch.Tensor:
        return volumes(crystals) * math.nan

    torch.testing.assert_close(drawn(steering(broken, 1.0)), drawn(None))


def test_properties_of_a_model_have_the_gradient_of_their_differences() -> None:
    model = contract.tiny_model("cdvae", awake=True).requires_grad_(False)
    crystal = random_crystals([4], rng=torch.Generator().manual_seed(0), volume_per_atom=12.0)

    def value(frac: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return model.properties_of(replace(crystal, frac=frac, cell=cell))[0, 0]

    frac, cell = crystal.frac.clone().requires_grad_(), crystal.cell.clone().requires_grad_()
    by_frac, by_cell = torch.autograd.grad(value(frac, cell), (frac, cell))
    assert bool(by_frac.isfinite().all()) and float(by_frac.abs().max()) > 0
    step = 4e-3
    for given, gradient, place in ((0, by_frac, (2, 1)), (1, by_cell, (0, 0, 2))):
        ends = []
        for sign in (1, -1):
            values = [crystal.frac.clone(), crystal.cell.clone()]
            values[given][place] += sign * step
            ends.append(float(value(values[0], values[1])))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(gradient[place]), rel=0.05, abs=2e-3)


@pytest.mark.parametrize("name", [name for name in shipped.names() if shipped.find(name).family == "joint_process"])
def test_recipes_that_can_be_led_are_led(name: str) -> None:
    recipe = shipped.find(name)
    kept = {"width": 16, "conditioned": recipe.model["net"].get("conditioned", True)}
    net = {
        **kept,
        "kind": "cspnet",
        "layers": 1,
        "frequencies": 4,
        "time_width": 8,
        "lattice": "log_symmetric",
        "species": True,
    }
    torch.manual_seed(0)
    model = JointProcess(model_config(replace(recipe, model={**recipe.model, "net": net, **STATISTICS})))
    assert model.can_be_steered == (name not in UNLED)
    if not model.can_be_steered:
        return
    crystals = random_crystals([4] * 6, rng=torch.Generator().manual_seed(1), volume_per_atom=12.0)
    time, source = torch.full((6,), 0.9), torch.Generator().manual_seed(2)
    frac = model.frac.corrupt(crystals.frac.view(6, 4, 3), time, rng=source)
    lattice = model.lattice.path.corrupt(model.lattice.encode(crystals.cell, crystals.num_atoms), time, rng=source)
    state = _State(frac=frac.noisy, lattice=lattice.noisy, species=None)  # type: ignore[arg-type]
    said = Prediction(frac=frac.target, lattice=lattice.target, species=frac.target, space_group=frac.target)
    if model.lattice.matrix:
        said = MatrixPrediction(**{**vars(said), "lattice": torch.zeros(6, 6)}, cell=lattice.target)
    gaps = []
    for strength in (0.0, 1.0):
        guide = steering(volumes, math.log(14.0), strength=strength)
        led = model._steered(guide, said, state, crystals.species.view(6, 4), time)
        torch.testing.assert_close(led.frac, without_mean(frac.target))
        base, reach = model.lattice.path.aim(lattice.noisy, time)
        cell = model.lattice.cell(
            base + reach * (led.cell if model.lattice.matrix else led.lattice), crystals.num_atoms
        )
        gaps.append((volumes(replace(crystals, cell=cell))[:, 0] - math.log(14.0)).abs())
    assert bool((gaps[1] < gaps[0]).all())


@pytest.mark.parametrize("family", ["joint_flow", "adapted"])
def test_held_sites_stay_where_they_are(family: str) -> None:
    from euhedral.models.held import Held

    model = contract.tiny_model(family, awake=True)
    assert model.can_be_steered
    sites = torch.tensor([True, False, False, True])
    held = Held(sites=sites, frac=torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(2)))
    request = replace(request_of(steering(heights, 2.0, strength=10.0), steps=4), held=held)
    found = model.sample(request, rng=torch.Generator().manual_seed(0)).frac.view(6, 4, 3)
    torch.testing.assert_close(found[:, sites], held.frac)
