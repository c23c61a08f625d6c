"""Joint processes: what the sampler does with an exact network, what the loss compares, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from euhedral.config import parse_config
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.errors import ConfigError, RequestError
from euhedral.models.base import CompositionTest
from euhedral.models.conditions import Conditions
from euhedral.models.joint_process import JointProcess, JointProcessConfig
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.cspnet import MatrixPrediction
from euhedral.noise.torus import without_mean
from euhedral.noise.wrapped_normal import scaled_score
from euhedral.recipes import shipped
from euhedral.testing import models as contract
from euhedral.testing.crystals import perovskite, random_crystals
from euhedral.testing.nets import wake
from euhedral.train.config import model_config

NET: Mapping[str, Any] = {"kind": "cspnet", "width": 16, "layers": 1, "frequencies": 4, "time_width": 8}
STATISTICS: Mapping[str, Any] = {"lattice_mean": (0, 0, 0, 0, 0, 1.65), "lattice_std": (0.1, 0.1, 0.1, 0.1, 0.1, 0.15)}
NAMES = [name for name in shipped.names() if shipped.find(name).family == "joint_process"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(**changes: Any) -> JointProcess:
    values = {"net": NET, "species": {"kind": "given"}, **STATISTICS, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return JointProcess(parse_config(JointProcessConfig, values))


class Knowing(nn.Module):
    """The exact prediction for data that are one crystal, its origin anywhere: posterior means in closed form.

    The origin is integrated over by a sum on a fine grid, each axis on its own.
    """

    def __init__(self, model: JointProcess, crystal: CrystalBatch) -> None:
        super().__init__()
        self.frac, self.lattice, self.crystal = model.frac.process, model.lattice, crystal  # type: ignore[attr-defined]
        self.clean = model.lattice.encode(crystal.cell, crystal.num_atoms)[0]

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        t = noisy.time
        sigma = self.frac.sigma(t)[:, None, None, None]
        centre = (noisy.frac - self.crystal.frac)[..., None].double()
        # Around the origin that each atom would choose, the grid is as fine as the noise.
        origins = torch.arange(200, dtype=torch.float64) / 200 if float(sigma[0]) > 0.02 else None
        if origins is None:
            near = centre[:, :1]
            origins = near + sigma * torch.linspace(-8, 8, 201, dtype=torch.float64)
        apart = wrap_centered(centre - origins)
        weight = torch.softmax((-0.5 * (apart / sigma).square()).sum(1, keepdim=True), -1)
        scaled = (weight * scaled_score(apart, sigma)).sum(-1)
        moment = (self.frac.scale(t) * sigma[:, 0, 0, 0])[:, None, None]
        frac = without_mean((scaled / moment).float())
        a = self.lattice.path.process.signal(t)  # type: ignore[attr-defined]
        shown = noisy.cell if self.lattice.matrix else noisy.lattice
        a = a.view(-1, *([1] * (shown.dim() - 1)))
        noise = ((shown - a.sqrt() * self.clean) / (1 - a).sqrt()).float()
        b, n = noisy.species.shape
        rest = {"species": torch.zeros(b, n, 119), "space_group": torch.zeros(b, 231)}
        if self.lattice.matrix:
            return MatrixPrediction(frac=frac, lattice=torch.zeros(b, 6), cell=noise, **rest)
        return Prediction(frac=frac, lattice=noise, **rest)


@pytest.mark.parametrize("representation", ["matrix", "log_symmetric", "symmetric", "tangent", "logit", "cosine"])
@pytest.mark.parametrize("corrector", [0.0, 1e-5])
def test_an_exact_network_gives_the_crystal_back(representation: str, corrector: float) -> None:
    lattice = {"representation": representation, "path": {"kind": "variance_preserving"}}
    model = model_of(frac={"kind": "wrapped_normal", "corrector": corrector}, lattice=lattice)
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


@pytest.mark.parametrize("code", ["one_hot", "analog_bits"])
def test_codes_that_a_wrong_prediction_means_stay_within_those_of_elements(code: str) -> None:
    model = model_of(species={"kind": "coded", "code": code, "path": {"kind": "variance_preserving"}})
    field, size = model.species, 200
    state = field.start(contract.free_request(size, 3), rng=rng(), device=torch.device("cpu"))
    wrong = 30 * torch.randn(state.value.shape, generator=rng(1))
    now, later = torch.zeros(size), torch.full((size,), 0.01)
    moved = field.step(state, wrong, now, later, rng=rng(2))
    # What is left is noise of size one.
    assert float(moved.value.std()) < 1.5 and float(moved.value.abs().max()) < 8


def test_an_exact_network_has_the_least_loss() -> None:
    model = model_of(lattice={"representation": "matrix", "path": {"kind": "variance_preserving"}})
    crystal = perovskite()
    batch = CrystalBatch.concat([crystal] * 64)
    nothing = Conditions.unknown(64)
    untrained = model.loss(batch, nothing, rng=rng())
    model.net = Knowing(model, crystal)
    exact = model.loss(batch, nothing, rng=rng())
    assert exact.terms["lattice"] < 1e-4
    assert exact.terms["frac"] < 0.75 * untrained.terms["frac"]


def small(name: str) -> JointProcess:
    """A shipped recipe's model with its smallest backbone."""
    recipe = shipped.find(name)
    net = dict(NET) | {"conditioned": recipe.model["net"].get("conditioned", True)}
    if recipe.model["net"]["kind"] == "gemnet":
        net = {"kind": "gemnet", "width": 16, "blocks": 1, "triplet_width": 8}
    if recipe.model["net"]["kind"] == "periodic_transformer":
        net = {"kind": "periodic_transformer", "width": 16, "blocks": 1, "heads": 2, "pair_width": 8, "feedforward": 1}
    config = model_config(replace(recipe, model={**recipe.model, "net": net, **STATISTICS}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wake(JointProcess(config))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_keeps_the_contract_of_samples(name: str) -> None:
    model = small(name)
    contract.check_loss(model)
    if model.species.predicts:
        contract.check_seed(model)
    full = torch.tensor([[38, 22, 8, 8, 8], [3, 25, 8, 8, 118]])
    batch = model.sample(contract.free_request(2, 5, species=full), rng=rng()).validate()
    assert torch.equal(batch.species.view(2, 5), full)
    contract.check_held_parts(model, open_species=model.species.predicts)
    if model.species.predicts:
        contract.check_fixed_species(model)
        contract.check_allowed_elements(model)
        contract.check_open_elements(model)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_gives_crystals_where_its_network_diverges(name: str) -> None:
    model = small(name)
    with torch.no_grad():
        for part, module in model.net.named_modules():
            if part.rpartition(".")[2] in ("to_lattice", "to_frac", "to_forces"):
                module.weight.mul_(1e6)
    species = torch.tensor([[3, 8, 8]] * 4)
    model.sample(contract.free_request(4, 3, steps=5, species=species), rng=rng()).validate()


def test_loss_is_that_of_its_terms() -> None:
    model = model_of(weights={"frac": 2.0, "lattice": 3.0})
    batch = random_crystals([4] * 8, rng=rng())
    loss = model.loss(batch, Conditions.unknown(8), rng=rng(1))
    assert set(loss.terms) == {"frac", "lattice"}
    torch.testing.assert_close(loss.total.detach(), 2 * loss.terms["frac"] + 3 * loss.terms["lattice"])


@pytest.mark.parametrize("representation", ["matrix", "log_symmetric", "symmetric", "tangent", "logit", "cosine"])
def test_rotating_the_crystals_does_not_change_what_is_read(representation: str) -> None:
    model = model_of(lattice={"representation": representation, "path": {"kind": "variance_preserving"}})
    batch = random_crystals([4] * 8, rng=rng(), dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng(2), dtype=torch.float64))
    turned = replace(batch, cell=batch.cell @ turn)
    one, other = (model.loss(b, Conditions.unknown(8), rng=rng(1)).total for b in (batch, turned))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_network_that_reads_the_metric_alone_has_no_loss_of_exchanged_axes_at_the_start() -> None:
    # Coordinates and lattice are predicted as zero by a network without heads: exchanged, they are the same.
    lattice = {"representation": "tangent", "alike": True, "path": {"kind": "variance_preserving"}}
    model = model_of(lattice=lattice, weights={"axes": 1.0})
    batch = random_crystals([4] * 8, rng=rng())
    assert float(model.loss(batch, Conditions.unknown(8), rng=rng()).terms["axes"]) > 0
    with torch.no_grad():
        model.net.to_frac.weight.zero_()
        model.net.to_lattice.weight.zero_()
    assert float(model.loss(batch, Conditions.unknown(8), rng=rng()).terms["axes"]) == 0


def test_structure_prediction_alone_refuses_open_species() -> None:
    with pytest.raises(RequestError, match="--formula"):
        model_of().sample(contract.free_request(1, 3), rng=rng())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"axes": 1.0}}, "lattice.alike: true"),
        ({"lattice": {"path": {"kind": "interpolant", "latent": 0.1}}}, "without a latent"),
        ({"lattice": {"informed": True}}, "takes the representation matrix"),
        ({"lattice": {"representation": "matrix", "path": {"kind": "edm"}}}, "values of order one"),
        ({"solver": "heun", "frac": {"kind": "wrapped_normal"}}, "ordinary differential equations"),
        ({"lattice": {"path": {"kind": "variance_exploding", "widths": {"sigma_min": 0.0}}}}, "0 < sigma_min"),
        ({"frac": {"kind": "torus_interpolant", "noise": 1.0}}, "take a latent above 0"),
        ({"frac": {"kind": "torus_flw"}}, r"frac.kind: expected one of .* did you mean 'torus_flow'"),
        ({"frac": {"kind": "torus_flow", "anealing": 1.0}}, r"unknown key frac.anealing, did you mean 'annealing'"),
        ({"net": {"width": 3}}, "net.kind: expected one of"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**changes)


