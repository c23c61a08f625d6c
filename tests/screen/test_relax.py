import itertools
import math

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.screen.potential import Prediction
from euhedral.screen.relax import relax
from euhedral.screen.relax_loop import RelaxLoop
from euhedral.screen.relaxation import (
    OUTCOMES,
    Relaxation,
    RelaxConfig,
    RelaxedCrystal,
    displacement_rmsd,
)
from euhedral.testing.crystals import diamond, random_crystals, rock_salt
from screen.potentials import EXPLODES, RAISES, SAYS_NOTHING, Moody, PairWell

TIGHT = RelaxConfig(force_limit=1e-4)


def _crystals(counts: tuple[int, ...] = (1, 2, 4, 3, 6, 2), seed: int = 0) -> CrystalBatch:
    rng = torch.Generator().manual_seed(seed)
    crystals = random_crystals(counts, rng=rng, volume_per_atom=14, dtype=torch.float64)
    return CrystalBatch(
        frac=crystals.frac,
        cell=crystals.cell,
        species=torch.full_like(crystals.species, 20),
        num_atoms=crystals.num_atoms,
    )


def _with_element(crystal: CrystalBatch, element: int) -> CrystalBatch:
    species = crystal.species.clone()
    species[0] = element
    return CrystalBatch(frac=crystal.frac, cell=crystal.cell, species=species, num_atoms=crystal.num_atoms)


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_ends_where_forces_and_stress_vanish(optimizer: str):
    crystals = _crystals((1, 2, 4, 3))
    result = relax(crystals, potential=PairWell(), config=RelaxConfig(force_limit=1e-3, optimizer=optimizer))
    assert result.outcomes == ("converged",) * len(crystals) and result.reasons == (None,) * len(crystals)
    said = PairWell().predict(result.crystals)
    assert torch.allclose(said.energy_per_atom, result.energies_per_atom, atol=1e-9)
    assert torch.allclose(said.stress_gpa, result.stresses_gpa, atol=1e-6)
    assert torch.linalg.norm(said.forces, dim=1).max() <= 1e-3 + 1e-9
    virial = said.stress_gpa / 160.21766208 * (result.crystals.volume / crystals.num_atoms)[:, None, None]
    assert torch.linalg.norm(virial, dim=2).max() <= 1e-3 + 1e-9
    assert (result.energies_per_atom < result.start_energies_per_atom).all()
    assert torch.equal(result.crystals.species, crystals.species) and result.potential == "pair well"
    assert ((result.crystals.frac >= 0) & (result.crystals.frac < 1)).all()
    assert (result.largest_forces <= 1e-3).all() and (result.steps > 0).all()


def test_a_stress_limit_is_met_too():
    result = relax(_crystals((2, 3)), potential=PairWell(), config=RelaxConfig(stress_limit_gpa=0.001))
    assert result.stresses_gpa.abs().max() <= 0.001
    loose = relax(_crystals((2, 3)), potential=PairWell(), config=RelaxConfig())
    assert loose.stresses_gpa.abs().max() > 0.001


def test_the_cell_stays_where_it_is_told_to():
    crystals = _crystals()
    result = relax(crystals, potential=PairWell(), config=RelaxConfig(force_limit=1e-3, relax_cell=False))
    assert result.outcomes == ("converged",) * len(crystals)
    assert torch.equal(result.crystals.cell, crystals.cell)
    assert result.stresses_gpa.abs().max() > 1


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_a_crystal_ends_at_the_same_place_alone_and_among_others(optimizer: str):
    crystals, config = _crystals((1, 2, 4, 3)), RelaxConfig(force_limit=0.01, optimizer=optimizer, atoms_at_once=7)
    together = relax(crystals, potential=PairWell(), config=config)
    turned = relax(crystals[[3, 2, 1, 0]], potential=PairWell(), config=config)
    for i, crystal in enumerate(crystals):
        alone = relax(crystal, potential=PairWell(), config=config)
        for other, k in ((together, i), (turned, 3 - i)):
            assert other.steps[k] == alone.steps[0]
            assert torch.allclose(other.energies_per_atom[k], alone.energies_per_atom[0], atol=1e-8)
            assert torch.allclose(other.crystals.cell[k], alone.crystals.cell[0], atol=1e-6)


def test_the_order_of_atoms_does_not_matter():
    (crystal,) = _crystals((5,))
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = CrystalBatch(
        frac=crystal.frac[order], cell=crystal.cell, species=crystal.species, num_atoms=crystal.num_atoms
    )
    one, other = (relax(c, potential=PairWell(), config=TIGHT) for c in (crystal, permuted))
    assert torch.allclose(one.energies_per_atom, other.energies_per_atom, atol=1e-8)
    assert torch.allclose(one.crystals.frac[order], other.crystals.frac, atol=1e-6)
    assert torch.allclose(one.rmsd, other.rmsd, atol=1e-6)


