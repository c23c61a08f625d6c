"""CHGNet as a potential, with the weights of the chgnet wheel and without its loops over crystals."""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CheckpointError, ConfigError, CrystalError, EuhedralError
from euhedral.screen.chgnet_network import ATOM_CUTOFF, MAX_ELEMENT, ChgnetNetwork, make_graph
from euhedral.screen.neighbours import Bonds, find_bonds
from euhedral.screen.potential import EV_PER_A3_IN_GPA, Prediction

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS: Mapping[str, str] = {
    "0.3.0": "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
    "r2scan": "pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
}
"""Published weights by the name that chgnet gives them: trained on PBE(+U), and moved from there to r2SCAN."""


class ChgnetPotential:
    """CHGNet (Deng et al., Nature Machine Intelligence 5, 1031, 2023).

    Bonds are searched a little farther than the cutoff and kept for crystals that are met again (`keys`) until an atom
    could have come nearer than the cutoff unseen. What is predicted does not depend on when they were searched.

    Args:
        weights: a name of WEIGHTS.
        dtype: of the network. float32 is what the model was trained in; float64 is for numeric derivatives.
        device: where the network runs.
        skin: how much farther than the cutoff bonds are searched, Å.

    Raises:
        ConfigError: on an unknown name or a negative skin.
        EuhedralError: if chgnet is not installed.
        CheckpointError: if its weights cannot be read.
    """

    def __init__(
        self,
        weights: str = "0.3.0",
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        skin: float = 0.5,
    ) -> None:
        if not skin >= 0:
            raise ConfigError(f"the skin must be at least 0 Å, not {skin}")
        self.network = ChgnetNetwork(_read_weights(weights), dtype=dtype, device=device)
        self.name = f"CHGNet {weights} (chgnet {version('chgnet')})"
        self._device = torch.device(device)
        self._skin = skin
        self._arguments = {"weights": weights, "dtype": dtype, "device": device, "skin": skin}
        self._bonds: dict[Hashable, Bonds] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies for other processes read the weights again."""
        return partial(ChgnetPotential, **self._arguments), ()

    def predict(self, batch: CrystalBatch, *, keys: Sequence[Hashable] | None = None) -> Prediction:
        """Energy, forces and stress; see `Potential`.

        Crystals without an energy are those with an element beyond 94, with an atom that has no other within 6 Å, and those
        whose cell is not one.
        """
        crystals = list(batch.to(torch.float64).to("cpu"))
        names: Sequence[Hashable | None] = [None] * len(crystals) if keys is None else keys
        found = [self._bonds_of(crystal, key) for crystal, key in zip(crystals, names, strict=True)]
        self._bonds = {key: bonds for (bonds, _), key in zip(found, names, strict=True) if bonds and key is not None}
        energy = torch.full((len(batch),), torch.nan, dtype=torch.float64)
        forces = torch.full((batch.species.shape[0], 3), torch.nan, dtype=torch.float64)
        stress = torch.full((len(batch), 3, 3), torch.nan, dtype=torch.float64)
        reasons = [reason for _, reason in found]
        usable = torch.tensor([bonds is not None for bonds, _ in found], dtype=torch.bool)
        if bool(usable.any()):
            chosen = CrystalBatch.concat(
                [c for c, (bonds, _) in zip(crystals, found, strict=True) if bonds is not None]
            )
            values, pulls, strains, lonely = self._evaluate(chosen, [bonds for bonds, _ in found if bonds is not None])
            energy[usable], stress[usable] = values, strains
            forces[usable[batch.owner.cpu()]] = pulls
            for i in usable.nonzero().flatten()[lonely].tolist():
                energy[i], reasons[i] = torch.nan, f"an atom has no other within {ATOM_CUTOFF:g} Å"
        return Prediction(energy_per_atom=energy, forces=forces, stress_gpa=stress, reasons=tuple(reasons))

    def moments(self, crystal: CrystalBatch) -> Tensor:
        """Sizes of the magnetic moments of one crystal's atoms in Bohr magnetons, float64, (atoms,).

        Raises:
            CrystalError: why it has none; as for energies.
        """
        one = crystal.to(torch.float64).to("cpu")
        bonds, reason = self._bonds_of(one, None)
        if bonds is None:
            raise CrystalError(str(reason))
        return self.network.moments(make_graph(*(part.to(self._device) for part in _joined(one, [bonds])))).cpu()

    def _bonds_of(self, crystal: CrystalBatch, key: Hashable | None) -> tuple[Bonds | None, str | None]:
        """The crystal's bonds, as kept or found now, or the reason why there are none."""
        frac, cell, species = crystal.frac, crystal.cell[0], crystal.species
        if not species.numel():
            return None, "it has no atoms"
        if int(species.max()) > MAX_ELEMENT or int(species.min()) < 1:
            return None, f"CHGNet knows the elements 1 to {MAX_ELEMENT}, not {int(species.max())}"
        kept = self._bonds.get(key) if key is not None else None
        if kept is not None and kept.still_hold(frac, cell, ATOM_CUTOFF):
            return kept, None
        try:
            return find_bonds(frac, cell, ATOM_CUTOFF + (self._skin if key is not None else 0.0)), None
        except CrystalError as error:
            return None, str(error)

    def _evaluate(self, batch: CrystalBatch, bonds: Sequence[Bonds]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energy per atom, forces, stress, and which crystals have a lonely atom."""
        species, *candidates = (part.to(self._device) for part in _joined(batch, bonds))
        graph = make_graph(species, *candidates)
        site_energy, gradient = self.network.energy_and_gradient(graph)
        first, second = graph.first.cpu(), graph.second.cpu()
        site_energy, gradient, vectors = site_energy.cpu(), gradient.cpu(), graph.vectors.cpu()
        owner = batch.owner
        energy = torch.zeros(len(batch), dtype=torch.float64).index_add(0, owner, site_energy)
        # A bond vector grows with its second atom and shrinks with its first.
        forces = torch.zeros(batch.frac.shape, dtype=torch.float64)
        forces = forces.index_add(0, first, gradient).index_add(0, second, -gradient)
        virial = torch.zeros(batch.cell.shape, dtype=torch.float64)
        virial = virial.index_add(0, owner[first], vectors[:, :, None] * gradient[:, None, :])
        virial = (virial + virial.transpose(1, 2)) / 2
        partners = torch.bincount(torch.cat([first, second]), minlength=batch.species.shape[0])
        alone = torch.zeros(len(batch), dtype=torch.int64).index_add(0, owner, (partners == 0).long()) > 0
        return energy / batch.num_atoms, forces, virial / batch.volume[:, None, None] * EV_PER_A3_IN_GPA, alone


def _joined(batch: CrystalBatch, bonds: Sequence[Bonds]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Species, and the candidate bonds of all crystals: first atom, second atom, vector."""
    starts = batch.first_atom.tolist()
    vectors = [found.vectors(crystal.frac, crystal.cell[0]) for found, crystal in zip(bonds, batch, strict=True)]
    return (
        batch.species,
        torch.cat([found.first + start for found, start in zip(bonds, starts, strict=True)]),
        torch.cat([found.second + start for found, start in zip(bonds, starts, strict=True)]),
        torch.cat(vectors),
    )


def _read_weights(name: str) -> Mapping[str, Tensor]:
    """The state dictionary of published weights, read as tensors and plain values only."""
    if name not in WEIGHTS:
        raise ConfigError(f"no CHGNet weights are called {name!r}; there are {', '.join(WEIGHTS)}")
    package = find_spec("chgnet")
    if package is None or not package.submodule_search_locations:
        raise EuhedralError('CHGNet is not installed; pip install "euhedral[evaluate]"')
    path = Path(package.submodule_search_locations[0]) / WEIGHTS[name]
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["model"]["state_dict"]
    except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read the CHGNet weights {path}: {error}; reinstall chgnet 0.4.2") from error
