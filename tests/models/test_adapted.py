"""Tests of trained models with adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import STATISTICS
from euhedral.cli.info import gather
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.convert import convert
from euhedral.errors import CheckpointError, ConfigError, DataError, RequestError
from euhedral.models import registry
from euhedral.models.adapted import Adapted, AdaptedConfig
from euhedral.models.checkpoint import load_model, save_model
from euhedral.models.columns import Column
from euhedral.models.conditions import Conditions
from euhedral.sample.generate import Generator
from euhedral.sample.request import GenerationRequest
from euhedral.testing import models as contract
from euhedral.testing.crystals import random_crystals, rock_salt
from euhedral.testing.nets import wake
from euhedral.train.config import Recipe, TrainConfig
from euhedral.train.run import resume, train

COLUMNS = (Column(name="hardness", mean=5.0, std=2.0), Column(name="order", classes=("AFM", "FM")))


def model_of(family: str, **changes: Any) -> Adapted:
    config = {**contract.TINY_CONFIGS[family], **changes}
    base = registry.plain_config(registry.build(family, config).config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wake(Adapted(AdaptedConfig(family=family, model=base, columns=COLUMNS, width=8)))


def told(values: list[list[float]]) -> Conditions:
    return replace(Conditions.unknown(len(values)), extra=torch.tensor(values))


@pytest.mark.parametrize("family", ["joint_flow", "joint_process"])
def test_columns_steer_and_nothing_else_changes(family: str) -> None:
    model = model_of(family)
    contract.check_loss(model)
    contract.check_fixed_species(model)
    contract.check_held_parts(model)
    species = torch.tensor([[3, 26, 8, 8]] * 3)

    def draw(conditions: Conditions, guidance: float = 1.0) -> torch.Tensor:
        request = contract.free_request(3, 4, species=species, conditions=conditions, guidance=guidance)
        return model.sample(request, rng=torch.Generator().manual_seed(0)).cell

    free, asked = draw(Conditions.unknown(3)), told([[9.0, 1.0]] * 3)
    assert torch.equal(draw(told([[float("nan")] * 2] * 3)), free)
    assert torch.equal(draw(asked, 0.0), free)
    assert not torch.allclose(draw(asked), free, atol=1e-4)
    assert not torch.allclose(draw(asked, 3.0), draw(asked), atol=1e-4)


def test_loss_hears_of_the_columns() -> None:
    model = model_of("joint_process")
    batch = random_crystals([4] * 16, rng=torch.Generator().manual_seed(0))
    losses = [
        model.loss(batch, told([[value, 0.0]] * 16), rng=torch.Generator().manual_seed(1)).total.item()
        for value in (0.0, 9.0)
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "adapted"}, "adapters already"),
        ({"family": "diffcsp_pp"}, "takes no adapters"),
        ({"columns": ()}, "at least one column"),
    ],
)
def test_what_takes_no_adapters_says_so(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Adapted(replace(AdaptedConfig(family="joint_flow", columns=COLUMNS), **changes))


def test_values_of_columns() -> None:
    assert COLUMNS[0].encoded(7.5) == 7.5
    assert COLUMNS[1].encoded("FM") == 1.0
    with pytest.raises(RequestError, match="is a number"):
        COLUMNS[0].encoded("hard")
    with pytest.raises(RequestError, match="is a number"):
        COLUMNS[0].encoded(float("nan"))
    mixed = Column(name="sheet", classes=("01", "1.50", "2", "2.0", "2D"))
    assert [mixed.encoded(value) for value in ("2D", "2", 1.0, 1.5)] == [4.0, 2.0, 0.0, 1.0]
    with pytest.raises(RequestError, match=r"may be the class 2 or 2\.0"):
        mixed.encoded(2.0)
    with pytest.raises(RequestError, match="has no class '3'"):
        mixed.encoded(3.0)
    with pytest.raises(RequestError, match="did you mean 'FM'"):
        COLUMNS[1].encoded("FMM")


def data_of(folder: Path) -> Path:
    """Rock salts whose hardness is their length: small ones soft, large ones hard."""
    from euhedral.crystal.convert import to_cif

    lines = ["material_id,cif,hardness,order,nothing,alike"]
    for number in range(24):
        hard = number % 2
        crystal = rock_salt(11, 17, length=4.6 + 1.8 * hard)
        text = to_cif(crystal).replace('"', '""')
        lines.append(f'm{number},"{text}",{float(hard)},{("AFM", "FM")[hard]},0.1,film')
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    convert(folder / "data.csv", folder / "data.arrow", workers=1)
    return folder / "data.arrow"


def base_of(folder: Path) -> Path:
    model = contract.tiny_model("joint_process", awake=True)
    return save_model(folder / "base", model, {"statistics": STATISTICS})


def test_adapters_are_trained_on_a_frozen_model_and_asked_by_name(tmp_path: Path) -> None:
    data, base = data_of(tmp_path), base_of(tmp_path)
    settings = TrainConfig(max_epochs=2, batch_size=8, warmup_steps=1, precision="float32", learning_rate=1e-2)
    run = tmp_path / "run"
    folder = train(data, run, recipe=Recipe(train=settings), base=base, columns=("hardness", "order"))
    resume(run, max_epochs=3)
    made, before = load_model(folder).model, load_model(base).model.state_dict()
    assert isinstance(made, Adapted)
    assert [one.name for one in made.config.columns] == ["hardness", "order"]
    assert made.config.columns[1].classes == ("AFM", "FM")
    after = {name.replace("net.net.", "net."): value for name, value in made.base.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(float(value.abs().max()) > 0 for name, value in made.base.state_dict().items() if "mixins" in name)
    generator = Generator.load(str(folder), device="cpu")
    assert generator.capabilities.elements >= set(map(int, STATISTICS["elements"]))
    drawn = generator.generate(formula="NaCl", z=1, n=4, steps=3, properties={"hardness": 1.0, "order": "FM"})
    assert isinstance(drawn, CrystalBatch) and len(drawn) == 4
    wrongs = {"hardness": ("very", "is a number"), "order": (3.0, "no class"), "colour": (1.0, "hardness, order")}
    for name, (value, message) in wrongs.items():
        with pytest.raises(RequestError, match=message):
            generator.resolve(GenerationRequest(properties={name: value}))
    shown = gather(str(folder))["model"]
    assert shown["column_hardness"] == "0.5 ± 0.5" and shown["column_order"] == "AFM, FM"
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config == json.loads(json.dumps(asdict(made.config)))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("colour",), "no label 'colour'"),
        (("band_gap",), "a condition of the model already"),
        (("nothing",), "all alike"),
        (("alike",), "holds 1 different texts"),
        (("hardness", "order", "hardness"), "hardness more than once"),
    ],
)
def test_columns_that_cannot_be_learned(tmp_path: Path, columns: tuple[str, ...], message: str) -> None:
    data, base = data_of(tmp_path), base_of(tmp_path)
    with pytest.raises(DataError, match=message):
        train(data, tmp_path / "run", base=base, columns=columns)


def test_adapters_need_a_model_that_takes_them(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    bare = save_model(tmp_path / "bare", contract.tiny_model("joint_process"), {})
    with pytest.raises(CheckpointError, match="lacks the statistics"):
        train(data, tmp_path / "run", base=bare, columns=("hardness",))
    made = save_model(tmp_path / "made", contract.tiny_model("adapted"), {"statistics": STATISTICS})
    with pytest.raises(ConfigError, match="adapters already"):
        train(data, tmp_path / "again", base=made, columns=("hardness",))


def test_adapters_need_a_trained_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--from MODEL"):
        train(data_of(tmp_path), tmp_path / "run", columns=("hardness",))
