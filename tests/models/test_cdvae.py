"""CDVAE: latent vectors of mixed crystals, reconstruction, and the optimisation of a property."""

from __future__ import annotations

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import RequestError
from euhedral.models.cdvae import CDVAE
from euhedral.models.cdvae_tasks import optimise, reconstruct
from euhedral.models.conditions import Conditions
from euhedral.testing import models as contract
from euhedral.testing.crystals import perovskite, random_crystals, rock_salt


@pytest.fixture(scope="module")
def model() -> CDVAE:
    found = contract.tiny_model("cdvae", awake=True)
    assert isinstance(found, CDVAE)
    return found.eval()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed() -> CrystalBatch:
    return CrystalBatch.concat([perovskite(), rock_salt(), random_crystals([3, 5, 2], rng=rng())])


def test_latent_vectors_do_not_hang_on_the_others_of_a_batch(model: CDVAE) -> None:
    crystals = mixed()
    with torch.no_grad():
        whole = model.encode(crystals).mean
        for i in range(len(crystals)):
            torch.testing.assert_close(model.encode(crystals[[i]]).mean[0], whole[i], atol=1e-5, rtol=1e-5)


def test_reconstruction_keeps_counts_order_and_species(model: CDVAE) -> None:
    crystals = mixed()
    found = reconstruct(model, crystals, rng=rng(), steps=4).validate()
    assert torch.equal(found.num_atoms, crystals.num_atoms)
    assert torch.equal(found.species, crystals.species)
    free = reconstruct(model, crystals, rng=rng(), steps=4, species=False).validate()
    assert torch.equal(free.num_atoms, crystals.num_atoms)


def test_optimisation_moves_what_the_model_predicts(model: CDVAE) -> None:
    latent = torch.randn(6, model.config.net.latent, generator=rng())
    least = optimise(model, latent, "band_gap", steps=60, rate=0.05)
    assert bool((least.after < least.before).all())
    wanted = float(least.before.mean()) + 0.1
    near = optimise(model, latent, "band_gap", target=wanted, steps=200, rate=0.05)
    assert float((near.after - wanted).abs().mean()) < 0.3 * float((near.before - wanted).abs().mean())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(RequestError, match="known: formation_energy_per_atom"):
        optimise(model, latent, "hardness")


def test_a_latent_vector_decides_the_crystal(model: CDVAE) -> None:
    request = contract.free_request(2, 4, steps=3)
    latent = torch.randn(2, model.config.net.latent, generator=rng())
    one, again = (model.decode(latent, request, rng=rng(1)) for _ in range(2))
    other = model.decode(-latent, request, rng=rng(1))
    assert torch.equal(one.cell, again.cell)
    assert not torch.equal(one.cell, other.cell)


def test_what_is_known_of_properties_is_learned_and_no_more(model: CDVAE) -> None:
    batch = random_crystals([4] * 4, rng=rng())
    nothing = model.loss(batch, Conditions.unknown(4), rng=rng()).terms["property"]
    assert float(nothing) == 0
    known = contract.conditions_of(batch)
    assert float(model.loss(batch, known, rng=rng()).terms["property"]) > 0
