"""The matcher against pymatgen's StructureMatcher, one pair at a time."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from euhedral.crystal.elements import SYMBOLS
from euhedral.evaluate.comparison import Tolerances
from euhedral.evaluate.matcher import distance
from euhedral.evaluate.niggli import niggli_matrix
from euhedral.evaluate.reduction import reduce_crystal, smaller_cell

Triple = tuple[np.ndarray, np.ndarray, list[int]]

CSP = Tolerances(stol=0.5, ltol=0.3, angle_tol=10.0)
STRICT = Tolerances()
DATA = Path(__file__).parents[2].parent / "shared" / "data"

CUBE = np.eye(3)
FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
HEXAGONAL = np.array([[1.0, 0.0, 0.0], [-0.5, math.sqrt(0.75), 0.0], [0.0, 0.0, 1.6]])
PROTOTYPES: dict[str, Triple] = {
    "CsCl": (4.1 * CUBE, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), [55, 17]),
    "rock salt": (5.6 * FCC, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), [11, 17]),
    "zinc blende": (5.4 * FCC, np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), [30, 16]),
    "perovskite": (
        3.9 * CUBE,
        np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
        [56, 22, 8, 8, 8],
    ),
    "wurtzite": (
        3.8 * HEXAGONAL,
        np.array([[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.37], [2 / 3, 1 / 3, 0.87]]),
        [30, 30, 16, 16],
    ),
    "low": (
        np.array([[5.1, 0, 0], [0.7, 6.3, 0], [-1.1, 0.9, 7.4]]),
        np.array(
            [[0.1, 0.2, 0.3], [0.6, 0.1, 0.8], [0.4, 0.7, 0.2], [0.9, 0.5, 0.6], [0.3, 0.9, 0.9], [0.7, 0.4, 0.1]]
        ),
        [3, 3, 15, 8, 8, 8],
    ),
    "one atom": (4.0 * FCC, np.zeros((1, 3)), [29]),
    "diamond": (3.57 * FCC, np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), [6, 6]),
    "graphite": (
        2.46 * np.array([[1.0, 0, 0], [-0.5, math.sqrt(0.75), 0], [0, 0, 2.73]]),
        np.array([[0, 0, 0.25], [1 / 3, 2 / 3, 0.25], [0, 0, 0.75], [2 / 3, 1 / 3, 0.75]]),
        [6, 6, 6, 6],
    ),
}


def varied(crystal: Triple, kind: str, rng: np.random.Generator) -> Triple:
    """A crystal changed in one way, then turned, mirrored, moved and permuted."""
    cell, frac, species = crystal[0].copy(), crystal[1].copy(), list(crystal[2])
    if kind == "perturbed":
        frac = frac + rng.normal(0, rng.uniform(0.02, 0.4), frac.shape) @ np.linalg.inv(cell)
    elif kind == "strained":
        cell = cell @ (np.eye(3) + rng.normal(0, 0.06, (3, 3)))
    elif kind == "scaled":
        cell = cell * rng.uniform(0.5, 2)
    elif kind == "supercell":
        times = np.array([[2, 0, 0], [1, 1, 0], [0, 1, 1]])
        offsets = np.array([[0, 0, 0], [1, 0, 0]])
        frac = ((frac[:, None] + offsets) @ np.linalg.inv(times)).reshape(-1, 3)
        cell, species = times @ cell, [z for z in species for _ in offsets]
        frac = frac + rng.normal(0, 0.03, frac.shape) @ np.linalg.inv(cell)
    elif kind == "random":
        frac = rng.random(frac.shape)
    elif kind == "swapped" and len(set(species)) > 1:
        first, second = sorted(set(species))[:2]
        species = [{first: second, second: first}.get(z, z) for z in species]
    elif kind == "other basis":
        skew = np.array([[1, 1, 0], [0, 1, 2], [0, 0, 1]])
        cell, frac = skew @ cell, frac @ np.linalg.inv(skew)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    if rng.random() < 0.5:
        turn[:, 0] *= -1
    order = rng.permutation(len(species))
    return cell @ turn, (frac[order] + rng.random(3)) % 1, [species[i] for i in order]


KINDS = ("same", "perturbed", "strained", "scaled", "supercell", "random", "swapped", "other basis")


def ours(first: Triple, second: Triple, tolerances: Tolerances) -> tuple[float | None, bool]:
    pair = reduce_crystal(*first), reduce_crystal(*second)
    return distance(*pair, tolerances, rms=True), distance(*pair, tolerances, rms=False) is not None


def theirs(first: Triple, second: Triple, tolerances: Tolerances) -> tuple[float | None, bool]:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = (Structure(cell, [SYMBOLS[z] for z in species], frac) for cell, frac, species in (first, second))
        matcher = StructureMatcher(stol=tolerances.stol, ltol=tolerances.ltol, angle_tol=tolerances.angle_tol)
        found = matcher.get_rms_dist(one, two)
        return None if found is None else float(found[0]), bool(matcher.fit(one, two))


def assert_close(rms: float | None, true_rms: float | None) -> None:
    """Equal to 1e-6; pymatgen ends its search at the first value below 1e-5, which need not be the least."""
    if rms is None or true_rms is None:
        assert rms == true_rms
    else:
        assert rms == pytest.approx(true_rms, abs=1e-5 if max(rms, true_rms) < 1e-5 else 1e-6)


@pytest.mark.parametrize("name", PROTOTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_verdict_and_rms_are_those_of_pymatgen(name: str, kind: str) -> None:
    rng = np.random.default_rng([list(PROTOTYPES).index(name), KINDS.index(kind)])
    for tolerances in (CSP, STRICT):
        for _ in range(2):
            first, second = varied(PROTOTYPES[name], kind, rng), PROTOTYPES[name]
            (rms, fit), (true_rms, true_fit) = ours(first, second, tolerances), theirs(first, second, tolerances)
            assert fit == true_fit
            assert (rms is None) == (true_rms is None)
            assert_close(rms, true_rms)


def test_prototypes_of_one_formula_differ_as_pymatgen_says() -> None:
    names = ("CsCl", "rock salt", "zinc blende", "wurtzite")
    crystals = [
        (PROTOTYPES[name][0], PROTOTYPES[name][1], [(30 if z in (55, 11, 30) else 16) for z in PROTOTYPES[name][2]])
        for name in names
    ]
    carbon = [PROTOTYPES["diamond"], PROTOTYPES["graphite"]]
    for group in (crystals, carbon):
        for i, first in enumerate(group):
            for k, second in enumerate(group):
                rms, fit = ours(first, second, CSP)
                assert (rms is not None, fit) == (
                    theirs(first, second, CSP)[0] is not None,
                    theirs(first, second, CSP)[1],
                )
                assert i != k or rms == pytest.approx(0, abs=1e-7)


def test_a_shift_has_its_analytic_rms_and_largest_displacement() -> None:
    cell, frac, species = PROTOTYPES["CsCl"]
    moved = frac + np.array([[0, 0, 0], [0.3 / 4.1, 0, 0]])
    pair = reduce_crystal(cell, moved, species), reduce_crystal(cell, frac, species)
    expected = 0.15 / (4.1**3 / 2) ** (1 / 3)
    assert distance(*pair, CSP, rms=True) == pytest.approx(expected, rel=1e-9)
    assert distance(*pair, CSP, rms=False) == pytest.approx(expected, rel=1e-9)


def test_copies_are_decided_without_a_search_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from euhedral.evaluate import matcher

    searches = []
    monkeypatch.setattr(matcher, "_mappings", lambda *arguments: searches.append(arguments) or iter(()))
    cell, frac, species = PROTOTYPES["perovskite"]
    crystal = reduce_crystal(cell, frac, species)
    copies = [(cell, frac, species), (1.3 * cell, (frac + 0.3) % 1, species)]  # a shift and a scale change nothing
    for copy in copies:
        for rms in (True, False):
            assert distance(crystal, reduce_crystal(*copy), STRICT, rms=rms) == pytest.approx(0, abs=1e-9)
    assert not searches
    moved = frac + np.array([[1e-3, 0, 0]] + [[0, 0, 0]] * (len(frac) - 1))
    strained = cell @ np.diag([1.001, 1, 1])
    for other in ((cell, moved, species), (strained, frac, species)):
        distance(crystal, reduce_crystal(*other), STRICT, rms=True)
    assert len(searches) == 2


def test_other_contents_never_match() -> None:
    assert ours(PROTOTYPES["CsCl"], PROTOTYPES["perovskite"], CSP) == (None, False)
    doubled = varied(PROTOTYPES["low"], "supercell", np.random.default_rng(0))
    broken = (doubled[0], doubled[1], [*doubled[2][:-1], 9])
    assert ours(broken, PROTOTYPES["low"], CSP) == (None, False)


def test_a_supercell_is_reduced_to_its_primitive_cell() -> None:
    for kind in ("supercell", "other basis"):
        crystal = varied(PROTOTYPES["perovskite"], kind, np.random.default_rng(3))
        reduced = reduce_crystal(*crystal)
        assert reduced.content == ((22, 1), (56, 1), (8, 3))
        assert reduced.volume == pytest.approx(3.9**3)
    cell, frac, species = PROTOTYPES["perovskite"]
    assert smaller_cell(cell, frac, np.array(species)) is None


@pytest.mark.parametrize("shape", [CUBE, FCC, HEXAGONAL, PROTOTYPES["low"][0], 0.1 * FCC, np.diag([3.0, 3.0, 11.0])])
def test_the_niggli_basis_is_the_one_that_pymatgen_chooses_to_the_last_bit(shape: np.ndarray) -> None:
    from pymatgen.core import Lattice

    rng = np.random.default_rng(5)
    for strain in (0, 0, 1e-7, 0.05):
        skew = np.eye(3)
        skew[np.triu_indices(3, 1)] = rng.integers(-2, 3, 3)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        cell = skew @ (4 * shape) @ turn @ (np.eye(3) + strain * rng.normal(size=(3, 3)))
        assert np.array_equal(niggli_matrix(cell), Lattice(cell).get_niggli_reduced_lattice().matrix)


@pytest.mark.parametrize("name", ["rock salt", "wurtzite", "graphite", "low"])
@pytest.mark.parametrize("times", [[2, 1, 1], [2, 2, 1], [3, 1, 2]])
@pytest.mark.parametrize("sigma", [0.0, 0.08, 0.2])
def test_the_primitive_cell_is_the_one_of_pymatgen_to_the_last_bit(name: str, times: list[int], sigma: float) -> None:
    from pymatgen.core import Structure

    cell, frac, species = PROTOTYPES[name]
    offsets = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), axis=-1).reshape(-1, 3)
    large = np.diag(times) @ cell
    rng = np.random.default_rng(len(offsets))
    frac = ((frac[:, None] + offsets) / times).reshape(-1, 3)
    frac = (frac + rng.normal(0, sigma, frac.shape) @ np.linalg.inv(large)) % 1
    numbers = np.repeat(species, len(offsets)).tolist()
    crystals = [(large, frac, numbers)]
    if sigma == 0.08:  # an atom in a place of its own: a smaller cell may have all other atoms, but not this one
        crystals.append((large, (frac + 0.31 * np.eye(len(frac))[:, :1]) % 1, numbers))
    for crystal in crystals:
        structure = Structure(crystal[0], [SYMBOLS[z] for z in numbers], crystal[1])
        expected = structure.get_reduced_structure().get_primitive_structure()
        reduced = reduce_crystal(*crystal).to_pymatgen()
        assert np.array_equal(reduced.lattice.matrix, expected.lattice.matrix)
        assert np.array_equal(reduced.frac_coords, expected.frac_coords)
        assert reduced.atomic_numbers == expected.atomic_numbers


def test_where_the_finer_lattices_are_too_many_pymatgen_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    from euhedral.evaluate import reduction

    asked = []
    found = (5.0 * CUBE, np.zeros((1, 3)), np.array([6]))
    monkeypatch.setattr(reduction, "_primitive_by_pymatgen", lambda *crystal: asked.append(crystal) or found)
    frac = np.random.default_rng(2).random((26, 3))
    assert len(reduce_crystal(12 * CUBE, frac, [6] * 26).frac) == 1
    assert len(reduce_crystal(12 * CUBE, frac[:24], [6] * 24).frac) == 24
    assert len(asked) == 1


TIED_CELL = np.array([[3.9, 0.0, 0.0], [0.0, 6.1, 0.0], [0.0, -1.7, 8.3]])
TIED = [  # atoms on the planes x = 0 and x = a/2, which change places between the two crystals
    [
        [[0.5, 0.81, 0.26], [0, 0.95, 0.61], [0.5, 0.91, 0.98], [0.5, 0.81, 0.08]],
        [[0, 0.82, 0.41], [0.5, 0.12, 0.81], [0.5, 0.25, 0.78], [0.5, 0.54, 0.74]],
    ],
    [
        [[0.5, 0.74, 0.28], [0.5, 0.96, 0.59], [0, 0.89, 0.03], [0, 0.8, 0.02]],
        [[0, 0.75, 0.38], [0, 0.16, 0.82], [0.5, 0.26, 0.75], [0, 0.61, 0.74]],
    ],
]


def test_where_rounding_decides_in_pymatgen_the_verdict_is_the_one_it_comes_to() -> None:
    first, second = (np.array(halves).reshape(8, 3) for halves in TIED)
    species, rng = [21, 21, 16, 16, 16, 16, 16, 16], np.random.default_rng(13)
    verdicts = set()
    for _ in range(12):
        pair = (TIED_CELL, (first + rng.random(3)) % 1, species), (TIED_CELL, second, species)
        (rms, fit), (true_rms, true_fit) = ours(*pair, CSP), theirs(*pair, CSP)
        assert (rms is None, fit) == (true_rms is None, true_fit)
        assert_close(rms, true_rms)
        verdicts.add(true_fit)
    assert verdicts == {True, False}  # of one pair of crystals, whose origin alone was moved


@pytest.mark.parametrize("turned_around", [False, True])
def test_the_pair_of_real_crystals_that_rounding_decides(turned_around: bool) -> None:
    path = DATA / "mp_20" / "train.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    import csv
    import gzip

    from pymatgen.core import Structure

    with gzip.open(path, "rt") as lines:
        found = [
            Structure.from_str(r["cif"], fmt="cif") for r in csv.DictReader(lines) if r["pretty_formula"] == "Er3ScS6"
        ]
    crystals = [(s.lattice.matrix.copy(), s.frac_coords, list(s.atomic_numbers)) for s in found]
    assert len(crystals) == 2
    first, second = crystals[::-1] if turned_around else crystals
    rng = np.random.default_rng(0)
    values = set()
    for shift in [np.zeros(3), *rng.random((8, 3))]:
        moved = (first[0], (first[1] + shift) % 1, first[2])
        rms, true_rms = ours(moved, second, CSP)[0], theirs(moved, second, CSP)[0]
        assert_close(rms, true_rms)
        values.add(None if true_rms is None else round(true_rms, 3))
    assert len(values) > 1  # pymatgen's rms depends on the origin


def test_atoms_on_top_of_each_other_are_compared_as_pymatgen_does() -> None:
    cell = 4.0 * CUBE
    coincident = (cell, np.zeros((2, 3)), [3, 3])
    apart = (cell, np.array([[0, 0, 0], [0.5, 0.5, 0.4]]), [3, 3])
    for pair in ((coincident, coincident), (coincident, apart), (apart, coincident)):
        rms, fit = ours(*pair, CSP)
        true_rms, true_fit = theirs(*pair, CSP)
        assert (rms is None, fit) == (true_rms is None, true_fit)


def test_real_crystals_agree_with_pymatgen() -> None:
    path = DATA / "mp_20" / "val.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    import csv
    import gzip

    from pymatgen.core import Structure

    rng = np.random.default_rng(0)
    with gzip.open(path, "rt") as lines:
        for number, row in zip(range(25), csv.DictReader(lines), strict=False):
            structure = Structure.from_str(row["cif"], fmt="cif")
            crystal = (structure.lattice.matrix.copy(), structure.frac_coords, list(structure.atomic_numbers))
            other = varied(crystal, KINDS[number % len(KINDS)], rng)
            (rms, fit), (true_rms, true_fit) = ours(other, crystal, CSP), theirs(other, crystal, CSP)
            assert (rms is None, fit) == (true_rms is None, true_fit), number
            assert_close(rms, true_rms)
