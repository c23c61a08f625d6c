"""Contract of generative families: what `GenerativeModel.loss` and `.sample` promise, for any entry of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from euhedral.config import parse_config
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.models.base import GenerativeModel, LossTerms, SampleRequest
from euhedral.models.conditions import PROPERTIES, Conditions
from euhedral.models.held import Held
from euhedral.models.symmetric import SymmetricModel
from euhedral.testing import require, require_close
from euhedral.testing.crystals import known_crystals, perovskite, random_crystals
from euhedral.testing.nets import wake

# A configuration of each shipped family that computes in milliseconds.
TINY_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "joint_flow": {
        "net": {"width": 32, "blocks": 2, "heads": 4, "pair_width": 16, "feedforward": 2},
        "lattice_mean": (0.0, 0.0, 0.0, 0.0, 0.0, 1.65),
        "lattice_std": (0.1, 0.1, 0.1, 0.1, 0.1, 0.15),
    },
    "joint_process": {
        "net": {
            "kind": "cspnet",
            "width": 32,
            "layers": 2,
            "frequencies": 16,
            "time_width": 32,
            "conditioned": True,
        },
        "lattice_mean": (0.0, 0.0, 0.0, 0.0, 0.0, 1.65),
        "lattice_std": (0.1, 0.1, 0.1, 0.1, 0.1, 0.15),
    },
    "diffcsp_pp": {
        "net": {
            "width": 32,
            "layers": 2,
            "frequencies": 16,
            "time_width": 32,
            "lattice": "log_symmetric",
            "species": True,
            "conditioned": True,
        },
        "lattice_mean": (0.0, 0.0, 0.0, 0.0, 0.0, 1.65),
        "lattice_std": (0.1, 0.1, 0.1, 0.1, 0.1, 0.15),
    },
    "cdvae": {
        "net": {
            "encoder": {"width": 24, "blocks": 1, "triplet_width": 12, "out_width": 32, "output_layers": 1},
            "decoder": {"width": 32, "layers": 2, "frequencies": 16, "time_width": 32},
            "latent": 16,
            "hidden": 32,
            "condition": 16,
            "prior_layers": 2,
        },
        "conditioned": True,
        "prior": "diffusion",
        "prior_levels": 20,
        "candidates": 2,
    },
    "adit": {
        "net": {
            "encoder": {"width": 32, "layers": 2, "heads": 4},
            "decoder": {"width": 32, "layers": 2, "heads": 4},
            "denoiser": {"width": 32, "layers": 2, "heads": 4},
        },
    },
    "symmcd": {
        "net": {"width": 32, "layers": 2, "frequencies": 16},
        "lattice_mean": (0.0, 0.0, 0.0, 0.0, 0.0, 1.65),
        "lattice_std": (0.1, 0.1, 0.1, 0.1, 0.1, 0.15),
    },
    "unimat": {
        "net": {"width": 32, "layers": 2, "heads": 4, "table_width": 16, "table_layers": 1},
        "depth": 8,
    },
    "adapted": {
        "family": "joint_flow",
        "model": {
            "net": {"width": 32, "blocks": 2, "heads": 4, "pair_width": 16, "feedforward": 2},
            "lattice_mean": (0.0, 0.0, 0.0, 0.0, 0.0, 1.65),
            "lattice_std": (0.1, 0.1, 0.1, 0.1, 0.1, 0.15),
        },
        "columns": [{"name": "hardness"}, {"name": "order", "classes": ["AFM", "FM"]}],
        "width": 8,
    },
    "ion_exchange": {"crystals": 2, "atoms": 3},
    "symmetric_random": {"crystals": 2, "atoms": 3},
}


def tiny_model(name: str, *, seed: int = 0, awake: bool = False) -> GenerativeModel:
    """A small model of a shipped family with seeded weights; `awake` fills layers that start at zero with noise."""
    from euhedral.models.registry import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(name, TINY_CONFIGS[name])
    return wake(model, seed=seed) if awake else model


def informed_model(name: str, crystals: CrystalBatch | None = None, **changes: Any) -> SymmetricModel:
    """A small awake model of a family that knows crystals: those given, or `known_crystals`.

    Args:
        name: of the family in the registry.
        crystals: what it knows.
        **changes: values that stand over those of the small configuration.
    """
    from euhedral.models.registry import lookup

    config_class, model_class = lookup(name)
    assert issubclass(model_class, SymmetricModel)
    config = parse_config(config_class, {**TINY_CONFIGS[name], **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return wake(model_class.informed(config, known_crystals() if crystals is None else crystals))


def conditions_of(batch: CrystalBatch, *, space_group: int = 0, seed: int = 0) -> Conditions:
    """Conditions of crystals of one size: their elements, a space group, and properties of which some are unknown."""
    rng = torch.Generator().manual_seed(seed)
    system = torch.zeros(len(batch), 119, dtype=torch.bool)
    system[batch.owner, batch.species] = True
    properties = torch.randn(len(batch), len(PROPERTIES), generator=rng)
    properties[torch.rand(properties.shape, generator=rng) < 0.3] = float("nan")
    return Conditions(space_group=torch.full((len(batch),), space_group), properties=properties, chemical_system=system)


def free_request(crystals: int, atoms: int, *, steps: int = 4, **changes: Any) -> SampleRequest:
    """A request of crystals of one size with nothing asked: any of the 118 elements; `changes` replace fields."""
    request = SampleRequest.of(torch.zeros(crystals, atoms, dtype=torch.int64), steps=steps)
    return replace(request, **changes)


def elements_mask(crystals: int, elements: list[int]) -> Tensor:
    """The same elements for every crystal, (crystals, 119) bool."""
    mask = torch.zeros(crystals, 119, dtype=torch.bool)
    mask[:, elements] = True
    return mask


def check_model(model: GenerativeModel, *, seed: int = 0) -> None:
    """All checks of this module but `check_overfits`; give a model that is awake (see `tiny_model`)."""
    check_loss(model, seed=seed)
    check_refuses_mixed_counts(model)
    check_sample(model, seed=seed)
    check_seed(model, seed=seed)
    check_fixed_species(model, seed=seed)
    check_allowed_elements(model, seed=seed)
    if model.holds_parts:
        check_held_parts(model, seed=seed)
    check_open_elements(model, seed=seed)
    check_guidance(model, seed=seed)


def check_loss(model: GenerativeModel, *, seed: int = 0) -> None:
    """A finite scalar with a gradient for every parameter that learns, and detached parts; the same seed gives the same loss.

    Batches in float64, and with nothing known of the crystals, work too.
    """
    batch = random_crystals([5] * 16, rng=_rng(seed))
    conditions = conditions_of(batch, space_group=14)
    model.zero_grad(set_to_none=True)
    loss = model.loss(batch, conditions, rng=_rng(seed))
    require(isinstance(loss, LossTerms), f"loss: expected LossTerms, got {type(loss).__name__}")
    require(loss.total.shape == (), f"loss: total has shape {tuple(loss.total.shape)}, expected a scalar")
    require(loss.total.isfinite(), "loss: total is not finite")
    require(len(loss.terms) > 0, "loss: there are no terms")
    for name, term in loss.terms.items():
        require(not term.requires_grad, f"loss: term {name!r} is not detached")
        require(term.isfinite() and term.shape == (), f"loss: term {name!r} is not a finite scalar")
    loss.total.backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if not parameter.requires_grad:
            continue
        require(gradient is not None and gradient.isfinite().all(), f"loss: {name} has no finite gradient")
    model.zero_grad(set_to_none=True)
    again = model.loss(batch, conditions, rng=_rng(seed)).total
    require(torch.equal(again, loss.total), "loss: the same seed gave another loss")
    require(not torch.equal(model.loss(batch, conditions, rng=_rng(seed + 1)).total, again), "loss: ignores the seed")
    double = model.loss(batch.to(torch.float64), Conditions.unknown(16), rng=_rng(seed)).total
    require(double.isfinite(), "loss: not finite for float64 crystals of which nothing is known")


def check_refuses_mixed_counts(model: GenerativeModel) -> None:
    """Crystals of different atom counts are refused by ValueError."""
    batch = random_crystals([2, 3], rng=_rng(0))
    try:
        model.loss(batch, Conditions.unknown(2), rng=_rng(0))
    except ValueError:
        return
    raise AssertionError("loss: expected ValueError for crystals of different atom counts")


def check_overfits(
    model: GenerativeModel, *, steps: int = 100, ratio: float = 0.6, rate: float = 8e-3, seed: int = 0
) -> None:
    """Training on one crystal brings the loss, averaged over noise, below `ratio` of what it was."""
    batch = CrystalBatch.concat([perovskite()] * 12)
    conditions = conditions_of(batch, space_group=221)
    large = CrystalBatch.concat([perovskite()] * 128)
    asked = conditions_of(large, space_group=221)
    with torch.no_grad():
        before = float(model.loss(large, asked, rng=_rng(seed)).total)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    rng = _rng(seed + 1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        model.loss(batch, conditions, rng=rng).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        after = float(model.loss(large, asked, rng=_rng(seed)).total)
    require(after < ratio * before, f"loss went from {before:.3f} to {after:.3f} in {steps} steps on one crystal")


def check_sample(model: GenerativeModel, *, seed: int = 0) -> None:
    """Samples are crystals, one for each row; neither the request nor the model is changed; gradients may follow."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for crystals, atoms in ((3, 4), (1, 1), (2, 9)):
        request = free_request(crystals, atoms)
        tensors = (request.species, request.allowed, request.addable, request.open_elements)
        before = [tensor.clone() for tensor in tensors]
        batch = model.sample(request, rng=_rng(seed))
        batch.validate()
        require(batch.num_atoms.tolist() == [atoms] * crystals, f"sample: atom counts {batch.num_atoms.tolist()}")
        require(all(map(torch.equal, before, tensors)), "sample: wrote into the request")
        require(not (batch.frac.requires_grad or batch.cell.requires_grad), "sample: results carry a gradient")
        # Relaxers differentiate by positions and cell: the tensors must be ordinary ones.
        require(not (batch.frac.is_inference() or batch.cell.is_inference()), "sample: gives inference tensors")
    for name, value in model.state_dict().items():
        require(torch.equal(value, weights[name]), f"sample: changed {name}")


