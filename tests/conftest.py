"""Fixtures that several rooms share: a tiny untrained model with the statistics that requests need."""

from __future__ import annotations

import os

# Each process of `pytest -n` and each that a test starts has one thread: more of them than cores wait for each other, which
# made the tests take four times as long. Libraries read this when they are imported.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from euhedral.models.checkpoint import save_model
from euhedral.models.joint_flow import JointFlow, JointFlowConfig
from euhedral.nets.pair_features import PairFeaturesConfig
from euhedral.nets.periodic_transformer import PeriodicTransformerConfig
from euhedral.sample.generate import Generator

STATISTICS = {
    "elements": [*range(1, 84), 90, 92],
    "num_atoms": {"1": 5, "2": 20, "3": 10, "4": 40, "5": 30, "6": 20, "8": 30, "10": 20, "12": 10},
    "num_atoms_by_space_group": {"225": {"2": 30, "4": 10}, "1": {"12": 5}},
}

# The time of one example says nothing on a shared machine.
settings.register_profile("euhedral", deadline=None)
settings.load_profile("euhedral")


def tiny_model(seed: int = 0) -> JointFlow:
    """A network of a few thousand weights whose output layers are not zero."""
    torch.manual_seed(seed)
    net = PeriodicTransformerConfig(
        width=16, blocks=1, heads=2, pair_width=8, feedforward=1, pairs=PairFeaturesConfig(radial=4, axis_harmonics=2)
    )
    model = JointFlow(JointFlowConfig(net=net, lattice_mean=(0.0, 0.0, 0.0, 0.0, 0.0, 1.6), lattice_std=(0.1,) * 6))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05)
    return model


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    meta = {"statistics": STATISTICS, "training": {"data": "none"}, "measured": {}}
    return save_model(tmp_path_factory.mktemp("weights") / "tiny", tiny_model(), meta)


@pytest.fixture(scope="session")
def tiny_generator(tiny_checkpoint: Path) -> Generator:
    return Generator.load(str(tiny_checkpoint), device="cpu")