def test_places_are_filled_again_and_never_beyond_the_limit():
    log: list[tuple[int, ...]] = []
    crystals, ended = _crystals((2, 2, 2, 2, 9, 2, 2)), []
    config = RelaxConfig(atoms_at_once=5, force_limit=1e-3)
    result = relax(crystals, potential=PairWell(log), config=config, on_done=lambda one: ended.append(one.index))
    counts = crystals.num_atoms.tolist()
    assert all(len(keys) == 1 or sum(counts[k] for k in keys) <= 5 for keys in log)
    assert sorted(ended) == list(range(7))
    assert [sum(k in keys for keys in log) for k in range(7)] == (result.steps + 1).tolist()
    # A crystal's calls follow each other, and the next one waiting begins where one has ended.
    for k in range(7):
        calls = [i for i, keys in enumerate(log) if k in keys]
        assert calls == list(range(calls[0], calls[-1] + 1))
    begins = [min(i for i, keys in enumerate(log) if k in keys) for k in range(7)]
    ends = [max(i for i, keys in enumerate(log) if k in keys) for k in range(7)]
    assert begins[:2] == [0, 0] and begins[2] == min(ends[:2]) + 1


def test_steps_are_bounded():
    places: list[CrystalBatch] = []

    class Watched(PairWell):
        def predict(self, batch: CrystalBatch, *, keys: object = None) -> Prediction:
            places.append(batch)
            return super().predict(batch)

    relax(_crystals((4,)), potential=Watched(), config=RelaxConfig(longest_step=0.05, largest_strain=0.01))
    for before, after in itertools.pairwise(places):
        assert torch.linalg.norm((after.frac - before.frac) @ before.cell[0], dim=1).max() <= 0.05 + 1e-9
        values, vectors = torch.linalg.eigh(torch.linalg.solve(before.cell[0], after.cell[0]))
        assert torch.linalg.norm(vectors @ torch.diag(values.log()) @ vectors.T, dim=1).max() <= 0.01 + 1e-9


def test_limits_of_steps_and_time():
    crystals = _crystals((3, 4))
    result = relax(crystals, potential=PairWell(), config=RelaxConfig(force_limit=1e-9, max_steps=2))
    assert result.outcomes == ("step limit",) * 2 and result.steps.tolist() == [2, 2]
    assert all("after 2 steps" in str(reason) for reason in result.reasons)
    assert torch.isfinite(result.energies_per_atom).all()
    nothing = relax(crystals, potential=PairWell(), config=RelaxConfig(max_steps=0))
    assert torch.allclose(nothing.crystals.frac, crystals.frac) and (nothing.rmsd < 1e-6).all()
    hours = iter(range(0, 10**6, 3600))
    ended: list[RelaxedCrystal] = []
    config = RelaxConfig(max_seconds=10_000, force_limit=1e-9)
    RelaxLoop(PairWell(), config, clock=lambda: float(next(hours))).run(enumerate(crystals), ended.append)
    assert {one.outcome for one in ended} == {"time limit"} and all("s" in str(one.reason) for one in ended)


def test_crystals_that_go_wrong_say_why_and_leave_the_others_alone():
    good = _crystals((2, 3, 4, 5))
    flat = CrystalBatch.from_crystals(
        [(torch.diag(torch.tensor([4.0, 4, 1e-9])), torch.zeros(1, 3), torch.tensor([20]))]
    )
    twins = CrystalBatch.from_crystals([(4 * torch.eye(3), torch.zeros(2, 3), torch.tensor([20, 20]))])
    apart = CrystalBatch.from_crystals([(15 * torch.eye(3), torch.zeros(1, 3), torch.tensor([20]))])
    bad = [_with_element(good[i], e) for i, e in enumerate((RAISES, SAYS_NOTHING, EXPLODES))]
    batch = CrystalBatch.concat([good, *bad, *(c.to(torch.float64) for c in (flat, twins, apart))])
    result = relax(batch, potential=Moody(), config=RelaxConfig(atoms_at_once=1000))
    alone = relax(good, potential=Moody(), config=RelaxConfig())
    assert result.outcomes[:4] == ("converged",) * 4
    assert torch.allclose(result.energies_per_atom[:4], alone.energies_per_atom, atol=1e-6)
    assert result.outcomes[4:] == ("failed", "failed", "diverged", "failed", "failed", "failed")
    for reason, words in zip(
        result.reasons[4:],
        ("ValueError: no idea about lithium", "energy is nan", "times the volume", "", "apart", "no other within 6 Å"),
        strict=True,
    ):
        assert reason is not None and words in reason
    assert torch.isnan(result.energies_per_atom[4:]).all() and torch.isnan(result.largest_forces[4:]).all()
    assert result.crystals.num_atoms.tolist() == batch.num_atoms.tolist()
    assert math.isfinite(float(result.start_energies_per_atom[6]))
    assert result.counts() == dict(zip(OUTCOMES, (4, 0, 0, 1, 5), strict=True))


