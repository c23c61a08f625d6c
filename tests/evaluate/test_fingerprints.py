from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import niggli_reduce, supercell
from euhedral.data.worker import Unanswered
from euhedral.errors import ConfigError
from euhedral.evaluate import fingerprints
from euhedral.evaluate.fingerprints import (
    StructureFingerprints,
    composition_fingerprints,
    structure_fingerprints,
)

VAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "mp_20" / "val.csv.gz"
HEXAGONAL = [[3.2, 0.0, 0.0], [-1.6, 3.2 * np.sqrt(0.75), 0.0], [0.0, 0.0, 5.2]]


def crystal(cell: object, frac: object, species: list[int]) -> CrystalBatch:
    cell = np.array(cell, dtype=float)
    cell = np.diag(cell) if cell.ndim == 1 else cell
    frac = np.array(frac, dtype=float).reshape(-1, 3)
    return CrystalBatch.from_crystals([(torch.tensor(cell), torch.tensor(frac), torch.tensor(species))])


def random_crystal(seed: int, atoms: int) -> CrystalBatch:
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * 2.6 * atoms ** (1 / 3) + 0.4 * rng.normal(size=(3, 3))
    return crystal(cell, rng.random((atoms, 3)), rng.choice([1, 3, 8, 9, 14, 22, 26, 56, 79], atoms).tolist())


FACE = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
CRYSTALS = {
    "rocksalt": crystal([5.64] * 3, FACE + [[x + 0.5, y, z] for x, y, z in FACE], [11] * 4 + [17] * 4),
    "perovskite": crystal([3.9] * 3, [[0, 0, 0], [0.5] * 3, *FACE[1:]], [38, 22, 8, 8, 8]),
    "caesium chloride": crystal([4.12] * 3, [[0, 0, 0], [0.5] * 3], [55, 17]),
    "hexagonal close packed": crystal(HEXAGONAL, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], [12, 12]),
    "graphite": crystal(
        [[2.46, 0, 0], [-1.23, 2.13, 0], [0, 0, 6.7]],
        [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25], [0, 0, 0.75], [2 / 3, 1 / 3, 0.75]],
        [6] * 4,
    ),
    "layer": crystal([3.0, 3.0, 15.0], [[0, 0, 0.1], [0.5, 0.5, 0.2]], [29, 8]),
    "chain": crystal([2.5, 15.0, 15.0], [[0, 0, 0]], [29]),
    "molecule": crystal([15.0] * 3, np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) / 15 + 0.2, [8, 1, 1]),
    "single atom": crystal([30.0] * 3, [[0, 0, 0]], [3]),
    "noble gas": crystal(5.3 / 2 * (1 - np.eye(3)), [[0, 0, 0]], [18]),
    "left-handed": crystal([4.0, 4.0, -6.0], [[0, 0, 0], [0.5, 0.5, 0.3], [0.5, 0.5, 0.7]], [38, 8, 8]),
    "skewed": crystal([[3, 0, 0], [30, 3, 0], [17, 25, 3]], [[0, 0, 0], [0.1, 0.3, 0.45]], [11, 17]),
    **{f"random {seed}": random_crystal(seed, atoms) for seed, atoms in enumerate((1, 2, 3, 5, 8, 12))},
}


def batch_of(names: list[str]) -> CrystalBatch:
    return CrystalBatch.concat([CRYSTALS[name] for name in names])


@pytest.fixture(scope="module")
def found() -> StructureFingerprints:
    return structure_fingerprints(batch_of(list(CRYSTALS)))


