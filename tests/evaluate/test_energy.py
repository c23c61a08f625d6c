from __future__ import annotations

import math
import warnings

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError
from euhedral.evaluate.comparison import plain_crystals
from euhedral.evaluate.embedding import predict_crystals
from euhedral.evaluate.energy import energies_per_atom
from euhedral.testing.crystals import diamond

pytest.importorskip("chgnet", reason="needs the extra 'evaluate'")


def test_energies_without_embeddings_are_the_same() -> None:
    far = 9 * torch.eye(3, dtype=torch.float64)
    lonely = CrystalBatch.from_crystals([(far, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([11]))])
    batch = CrystalBatch.concat([diamond(dtype=torch.float64), lonely])
    seen: list[tuple[int, int]] = []
    found = energies_per_atom(batch, progress=lambda done, total: seen.append((done, total)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (energy, _), reason = predict_crystals(plain_crystals(batch))
    assert found.values[0] == energy and math.isnan(found.values[1]) and found.reasons == (None, reason)
    assert seen == [(2, 2)]
    # Diamond is near the ground state of carbon, about -9.1 eV/atom in the Materials Project.
    assert found.values[0] == pytest.approx(-9.1, abs=0.1)


def test_no_crystals_and_no_workers() -> None:
    assert energies_per_atom(CrystalBatch.empty()).values.shape == (0,)
    with pytest.raises(ConfigError, match="workers"):
        energies_per_atom(diamond(), workers=0)
