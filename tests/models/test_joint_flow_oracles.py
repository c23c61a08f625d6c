"""The sampler of the whole model, with the network replaced by one that knows the answer."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch import nn

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.crystal.lattice import cell_from_log_symmetric, log_symmetric
from euhedral.models.conditions import Conditions
from euhedral.models.joint_flow import JointFlow, JointFlowConfig, with_sampling
from euhedral.models.registry import parse_config
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.noise.torus import without_mean
from euhedral.testing.crystals import prototypes, random_crystals
from euhedral.testing.models import TINY_CONFIGS, conditions_of, elements_mask, free_request

CONFIG = parse_config(JointFlowConfig, TINY_CONFIGS["joint_flow"])


def model_with(net: nn.Module, **sampling: float) -> JointFlow:
    """A model around a given network that samples plainly, one evaluation a step, but for the options given."""
    plain = {"species_guidance": 1.0, "space_group_first": False, "candidates": 1, "species_lead": 0.5}
    model = JointFlow(with_sampling(CONFIG, **plain | sampling))
    model.net = net  # pyright: ignore[reportAttributeAccessIssue]
    return model


class PointOracle(nn.Module):
    """The exact velocity to given crystals of one size, and certainty about their species; keeps what it was shown."""

    def __init__(self, target: CrystalBatch, *, keep_mean: bool = True) -> None:
        super().__init__()
        size, count = len(target), int(target.num_atoms[0])
        self.keep_mean = keep_mean
        self.frac, self.species = target.frac.view(size, count, 3), target.species.view(size, count)
        mean, std = torch.tensor(CONFIG.lattice_mean), torch.tensor(CONFIG.lattice_std)
        self.lattice = (log_symmetric(target.cell, target.num_atoms) - mean) / std
        self.shown: list[tuple[NoisyCrystals, Context]] = []

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        self.shown.append((noisy, context))
        left = 1 - noisy.time
        frac = wrap_centered(self.frac - noisy.frac) / left[:, None, None]
        return Prediction(
            frac=frac if self.keep_mean else without_mean(frac),
            lattice=(self.lattice - noisy.lattice) / left[:, None],
            species=60.0 * torch.nn.functional.one_hot(self.species, 119).float(),
            space_group=torch.zeros(len(left), 231),
        )


def check_same(batch: CrystalBatch, target: CrystalBatch, *, up_to_shift: bool, tolerance: float = 1e-4) -> None:
    size = len(target)
    apart = (batch.frac - target.frac).view(size, -1, 3)
    apart = wrap_centered(apart - apart[:, :1] if up_to_shift else apart)
    assert apart.abs().max() < tolerance
    expected = cell_from_log_symmetric(log_symmetric(target.cell, target.num_atoms), target.num_atoms)
    torch.testing.assert_close(batch.cell, expected, atol=tolerance, rtol=0)
    # The metric, and so the crystal, is that of the target in its own orientation too.
    metric = target.cell @ target.cell.transpose(1, 2)
    torch.testing.assert_close(batch.cell @ batch.cell.transpose(1, 2), metric, atol=2e-3, rtol=1e-4)
    assert torch.equal(batch.species, target.species)
    assert torch.equal(batch.num_atoms, target.num_atoms)


TARGETS = {**prototypes(), "random": random_crystals([7, 7, 7], rng=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("name", list(TARGETS))
@pytest.mark.parametrize("keep_mean", [True, False])
def test_an_exact_velocity_gives_the_crystal(name: str, keep_mean: bool) -> None:
    target = TARGETS[name]
    model = model_with(PointOracle(target, keep_mean=keep_mean), frac_annealing=0.0)
    size, count = len(target), int(target.num_atoms[0])
    batch = model.sample(free_request(size, count, steps=20), rng=torch.Generator().manual_seed(1))
    check_same(batch.validate(), target, up_to_shift=not keep_mean)


@pytest.mark.parametrize("steps", [1, 2, 13])
@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
def test_any_number_of_steps_and_schedule_arrives(steps: int, power: float) -> None:
    target = TARGETS["random"]
    oracle = PointOracle(target)
    model = model_with(oracle, frac_annealing=0.0, schedule_power=power)
    batch = model.sample(free_request(3, 7, steps=steps), rng=torch.Generator().manual_seed(2))
    check_same(batch, target, up_to_shift=False)
    assert len(oracle.shown) == steps
    times = torch.stack([noisy.time for noisy, _ in oracle.shown])
    expected = (torch.arange(steps) / steps) ** power
    torch.testing.assert_close(times, expected[:, None].expand(-1, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("annealing", [1.0, 5.0, 10.0])
def test_annealed_velocities_arrive_too(annealing: float) -> None:
    # Scaling the velocity near the end contracts faster than the flow; with enough steps the point is the same.
    target = TARGETS["random"]
    model = model_with(PointOracle(target), frac_annealing=annealing, lattice_annealing=annealing)
    batch = model.sample(free_request(3, 7, steps=100), rng=torch.Generator().manual_seed(3))
    check_same(batch, target, up_to_shift=False)


def test_every_crystal_of_a_batch_goes_its_own_way_to_the_end() -> None:
    target = CrystalBatch.concat([prototypes()[name] for name in ("rock_salt", "diamond", "cesium_chloride")])
    model = model_with(PointOracle(target))
    batch = model.sample(free_request(3, 2, steps=50), rng=torch.Generator().manual_seed(4))
    check_same(batch, target, up_to_shift=False)


def test_the_network_sees_a_consistent_crystal_on_the_way() -> None:
    target = TARGETS["random"]
    oracle = PointOracle(target)
    species = target.species.view(3, 7).clone()
    species[:, 2:] = 0
    model_with(oracle).sample(free_request(3, 7, species=species, steps=20), rng=torch.Generator().manual_seed(5))
    mean, std = torch.tensor(CONFIG.lattice_mean), torch.tensor(CONFIG.lattice_std)
    known = []
    for noisy, _ in oracle.shown:
        torch.testing.assert_close(
            log_symmetric(noisy.cell, target.num_atoms), noisy.lattice * std + mean, atol=1e-4, rtol=0
        )
        assert noisy.frac.min() >= 0
        assert noisy.frac.max() < 1
        share = (noisy.species > 0).float().mean(1)
        torch.testing.assert_close(noisy.known, share)
        assert ((noisy.species == 0) | (noisy.species == target.species.view(3, 7))).all()
        known.append(share)
    shares = torch.stack(known)
    assert (shares.diff(dim=0) >= 0).all()
    torch.testing.assert_close(shares[0], torch.full((3,), 2 / 7))
    # All species are known after `species_lead` of the path, and not much before.
    assert (shares[10:] == 1).all()
    assert (shares[7] < 1).all()


def test_rows_with_different_numbers_of_masked_species() -> None:
    target = TARGETS["random"]
    species = target.species.view(3, 7).clone()
    species[0, 1:] = 0
    species[1, 5] = 0
    for steps in (1, 3, 20):
        model = model_with(PointOracle(target), frac_annealing=0.0)
        batch = model.sample(free_request(3, 7, species=species, steps=steps), rng=torch.Generator().manual_seed(6))
        assert torch.equal(batch.species, target.species)


class JointOracle(PointOracle):
    """Exact conditionals of a joint law of three species, given those that are known."""

    STATES = torch.tensor(list(itertools.product((3, 8), repeat=3)))
    LAW = torch.tensor([0.02, 0.2, 0.03, 0.1, 0.25, 0.05, 0.3, 0.05], dtype=torch.float64)

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        agrees = ((noisy.species[:, None] == self.STATES) | (noisy.species[:, None] == 0)).all(-1)
        weight = agrees * self.LAW
        logits = torch.full((*noisy.species.shape, 119), -60.0)
        for element in (3, 8):
            share = (weight[:, :, None] * (element == self.STATES)).sum(1) / weight.sum(1, keepdim=True)
            logits[..., element] = share.clamp_min(1e-20).log().float()
        zeros = torch.zeros_like(noisy.frac)
        return Prediction(frac=zeros, lattice=zeros.new_zeros(len(zeros), 6), species=logits, space_group=logits[:, 0])


def test_species_drawn_before_the_path_are_known_on_all_of_it() -> None:
    recorder = Recorder()
    model = model_with(recorder, species_lead=0.0)
    species = torch.tensor([[3, 0, 0], [11, 17, 0]])
    batch = model.sample(free_request(2, 3, species=species, steps=4), rng=torch.Generator().manual_seed(9))
    known = [noisy.known.mul(3).round().int().tolist() for noisy, _ in recorder.shown]
    assert known == [[1, 2], [2, 3]] + [[3, 3]] * 4
    assert [float(noisy.time[0]) for noisy, _ in recorder.shown] == [0, 0, 0, 0.25, 0.5, 0.75]
    assert torch.equal(batch.species.view(2, 3), recorder.shown[-1][0].species)


def draw_species(steps: int, crystals: int = 6000) -> list[int]:
    target = CrystalBatch.concat([random_crystals([3], rng=torch.Generator().manual_seed(0))] * crystals)
    request = free_request(crystals, 3, steps=steps, allowed=elements_mask(crystals, [3, 8, 26]))
    batch = model_with(JointOracle(target)).sample(request, rng=torch.Generator().manual_seed(7))
    species = batch.species.view(-1, 3)
    return [int((species == state).all(1).sum()) for state in JointOracle.STATES]


def test_species_are_drawn_from_the_joint_law() -> None:
    law = JointOracle.LAW
    expected = (6000 * law / law.sum()).tolist()
    # Eight steps reveal one atom an evaluation: exact. One step reveals all of them from the same marginals: not.
    assert chisquare(draw_species(8), expected).pvalue > 1e-3
    counts = draw_species(1)
    assert sum(counts) == 6000
    assert chisquare(counts, expected).pvalue < 1e-6


class Recorder(nn.Module):
    """Velocities that tell whether a context was shown: constant in time, without mean; counts its evaluations."""

    def __init__(self, space_group: int = 7) -> None:
        super().__init__()
        self.space_group = space_group
        self.shown: list[tuple[NoisyCrystals, Context]] = []

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        self.shown.append((noisy, context))
        size, count = noisy.species.shape
        asked = (context.space_group > 0) | context.has_property.any(1) | context.chemical_system.any(1)
        tilt = torch.linspace(-0.1, 0.1, count)[None, :, None].expand(size, count, 3)
        strength = torch.where(asked, 0.3, 0.1)
        logits = torch.zeros(size, 231)
        logits[:, self.space_group] = 20.0
        return Prediction(
            frac=tilt * strength[:, None, None],
            lattice=strength[:, None].expand(size, 6),
            species=torch.zeros(size, count, 119),
            space_group=logits,
        )


@pytest.mark.parametrize(("strength", "evaluations"), [(0.0, 1), (1.0, 1), (2.5, 2), (-1.0, 2)])
def test_guidance_is_linear_in_the_velocities(strength: float, evaluations: int) -> None:
    species = torch.tensor([[3, 8, 8]] * 2)
    asked = conditions_of(random_crystals([3, 3], rng=torch.Generator().manual_seed(0)), space_group=5)
    recorder = Recorder()
    model = model_with(recorder, frac_annealing=0.0)
    request = free_request(2, 3, species=species, conditions=asked, guidance=strength, steps=5)
    batch = model.sample(request, rng=torch.Generator().manual_seed(8))
    assert len(recorder.shown) == 5 * evaluations
    # Velocity 0.1 without and 0.3 with conditions, for one unit of time.
    start_frac, start_lattice = recorder.shown[0][0].frac, recorder.shown[0][0].lattice
    expected = 0.1 + strength * (0.3 - 0.1)
    lattice = (log_symmetric(batch.cell, batch.num_atoms) - model.lattice_mean) / model.lattice_std
    torch.testing.assert_close(lattice, start_lattice + expected, atol=1e-4, rtol=0)
    tilt = torch.linspace(-0.1, 0.1, 3)[None, :, None]
    moved = wrap_centered(batch.frac.view(2, 3, 3) - start_frac)
    torch.testing.assert_close(moved, (expected * tilt).expand(2, 3, 3), atol=1e-5, rtol=0)


def contexts(recorder: Recorder) -> list[list[int]]:
    return [context.space_group.tolist() for _, context in recorder.shown]


@pytest.mark.parametrize("hidden", [0.0, -0.4])
@pytest.mark.parametrize("given", [1, 0])
def test_guidance_toward_the_composition_extrapolates_from_hidden_species(given: int, hidden: float) -> None:
    class Seeing(nn.Module):
        """Lattice velocity 1 where species are shown, `hidden` where they are not."""

        def __init__(self) -> None:
            super().__init__()
            self.shown: list[NoisyCrystals] = []

        def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
            self.shown.append(noisy)
            size, count = noisy.species.shape
            seen = (noisy.species > 0).any(1)
            velocity = torch.where(seen, 1.0, hidden)[:, None].expand(size, 6)
            return Prediction(
                frac=torch.zeros(size, count, 3),
                lattice=velocity,
                species=torch.zeros(size, count, 119),
                space_group=torch.zeros(size, 231),
            )

    net = Seeing()
    model = model_with(net, species_guidance=1.5, guidance_until=0.5)
    species = torch.tensor([[3, 8], [11, 17]]) * torch.tensor([1, given])
    batch = model.sample(free_request(2, 2, species=species, steps=4), rng=torch.Generator().manual_seed(8))
    lattice = (log_symmetric(batch.cell, batch.num_atoms) - model.lattice_mean) / model.lattice_std
    guided = hidden + 1.5 * (1 - hidden)
    torch.testing.assert_close(lattice, net.shown[0].lattice + 0.5 * guided + 0.5, atol=1e-4, rtol=0)
    assert len(net.shown) == 6, "two evaluations a step for half of the path, then one"
    masked = [not noisy.species.any() and not noisy.known.any() for noisy in net.shown]
    assert masked == [False, True, False, True, False, False]


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("given", [1, 0])
def test_a_space_group_of_its_own_is_asked_for(temperature: float, given: int) -> None:
    species = torch.tensor([[3, 8], [11, 17]]) * torch.tensor([1, given])
    recorder = Recorder(space_group=99)
    model = model_with(recorder, space_group_first=True, space_group_temperature=temperature)
    model.sample(free_request(2, 2, species=species, steps=3), rng=torch.Generator().manual_seed(9))
    first, _ = recorder.shown[0]
    assert first.time.tolist() == [0, 0]
    assert first.known.tolist() == [1 / (2 - given)] * 2
    assert contexts(recorder) == [[0, 0]] + [[99, 99]] * 3


def test_space_group_is_drawn_from_the_prediction_at_its_temperature() -> None:
    class Torn(Recorder):
        def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
            guess = super().forward(noisy, context)
            guess.space_group.fill_(-60.0)
            guess.space_group[:, 2], guess.space_group[:, 14] = math.log(0.2), math.log(0.8)
            return guess

    crystals = 2000
    for temperature, share in ((1.0, 0.8), (0.5, 0.64 / 0.68)):
        recorder = Torn()
        model = model_with(recorder, space_group_first=True, space_group_temperature=temperature)
        species = torch.tensor([[3, 8]]).repeat(crystals, 1)
        model.sample(free_request(crystals, 2, species=species, steps=1), rng=torch.Generator().manual_seed(3))
        drawn = contexts(recorder)[1]
        assert set(drawn) == {2, 14}
        assert binomtest(drawn.count(14), crystals, share).pvalue > 1e-3


def test_a_space_group_drawn_for_a_property_is_no_part_of_its_guidance() -> None:
    species = torch.tensor([[3, 8], [11, 17]])
    asked = Conditions.unknown(2)
    asked.properties[:, 0] = -1.0
    recorder = Recorder(space_group=99)
    model = model_with(recorder, space_group_first=True)
    request = free_request(2, 2, species=species, conditions=asked, guidance=2.0, steps=1)
    model.sample(request, rng=torch.Generator().manual_seed(9))
    (_, drawing), (_, guided), (_, free) = recorder.shown
    assert drawing.has_property[:, 0].all() and not drawing.space_group.any()
    assert guided.has_property[:, 0].all() and guided.space_group.tolist() == [99, 99]
    assert not free.has_property.any() and free.space_group.tolist() == [99, 99]


def test_no_space_group_of_its_own_where_one_is_asked_or_it_is_off() -> None:
    species = torch.tensor([[3, 8], [11, 17]])
    asked = replace(Conditions.unknown(2), space_group=torch.tensor([12, 12]))
    for first, conditions, expected in ((True, asked, 12), (False, Conditions.unknown(2), 0)):
        recorder = Recorder(space_group=99)
        model = model_with(recorder, space_group_first=first)
        request = free_request(2, 2, species=species, conditions=conditions, steps=2)
        model.sample(request, rng=torch.Generator().manual_seed(9))
        assert contexts(recorder) == [[expected] * 2] * 2


def test_space_group_logits_ask_at_the_start_of_time() -> None:
    recorder = Recorder(space_group=62)
    species = torch.tensor([[3, 8, 8], [11, 17, 17]])
    model, rng = model_with(recorder), torch.Generator().manual_seed(0)
    logits = model.space_group_logits(species, Conditions.unknown(2), rng=rng)
    assert logits.shape == (2, 231)
    assert logits.argmax(1).tolist() == [62, 62]
    ((noisy, context),) = recorder.shown
    assert torch.equal(noisy.species, species)
    assert not noisy.time.any()
    assert (noisy.known == 1).all()
    assert not context.space_group.any()
    assert not context.has_property.any()
    assert not context.chemical_system.any()