def check_seed(model: GenerativeModel, *, seed: int = 0) -> None:
    """The same seed gives the same crystals to the last bit, whatever the global generator; another seed gives others."""
    request = free_request(3, 5)
    first = model.sample(request, rng=_rng(seed))
    torch.rand(7)
    _equal(model.sample(request, rng=_rng(seed)), first, "the same seed")
    other = model.sample(request, rng=_rng(seed + 1))
    require(not torch.equal(other.frac, first.frac), "sample: another seed gave the same coordinates")
    require(not torch.equal(other.cell, first.cell), "sample: another seed gave the same cells")


def check_fixed_species(model: GenerativeModel, *, seed: int = 0) -> None:
    """Species that are given come out in their places, all of them or some; the others are chosen."""
    full = torch.tensor([[38, 22, 8, 8, 8], [3, 25, 8, 8, 118]])
    batch = model.sample(free_request(2, 5, species=full), rng=_rng(seed))
    require(torch.equal(batch.species.view(2, 5), full), "sample: changed species that were given")
    part = full * torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    batch = model.sample(free_request(2, 5, species=part), rng=_rng(seed))
    found = batch.validate().species.view(2, 5)
    require(torch.equal(found[part > 0], part[part > 0]), "sample: changed some of the species that were given")


def check_allowed_elements(model: GenerativeModel, *, seed: int = 0) -> None:
    """No element outside `allowed` is chosen, and each crystal has its own set; steps fewer than atoms suffice."""
    sets = [[3], [8, 26], [1, 118]]
    allowed = torch.cat([elements_mask(1, elements) for elements in sets])
    for steps in (1, 2, 5):
        batch = model.sample(free_request(3, 7, allowed=allowed, steps=steps), rng=_rng(seed))
        for row, elements in zip(batch.species.view(3, 7).tolist(), sets, strict=True):
            require(set(row) <= set(elements), f"sample: chose {sorted(set(row))} where only {elements} are allowed")


