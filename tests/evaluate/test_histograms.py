from __future__ import annotations

import numpy as np
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.evaluate.histograms import categories, histogram, simple_distributions


def test_bins_span_the_reference_and_keep_what_lies_beyond() -> None:
    found = histogram("x", "X", np.array([-100.0, 0.5, 100.0, np.nan]), np.array([0.0, 1.0, 2.0, 3.0, 4.0]), bins=4)
    assert sum(found.samples) == 3 and found.samples[0] == 2 and found.samples[-1] == 1
    assert found.reference is not None and sum(found.reference) == 5
    assert len(found.edges) == 5 and found.edges[0] < 0.1 and found.edges[-1] > 3.9


def test_without_a_reference_and_with_equal_or_no_values() -> None:
    equal = histogram("x", "X", np.array([2.0, 2.0]), None, bins=2)
    assert equal.edges == (1.5, 2.0, 2.5) and sum(equal.samples) == 2 and equal.reference is None
    nothing = histogram("x", "X", np.array([np.nan]), np.array([]), bins=2)
    assert nothing.samples == (0, 0) and nothing.reference == (0, 0)


def test_categories_are_those_of_both_sets_in_order() -> None:
    found = categories("x", "X", [3, 1, 3], [2])
    assert found.labels == ("1", "2", "3") and found.samples == (1, 0, 2) and found.reference == (0, 1, 0)


def test_an_element_counts_once_a_crystal() -> None:
    cell = 4 * torch.eye(3, dtype=torch.float64)
    frac = torch.rand(3, 3, dtype=torch.float64)
    batch = CrystalBatch.from_crystals([(cell, frac, torch.tensor([8, 8, 22])), (cell, frac[:1], torch.tensor([8]))])
    found = {item.name: item for item in simple_distributions(batch, None)}
    assert found["elements"].labels == ("O", "Ti") and found["elements"].samples == (2, 1)
    assert found["num_elements"].labels == ("1", "2") and found["num_atoms"].labels == ("1", "3")
    assert sum(found["density"].samples) == 2
