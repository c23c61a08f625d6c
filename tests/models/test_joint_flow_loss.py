"""The loss of the joint flow: what is shown to the network, at which rates, and what each term measures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.crystal.lattice import log_symmetric
from euhedral.models.base import LossTerms
from euhedral.models.conditions import Conditions
from euhedral.models.joint_flow import JointFlow, JointFlowConfig, LossWeights
from euhedral.models.registry import parse_config
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.testing.crystals import perovskite, random_crystals
from euhedral.testing.models import TINY_CONFIGS, conditions_of, tiny_model

CONFIG = replace(
    parse_config(JointFlowConfig, TINY_CONFIGS["joint_flow"]),
    property_mean=(1.0, 2.0, 3.0),
    property_std=(0.5, 2.0, 4.0),
)
COPIES = 4000


class Answers(nn.Module):
    """No velocity of coordinates, the exact one of the lattice, and full confidence in the true classes."""

    def __init__(self, crystal: CrystalBatch, space_group: int) -> None:
        super().__init__()
        mean, std = torch.tensor(CONFIG.lattice_mean), torch.tensor(CONFIG.lattice_std)
        self.lattice = (log_symmetric(crystal.cell, crystal.num_atoms) - mean) / std
        self.species, self.space_group = crystal.species, space_group
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        self.noisy, self.context = noisy, context
        size, count = noisy.species.shape
        space_group = torch.zeros(size, 231)
        space_group[:, self.space_group] = 40.0
        species = 40.0 * torch.nn.functional.one_hot(self.species, 119).float()
        return Prediction(
            frac=self.weight * torch.ones(size, count, 3),
            lattice=(self.lattice - noisy.lattice) / (1 - noisy.time)[:, None],
            species=species.expand(size, -1, -1),
            space_group=space_group,
        )


def run(crystal: CrystalBatch, **changes: object) -> tuple[LossTerms, Answers, Conditions]:
    batch = CrystalBatch.concat([crystal] * COPIES)
    conditions = conditions_of(batch, space_group=148)
    model = JointFlow(replace(CONFIG, **changes))
    answers = Answers(crystal, 148)
    model.net = answers  # pyright: ignore[reportAttributeAccessIssue]
    return model.loss(batch, conditions, rng=torch.Generator().manual_seed(0)), answers, conditions


def near(share: float, expected: float, draws: int = COPIES) -> bool:
    return abs(share - expected) <= 4 * (expected * (1 - expected) / draws) ** 0.5


def test_terms_vanish_for_the_right_answers_and_the_torus_term_is_its_variance() -> None:
    loss, _, _ = run(perovskite(), alignment=0)
    terms = {name: float(value) for name, value in loss.terms.items()}
    assert set(terms) == {"frac", "lattice", "species", "space_group"}
    # float32 and 1 / (1 - t) leave a little.
    assert terms["lattice"] < 1e-5
    assert terms["species"] < 1e-6
    assert terms["space_group"] < 1e-6
    # Uniform displacements in [-1/2, 1/2) less their mean over five atoms.
    assert abs(terms["frac"] - (1 - 1 / 5) / 12) < 1.5e-3
    torch.testing.assert_close(float(loss.total.detach()), 30 * terms["frac"], atol=5e-5, rtol=0)


def test_alignment_shortens_the_paths() -> None:
    plain, _, _ = run(perovskite(), alignment=0)
    near, _, _ = run(perovskite(), alignment=4)
    assert float(near.terms["frac"]) < 0.6 * float(plain.terms["frac"])


@pytest.mark.parametrize("name", ["frac", "lattice", "species", "space_group"])
def test_the_total_is_the_weighted_sum(name: str) -> None:
    off = {field: 0.0 for field in ("frac", "lattice", "species", "space_group")}
    batch = random_crystals([4] * 8, rng=torch.Generator().manual_seed(0))
    model = tiny_model("joint_flow", awake=True)
    weights = LossWeights(**{**off, name: 3.0})
    weighted = JointFlow(replace(model.config, weights=weights))
    weighted.load_state_dict(model.state_dict())
    loss = weighted.loss(batch, conditions_of(batch, space_group=2), rng=torch.Generator().manual_seed(1))
    assert loss.terms[name] > 0
    torch.testing.assert_close(loss.total.detach(), 3.0 * loss.terms[name])


def test_what_is_shown_comes_at_the_rates_of_the_configuration() -> None:
    _, answers, conditions = run(
        perovskite(), prediction_share=0.6, start_share=0.05, open_start_share=0.4, condition_keep=0.3
    )
    noisy, context = answers.noisy, answers.context
    given = noisy.known == 1
    assert near(float((noisy.time[given] == 0).float().mean()), 0.05, int(given.sum()))
    assert near(float((noisy.time[~given] == 0).float().mean()), 0.4, int((~given).sum()))
    assert near(float(given.float().mean()), 0.6)
    assert (noisy.species[noisy.known == 1] > 0).all()
    others = noisy.known < 1
    share = (noisy.species[others] > 0).float().mean(1)
    torch.testing.assert_close(float(share.mean()), 0.5, atol=0.03, rtol=0)
    assert float(torch.corrcoef(torch.stack([share, noisy.known[others]]))[0, 1]) > 0.6
    assert near(float((context.space_group > 0).float().mean()), 0.3)
    assert near(float(context.chemical_system.any(1).float().mean()), 0.3)
    finite = conditions.properties.isfinite()
    assert not context.has_property[~finite].any()
    assert near(float(context.has_property[finite].float().mean()), 0.3, int(finite.sum()))
    # Species and structure have times of their own.
    moving = others & (noisy.time > 0)
    correlation = torch.corrcoef(torch.stack([noisy.time[moving], noisy.known[moving]]))[0, 1]
    assert abs(float(correlation)) < 4.5 / int(moving.sum()) ** 0.5


def test_properties_are_standardised_and_zero_where_unknown() -> None:
    _, answers, conditions = run(perovskite(), condition_keep=1.0)
    context, finite = answers.context, conditions.properties.isfinite()
    assert torch.equal(context.has_property, finite)
    expected = (conditions.properties - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([0.5, 2.0, 4.0])
    torch.testing.assert_close(context.properties[finite], expected[finite])
    assert not context.properties[~finite].any()


def test_the_space_group_is_asked_for_only_where_it_is_hidden() -> None:
    def term(keep: float, answer: int) -> float:
        batch = CrystalBatch.concat([perovskite()] * 200)
        model = JointFlow(replace(CONFIG, condition_keep=keep))
        model.net = Answers(perovskite(), answer)  # pyright: ignore[reportAttributeAccessIssue]
        loss = model.loss(batch, conditions_of(batch, space_group=148), rng=torch.Generator().manual_seed(0))
        return float(loss.terms["space_group"])

    # A wrong answer costs 40 wherever the question is put, however often that is; nothing where it never is.
    assert abs(term(0.0, 3) - 40) < 1e-2
    assert abs(term(0.7, 3) - 40) < 1e-2
    assert term(1.0, 3) == 0
    assert term(0.0, 148) < 1e-6


def test_half_of_the_crystals_are_shown_inverted() -> None:
    crystal = random_crystals([4], rng=torch.Generator().manual_seed(3))
    _, answers, _ = run(crystal)
    late = answers.noisy.time > 0.97
    frac = answers.noisy.frac[late]

    def gap(sign: float) -> torch.Tensor:
        apart = frac - sign * crystal.frac
        return wrap_centered(apart - apart[:, :1]).abs().amax((1, 2))

    plain, inverted = gap(1.0) < 0.07, gap(-1.0) < 0.07
    assert (plain | inverted).all()
    assert near(float(inverted.float().mean()), 0.5, int(late.sum()))


def test_all_known_and_nothing_asked_leaves_a_loss_with_a_gradient() -> None:
    batch = random_crystals([3] * 4, rng=torch.Generator().manual_seed(0))
    tiny = tiny_model("joint_flow", awake=True)
    model = JointFlow(replace(tiny.config, prediction_share=1.0))
    model.load_state_dict(tiny.state_dict())
    loss = model.loss(batch, Conditions.unknown(4), rng=torch.Generator().manual_seed(0))
    assert loss.terms["species"] == 0
    assert loss.terms["space_group"] == 0
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_loss_does_not_see_the_orientation_of_the_crystal() -> None:
    batch = random_crystals([4] * 6, rng=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    turned = CrystalBatch(frac=batch.frac, cell=batch.cell @ turn, species=batch.species, num_atoms=batch.num_atoms)
    model = tiny_model("joint_flow", awake=True)
    conditions = conditions_of(batch)
    first, second = (model.loss(b, conditions, rng=torch.Generator().manual_seed(2)).total for b in (batch, turned))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6)


def test_views_of_other_memory_layout_are_taken() -> None:
    batch = random_crystals([4] * 6, rng=torch.Generator().manual_seed(0))
    strided = CrystalBatch(
        frac=batch.frac.T.contiguous().T, cell=batch.cell, species=batch.species, num_atoms=batch.num_atoms
    )
    assert not strided.frac.is_contiguous()
    model = tiny_model("joint_flow", awake=True)
    first, second = (
        model.loss(b, conditions_of(batch), rng=torch.Generator().manual_seed(2)).total for b in (batch, strided)
    )
    torch.testing.assert_close(first, second)
