"""Models of Wyckoff positions are told of the training crystals before the first step, and again when they go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import euhedral
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.kept_operations import keeps_operations
from euhedral.data.convert import convert
from euhedral.errors import RequestError
from euhedral.models.checkpoint import load_model
from euhedral.models.diffcsp_pp import DiffCSPPP
from euhedral.models.symmcd import SymmCD
from euhedral.sample.constraints import SUPERGROUPS, verify
from euhedral.sample.request import GenerationRequest
from euhedral.testing.crystals import cesium_chloride, perovskite, rock_salt
from euhedral.testing.models import TINY_CONFIGS
from euhedral.train import run
from euhedral.train.config import Recipe, TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(scope="module", params=[DiffCSPPP, SymmCD])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, the second one after a resume."""
    folder = tmp_path_factory.mktemp("symmetric")
    crystals = [rock_salt(length=5.0 + 0.1 * k) for k in range(6)] + [perovskite(), cesium_chloride()]
    CrystalBatch.concat(crystals).write(folder / "crystals.extxyz")
    convert(folder / "crystals.extxyz", folder / "crystals.arrow", reduce="none")
    settings = TrainConfig(batch_size=4, max_epochs=1, warmup_steps=1, precision="float32", accelerator="cpu")
    family = {DiffCSPPP: "diffcsp_pp", SymmCD: "symmcd"}[request.param]
    net = {**TINY_CONFIGS[family]["net"], "width": 16}
    recipe = Recipe(family=family, model={"net": net}, train=settings)
    run.train(folder / "crystals.arrow", folder / "run", recipe=recipe)
    run.resume(folder / "run", max_epochs=2)
    return folder / "run"


def test_it_knows_the_positions_of_the_training_crystals(trained: Path) -> None:
    model = load_model(trained / "model").model
    assert isinstance(model, DiffCSPPP | SymmCD)
    assert sorted(model.book.space_group.tolist()) == [221] * 2 + [225] * 6
    # The mean of six rock salts, a perovskite and a caesium chloride: only the volume of cubic cells is free.
    assert model.config.lattice_mean[:5] == pytest.approx((0.0,) * 5)
    assert 1.0 < model.config.lattice_mean[5] < 2.5


def test_what_is_asked_for_comes_out(trained: Path) -> None:
    generator = euhedral.load(str(trained))
    request = GenerationRequest(space_group=221, n=5, steps=2, seed=1)
    crystals = generator.generate(request)
    assert keeps_operations(crystals, 221).all()
    shares = verify(generator.resolve(request), crystals, [221, 221, 229, 221, 221], symmetric=True)
    assert (shares["space_group"].met, shares["space_group"].kind) == (4, SUPERGROUPS)
    beside = shares["space_group_or_supergroup"]
    assert (beside.met, beside.kind) == (5, "by construction")


def test_atom_counts_are_those_that_the_group_can_hold(trained: Path) -> None:
    generator = euhedral.load(str(trained))
    resolved = generator.resolve(GenerationRequest(formula="CsCl", space_group=225, n=2))
    assert set(resolved.num_atoms) == {2}
    with pytest.raises(RequestError, match=r"space group 230 \(I a -3 d\) has no Wyckoff positions that hold"):
        generator.resolve(GenerationRequest(formula="CsCl", space_group=230))
    # Guidance 0 ignores what is soft in other models, and so it does here.
    assert generator.resolve(GenerationRequest(formula="CsCl", space_group=230, guidance=0)).num_atoms


def test_crystals_are_not_made_more_symmetric_than_they_are(trained: Path) -> None:
    generator = euhedral.load(str(trained))
    one, other = (generator.generate(space_group=225, n=4, steps=2, seed=3, idealize=flag) for flag in (True, False))
    assert torch.equal(one.frac, other.frac)
    assert torch.equal(one.cell, other.cell)
