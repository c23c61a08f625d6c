"""What families of Wyckoff templates share: lattices along either path."""

from __future__ import annotations

import pytest
import torch

from euhedral.errors import ConfigError
from euhedral.testing import models as contract

FAMILIES = ("diffcsp_pp", "symmcd")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", ["variance_preserving", "gaussian_flow"])
def test_lattices_stay_near_the_data_whatever_a_network_says(path: str, family: str) -> None:
    model = contract.informed_model(family, lattice_path=path)
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():  # type: ignore[union-attr]
            if "lattice" in name:
                parameter.mul_(1e6)
    assert any("lattice" in name for name, _ in model.net.named_parameters())  # type: ignore[union-attr]
    made = model.sample(contract.free_request(6, 5, steps=4), rng=torch.Generator().manual_seed(0)).validate()
    assert bool((made.volume < 5 * 1100).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flow_has_no_schedule(family: str) -> None:
    with pytest.raises(ConfigError, match="leave it out"):
        contract.informed_model(family, lattice_path="gaussian_flow", cell={"levels": 100})