def published(batch: CrystalBatch) -> tuple[np.ndarray, list[int]]:
    """matminer's fingerprint of one crystal, averaged over its sites, and pymatgen's coordination numbers."""
    pytest.importorskip("matminer", reason="the extra `evaluate` is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

        featurizer = CrystalNNFingerprint.from_preset("ops")
        (structure,) = batch.to_pymatgen()
        sites = range(len(structure))
        values = np.mean([featurizer.featurize(structure, i) for i in sites], axis=0)
        return values, [featurizer.cnn.get_cn(structure, i) for i in sites]


@pytest.mark.parametrize("name", CRYSTALS)
def test_equal_to_matminer(name: str, found: StructureFingerprints) -> None:
    values, coordination = published(CRYSTALS[name])
    position = list(CRYSTALS).index(name)
    assert found.reasons[position] is None
    np.testing.assert_allclose(found.values[position], values, rtol=0, atol=1e-6)
    start = int(batch_of(list(CRYSTALS)).first_atom[position])
    assert found.coordination[start : start + len(coordination)].tolist() == coordination


@pytest.mark.skipif(not VAL.is_file(), reason="MP-20 is not on this machine")
def test_equal_to_matminer_on_real_and_perturbed_crystals() -> None:
    import csv
    import gzip

    from pymatgen.core import Structure

    with gzip.open(VAL, "rt", encoding="utf-8") as lines, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row for row, _ in zip(csv.DictReader(lines), range(400), strict=False)][::80]
        real = CrystalBatch.from_pymatgen([Structure.from_str(row["cif"], fmt="cif") for row in rows])
    noise = 0.02 * torch.randn(real.frac.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = CrystalBatch(frac=(real.frac + noise) % 1, cell=real.cell, species=real.species, num_atoms=real.num_atoms)
    both = CrystalBatch.concat([real, moved])
    ours = structure_fingerprints(both)
    for position, one in enumerate(both):
        np.testing.assert_allclose(ours.values[position], published(one)[0], rtol=0, atol=1e-6)


THORIUM = crystal(  # BaFe2As2: neighbours of one site that tie, at corners of a stretched cube
    [3.96, 3.96, 13.0],
    [[0, 0, 0], [0.5] * 3]
    + [[x, y, z] for x, y in ((0.5, 0), (0, 0.5)) for z in (0.25, 0.75)]
    + [[0, 0, 0.354], [0, 0, 0.646], [0.5, 0.5, 0.854], [0.5, 0.5, 0.146]],
    [56] * 2 + [26] * 4 + [33] * 4,
)


@pytest.mark.parametrize("base", [THORIUM, CRYSTALS["random 4"], CRYSTALS["rocksalt"]], ids=("ties", "random", "cubic"))
def test_the_same_crystal_told_in_another_way(base: CrystalBatch) -> None:
    rng = torch.Generator().manual_seed(1)
    order = torch.randperm(len(base.species), generator=rng)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))
    shift = torch.rand(3, generator=rng, dtype=torch.float64)

    def told(frac: torch.Tensor, cell: torch.Tensor, species: torch.Tensor) -> CrystalBatch:
        return CrystalBatch.from_crystals([(cell, frac, species)])

    cell = base.cell[0]
    versions = [
        base,
        told(base.frac[order], cell, base.species[order]),
        told(base.frac, cell @ turn, base.species),
        told(base.frac + shift, cell, base.species),
        niggli_reduce(base),
        supercell(base, [2, 1, 1]),
        supercell(base, [[1, 1, 0], [0, 1, 0], [0, -1, 1]]),
    ]
    values = structure_fingerprints(CrystalBatch.concat(versions)).values
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, np.tile(values[:1], (len(versions), 1)), atol=1e-6)


