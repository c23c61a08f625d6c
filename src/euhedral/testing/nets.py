"""Contract of backbones: symmetries, batching, precision and gradients of `(NoisyCrystals, Context) -> Prediction`.

A backbone may start with layers at zero, and then passes every invariance test without computing anything. Call `wake`
first: it fills such layers with noise. `check_net` runs all checks on a woken copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from euhedral.crystal.geometry import wrap
from euhedral.crystal.lattice import cell_from_log_symmetric
from euhedral.nets.base import Context, NoisyCrystals, Prediction, rows_of
from euhedral.nets.ragged import RaggedCrystals, predict_ragged
from euhedral.testing import require, require_close

Net = Callable[[NoisyCrystals, Context], Prediction]
Module = TypeVar("Module", bound=nn.Module)
NAMES = tuple(f.name for f in fields(Prediction))


def random_inputs(crystals: int, atoms: int, *, seed: int = 0, properties: int = 3) -> tuple[NoisyCrystals, Context]:
    """Random noisy crystals of one size, some species masked and some conditions unknown; cells of 10 to 25 Å³ an atom."""
    rng = torch.Generator().manual_seed(seed)
    lattice = 0.15 * torch.randn(crystals, 6, generator=rng)
    lattice[:, 5] += 1.6
    species = torch.randint(1, 119, (crystals, atoms), generator=rng)
    species = species.masked_fill(torch.rand(crystals, atoms, generator=rng) < 0.3, 0)
    noisy = NoisyCrystals(
        frac=torch.rand(crystals, atoms, 3, generator=rng),
        cell=cell_from_log_symmetric(lattice, torch.full((crystals,), atoms)),
        lattice=lattice,
        species=species,
        time=torch.rand(crystals, generator=rng),
        known=(species != 0).float().mean(1),
    )
    # Alternating, so that two crystals suffice to see each condition both known and unknown.
    shown = (torch.arange(crystals)[:, None] + torch.arange(properties)) % 2 == 0
    context = Context(
        space_group=torch.randint(1, 231, (crystals,), generator=rng) * (torch.arange(crystals) % 2),
        properties=torch.randn(crystals, properties, generator=rng),
        has_property=shown,
        chemical_system=(torch.rand(crystals, 119, generator=rng) < 0.05) & (torch.arange(crystals) % 2 == 0)[:, None],
    )
    return noisy, context


def wake(net: Module, *, scale: float = 0.2, seed: int = 0) -> Module:
    """Fill every parameter tensor that is all zero with Gaussian noise, in place, and give the network back."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=rng))
    return net


def check_net(net: nn.Module, *, properties: int = 3, tolerance: float = 2e-4, seed: int = 0) -> None:
    """All checks of this module, on a woken copy of the network in float32."""
    woken = wake(copy.deepcopy(net).float(), seed=seed)
    noisy, context = random_inputs(4, 5, seed=seed, properties=properties)
    with torch.no_grad():
        check_prediction(woken, noisy, context)
        check_sensitivity(woken, noisy, context)
        check_permutation(woken, noisy, context, tolerance=tolerance)
        check_origin(woken, noisy, context, tolerance=tolerance)
        check_cell_images(woken, noisy, context, tolerance=tolerance)
        check_batching(woken, noisy, context, tolerance=tolerance)
        check_unknown_properties(woken, noisy, context)
        check_autocast(woken, noisy, context)
        check_sizes(woken, properties=properties)
        check_ragged(woken, properties=properties, tolerance=tolerance)
    check_gradients(woken, noisy, context)
    check_numeric_gradient(woken, noisy, context)


def check_prediction(net: Net, noisy: NoisyCrystals, context: Context) -> None:
    """Shapes and dtypes are those of `Prediction`, all is finite, and the vectors of atoms have no mean."""
    crystals, atoms = noisy.species.shape
    shapes = {
        "frac": (crystals, atoms, 3),
        "lattice": (crystals, 6),
        "species": (crystals, atoms, 119),
        "space_group": (crystals, 231),
    }
    prediction = _values(net(noisy, context))
    for name, value in prediction.items():
        require(tuple(value.shape) == shapes[name], f"{name}: expected {shapes[name]}, got {tuple(value.shape)}")
        require(value.dtype == torch.float32, f"{name}: expected float32, got {value.dtype}")
        require(value.isfinite().all(), f"{name}: values are not finite")
    mean = prediction["frac"].mean(1)
    require_close(mean, torch.zeros_like(mean), tolerance=1e-5, what="mean of frac over the atoms")


