from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from euhedral.errors import ConfigError
from euhedral.evaluate.composition_scaler import COMPOSITION_MEANS, COMPOSITION_STDS
from euhedral.evaluate.coverage import (
    COVERAGE_CUTOFFS,
    NO_FINGERPRINT,
    Coverage,
    CoverageCutoffs,
    coverage,
    coverage_cutoffs,
    standardize_compositions,
)

CUTOFFS = COVERAGE_CUTOFFS["mp_20"]


def fingerprints(crystals: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    structures = rng.random((crystals, 61)) * 0.12
    compositions = np.array(COMPOSITION_MEANS) + rng.standard_normal((crystals, 132)) * np.array(COMPOSITION_STDS) * 0.7
    return structures, compositions


def published(samples: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """The definition, written out with full distance matrices; samples with NaN are filtered but counted."""
    kept = ~np.isnan(samples[0]).any(1)
    scaled = [np.nan_to_num((c - COMPOSITION_MEANS) / np.array(COMPOSITION_STDS)) for c in (samples[1], reference[1])]
    structure, composition = cdist(samples[0][kept], reference[0]), cdist(scaled[0][kept], scaled[1])
    recalled = (structure.min(0) <= CUTOFFS.structure) & (composition.min(0) <= CUTOFFS.composition)
    precise = (structure.min(1) <= CUTOFFS.structure) & (composition.min(1) <= CUTOFFS.composition)
    return {
        "recall": recalled.mean(),
        "precision": precise.sum() / len(kept),
        "amsd_recall": structure.min(0).mean(),
        "amsd_precision": structure.min(1).mean(),
        "amcd_recall": composition.min(0).mean(),
        "amcd_precision": composition.min(1).mean(),
    }


def figures(found: Coverage) -> dict[str, float]:
    return {
        "recall": found.recall,
        "precision": found.precision,
        "amsd_recall": found.amsd_recall,
        "amsd_precision": found.amsd_precision,
        "amcd_recall": found.reference.mean_composition_distance,
        "amcd_precision": found.samples.mean_composition_distance,
    }


def test_a_set_covers_itself_at_distance_zero() -> None:
    structures, compositions = fingerprints(50)
    found = coverage(structures, compositions, structures, compositions, cutoffs=CUTOFFS)
    assert (found.recall, found.precision, found.amsd_recall, found.amsd_precision) == (1.0, 1.0, 0.0, 0.0)
    assert found.samples.mean_composition_distance == 0.0
    assert found.samples.reasons == (None,) * 50


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_equal_to_the_definition_with_any_block(seed: int, samples: int, references: int, block: int) -> None:
    ours, theirs = fingerprints(samples, seed), fingerprints(references, seed + 1)
    found = coverage(*ours, *theirs, cutoffs=CUTOFFS, block=block)
    assert figures(found) == pytest.approx(published(ours, theirs), abs=1e-6)
    assert len(found.samples.covered) == samples and len(found.reference.covered) == references


def test_failed_samples_stay_in_the_denominator_of_precision_only() -> None:
    ours, theirs = fingerprints(20), fingerprints(30, 1)
    ours[0][3:8] = math.nan
    reasons = [None] * 20
    reasons[4] = "not decided within 30 s"
    found = coverage(*ours, *theirs, cutoffs=CUTOFFS, reasons=reasons)
    assert figures(found) == pytest.approx(published(ours, theirs), abs=1e-6)
    assert found.samples.reasons[3] == NO_FINGERPRINT and found.samples.reasons[4] == "not decided within 30 s"
    assert not found.samples.covered[3:8].any() and np.isnan(found.samples.structure_distance[3:8]).all()
    assert found.precision <= 0.75


def test_a_failed_reference_is_not_covered_and_counts() -> None:
    structures, compositions = fingerprints(10)
    broken = compositions.copy()
    broken[2] = math.nan
    found = coverage(structures, compositions, structures, broken, cutoffs=CUTOFFS)
    assert found.recall == 0.9 and found.reference.reasons[2] == NO_FINGERPRINT
    assert found.amsd_recall == 0.0


def test_both_nearest_distances_are_taken_apart() -> None:
    structures = np.zeros((2, 61))
    structures[1, 0] = 5.0
    far = np.array(COMPOSITION_MEANS) + 10 * np.array(COMPOSITION_STDS)
    compositions = np.stack([far, np.array(COMPOSITION_MEANS)])
    reference = np.zeros((1, 61)), np.array(COMPOSITION_MEANS)[None]
    found = coverage(structures, compositions, *reference, cutoffs=CUTOFFS)
    assert found.recall == 1.0  # the structure of one sample and the composition of the other
    assert found.precision == 0.0
    assert found.samples.structure_distance.tolist() == [0.0, 5.0]
    assert found.samples.composition_distance == pytest.approx([10 * math.sqrt(132), 0.0])


def test_the_cutoff_itself_is_within() -> None:
    compositions = np.array(COMPOSITION_MEANS)[None]
    one, other = np.zeros((1, 61)), np.zeros((1, 61))
    other[0, 0] = 0.4
    assert coverage(one, compositions, other, compositions, cutoffs=CUTOFFS).recall == 1.0
    other[0, 0] = np.nextafter(0.4, 1)
    assert coverage(one, compositions, other, compositions, cutoffs=CUTOFFS).recall == 0.0


def test_the_order_of_crystals_does_not_matter() -> None:
    ours, theirs = fingerprints(30), fingerprints(20, 1)
    order = np.random.default_rng(0).permutation(30)
    first = coverage(*ours, *theirs, cutoffs=CUTOFFS)
    second = coverage(ours[0][order], ours[1][order], *theirs, cutoffs=CUTOFFS)
    assert figures(first) == pytest.approx(figures(second), abs=1e-12)
    assert second.samples.structure_distance == pytest.approx(first.samples.structure_distance[order], abs=1e-12)


def test_empty_sets() -> None:
    full, empty = fingerprints(3), (np.zeros((0, 61)), np.zeros((0, 132)))
    nothing = coverage(*empty, *full, cutoffs=CUTOFFS)
    assert nothing.recall == 0.0 and math.isnan(nothing.precision) and math.isnan(nothing.amsd_recall)
    assert math.isnan(coverage(*full, *empty, cutoffs=CUTOFFS).recall)
    lost = full[0] * math.nan, full[1]
    assert coverage(*lost, *full, cutoffs=CUTOFFS).precision == 0.0


def test_unknown_magpie_features_count_as_their_mean() -> None:
    compositions = np.array([COMPOSITION_MEANS])
    compositions[0, 5] = math.nan
    assert (standardize_compositions(compositions) == 0).all()
    with pytest.raises(ConfigError, match="132"):
        standardize_compositions(np.zeros((2, 131)))
    with pytest.raises(ConfigError, match="132"):
        standardize_compositions(np.zeros(132))


def test_the_published_table_has_132_positive_spreads() -> None:
    assert len(COMPOSITION_MEANS) == len(COMPOSITION_STDS) == 132
    assert min(COMPOSITION_STDS) > 0
    assert coverage_cutoffs("perov_5") == CoverageCutoffs(structure=0.2, composition=4.0)


def test_what_does_not_fit_is_refused() -> None:
    structures, compositions = fingerprints(3)
    with pytest.raises(ConfigError, match="no published cutoffs"):
        coverage_cutoffs("alexandria")
    with pytest.raises(ConfigError, match="positive"):
        CoverageCutoffs(structure=0.0, composition=1.0)
    with pytest.raises(ConfigError, match="samples: expected"):
        coverage(structures[:2], compositions, structures, compositions, cutoffs=CUTOFFS)
    with pytest.raises(ConfigError, match="reference: expected"):
        coverage(structures, compositions, structures, compositions, cutoffs=CUTOFFS, reference_reasons=[None])
    with pytest.raises(ConfigError, match="61 features in the samples and 60"):
        coverage(structures, compositions, structures[:, :60], compositions, cutoffs=CUTOFFS)
    with pytest.raises(ConfigError, match="block"):
        coverage(structures, compositions, structures, compositions, cutoffs=CUTOFFS, block=0)