def check_open_elements(model: GenerativeModel, *, seed: int = 0) -> None:
    """Each crystal takes in exactly as many elements of `addable`, beyond `allowed`, as it has open places."""
    allowed, opens = elements_mask(12, [3, 8]), torch.arange(12) % 3
    addable = elements_mask(12, [3, 8, *range(21, 31)])
    species = torch.zeros(12, 6, dtype=torch.int64)
    species[:, :2] = torch.tensor([3, 8])
    for steps in (1, 4):
        request = free_request(12, 6, species=species, allowed=allowed, addable=addable, steps=steps)
        request = replace(request, open_elements=opens)
        found = model.sample(request, rng=_rng(seed)).species.view(12, 6).tolist()
        for row, places in zip(found, opens.tolist(), strict=True):
            new = set(row) - {3, 8}
            require(0 not in new, "sample: left a species masked")
            require(new <= set(range(21, 31)), f"sample: took in {sorted(new)} where 21 to 30 may be added")
            require(len(new) == places, f"sample: took in {sorted(new)} where {places} elements were open")


def check_held_parts(model: GenerativeModel, *, seed: int = 0, open_species: bool = True) -> None:
    """Held sites and lattices come out as they were given, all the more so with species given; the others are drawn."""
    target = random_crystals([5] * 3, rng=_rng(seed))
    frac, species = target.frac.view(3, 5, 3), target.species.view(3, 5)
    for sites in ([True, False, True, False, False], [False] * 5, [True] * 5):
        place = torch.tensor(sites)
        for cell in (None, target.cell):
            held = Held(sites=place, frac=frac[:, place], cell=cell)
            for given in (species * place, species) if open_species else (species,):
                request = replace(free_request(3, 5, species=given), held=held)
                found = model.sample(request, rng=_rng(seed)).validate()
                away = wrap_centered(found.frac.view(3, 5, 3)[:, place] - held.frac)
                require(bool((away.abs() < 1e-6).all()), "sample: moved sites that are held")
                require(
                    cell is None or torch.allclose(found.cell, target.cell, atol=1e-5), "sample: changed a held lattice"
                )
                fixed = given > 0
                require(
                    torch.equal(found.species.view(3, 5)[fixed], given[fixed]), "sample: changed species of held sites"
                )
    owed = torch.zeros(3, 119, dtype=torch.int64)
    owed[:, [3, 8]] = torch.tensor([1, 4])
    held = Held(sites=torch.ones(5, dtype=torch.bool), frac=frac, cell=target.cell)
    shared = model.sample(replace(free_request(3, 5), held=held, owed=owed), rng=_rng(seed)).validate()
    require(
        shared.species.view(3, 5).sort(1).values.tolist() == [[3, 8, 8, 8, 8]] * 3,
        "sample: other species than are owed",
    )
    free = model.sample(free_request(3, 5, species=species), rng=_rng(seed))
    require(not torch.allclose(free.cell, target.cell, atol=1e-3), "sample: gives a held lattice where none is held")