def check_sensitivity(net: Net, noisy: NoisyCrystals, context: Context, *, least: float = 1e-4) -> None:
    """Every input changes every output (one that is ignored would make the symmetry checks empty)."""
    changed: dict[str, tuple[NoisyCrystals, Context]] = {
        "frac": (replace(noisy, frac=wrap(noisy.frac + 0.1 * torch.rand_like(noisy.frac))), context),
        "cell": (replace(noisy, cell=1.2 * noisy.cell), context),
        "lattice": (replace(noisy, lattice=noisy.lattice + 0.3), context),
        "species": (replace(noisy, species=noisy.species % 118 + 1), context),
        "time": (replace(noisy, time=1 - noisy.time), context),
        "known": (replace(noisy, known=0.5 * noisy.known + 0.1), context),
        "space_group": (noisy, replace(context, space_group=context.space_group % 230 + 1)),
        "properties": (noisy, replace(context, properties=context.properties + 1)),
        "has_property": (noisy, replace(context, has_property=~context.has_property)),
        "chemical_system": (noisy, replace(context, chemical_system=context.chemical_system.roll(1, 1))),
    }
    base = _values(net(noisy, context))
    for source, inputs in changed.items():
        for name, value in _values(net(*inputs)).items():
            gap = float((value - base[name]).abs().max())
            require(gap > least, f"{name} does not feel {source}: it changed by {gap:.2g} only")


def check_permutation(net: Net, noisy: NoisyCrystals, context: Context, *, tolerance: float) -> None:
    """Reordering the atoms reorders what is said of them, and changes nothing that is said of the crystal."""
    order = torch.randperm(noisy.species.shape[1], generator=torch.Generator().manual_seed(1))
    moved = net(replace(noisy, frac=noisy.frac[:, order], species=noisy.species[:, order]), context)
    base = net(noisy, context)
    expected = replace(base, frac=base.frac[:, order], species=base.species[:, order])
    _same(moved, expected, tolerance, "after a permutation of the atoms")


def check_origin(net: Net, noisy: NoisyCrystals, context: Context, *, tolerance: float) -> None:
    """A shift of the origin, another one for each crystal, changes nothing."""
    shift = torch.rand(len(noisy.frac), 1, 3, generator=torch.Generator().manual_seed(2))
    moved = net(replace(noisy, frac=wrap(noisy.frac + shift)), context)
    _same(moved, net(noisy, context), tolerance, "after a shift of the origin")


def check_cell_images(net: Net, noisy: NoisyCrystals, context: Context, *, tolerance: float) -> None:
    """Listing an atom in another cell (integers added to its coordinates) changes nothing."""
    whole = torch.randint(-2, 3, noisy.frac.shape, generator=torch.Generator().manual_seed(3))
    moved = net(replace(noisy, frac=noisy.frac + whole), context)
    _same(moved, net(noisy, context), tolerance, "after moving atoms to other cells")


def check_batching(net: Net, noisy: NoisyCrystals, context: Context, *, tolerance: float) -> None:
    """A crystal alone is told the same as beside others, in any order."""
    whole = _values(net(noisy, context))
    for i in range(len(noisy.frac)):
        alone = _values(net(rows_of(noisy, torch.tensor([i])), rows_of(context, torch.tensor([i]))))
        for name, value in alone.items():
            require_close(value, whole[name][[i]], tolerance=tolerance, what=f"{name} of crystal {i} alone")
    turned = torch.arange(len(noisy.frac)).flip(0)
    for name, value in _values(net(rows_of(noisy, turned), rows_of(context, turned))).items():
        require_close(value, whole[name][turned], tolerance=tolerance, what=f"{name} in a batch of other order")


def check_unknown_properties(net: Net, noisy: NoisyCrystals, context: Context) -> None:
    """The number stored for a property that is not known does not matter."""
    hidden = replace(context, has_property=torch.zeros_like(context.has_property))
    other = replace(hidden, properties=hidden.properties + 5)
    _same(net(noisy, other), net(noisy, hidden), 0.0, "after changing properties that are unknown")


def check_autocast(net: Net, noisy: NoisyCrystals, context: Context, *, tolerance: float = 0.1) -> None:
    """Under bfloat16 autocast the prediction is float32 and within a relative tolerance (root mean square)."""
    base = _values(net(noisy, context))
    with torch.autocast(device_type=noisy.frac.device.type, dtype=torch.bfloat16):
        half = _values(net(noisy, context))
    for name, value in half.items():
        require(value.dtype == torch.float32, f"{name} under autocast: expected float32, got {value.dtype}")
        gap = float((value - base[name]).square().mean().sqrt() / base[name].square().mean().sqrt())
        require(gap < tolerance, f"{name} under bfloat16 autocast differs by {gap:.2g} (relative)")


