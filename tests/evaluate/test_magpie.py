from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from euhedral.errors import ConfigError
from euhedral.evaluate import magpie
from euhedral.evaluate.magpie import PROPERTIES, STATISTICS, magpie_fingerprint, magpie_labels, magpie_table

pytest.importorskip("matminer", reason="the extra `evaluate` is not installed")


def test_statistics_of_a_salt_by_hand() -> None:
    named = dict(zip(magpie_labels(), magpie_fingerprint(((11, 1), (17, 1))), strict=True))
    assert len(named) == len(PROPERTIES) * len(STATISTICS) == 132
    assert [named[f"MagpieData {statistic} Number"] for statistic in STATISTICS] == [11, 17, 6, 14, 3, 11]


def test_only_the_ratio_counts() -> None:
    np.testing.assert_allclose(magpie_fingerprint(((8, 3), (22, 1))), magpie_fingerprint(((8, 12), (22, 4))))


def test_no_element_is_without_a_value() -> None:
    table = magpie_table()
    assert table.shape == (22, 119)
    assert np.isfinite(table[:, 1:]).all() and np.isnan(table[:, 0]).all()


def test_equal_to_matminer() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matminer.featurizers.composition import ElementProperty
        from pymatgen.core import Composition

        featurizer = ElementProperty.from_preset("magpie")
        assert featurizer.feature_labels() == list(magpie_labels())
        rng = np.random.default_rng(0)
        compositions = [((number, 1),) for number in (1, 2, 6, 26, 54, 86, 94, 103)]
        for elements in (2, 3, 4, 7):
            for _ in range(8):
                numbers = sorted(rng.choice(np.arange(1, 104), elements, replace=False).tolist())
                compositions.append(tuple((number, int(rng.integers(1, 13))) for number in numbers))
        for counts in compositions:
            expected = featurizer.featurize(Composition({f"{_symbol(z)}": n for z, n in counts}))
            np.testing.assert_allclose(magpie_fingerprint(counts), expected, rtol=0, atol=1e-6)


def _symbol(number: int) -> str:
    from euhedral.crystal.elements import SYMBOLS

    return SYMBOLS[number]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    magpie.magpie_table.cache_clear()
    with pytest.raises(ConfigError, match=r"euhedral\[evaluate\]"):
        magpie_table()
