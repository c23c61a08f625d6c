"""Every process passes the shipped contract; broken processes are caught by it."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from euhedral.noise.base import Corrupted, FlowProcess, NoiseProcess, expand_time
from euhedral.noise.gaussian_flow import GaussianFlow
from euhedral.noise.joint import JointNoise
from euhedral.noise.masked import MaskedSpecies
from euhedral.noise.torus import TorusFlow, without_mean
from euhedral.testing import noise as contract


def clean_of(process: NoiseProcess, dtype: torch.dtype) -> Tensor:
    rng = torch.Generator().manual_seed(11)
    if isinstance(process, TorusFlow):
        return (torch.rand(800, 5, 3, generator=rng, dtype=torch.float64) ** 3).to(dtype)
    return (2 + 3 * torch.randn(2000, 6, generator=rng, dtype=torch.float64)).to(dtype)


FLOWS = [
    pytest.param(TorusFlow(), contract.torus_difference, id="torus"),
    pytest.param(GaussianFlow(), contract.euclidean_difference, id="gaussian"),
]
DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("process", "difference"), FLOWS)
class TestFlowContract:
    def test_process(self, process: FlowProcess, difference: contract.Difference, dtype: torch.dtype) -> None:
        contract.check_noise_process(process, clean_of(process, dtype))

    def test_ends(self, process: FlowProcess, difference: contract.Difference, dtype: torch.dtype) -> None:
        contract.check_ends(process, clean_of(process, dtype), difference)

    def test_round_trips(self, process: FlowProcess, difference: contract.Difference, dtype: torch.dtype) -> None:
        contract.check_flow_process(process, clean_of(process, dtype), difference)

    @pytest.mark.parametrize("steps", [1, 7, 50])
    def test_arrives(
        self, process: FlowProcess, difference: contract.Difference, dtype: torch.dtype, steps: int
    ) -> None:
        contract.check_arrives(process, clean_of(process, dtype), difference, steps=steps)


def test_masked_species_contract() -> None:
    clean = torch.randint(1, 119, (900, 7), generator=torch.Generator().manual_seed(0))
    contract.check_masked_species(MaskedSpecies(), clean)
    contract.check_reveal(MaskedSpecies())
    contract.check_noise_process(MaskedSpecies(), clean)


def test_priors_follow_their_distributions() -> None:
    rng = torch.Generator().manual_seed(3)
    uniform = TorusFlow().prior((2000, 4, 3), rng=rng)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert kstest(GaussianFlow().prior((4000, 6), rng=rng).flatten().numpy(), "norm").pvalue > 1e-3


def test_expand_time_adds_axes_and_takes_the_dtype() -> None:
    t = torch.tensor([0.25, 0.5])
    expanded = expand_time(t, torch.zeros(2, 5, 3, dtype=torch.float64))
    assert expanded.shape == (2, 1, 1)
    assert expanded.dtype == torch.float64
    assert expand_time(t, torch.zeros(2)).shape == (2,)


def test_joint_noise_names_its_fields() -> None:
    joint = JointNoise(frac=TorusFlow(), cell=GaussianFlow(), species=MaskedSpecies())
    assert isinstance(joint.frac, FlowProcess)
    assert isinstance(joint.cell, FlowProcess)
    assert isinstance(joint.species, NoiseProcess)
    assert not isinstance(joint.species, FlowProcess)
    with pytest.raises(TypeError):
        JointNoise(TorusFlow(), GaussianFlow(), MaskedSpecies())  # pyright: ignore[reportCallIssue]


class NarrowPrior(TorusFlow):
    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        given = super().corrupt(clean, t, rng=rng)
        return Corrupted(noisy=0.97 * given.noisy, target=given.target)


class OneTimeForAll(GaussianFlow):
    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        return super().corrupt(clean, t[:1].expand_as(t), rng=rng)


class TargetWithoutStart(GaussianFlow):
    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        return Corrupted(noisy=super().corrupt(clean, t, rng=rng).noisy, target=clean)


class WrongClean(GaussianFlow):
    def clean_from_velocity(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        return noisy + velocity


class LongWay(TorusFlow):
    def velocity_from_clean(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        return (clean - noisy) / (1 - expand_time(t, noisy))


class GlobalGenerator(GaussianFlow):
    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        start = torch.randn_like(clean)
        return Corrupted(noisy=start + expand_time(t, clean) * (clean - start), target=clean - start)


class RevealsTooMany(MaskedSpecies):
    def reveal(self, noisy: Tensor, logits: Tensor, count: int, *, rng: torch.Generator) -> Tensor:
        return super().reveal(noisy, logits, count + 1, rng=rng)


class RevealsForbidden(MaskedSpecies):
    def reveal(self, noisy: Tensor, logits: Tensor, count: int, *, rng: torch.Generator) -> Tensor:
        return super().reveal(noisy, logits.nan_to_num(neginf=0.0), count, rng=rng)


def _everything(process: FlowProcess, difference: contract.Difference) -> None:
    clean = clean_of(process, torch.float64)
    contract.check_noise_process(process, clean)
    contract.check_ends(process, clean, difference)
    contract.check_flow_process(process, clean, difference)


@pytest.mark.parametrize(
    ("process", "difference", "message"),
    [
        (NarrowPrior(), contract.torus_difference, "not the prior"),
        (OneTimeForAll(), contract.euclidean_difference, "beside others"),
        (TargetWithoutStart(), contract.euclidean_difference, "target of corrupt"),
        (WrongClean(), contract.euclidean_difference, "clean_from_velocity"),
        (LongWay(), contract.torus_difference, "velocity -> clean -> velocity"),
        (GlobalGenerator(), contract.euclidean_difference, "same seed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TorusFlow | GaussianFlow) else None,
)
def test_contract_catches_broken_flows(process: FlowProcess, difference: contract.Difference, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        _everything(process, difference)


@pytest.mark.parametrize(
    ("process", "message"), [(RevealsTooMany(), "not every crystal got"), (RevealsForbidden(), "logit -inf")]
)
def test_contract_catches_broken_reveals(process: MaskedSpecies, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        contract.check_reveal(process)


@pytest.mark.parametrize("shape", [(4, 1, 3), (3, 7, 3)])
def test_without_mean_is_a_projection(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    projected = without_mean(value)
    torch.testing.assert_close(projected.mean(1), torch.zeros(shape[0], 3, dtype=torch.float64))
    torch.testing.assert_close(without_mean(projected), projected)
    torch.testing.assert_close(without_mean(value + torch.ones(1, 1, 3)), projected)


def test_torus_target_has_no_mean_and_stays_within_one_cell() -> None:
    clean = clean_of(TorusFlow(), torch.float64)
    given = TorusFlow().corrupt(clean, torch.rand(800), rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(given.target.mean(1), torch.zeros(800, 3, dtype=torch.float64))
    assert given.target.abs().max() <= 1.0
    assert given.noisy.min() >= 0
    assert given.noisy.max() < 1
    # A lone atom has nowhere to go: its crystal is the same at every time.
    alone = TorusFlow().corrupt(clean[:, :1], torch.rand(800), rng=torch.Generator().manual_seed(0))
    assert not alone.target.any()


def test_torus_corruption_commutes_with_permutation_and_cell_images() -> None:
    # The start is drawn from the generator, so equivariance shows through the law: noise moved with the crystal.
    clean = clean_of(TorusFlow(), torch.float64)[:, :4]
    shift = torch.randint(-2, 3, clean.shape, generator=torch.Generator().manual_seed(1))
    t = torch.full((len(clean),), 0.4)

    def corrupt(value: Tensor) -> Corrupted:
        return TorusFlow().corrupt(value, t, rng=torch.Generator().manual_seed(5))

    base, moved = corrupt(clean), corrupt(clean + shift)
    torch.testing.assert_close(moved.target, base.target, atol=1e-12, rtol=0)
    apart = contract.torus_difference(moved.noisy, base.noisy)
    torch.testing.assert_close(apart, torch.zeros_like(apart), atol=1e-12, rtol=0)
    # The same corruption seen from another origin: clean and start shifted alike give the same velocity.
    start = (base.noisy - t[:, None, None] * base.target).double()
    origin = torch.tensor([0.37, -0.81, 0.05], dtype=torch.float64)
    first = TorusFlow().velocity_from_clean(start, clean, torch.zeros(len(clean)))
    second = TorusFlow().velocity_from_clean(start + origin, clean + origin, torch.zeros(len(clean)))
    torch.testing.assert_close(without_mean(second), without_mean(first), atol=1e-12, rtol=0)
    torch.testing.assert_close(without_mean(first), base.target, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_score_round_trip(dtype: torch.dtype) -> None:
    flow, rng = GaussianFlow(), torch.Generator().manual_seed(2)
    t = torch.linspace(0.05, 0.95, 100)
    noisy = torch.randn(100, 6, generator=rng, dtype=dtype)
    velocity = torch.randn(100, 6, generator=rng, dtype=dtype)
    score = flow.score_from_velocity(noisy, velocity, t)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(flow.velocity_from_score(noisy, score, t), velocity, atol=tolerance, rtol=0)
    clean = flow.clean_from_velocity(noisy, velocity, t)
    torch.testing.assert_close(flow.velocity_from_clean(noisy, clean, t), velocity, atol=tolerance, rtol=0)