def check_sizes(net: Net, *, properties: int = 3) -> None:
    """One atom, many atoms, one crystal: all are finite; a lone atom has no vector."""
    for crystals, atoms in ((1, 1), (2, 1), (1, 24), (1, 80)):
        inputs = random_inputs(crystals, atoms, seed=atoms, properties=properties)
        check_prediction(net, *inputs)


def check_ragged(net: Net, *, properties: int = 3, tolerance: float) -> None:
    """In a ragged batch each crystal is told what it is told alone."""
    alone = [random_inputs(1, atoms, seed=atoms, properties=properties) for atoms in (4, 2, 7, 2, 1)]
    said = predict_ragged(net, *in_one_batch(alone))
    counts = [noisy.species.shape[1] for noisy, _ in alone]
    atoms = {name: getattr(said, name).split(counts) for name in ("frac", "species")}
    for i, inputs in enumerate(alone):
        for name, value in _values(net(*inputs)).items():
            told = atoms[name][i] if name in atoms else getattr(said, name)[i]
            require_close(told, value[0], tolerance=tolerance, what=f"{name} of crystal {i} in a ragged batch")


def in_one_batch(alone: Sequence[tuple[NoisyCrystals, Context]]) -> tuple[RaggedCrystals, Context]:
    """Crystals that are each alone in a dense batch, as one ragged batch."""
    crystals, contexts = [noisy for noisy, _ in alone], [context for _, context in alone]
    noisy = RaggedCrystals(
        counts=torch.tensor([one.species.shape[1] for one in crystals]),
        frac=torch.cat([one.frac[0] for one in crystals]),
        cell=torch.cat([one.cell for one in crystals]),
        lattice=torch.cat([one.lattice for one in crystals]),
        species=torch.cat([one.species[0] for one in crystals]),
        time=torch.cat([one.time for one in crystals]),
        known=torch.cat([one.known for one in crystals]),
    )
    return noisy, Context(
        space_group=torch.cat([one.space_group for one in contexts]),
        properties=torch.cat([one.properties for one in contexts]),
        has_property=torch.cat([one.has_property for one in contexts]),
        chemical_system=torch.cat([one.chemical_system for one in contexts]),
    )


def check_gradients(net: nn.Module, noisy: NoisyCrystals, context: Context) -> None:
    """Every parameter gets a gradient that is finite and not zero."""
    net.zero_grad(set_to_none=True)
    _scalar(net(noisy, context)).backward()
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        if gradient is None:
            raise AssertionError(f"{name} gets no gradient")
        require(gradient.isfinite().all(), f"{name}: gradient is not finite")
        require(gradient.any(), f"{name}: gradient is zero everywhere")
    net.zero_grad(set_to_none=True)


def check_numeric_gradient(
    net: nn.Module, noisy: NoisyCrystals, context: Context, *, step: float = 3e-3, tolerance: float = 0.02
) -> None:
    """Derivatives along random directions in parameter space agree with central differences.

    Networks compute in float32, hence the wide step and the relative tolerance of a few per cent.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        directions = [torch.randn(p.shape, generator=rng) * (p.std(correction=0) + 0.01) for p in parameters]
        directions = [d.detach() for d in directions]
        gradients = torch.autograd.grad(_scalar(net(noisy, context)), parameters)
        exact = float(sum((g * d).double().sum() for g, d in zip(gradients, directions, strict=True)))
        values = []
        with torch.no_grad():
            for sign in (1, -2, 1):
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(direction, alpha=sign * step)
                values.append(float(_scalar(net(noisy, context))))
        numeric = (values[0] - values[1]) / (2 * step)
        gap = abs(numeric - exact) / max(abs(exact), 1e-3)
        require(gap < tolerance, f"derivative along direction {seed}: {exact:.5g}, by differences {numeric:.5g}")


def _scalar(prediction: Prediction) -> Tensor:
    """A smooth number in which every entry of a prediction has its own weight; summed in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for name, value in _values(prediction).items():
        weights = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).reshape(value.shape) + 0.1 * len(name)
        total = total + (weights * value.double()).sum() / value[0].numel()
    return total


def _values(prediction: Prediction) -> Mapping[str, Tensor]:
    return {name: getattr(prediction, name) for name in NAMES}


def _same(actual: Prediction, expected: Prediction, tolerance: float, when: str) -> None:
    for name, value in _values(actual).items():
        require_close(value, _values(expected)[name], tolerance=tolerance, what=f"{name} {when}")
