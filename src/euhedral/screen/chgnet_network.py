"""The network of CHGNet for many crystals at once (Deng et al., Nature Machine Intelligence 5, 1031, 2023).

The same function as the chgnet package's, arranged for speed; only the package's weights are read.
- The first layer of each gated perceptron is linear in its parts (centre, bond, neighbour, ...), so that the parts are
  multiplied where they are few (atoms, undirected bonds) and only their sums live on directed bonds and angles.
- Bonds beyond the angle cutoff keep the features that they begin with, as nothing updates them; the last update of the
  angles, which nothing reads, is left out.
- There is one backward pass, to the bond vectors alone: forces and virial follow from it by hand, and no gradient of a
  weight nor a graph of the gradient is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from euhedral.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

ATOM_CUTOFF = 6.0
"""Longest bond that carries messages between atoms, Å."""
ANGLE_CUTOFF = 3.0
"""Longest bond that takes part in angles, Å."""
MAX_ELEMENT = 94
"""Largest atomic number that has weights."""

_WIDTH = 64
_ENVELOPE = 8
# acos has no derivative at 1; the published model was trained with its cosines scaled by this.
_COSINE_SCALE = 1 - 1e-6


@dataclass(frozen=True, kw_only=True)
class BondGraph:
    """Bonds and angles of several crystals; see `make_graph`.

    Attributes:
        species: (atoms,).
        first: first atom of each bond, (bonds,); bonds up to ANGLE_CUTOFF come first.
        second: (bonds,).
        vectors: from first to second atom in Å, (bonds, 3).
        arms: one row for each end of a short bond, sorted by the atom at that end: that atom, (arms,).
        arm_bond: short bond of each arm, (arms,).
        arm_sign: +1 at the first atom, -1 at the second, (arms,).
        left: arm of each angle, not decreasing, (angles,).
        right: the other arm at the same atom, (angles,).
        short: how many bonds are short.
    """

    species: Int[Tensor, " atoms"]
    first: Int[Tensor, " bonds"]
    second: Int[Tensor, " bonds"]
    vectors: Float[Tensor, "bonds 3"]
    arms: Int[Tensor, " arms"]
    arm_bond: Int[Tensor, " arms"]
    arm_sign: Float[Tensor, " arms"]
    left: Int[Tensor, " angles"]
    right: Int[Tensor, " angles"]
    short: int


def make_graph(species: Tensor, first: Tensor, second: Tensor, vectors: Tensor) -> BondGraph:
    """Graph of those of the candidate bonds that are within the cutoffs.

    Args:
        species: (atoms,).
        first: first atom of each candidate bond.
        second: its second atom.
        vectors: from first to second atom in Å, float64, (candidates, 3).
    """
    squares = vectors.square().sum(1)
    near = squares < ANGLE_CUTOFF**2
    chosen = torch.cat([near.nonzero().flatten(), ((squares < ATOM_CUTOFF**2) & ~near).nonzero().flatten()])
    short = int(near.sum())
    first, second = first[chosen], second[chosen]
    arms, order = torch.cat([first[:short], second[:short]]).sort(stable=True)
    arm_bond = torch.where(order < short, order, order - short)
    sizes = torch.bincount(arms, minlength=species.shape[0])
    begins = (sizes.cumsum(0) - sizes)[arms]
    partners = sizes[arms] - 1
    left = torch.repeat_interleave(partners)
    within = torch.arange(left.shape[0], device=left.device) - (partners.cumsum(0) - partners)[left]
    own = torch.arange(arms.shape[0], device=arms.device) - begins
    right = begins[left] + within + (within >= own[left])
    return BondGraph(
        species=species,
        first=first,
        second=second,
        vectors=vectors[chosen],
        arms=arms,
        arm_bond=arm_bond,
        arm_sign=torch.where(order < short, 1.0, -1.0).to(vectors.dtype),
        left=left,
        right=right,
        short=short,
    )


class ChgnetNetwork:
    """Energies of atoms, and their gradient with respect to bond vectors.

    Args:
        state: the published state dictionary.
        dtype: of the network; bond vectors, lengths and angles are float64 always.
        device: where it runs.

    Raises:
        CheckpointError: if the weights are not those of the architecture of CHGNet 0.3.0.
    """

    def __init__(self, state: Mapping[str, Tensor], *, dtype: torch.dtype, device: torch.device | str) -> None:
        weights = {name: value.detach().to(device=device, dtype=dtype) for name, value in state.items()}
        try:
            self._read(weights)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"these are not weights of the architecture of CHGNet 0.3.0: {error}") from error
        self.dtype = dtype

    def _read(self, weights: Mapping[str, Tensor]) -> None:
        self.reference = weights["composition_model.fc.weight"].double().flatten()
        self.atom_embedding = weights["atom_embedding.embedding.weight"]
        self.atom_waves = weights["bond_basis_expansion.rbf_expansion_ag.frequencies"]
        self.bond_waves = weights["bond_basis_expansion.rbf_expansion_bg.frequencies"]
        self.angle_waves = weights["angle_basis_expansion.fourier_expansion.frequencies"]
        self.bond_embedding = weights["bond_embedding.weight"].T
        self.message_weight = weights["bond_weights_ag.weight"].T
        self.angle_weight = weights["bond_weights_bg.weight"].T
        self.angle_embedding = weights["angle_embedding.weight"].T
        self.atom_layers = [
            _Gated(weights, f"atom_conv_layers.{k}.twoBody_atom", first="0", second="3", parts=3) for k in range(4)
        ]
        self.bond_layers = [
            _Gated(weights, f"bond_conv_layers.{k}.twoBody_bond", first="0", second="3", parts=4) for k in range(3)
        ]
        self.angle_layers = [
            _Gated(weights, f"angle_layers.{k}.twoBody_bond", first="1", second=None, parts=4) for k in range(2)
        ]
        self.atom_out = [weights[f"atom_conv_layers.{k}.mlp_out.layers.1.weight"].T for k in range(4)]
        self.bond_out = [weights[f"bond_conv_layers.{k}.mlp_out.layers.1.weight"].T for k in range(3)]
        self.norm = weights["readout_norm.weight"], weights["readout_norm.bias"]
        self.site = weights["site_wise.weight"], weights["site_wise.bias"]
        self.readout = [(weights[f"mlp.layers.{k}.weight"], weights[f"mlp.layers.{k}.bias"]) for k in (0, 2, 4, 7)]

    def energy_and_gradient(self, graph: BondGraph) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "bonds 3"]]:
        """Energy of each atom in eV, reference included, and d(sum)/d(bond vector) in eV/Å; float64."""
        vectors = graph.vectors.detach().requires_grad_(True)
        with torch.enable_grad():
            energy = self._energy(graph, vectors)
            (gradient,) = torch.autograd.grad(energy.sum(), vectors)
        return energy.detach(), gradient

    @torch.no_grad()
    def moments(self, graph: BondGraph) -> Float[Tensor, " atoms"]:
        """Size of the magnetic moment of each atom in Bohr magnetons, float64."""
        return F.linear(self._atoms(graph, graph.vectors, layers=3), *self.site).flatten().abs().double()

    def _energy(self, graph: BondGraph, vectors: Tensor) -> Tensor:
        hidden = F.layer_norm(self._atoms(graph, vectors, layers=4), (_WIDTH,), *self.norm)
        for linear in self.readout[:-1]:
            hidden = F.silu(F.linear(hidden, *linear))
        return F.linear(hidden, *self.readout[-1]).flatten().double() + self.reference[graph.species - 1]

    def _atoms(self, graph: BondGraph, vectors: Tensor, *, layers: int) -> Tensor:
        """Features of atoms after so many layers, (atoms, 64)."""
        lengths = vectors.square().sum(1).sqrt()
        basis = _bessel(lengths, self.atom_waves, ATOM_CUTOFF)
        near_basis = _bessel(lengths[: graph.short], self.bond_waves, ANGLE_CUTOFF)
        atoms = self.atom_embedding[graph.species - 1]
        near, far = basis[: graph.short] @ self.bond_embedding, basis[graph.short :] @ self.bond_embedding
        weight, angle_weight = basis @ self.message_weight, near_basis @ self.angle_weight
        angles = self._angles(graph, vectors, lengths)
        centre, other = torch.cat([graph.first, graph.second]), torch.cat([graph.second, graph.first])
        for k, layer in enumerate(self.atom_layers[:layers]):
            of_bond = torch.cat([near, far]) @ layer.parts[1]
            summed = layer.first(atoms, 0).index_select(0, centre)
            summed += (atoms @ layer.parts[2]).index_select(0, other)
            summed.view(2, -1, 2 * _WIDTH).add_(of_bond)
            messages = (layer(summed).view(2, -1, _WIDTH) * weight).flatten(0, 1)
            atoms = atoms + torch.zeros_like(atoms).index_add(0, centre, messages) @ self.atom_out[k]
            if k < len(self.bond_layers) and graph.left.numel():
                near = near + self._bond_update(k, graph, atoms, near, angles, angle_weight)
                if k < len(self.angle_layers):
                    angles = angles + self._on_angles(self.angle_layers[k], graph, atoms, near, angles)
        return atoms

    def _angles(self, graph: BondGraph, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Features of each angle to begin with, (angles, 64)."""
        units = (vectors[: graph.short] / lengths[: graph.short, None]).index_select(0, graph.arm_bond)
        units = units * graph.arm_sign[:, None]
        cosine = (units.index_select(0, graph.left) * units.index_select(0, graph.right)).sum(1)
        turns = torch.acos(cosine * _COSINE_SCALE).to(self.dtype)[:, None] * self.angle_waves
        constant = turns.new_full((turns.shape[0], 1), 1 / math.sqrt(2))
        return torch.cat([constant, torch.sin(turns), torch.cos(turns)], 1) @ (
            self.angle_embedding / math.sqrt(math.pi)
        )

    def _on_angles(self, layer: _Gated, graph: BondGraph, atoms: Tensor, bonds: Tensor, angles: Tensor) -> Tensor:
        """A gated perceptron of left bond, right bond, angle and centre, (angles, 64)."""
        at_left = (bonds @ layer.parts[0]).index_select(0, graph.arm_bond)
        at_left = at_left + layer.first(atoms, 3).index_select(0, graph.arms)
        at_right = (bonds @ layer.parts[1]).index_select(0, graph.arm_bond)
        summed = angles @ layer.parts[2]
        summed += at_left.index_select(0, graph.left)
        summed += at_right.index_select(0, graph.right)
        return layer(summed)

    def _bond_update(
        self, k: int, graph: BondGraph, atoms: Tensor, bonds: Tensor, angles: Tensor, weight: Tensor
    ) -> Tensor:
        """What the angles add to the features of short bonds, (short, 64)."""
        update = self._on_angles(self.bond_layers[k], graph, atoms, bonds, angles)
        at_arm = weight.index_select(0, graph.arm_bond)
        # The left weight is common to all angles of an arm: it multiplies their sum.
        update = update * at_arm.index_select(0, graph.right)
        summed = torch.zeros_like(at_arm).index_add(0, graph.left, update) * at_arm
        return torch.zeros_like(bonds).index_add(0, graph.arm_bond, summed) @ self.bond_out[k]


