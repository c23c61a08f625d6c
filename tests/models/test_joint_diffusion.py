"""Joint diffusion: what the loss compares, what the sampler does with an exact network, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.errors import ConfigError, RequestError
from euhedral.models.base import CompositionTest
from euhedral.models.conditions import Conditions
from euhedral.models.joint_diffusion import JointDiffusion, JointDiffusionConfig
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.cspnet import CSPNetConfig, MatrixPrediction
from euhedral.noise.torus import without_mean
from euhedral.noise.wrapped_normal import scaled_score
from euhedral.testing import models as contract
from euhedral.testing.crystals import perovskite, random_crystals

TINY = CSPNetConfig(width=16, layers=1, frequencies=4, time_width=8)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Knowing(nn.Module):
    """The exact prediction for data that are one crystal, its origin anywhere: posterior means in closed form.

    The origin is integrated over by a sum on a fine grid, each axis on its own.
    """

    def __init__(self, model: JointDiffusion, crystal: CrystalBatch) -> None:
        super().__init__()
        self.noise, self.crystal, self.matrix = model.noise, crystal, model.config.net.lattice == "matrix"
        self.lattice = model._lattice(crystal)[0]

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        t = noisy.time
        sigma = self.noise.frac.sigma(t)[:, None, None, None]
        centre = (noisy.frac - self.crystal.frac)[..., None].double()
        # Around the origin that each atom would choose, the grid is as fine as the noise.
        origins = torch.arange(200, dtype=torch.float64) / 200 if float(sigma[0]) > 0.02 else None
        if origins is None:
            near = centre[:, :1]
            origins = near + sigma * torch.linspace(-8, 8, 201, dtype=torch.float64)
        apart = wrap_centered(centre - origins)
        weight = torch.softmax((-0.5 * (apart / sigma).square()).sum(1, keepdim=True), -1)
        scaled = (weight * scaled_score(apart, sigma)).sum(-1)
        moment = (self.noise.frac.scale(t) * sigma[:, 0, 0, 0])[:, None, None]
        frac = without_mean((scaled / moment).float())
        a = self.noise.cell.signal(t)
        shown = self._lattice_of(noisy)
        a = a.view(-1, *([1] * (shown.dim() - 1)))
        noise = ((shown - a.sqrt() * self.lattice) / (1 - a).sqrt()).float()
        b, n = noisy.species.shape
        rest = {"species": torch.zeros(b, n, 119), "space_group": torch.zeros(b, 231)}
        if self.matrix:
            return MatrixPrediction(frac=frac, lattice=torch.zeros(b, 6), cell=noise, **rest)
        return Prediction(frac=frac, lattice=noise, **rest)

    def _lattice_of(self, noisy: NoisyCrystals) -> Tensor:
        return noisy.cell if self.matrix else noisy.lattice


@pytest.mark.parametrize("lattice", ["matrix", "log_symmetric"])
@pytest.mark.parametrize("corrector", [0.0, 1e-5])
def test_an_exact_network_gives_the_crystal_back(lattice: str, corrector: float) -> None:
    net = replace(TINY, lattice=lattice)
    model = JointDiffusion(JointDiffusionConfig(net=net, corrector=corrector))
    crystal = perovskite()
    model.net = Knowing(model, crystal)
    request = contract.free_request(4, 5, steps=80, species=crystal.species.expand(4, 5).clone())
    found = model.sample(request, rng=rng()).validate()
    apart = wrap_centered(found.frac.view(4, 5, 3) - crystal.frac)
    residual = wrap_centered(apart - apart[:, :1])
    assert float(residual.abs().max()) < 0.03
    metric, exact = found.cell @ found.cell.mT, crystal.cell @ crystal.cell.mT
    torch.testing.assert_close(metric, exact.expand_as(metric), atol=0.3, rtol=0)
    assert torch.equal(found.species.view(4, 5), crystal.species.expand(4, 5))


def test_an_exact_network_has_the_least_loss() -> None:
    model = JointDiffusion(JointDiffusionConfig(net=TINY))
    crystal = perovskite()
    batch = CrystalBatch.concat([crystal] * 64)
    nothing = Conditions.unknown(64)
    untrained = model.loss(batch, nothing, rng=rng())
    model.net = Knowing(model, crystal)
    exact = model.loss(batch, nothing, rng=rng())
    assert exact.terms["lattice"] < 1e-4
    assert exact.terms["frac"] < 0.75 * untrained.terms["frac"]


def test_loss_is_that_of_its_terms() -> None:
    config = JointDiffusionConfig(net=TINY)
    model = JointDiffusion(config)
    batch = random_crystals([4] * 8, rng=rng())
    loss = model.loss(batch, Conditions.unknown(8), rng=rng(1))
    assert set(loss.terms) == {"frac", "lattice"}
    torch.testing.assert_close(loss.total.detach(), loss.terms["frac"] + loss.terms["lattice"])


def test_rotating_the_crystals_does_not_change_what_is_read() -> None:
    model = JointDiffusion(JointDiffusionConfig(net=replace(TINY, lattice="log_symmetric")))
    batch = random_crystals([4] * 8, rng=rng(), dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng(2), dtype=torch.float64))
    turned = replace(batch, cell=batch.cell @ turn)
    one, other = (model.loss(b, Conditions.unknown(8), rng=rng(1)).total for b in (batch, turned))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_structure_prediction_alone_refuses_open_species() -> None:
    model = JointDiffusion(JointDiffusionConfig(net=TINY))
    with pytest.raises(RequestError, match="--formula"):
        model.sample(contract.free_request(1, 3), rng=rng())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"species": "absorbing"}, "net.species must be true"),
        ({"net": replace(TINY, species=True)}, "net.species must be true"),
        ({"net": replace(TINY, space_group=True)}, "does not learn space groups"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JointDiffusion(JointDiffusionConfig(**({"net": TINY} | changes)))  # type: ignore[arg-type]


def test_species_are_masked_with_the_time_and_given_for_a_share() -> None:
    config = JointDiffusionConfig(net=replace(TINY, species=True), species="absorbing", prediction_share=1.0)
    model = JointDiffusion(config)
    batch = random_crystals([4] * 8, rng=rng())
    assert float(model.loss(batch, Conditions.unknown(8), rng=rng()).terms["species"]) == 0
    model = JointDiffusion(replace(config, prediction_share=0.0))
    assert float(model.loss(batch, Conditions.unknown(8), rng=rng()).terms["species"]) > 1


def test_compositions_that_miss_a_test_are_drawn_again() -> None:
    model = contract.tiny_model("joint_diffusion", awake=True)

    def with_iron(species: Tensor) -> Tensor:
        return (species == 26).any(1)

    wanted = torch.tensor([True] * 6 + [False] * 6)
    allowed = contract.elements_mask(12, [8, 26])
    test = CompositionTest(test=with_iron, wanted=wanted, redraws=200)
    request = contract.free_request(12, 2, steps=2, allowed=allowed, composition_test=test)
    species = model.sample(request, rng=rng()).species.view(12, 2)
    assert torch.equal(with_iron(species), wanted)


@pytest.mark.parametrize("lattice", ["matrix", "log_symmetric"])
def test_a_network_that_diverges_still_gives_crystals(lattice: str) -> None:
    model = JointDiffusion(JointDiffusionConfig(net=replace(TINY, lattice=lattice), lattice_std=(0.15,) * 6))
    with torch.no_grad():
        model.net.to_lattice.weight.mul_(1e6)
    species = torch.tensor([[3, 8, 8]] * 4)
    model.sample(contract.free_request(4, 3, steps=5, species=species), rng=rng()).validate()
