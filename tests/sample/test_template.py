"""Tests of templates: what is kept of a structure while the rest is generated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import DataError, RequestError
from euhedral.sample.constraints import verify
from euhedral.sample.generate import Generator
from euhedral.sample.plan import plan, sample_request
from euhedral.sample.request import GenerationRequest
from euhedral.sample.template import Template
from euhedral.testing.crystals import perovskite, rock_salt
from euhedral.testing.models import tiny_model


@pytest.mark.parametrize(
    ("keep", "species", "placed", "cell"),
    [
        (["lattice"], (0,) * 5, (), True),
        (["sites"], (38, 22, 8, 8, 8), (0, 1, 2, 3, 4), False),
        (["sites:O,1"], (38, 0, 8, 8, 8), (0, 2, 3, 4), False),
        (["positions:2-3", "species:Ti"], (0, 22, 0, 0, 0), (1, 2), False),
        (["lattice", "species"], (38, 22, 8, 8, 8), (), True),
    ],
)
def test_what_is_named_is_kept(keep: list[str], species: tuple[int, ...], placed: tuple[int, ...], cell: bool) -> None:
    template = Template.of(perovskite(), keep)
    assert template.species == species
    assert tuple(k for k in range(5) if template.frac[k] is not None) == placed
    assert (template.cell is not None) == cell
    torch.testing.assert_close(template.positions, perovskite().frac[list(placed)].double())


def test_sites_with_a_position_come_first() -> None:
    template = Template.of(perovskite(), ["species:Sr", "positions:O"]).ordered
    assert template.species == (0, 0, 0, 38)
    assert template.frac[3] is None and None not in template.frac[:3]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([], "nothing of the template"),
        (["cell"], "lattice, sites, positions or species"),
        (["lattice:O"], "lattice, sites, positions or species"),
        (["sites:Fe"], "no Fe; it has O, Ti, Sr"),
        (["sites:6"], "atoms 1 to 5"),
        (["sites:0"], "atoms 1 to 5"),
        (["sites:4-2"], "atoms 1 to 5"),
        (["sites:"], "neither an element nor a number"),
        (["sites:O;Ti"], "neither an element nor a number"),
    ],
)
def test_what_cannot_be_kept_is_said(keep: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Template.of(perovskite(), keep)


def test_files(tmp_path: Path) -> None:
    path = perovskite().write(tmp_path / "host.cif")[0]
    template = Template.read(path, ["lattice", "sites:Ti"])
    assert template.species.count(22) == 1 and template.cell is not None
    both = CrystalBatch.concat([perovskite(), rock_salt()]).write(tmp_path / "both.extxyz")[0]
    with pytest.raises(RequestError, match="one structure"):
        Template.read(both, ["lattice"])
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 3\n")
    with pytest.raises(DataError, match="broken"):
        Template.read(tmp_path / "broken.cif", ["lattice"])


@pytest.mark.parametrize(
    ("keep", "fields"),
    [
        (["lattice", "sites:Ti,O"], {}),
        (["lattice", "sites:Ti,O"], {"formula": "SrTiO3"}),
        (["sites:Ti,O"], {"chemical_system": "Ba-Ti-O"}),
        (["sites:O"], {"num_atoms": (6, 9)}),
        (["positions"], {"elements": "Li,Mn,O"}),
        (["positions"], {"formula": "LiMnO3"}),
        (["species:O", "lattice"], {"chemical_system": "Ti-*-O"}),
        (["sites:O"], {"chemical_system": "*-*"}),
        (["sites:Ti,O"], {"chemical_system": "O-*-*"}),
        (["lattice"], {"charge_neutral": True, "elements": "Na,Cl"}),
    ],
)
def test_what_is_kept_is_in_every_crystal(tiny_generator: Generator, keep: list[str], fields: dict) -> None:
    request = GenerationRequest(n=6, steps=3, template=Template.of(perovskite(), keep), **fields)
    resolved = tiny_generator.resolve(request)
    crystals = tiny_generator.generate(request).validate()
    shares = dict(verify(resolved, crystals, [0] * 6))
    shares.pop("charge_neutral", None)
    assert "template" in shares
    assert all(share.met == share.total == 6 for share in shares.values()), shares
    shifted = CrystalBatch(
        frac=(crystals.frac + 0.01) % 1,
        cell=crystals.cell * 1.01,
        species=crystals.species,
        num_atoms=crystals.num_atoms,
    )
    held = any(word in text for text in keep for word in ("lattice", "sites", "positions"))
    assert verify(resolved, shifted, [0] * 6)["template"].met == (0 if held else 6)


def test_positions_that_single_precision_rounds_up_stay_within_the_cell(tiny_generator: Generator) -> None:
    template = Template(species=(38, 0), frac=((0.0, 0.5, 1 - 1e-12), None))
    crystals = tiny_generator.generate(n=2, steps=2, template=template).validate()
    assert torch.equal(crystals.frac.view(2, 2, 3)[:, 0], torch.tensor([[0.0, 0.5, 0.0]] * 2))


@pytest.mark.parametrize(
    ("keep", "fields", "counts"),
    [
        (["lattice"], {"formula": "LiMnO2"}, {4}),
        (["lattice"], {"formula": "LiMnO2", "z": 2}, {8}),
        (["lattice", "sites:O"], {"formula": "SrTiO3"}, {5}),
        (["species:O"], {"formula": "LiMnO3"}, {5, 10}),
        (["lattice"], {}, {5}),
        (["lattice"], {"num_atoms": 7}, {7}),
    ],
)
def test_a_kept_lattice_holds_about_as_many_atoms_as_it_did(
    tiny_generator: Generator, keep: list[str], fields: dict, counts: set[int]
) -> None:
    request = GenerationRequest(template=Template.of(perovskite(), keep), **fields)
    assert set(tiny_generator.resolve(request).num_atoms) == counts


def test_the_model_shares_a_formula_out_over_places(tiny_generator: Generator) -> None:
    keep = ["lattice", "positions", "species:O"]
    request = GenerationRequest(n=40, steps=2, formula="LiMnO3", template=Template.of(perovskite(), keep))
    resolved = tiny_generator.resolve(request)
    (batch,) = plan(resolved, crystals_per_batch=64)
    asked = sample_request(resolved, batch)
    assert asked.species.tolist() == [[0, 0, 8, 8, 8]] * 40 and asked.shares_out
    assert asked.owed is not None
    assert asked.owed.nonzero().tolist() == [[row, z] for row in range(40) for z in (3, 25)]
    assert not asked.rows(torch.tensor([0])).rows(torch.tensor([], dtype=torch.int64)).shares_out
    crystals = tiny_generator.generate(request)
    # Both ways round, by a model that has learned little.
    assert {tuple(row.species[:2].tolist()) for row in crystals} == {(3, 25), (25, 3)}


def test_where_no_position_waits_the_atoms_of_a_formula_are_given(tiny_generator: Generator) -> None:
    template = Template.of(perovskite(), ["lattice", "sites:O"])
    resolved = tiny_generator.resolve(GenerationRequest(n=2, formula="LiMnO3", template=template))
    asked = sample_request(resolved, plan(resolved, crystals_per_batch=64)[0])
    assert asked.species.tolist() == [[8, 8, 8, 3, 25]] * 2 and asked.owed is None and not asked.shares_out


@pytest.mark.parametrize(
    ("keep", "fields", "message"),
    [
        (["sites"], {"formula": "BaTiO3"}, "the template asks for Sr"),
        (["sites:O"], {"elements": "Li,Mn"}, "the template asks for O"),
        (["sites:O"], {"chemical_system": "Li-Mn"}, "the template asks for O"),
        (["sites:Ti,O"], {"chemical_system": "*-Sr"}, "the template asks for O, Ti, and --chemical-system has 1 open"),
        (
            ["sites:Ti"],
            {"chemical_system": "*-O", "exclude_elements": "Ti"},
            "the template asks for Ti, which is excluded",
        ),
        (["sites:O"], {"num_atoms": 2}, "does not fit"),
        (["sites", "lattice"], {}, "nothing to generate"),
        (["sites:O"], {"formula": "MnO2", "z": 1}, "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_generator: Generator, keep: list[str], fields: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        tiny_generator.resolve(GenerationRequest(template=Template.of(perovskite(), keep), **fields))


def test_families_that_keep_nothing_say_so(tiny_generator: Generator) -> None:
    other = Generator(tiny_model("diffcsp_pp"), tiny_generator.meta, device="cpu")
    with pytest.raises(RequestError, match="cannot keep parts"):
        other.resolve(GenerationRequest(template=Template.of(perovskite(), ["lattice"])))


def test_only_a_template_is_one() -> None:
    with pytest.raises(RequestError, match="template must be a"):
        GenerationRequest(template="host.cif")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="as many"):
        Template(species=(1,), frac=())