def test_disasters_are_records_and_the_others_have_fingerprints() -> None:
    good = CRYSTALS["rocksalt"]
    rng = np.random.default_rng(0)
    batch = CrystalBatch.concat(
        [
            good,
            crystal([4.0] * 3, [[0.1, 0, 0], [0.1, 0, 0], [0.5] * 3], [11, 17, 11]),
            crystal([4.0] * 3, [[np.nan, 0, 0]], [11]),
            crystal([4.0, np.inf, 4.0], [[0, 0, 0]], [11]),
            crystal([4.0, 4.0, 0.0], [[0, 0, 0]], [11]),
            crystal([4.0] * 3, [[0, 0, 0]], [0]),
            crystal([4.0] * 3, np.zeros((0, 3)), []),
            crystal([4.0] * 3, [[0, 0, 0], [0.5] * 3], [99, 17]),
            crystal([20.0] * 3, rng.random((500, 3)), rng.integers(1, 80, 500).tolist()),
            good,
        ]
    )
    calls: list[tuple[int, int]] = []
    found = structure_fingerprints(batch, progress=lambda done, total: calls.append((done, total)))
    assert found.reasons == (
        None,
        "site 0: atoms coincide",
        "coordinate is not finite",
        "cell is not finite",
        "volume is at most 0.1 Å³",
        "unknown element",
        "no atoms",
        "site 0: no covalent radius for Es",
        None,
        None,
    )
    missing = np.isnan(found.values).all(1)
    assert missing.tolist() == [reason is not None for reason in found.reasons]
    assert found.coordination[:8].tolist() == [6.0] * 8 and np.isnan(found.coordination[8:10]).all()
    assert np.isfinite(found.coordination[10])  # the site of the second crystal that does not coincide with another
    np.testing.assert_array_equal(found.values[0], found.values[-1])
    assert calls[-1] == (10, 10)


def test_single_precision_and_workers_give_the_same() -> None:
    batch = batch_of(["rocksalt", "perovskite", "random 4"])
    exact = structure_fingerprints(batch)
    single = structure_fingerprints(batch.to(torch.float32), workers=2)
    np.testing.assert_allclose(single.values, exact.values, atol=2e-3)
    assert single.values.dtype == np.float64


def test_an_empty_batch() -> None:
    found = structure_fingerprints(CrystalBatch.empty())
    assert found.values.shape == (0, 61) and found.coordination.shape == (0,) and found.reasons == ()
    assert composition_fingerprints(CrystalBatch.empty()).values.shape == (0, 132)


def test_a_crystal_that_takes_too_long_is_a_record_and_the_others_of_its_chunk_are_not() -> None:
    """A chunk that is late is asked for again one by one; the process here knows which crystal is slow."""
    batch = batch_of(["rocksalt", "chain", "perovskite"])
    prepared = fingerprints._Prepared.of(batch)
    asked = []

    class Slow:
        def ask(self, crystals: list[tuple[object, ...]], seconds: float) -> list[dict[str, object]]:
            asked.append(len(crystals))
            if any(len(species) == 1 for _, _, species, _ in crystals):  # type: ignore[arg-type]
                raise Unanswered(f"not decided within {seconds:g} s", late=True)
            return [{} for _ in crystals]

    first, second, third = fingerprints._ask(prepared, [0, 1, 2], 5.0, Slow())  # type: ignore[arg-type]
    assert asked == [3, 1, 1, 1]
    assert first == third == {} and str(second) == "not decided within 5 s"


def test_no_time_means_no_fingerprint() -> None:
    rng = np.random.default_rng(0)
    many = crystal([20.0] * 3, rng.random((500, 3)), rng.integers(1, 80, 500).tolist())
    found = structure_fingerprints(many, seconds_per_crystal=0.01)
    assert found.reasons == ("not decided within 0.01 s",)
    assert np.isnan(found.values).all() and np.isnan(found.coordination).all()


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="workers"):
        structure_fingerprints(CRYSTALS["chain"], workers=0)
    with pytest.raises(ConfigError, match="seconds_per_crystal"):
        structure_fingerprints(CRYSTALS["chain"], seconds_per_crystal=0)


def test_compositions_of_a_batch() -> None:
    pytest.importorskip("matminer", reason="the extra `evaluate` is not installed")
    batch = CrystalBatch.concat(
        [CRYSTALS["rocksalt"], crystal([4.0] * 3, [[0, 0, 0]], [0]), crystal([4.0] * 3, np.zeros((0, 3)), [])]
    )
    found = composition_fingerprints(batch)
    assert found.reasons == (None, "unknown element", "no atoms")
    assert np.isfinite(found.values[0]).all() and np.isnan(found.values[1:]).all()
    named = dict(zip(fingerprints.magpie_labels(), found.values[0], strict=True))
    assert named["MagpieData mean Number"] == 14
