"""The stages of properties: the verdicts, the files, and what becomes of crystals that cannot be measured."""

import csv
import io
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, EuhedralError
from euhedral.screen import stages
from euhedral.screen.elastic import ElasticConfig, elastic_tensor
from euhedral.screen.phonons import PhononConfig, phonons
from euhedral.screen.settle import SettleConfig
from euhedral.screen.stage import StageRecord
from euhedral.testing.crystals import FACE_CENTERED
from screen.potentials import HANGS, RAISES, PairWell

WELL = "screen.potentials:PairWell"
MOODY = "screen.potentials:Moody"
STAGES = ("phonons", "elastic", "equation_of_state", "thermal", "diffraction")
SMALL = {"phonons": {"length": 7.0}, "thermal": {"length": 7.0, "temperature": 100.0}}


def _face_centered(species: int = 29, length: float = 3.4) -> CrystalBatch:
    cell = length * torch.tensor(FACE_CENTERED, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([species]))])


def _simple_cubic() -> CrystalBatch:
    """A cube, which shears away in a pair well."""
    cell = 2.4 * torch.eye(3, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([29]))])


def _run(name: str, crystals: CrystalBatch, *, workers: int = 0, **settings: object) -> list[StageRecord]:
    given = {**SMALL.get(name, {}), **settings}
    if name != "diffraction":
        given.setdefault("calculator", WELL)
    records = stages.make(name, given).run(crystals, [{} for _ in range(len(crystals))], workers=workers)
    return sorted(records, key=lambda record: record.index)


@pytest.mark.parametrize("name", STAGES)
def test_a_sound_crystal_passes_with_every_column_and_a_file(name: str):
    (record,) = _run(name, _face_centered())
    assert record.outcome == "passed" and record.reason is None and record.crystal is None
    assert set(record.values) <= set(stages.lookup(name)[1].columns)
    missing = set(stages.lookup(name)[1].columns) - set(record.values)
    assert missing == ({"xrd_agreement", "xrd_scale"} if name == "diffraction" else set())
    assert None not in record.values.values()
    assert record.files and all(record.files.values()) and record.seconds > 0


def test_values_are_those_of_the_library():
    (shaken,), (strained,) = _run("phonons", _face_centered()), _run("elastic", _face_centered())
    found = phonons(_face_centered(), PairWell(), PhononConfig(length=7.0))
    assert shaken.values["lowest_frequency"] == pytest.approx(found.lowest, abs=1e-6)
    assert shaken.values["heat_capacity"] == pytest.approx(found.heat_capacity)
    tensor = elastic_tensor(_face_centered(), PairWell(), ElasticConfig())
    assert strained.values["bulk_modulus"] == pytest.approx(tensor.bulk_modulus)
    assert json.loads(strained.files["elastic.json"])["stiffness_gpa"][0][1] == pytest.approx(
        tensor.voigt[0, 1], abs=1e-3
    )


def test_what_shears_away_is_rejected_unless_only_the_numbers_are_wanted():
    for name, word in (("phonons", "imaginary mode"), ("elastic", "a strain lowers the energy")):
        (rejected,) = _run(name, _simple_cubic())
        assert rejected.outcome == "rejected" and word in (rejected.reason or "")
        (kept,) = _run(name, _simple_cubic(), reject_unstable=False)
        assert kept.outcome == "passed" and kept.values == rejected.values
    assert rejected.values == {"mechanically_stable": False}
    (warm,) = _run("thermal", _simple_cubic())
    assert warm.outcome == "failed" and "imaginary mode" in (warm.reason or "")
    assert warm.outcome not in stages.lookup("thermal")[1].stops


def test_crystals_that_raise_fail_alone_and_go_on():
    pair = CrystalBatch.concat([_face_centered(RAISES), _face_centered()])
    failed, passed = _run("equation_of_state", pair, calculator=MOODY)
    assert failed.outcome == "failed" and "no idea about lithium" in (failed.reason or "")
    assert failed.outcome not in stages.lookup("equation_of_state")[1].stops
    assert passed.outcome == "passed"


def test_a_process_gives_the_same_and_one_that_hangs_costs_its_crystal():
    pair = CrystalBatch.concat([_face_centered(HANGS), _face_centered()])
    late, passed = _run("equation_of_state", pair, workers=1, calculator=MOODY, max_seconds=3.0)
    assert late.outcome == "time limit" and "3 s" in (late.reason or "")
    (here,) = _run("equation_of_state", _face_centered())
    assert passed.values == pytest.approx(here.values)


