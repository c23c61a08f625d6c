"""Several structures of a composition, of which the model keeps the one that it denoises best."""

from __future__ import annotations

import pytest
import torch
from tests.models.test_joint_flow_oracles import PointOracle, model_with

from euhedral.crystal.batch import CrystalBatch
from euhedral.models.base import SampleRequest
from euhedral.models.held import Held
from euhedral.models.joint_flow import JointFlow, _Drawn, with_sampling
from euhedral.testing.crystals import prototypes, random_crystals
from euhedral.testing.models import free_request, tiny_model

TARGET = CrystalBatch.concat([prototypes()[name] for name in ("rock_salt", "diamond", "cesium_chloride")])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_of(model: JointFlow, batch: CrystalBatch) -> _Drawn:
    oracle = PointOracle(batch)
    return _Drawn(frac=oracle.frac, lattice=oracle.lattice, species=oracle.species)


def given(target: CrystalBatch, steps: int = 2) -> SampleRequest:
    size, count = len(target), int(target.num_atoms[0])
    return free_request(size, count, steps=steps, species=target.species.view(size, count))


def test_the_crystal_that_the_network_knows_has_no_error_and_others_have() -> None:
    model = model_with(PointOracle(TARGET, keep_mean=False))
    right = model.denoising_error(TARGET, 0.9, rng=rng())
    assert float(right.max()) < 1e-4
    others = random_crystals([2, 2, 2], rng=rng(3))
    others = CrystalBatch(frac=others.frac, cell=others.cell, species=TARGET.species, num_atoms=others.num_atoms)
    assert float(model.denoising_error(others, 0.9, rng=rng()).min()) > 1


def test_each_crystal_keeps_the_better_of_its_own_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with(PointOracle(TARGET, keep_mean=False), candidates=3, species_lead=0.0)
    right = drawn_of(model, TARGET)
    wrong = _Drawn(frac=torch.rand(3, 2, 3, generator=rng(5)), lattice=right.lattice + 1, species=right.species)
    candidates = []
    for row in range(3):
        mine = torch.arange(3) == row
        candidates.append(
            _Drawn(
                frac=torch.where(mine[:, None, None], right.frac, wrong.frac),
                lattice=torch.where(mine[:, None], right.lattice, wrong.lattice),
                species=right.species,
            )
        )
    waiting = iter(candidates)
    monkeypatch.setattr(model, "_path", lambda *_: next(waiting))
    batch = model.sample(given(TARGET), rng=rng())
    torch.testing.assert_close(batch.frac, TARGET.frac)
    torch.testing.assert_close(batch.volume, TARGET.volume, rtol=1e-4, atol=0)
    assert torch.equal(batch.species, TARGET.species)


@pytest.mark.parametrize("place", [0, 2])
def test_a_candidate_that_left_the_numbers_is_never_the_better_one(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    model = model_with(PointOracle(TARGET, keep_mean=False), candidates=3, species_lead=0.0)
    right = drawn_of(model, TARGET)
    lost = _Drawn(frac=right.frac * torch.nan, lattice=right.lattice + torch.inf, species=right.species)
    candidates = [right, right, right]
    candidates[place] = lost
    waiting = iter(candidates)
    monkeypatch.setattr(model, "_path", lambda *_: next(waiting))
    torch.testing.assert_close(model.sample(given(TARGET), rng=rng()).frac, TARGET.frac)


@pytest.mark.parametrize(("candidates", "draws"), [(1, 5), (2, 1), (3, 2)])
def test_evaluations(candidates: int, draws: int) -> None:
    oracle = PointOracle(TARGET)
    model = model_with(oracle, candidates=candidates, selection_draws=draws, species_lead=0.0)
    model.sample(given(TARGET, steps=4), rng=rng())
    assert len(oracle.shown) == candidates * 4 + (candidates * draws if candidates > 1 else 0)


def test_candidates_are_compared_only_where_all_species_are_known_before_the_path() -> None:
    oracle = PointOracle(TARGET)
    model = model_with(oracle, candidates=3, species_lead=0.5)
    model.sample(free_request(3, 2, steps=4), rng=rng())
    assert len(oracle.shown) == 4


def test_candidates_with_the_real_network_are_seeded_and_differ_from_a_single_draw() -> None:
    tiny = tiny_model("joint_flow", awake=True)
    model = JointFlow(with_sampling(tiny.config, candidates=4)).eval()
    model.load_state_dict(tiny.state_dict())
    request = given(TARGET, steps=3)
    first, again = (model.sample(request, rng=rng(1)) for _ in range(2))
    torch.testing.assert_close(first.frac, again.frac, rtol=0, atol=0)
    single = tiny.eval().sample(request, rng=rng(1))
    assert not torch.equal(first.frac, single.frac)


@pytest.mark.parametrize(("decorations", "evaluations"), [(1, 2), (5, 5 * 3)])
def test_a_structure_that_is_held_whole_is_decorated_at_its_end(decorations: int, evaluations: int) -> None:
    oracle = PointOracle(TARGET)
    model = model_with(oracle, candidates=3, decorations=decorations, decoration_time=0.875)
    held = Held(sites=torch.ones(2, dtype=torch.bool), frac=TARGET.frac.view(3, 2, 3), cell=TARGET.cell)
    owed = torch.nn.functional.one_hot(TARGET.species.view(3, 2), 119).sum(1)
    batch = model.sample(free_request(3, 2, steps=4, held=held, owed=owed), rng=rng())
    # The network knows which atom is where; shared out by chance this would come right one time in four.
    assert torch.equal(batch.species, TARGET.species)
    torch.testing.assert_close(batch.frac, TARGET.frac)
    assert len(oracle.shown) == evaluations
    for noisy, _ in oracle.shown[:2]:
        assert noisy.time.tolist() == [0.875] * 3
        torch.testing.assert_close(noisy.frac, TARGET.frac.view(3, 2, 3))
    others = free_request(3, 2, steps=4, held=held, owed=owed * 0)
    assert len(model.sample(others, rng=rng())) == 3 and len(oracle.shown) == evaluations + 2