class _Gated:
    """silu(norm(core(x))) * sigmoid(norm(gate(x))), for an x whose parts have met the first matrix already."""

    def __init__(self, weights: Mapping[str, Tensor], name: str, *, first: str, second: str | None, parts: int) -> None:
        ways = ("core", "gate")
        stacked = torch.cat([weights[f"{name}.mlp_{way}.layers.{first}.weight"] for way in ways])
        self.parts = stacked.T.reshape(parts, _WIDTH, 2 * _WIDTH).contiguous()
        self.bias = torch.cat([weights[f"{name}.mlp_{way}.layers.{first}.bias"] for way in ways])
        self.second = [
            (weights[f"{name}.mlp_{way}.layers.{second}.weight"], weights[f"{name}.mlp_{way}.layers.{second}.bias"])
            for way in (ways if second else ())
        ]
        self.norms = [(weights[f"{name}.bn{k}.weight"], weights[f"{name}.bn{k}.bias"]) for k in (1, 2)]

    def first(self, part: Tensor, which: int) -> Tensor:
        """One part times its matrix, with the bias."""
        return torch.addmm(self.bias, part, self.parts[which])

    def __call__(self, summed: Tensor) -> Tensor:
        if self.second:
            summed = F.silu(summed)
        core, gate = summed.split(_WIDTH, 1)
        if self.second:
            core, gate = F.linear(core, *self.second[0]), F.linear(gate, *self.second[1])
        core = F.layer_norm(core, (_WIDTH,), *self.norms[0])
        gate = F.layer_norm(gate, (_WIDTH,), *self.norms[1])
        return F.silu(core) * torch.sigmoid(gate)


def _bessel(lengths: Tensor, waves: Tensor, cutoff: float) -> Tensor:
    """sqrt(2 / c) sin(w r / c) / r, times an envelope that falls from 1 to 0 at the cutoff c with two derivatives."""
    x = lengths / cutoff
    p = _ENVELOPE
    envelope = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    scale = (math.sqrt(2 / cutoff) * envelope / lengths).to(waves.dtype)
    return scale[:, None] * torch.sin(x.to(waves.dtype)[:, None] * waves)