def check_guidance(model: GenerativeModel, *, seed: int = 0) -> None:
    """Strength 0 ignores conditions, no strength matters where nothing is asked, conditions change what is drawn.

    Strength 1 is plain conditioning: strengths a hair around it give the same crystals.
    """
    asked = conditions_of(random_crystals([4] * 3, rng=_rng(seed)), space_group=62)

    def draw(conditions: Conditions, strength: float) -> CrystalBatch:
        # One species is open, since a family may take conditions of its own from a composition that is all given.
        species = torch.tensor([[3, 26, 8, 0]] * 3)
        request = free_request(3, 4, species=species, conditions=conditions, guidance=strength)
        return model.sample(request, rng=_rng(seed))

    nothing = Conditions.unknown(3)
    free, plain = draw(nothing, 1.0), draw(asked, 1.0)
    _equal(draw(asked, 0.0), free, "guidance 0")
    _equal(draw(nothing, 3.0), free, "guidance 3 with nothing asked")
    require(not torch.allclose(plain.cell, free.cell, atol=1e-4), "sample: conditions do not change the cells")
    strong = draw(asked, 3.0)
    require(not torch.allclose(strong.cell, plain.cell, atol=1e-4), "sample: guidance 3 gives the cells of guidance 1")
    for strength in (1 - 1e-6, 1 + 1e-6):
        near = draw(asked, strength)
        require_close(near.cell, plain.cell, tolerance=1e-3, what=f"cells at guidance {strength} against 1")


def _equal(batch: CrystalBatch, other: CrystalBatch, when: str) -> None:
    for field in fields(CrystalBatch):
        same = torch.equal(getattr(batch, field.name), getattr(other, field.name))
        require(same, f"sample: {field.name} differs with {when}")


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