EXPLODING = {"kind": "variance_exploding"}
PARTS: Mapping[str, Mapping[str, Any]] = {
    "uniform": {"species": {"kind": "uniform"}},
    "simplex": {"species": {"kind": "simplex"}},
    "simplex, heun": {"species": {"kind": "simplex"}, "frac": {"kind": "torus_flow"}, "solver": "heun"},
    "exploding lattice": {"lattice": {"path": {**EXPLODING, "corrector_ratio": 0.2}}},
    "exploding lengths": {"lattice": {"representation": "tangent", "path": {**EXPLODING, "deterministic": True}}},
    "exploding codes": {"species": {"kind": "coded", "code": "one_hot", "path": EXPLODING}},
}


@pytest.mark.parametrize(
    "check",
    [
        contract.check_loss,
        contract.check_sample,
        contract.check_fixed_species,
        contract.check_allowed_elements,
        contract.check_open_elements,
        contract.check_held_parts,
    ],
)
@pytest.mark.parametrize("parts", PARTS)
def test_the_contract_holds_with_parts_that_no_recipe_has(parts: str, check: Any) -> None:
    conditioned = {**NET, "conditioned": True}
    check(wake(model_of(**{"net": conditioned, "species": {"kind": "absorbing"}, **PARTS[parts]})))


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "coded", "simplex", "bayesian"])
def test_species_are_given_for_a_share(kind: str) -> None:
    batch = random_crystals([4] * 8, rng=rng())
    model = model_of(species={"kind": kind}, prediction_share=1.0)
    assert float(model.loss(batch, Conditions.unknown(8), rng=rng()).terms["species"]) == 0
    model = model_of(species={"kind": kind}, prediction_share=0.0)
    assert float(model.loss(batch, Conditions.unknown(8), rng=rng()).terms["species"]) > 0.2


def test_compositions_that_miss_a_test_are_drawn_again() -> None:
    model = contract.tiny_model("joint_process", awake=True)

    def with_iron(species: Tensor) -> Tensor:
        return (species == 26).any(1)

    wanted = torch.tensor([True] * 6 + [False] * 6)
    allowed = contract.elements_mask(12, [8, 26])
    test = CompositionTest(test=with_iron, wanted=wanted, redraws=200)
    request = contract.free_request(12, 2, steps=2, allowed=allowed, composition_test=test)
    species = model.sample(request, rng=rng()).species.view(12, 2)
    assert torch.equal(with_iron(species), wanted)
