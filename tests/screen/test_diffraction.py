"""Powder patterns against Bragg's law and hand-made measurements."""

from pathlib import Path

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError, DataError
from euhedral.screen import stages
from euhedral.screen.diffraction import (
    DiffractionConfig,
    MeasuredPattern,
    agreement,
    broadened,
    powder_pattern,
    read_measured,
    strongest_lines,
)
from euhedral.testing.crystals import FACE_CENTERED, cesium_chloride, rock_salt


def _copper(length: float = 3.615) -> CrystalBatch:
    cell = length * torch.tensor(FACE_CENTERED, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([29]))])


def _measured(crystal: CrystalBatch, *, seed: int = 0) -> MeasuredPattern:
    """A pattern with a background and noise, on a grid of its own."""
    angles = np.arange(10.0, 80.0, 0.03)
    counts = 20 * broadened(powder_pattern(crystal), angles, width=0.25)
    background = 300 + 2000 * np.exp(-angles / 20)
    noise = np.random.default_rng(seed).normal(0, 5, len(angles))
    return MeasuredPattern(two_theta=angles, counts=counts + background + noise)


def test_lines_are_where_bragg_says_and_none_where_the_lattice_forbids_it():
    config = DiffractionConfig(wavelength=1.5406, largest_angle=100)
    found = powder_pattern(_copper(), config)
    families = [(1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1), (2, 2, 2)]
    spacings = [3.615 / np.sqrt(sum(i * i for i in plane)) for plane in families]
    assert found.spacing == pytest.approx(spacings, rel=1e-6)
    assert found.two_theta == pytest.approx(2 * np.degrees(np.arcsin(1.5406 / (2 * np.array(spacings)))), abs=1e-6)
    assert found.intensity.max() == pytest.approx(100) and np.argmax(found.intensity) == 0
    assert strongest_lines(found, 1).startswith("43.3") and strongest_lines(found).count("(") == 3


def test_a_pattern_agrees_with_its_own_measurement_and_not_with_anothers():
    own, scale = agreement(powder_pattern(_copper()), _measured(_copper()))
    assert own > 0.97 and scale == pytest.approx(1, abs=1e-3)
    other, _ = agreement(powder_pattern(rock_salt()), _measured(_copper()))
    assert other < 0.5


def test_a_crystal_that_is_a_little_too_large_agrees_at_its_scale():
    cosine, scale = agreement(powder_pattern(_copper(3.615 * 1.018)), _measured(_copper()))
    assert cosine > 0.95 and scale == pytest.approx(1 / 1.018, abs=1e-3)
    fixed, one = agreement(
        powder_pattern(_copper(3.615 * 1.018)), _measured(_copper()), DiffractionConfig(largest_scale=0)
    )
    assert fixed < 0.3 and one == 1.0


def test_a_turned_crystal_and_a_supercell_have_the_same_pattern():
    crystal = cesium_chloride()
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    doubled = CrystalBatch.from_crystals(
        [
            (
                torch.diag(torch.tensor([2.0, 1, 1], dtype=torch.float64)) @ crystal.cell[0].double() @ turn,
                torch.cat(
                    [
                        (crystal.frac.double() + shift) / torch.tensor([2.0, 1, 1])
                        for shift in (0, torch.tensor([1.0, 0, 0]))
                    ]
                ),
                crystal.species.repeat(2),
            )
        ]
    )
    one, two = powder_pattern(crystal), powder_pattern(doubled)
    strong = two.intensity > 1e-6
    assert two.two_theta[strong] == pytest.approx(one.two_theta, abs=1e-5)
    assert two.intensity[strong] == pytest.approx(one.intensity, abs=1e-3)


def _write(path: Path, measured: MeasuredPattern) -> Path:
    rows = [f"{a:.3f}  {c:.2f}" for a, c in zip(measured.two_theta, measured.counts, strict=True)]
    path.write_text("# a diffractometer\n2theta counts\n" + "\n".join(rows))
    return path


def test_the_stage_compares_with_a_file_and_rejects_what_is_not_it(tmp_path: Path):
    path = _write(tmp_path / "copper.xy", _measured(_copper()))
    stage = stages.make("diffraction", {"measured": str(path), "least_agreement": 0.8})
    crystals = CrystalBatch.concat([_copper(3.65), rock_salt().to(torch.float64)])
    good, bad = list(stage.run(crystals, [{}, {}], workers=0))
    assert good.outcome == "passed" and float(good.values["xrd_agreement"] or 0) > 0.9
    assert bad.outcome == "rejected" and "not its own" in (bad.reason or "")
    head, first = good.files["diffraction.csv"].decode().splitlines()[:2]
    assert head == "two_theta_deg,d_A,intensity,plane" and first.endswith(",100.000,1 1 1")
    with pytest.raises(DataError, match="cannot read the measured pattern"):
        stages.make("diffraction", {"measured": str(tmp_path / "none.xy")}).check()
    stage.check()
    assert Path(stage.portable_config().measured).is_absolute()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nothing here\n", "has 0 lines of two numbers"),
        ("\n".join(f"{angle} 1" for angle in range(200, 300)), "must be 2 theta"),
        ("\n".join(f"{angle} 0" for angle in range(10, 80)), "counts above 0"),
    ],
)
def test_files_that_are_no_pattern(tmp_path: Path, text: str, word: str):
    path = tmp_path / "pattern.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=word):
        read_measured(path)


def test_reasons(tmp_path: Path):
    with pytest.raises(DataError, match="cannot read the measured pattern"):
        read_measured(tmp_path / "none.xy")
    with pytest.raises(CrystalError, match="no line between"):
        powder_pattern(_copper(), DiffractionConfig(smallest_angle=5, largest_angle=10))
    angles = np.arange(100.0, 150, 0.05)
    with pytest.raises(CrystalError, match="too little of"):
        agreement(powder_pattern(_copper()), MeasuredPattern(two_theta=angles, counts=angles))
    flat = np.arange(10.0, 80, 0.05)
    with pytest.raises(CrystalError, match="nothing is left"):
        agreement(powder_pattern(_copper()), MeasuredPattern(two_theta=flat, counts=np.full_like(flat, 5.0)))