def test_a_potential_of_wrong_shapes_or_without_stress_is_told():
    class Short(PairWell):
        def predict(self, batch: CrystalBatch, *, keys: object = None) -> Prediction:
            said = super().predict(batch)
            return Prediction(
                energy_per_atom=said.energy_per_atom, forces=said.forces[:1], stress_gpa=said.stress_gpa, reasons=()
            )

    class NoStress(PairWell):
        def predict(self, batch: CrystalBatch, *, keys: object = None) -> Prediction:
            said = super().predict(batch)
            return Prediction(
                energy_per_atom=said.energy_per_atom,
                forces=said.forces,
                stress_gpa=torch.full_like(said.stress_gpa, torch.nan),
                reasons=said.reasons,
            )

    (reason,) = relax(_crystals((2,)), potential=Short()).reasons
    assert reason is not None and "expected (1,), (2, 3), (1, 3, 3)" in reason
    (reason,) = relax(_crystals((2,)), potential=NoStress()).reasons
    assert reason == "the potential gives no stress; relax with relax_cell=False"
    assert relax(_crystals((2,)), potential=NoStress(), config=RelaxConfig(relax_cell=False)).outcomes == ("converged",)


def test_no_crystals_are_no_work():
    result = relax(CrystalBatch.empty(), potential=PairWell())
    assert len(result.crystals) == 0 and result.outcomes == () and result.stresses_gpa.shape == (0, 3, 3)
    assert isinstance(result, Relaxation)


def test_rmsd_leaves_out_strain_shift_and_whole_cells():
    start = CrystalBatch.concat([rock_salt(length=4.0), diamond()]).to(torch.float64)
    same = CrystalBatch(
        frac=(start.frac + 0.3) % 1, cell=start.cell * 1.1, species=start.species, num_atoms=start.num_atoms
    )
    assert torch.allclose(displacement_rmsd(start, same), torch.zeros(2, dtype=torch.float64), atol=1e-7)
    moved = start.frac.clone()
    # Of two atoms one moves by 0.2 Å, so that each is 0.1 Å from their mean.
    moved[0] += torch.linalg.solve(start.cell[0].T, torch.tensor([0.2, 0, 0], dtype=torch.float64))
    end = CrystalBatch(frac=moved % 1, cell=start.cell, species=start.species, num_atoms=start.num_atoms)
    assert torch.allclose(displacement_rmsd(start, end), torch.tensor([0.1, 0.0], dtype=torch.float64), atol=1e-7)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"optimizer": "bfgs"}, "there are lbfgs, fire"),
        ({"force_limit": 0.0}, "force_limit must be above 0"),
        ({"force_limit": math.nan}, "force_limit must be above 0"),
        ({"stress_limit_gpa": -1.0}, "stress_limit_gpa"),
        ({"max_steps": -1}, "max_steps"),
        ({"atoms_at_once": 0}, "atoms_at_once"),
        ({"max_volume_change": 1.0}, "max_volume_change"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        RelaxConfig(**setting)  # pyright: ignore[reportArgumentType]


def test_wrong_workers_are_refused():
    with pytest.raises(ConfigError, match="workers"):
        relax(CrystalBatch.empty(), workers=-1)


def test_what_is_no_crystal_fails_with_a_reason():
    good = _crystals((2,))
    nan = CrystalBatch(frac=good.frac * torch.nan, cell=good.cell, species=good.species, num_atoms=good.num_atoms)
    nothing = CrystalBatch(
        frac=good.frac[:0], cell=good.cell, species=good.species[:0], num_atoms=torch.zeros(1, dtype=torch.int64)
    )
    result = relax(CrystalBatch.concat([nan, nothing, good]), potential="chgnet", config=RelaxConfig(max_steps=1))
    assert result.outcomes[:2] == ("failed", "failed") and result.outcomes[2] in ("step limit", "converged")
    assert result.reasons[:2] == ("a coordinate or cell vector is not finite", "it has no atoms")
    assert result.crystals.num_atoms.tolist() == [2, 0, 2] and torch.isfinite(result.energies_per_atom[2])