def test_the_calculator_is_that_of_the_relaxation():
    stage = stages.make("equation_of_state")
    (found,) = stage.run(_face_centered(), [{"calculator": WELL}], workers=0)
    (here,) = _run("equation_of_state", _face_centered())
    assert found.values == here.values
    with pytest.raises(EuhedralError, match="cannot be imported"):
        list(stage.run(_face_centered(), [{"calculator": "no.such:thing"}], workers=0))


def test_files_can_be_read_by_the_programs_that_they_are_for(tmp_path: Path):
    import phonopy

    (shaken,) = _run("phonons", _face_centered())
    assert shaken.files["bands.png"].startswith(b"\x89PNG")
    path = tmp_path / "phonopy.yaml"
    path.write_bytes(lzma.decompress(shaken.files["phonopy.yaml.xz"]))
    model = phonopy.load(path, log_level=0)
    found = phonons(_face_centered(), PairWell(), PhononConfig(length=7.0)).phonopy
    assert model.get_frequencies((0.5, 0, 0)) == pytest.approx(found.get_frequencies((0.5, 0, 0)), rel=1e-6)
    (curve,) = _run("equation_of_state", _face_centered())
    rows = list(csv.DictReader(io.StringIO(curve.files["equation_of_state.csv"].decode())))
    energies = [float(row["energy_per_atom_eV"]) for row in rows]
    assert len(rows) == 9 and np.argmin(energies) == 4


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("phonons", {"calculator": "emt"}, "no calculator is called 'emt'"),
        ("phonons", {"max_seconds": 0}, "max_seconds must be above 0"),
        ("phonons", {"tolerance": -1}, "tolerance must be"),
        ("elastic", {"strains": (0.5,)}, "strains must be"),
        ("equation_of_state", {"points": 3}, "points must be"),
        ("thermal", {"smallest_strain": 0.1}, "smallest_strain must be"),
        ("thermal", {"points": 20}, "points must be from 5 to most_points"),
        ("thermal", {"strain_step": 1e-4}, "strains must end between"),
        ("thermal", {"temperature": 0}, "temperature must be"),
        ("thermal", {"degree": 7}, "degree must be"),
        ("magnetism", {"calculator": "emt"}, "no calculator is called"),
        ("magnetism", {"max_seconds": -1}, "max_seconds must be above 0"),
        ("diffraction", {"wavelength": "CuKz"}, "no X-ray line is called"),
        ("diffraction", {"wavelength": 0}, "a wavelength must be"),
        ("diffraction", {"smallest_angle": 100}, "angles must rise"),
        ("diffraction", {"width": 5}, "width must be"),
        ("diffraction", {"largest_scale": 0.5}, "largest_scale must be"),
        ("diffraction", {"least_agreement": 0.5}, "needs a measured pattern"),
    ],
)
def test_settings_out_of_range(name: str, settings: dict, word: str):
    with pytest.raises(ConfigError, match=word):
        stages.make(name, settings)


def test_moments_are_those_of_the_potential_or_their_lack_is_told():
    iron = CrystalBatch.from_crystals(
        [
            (
                2.85 * torch.eye(3, dtype=torch.float64),
                torch.tensor([[0, 0, 0], [0.5, 0.5, 0.5]]).double(),
                torch.tensor([26, 26]),
            )
        ]
    )
    (found,) = _run("magnetism", iron, calculator="chgnet")
    assert found.outcome == "passed" and not found.files
    assert found.values["magnetic_moment"] == pytest.approx(2.2, abs=0.3)  # measured: 2.2
    assert found.values["largest_moment"] == pytest.approx(found.values["magnetic_moment"], rel=1e-3)
    for calculator in (WELL, "ase.calculators.emt:EMT"):
        (none,) = _run("magnetism", _face_centered(), calculator=calculator)
        assert none.outcome == "failed" and "gives no magnetic moments" in (none.reason or "")
    curium = CrystalBatch.from_crystals(
        [(9 * torch.eye(3, dtype=torch.float64), torch.zeros(1, 3).double(), torch.tensor([96]))]
    )
    (unknown,) = _run("magnetism", curium, calculator="chgnet")
    assert unknown.outcome == "failed" and "CHGNet knows the elements" in (unknown.reason or "")


@pytest.mark.parametrize("name", ["phonons", "thermal"])
def test_without_phonopy_nothing_begins(name: str, monkeypatch: pytest.MonkeyPatch):
    stages.make(name).check()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EuhedralError, match="pip install"):
        stages.make(name).check()


def test_settling_is_as_asked():
    config = stages.make("elastic", {"force_limit": 0.01, "symprec": 0.1}).config
    assert config.settling() == SettleConfig(force_limit=0.01, symprec=0.1, max_seconds=1800.0)
