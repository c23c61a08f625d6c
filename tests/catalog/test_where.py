from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.batches import add, crystals
from euhedral.catalog.database import Catalogue
from euhedral.catalog.where import DEEPEST, LONGEST, named_columns, where_clause
from euhedral.errors import RequestError
from euhedral.screen.stage import Column, StageRecord

Values = dict[str, Any]
ROWS: list[Values] = [
    {"e": 0.0, "n": 1, "stable": True, "word": "a"},
    {"e": 0.05, "n": 2, "stable": False, "word": "O'Hara"},
    {"e": 0.1, "n": 3, "stable": True, "word": 'say "b"'},
    {"e": -1.5, "n": 2**40, "word": "a\\b"},
    {"n": -3, "stable": False, "word": ""},
    {"e": 2.0, "word": "and or not"},
    {},
]


@pytest.fixture
def find(target: str) -> Iterator[Callable[[str], list[int]]]:
    """Indices of the rows that a filter keeps."""
    with Catalogue(target) as catalogue:
        run = add(catalogue, crystals(len(ROWS)))
        records = [StageRecord(index=i, outcome="passed", values=row) for i, row in enumerate(ROWS)]
        catalogue.record(run, "stage", 1, records)
        yield lambda where: catalogue.table(run, where, columns=["index"]).column("index").to_pylist()


CASES = {
    "e < 0.1": [0, 1, 3],
    "e <= 0.1": [0, 1, 2, 3],
    "0.1 > e": [0, 1, 3],
    "-1.5 = e": [3],
    "e == 5e-2": [1],
    "e != 0": [1, 2, 3, 5],
    "e>-2 and e<.06": [0, 1, 3],
    "n > 1.5 and n < 2.5": [1],
    "n = 1099511627776": [3],
    "n in (1, 2.5, -3)": [0, 4],
    "e in (2, 0.05)": [1, 5],
    "n not in (1, 2)": [2, 3, 4],
    "not n in (1, 2)": [2, 3, 4],
    "e < n": [0, 1, 2, 3],
    "stable": [0, 2],
    "not stable": [1, 4],
    "stable = false": [1, 4],
    "stable != true": [1, 4],
    "stable in (true)": [0, 2],
    "word = 'a'": [0],
    'word = "O\'Hara"': [1],
    "word = 'O\\'Hara'": [1],
    "word = 'say \"b\"'": [2],
    "word = 'a\\\\b'": [3],
    "word in ('and or not', '')": [4, 5],
    "word < 'b' and word != ''": [0, 1, 3, 5],
    "e = none": [4, 6],
    "e != null and stable = none": [3, 5],
    "e < 0 or e > 1 and n = none": [3, 5],
    "(e < 0 or e > 1) and n = none": [5],
    "not (e < 0.1)": [2, 5],
    "not not stable": [0, 2],
    "NOT stable AND e > 0": [1],
    "formula = 'NaCl'": [0, 5],
    "num_atoms in (1)": [3],
    "chemical_system in ('Na-Cl', 'Cl-Na') and index < 3": [0],
    "stage_outcome = 'passed' and index >= 5": [5, 6],
}


def test_filters(find: Callable[[str], list[int]]) -> None:
    assert {text: find(text) for text in CASES} == CASES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the filter is empty"),
        ("   ", "the filter is empty"),
        ("e", "ends too early: expected one of <"),
        ("e <", "ends too early: expected a column or a value"),
        ("e < 0.1 and", "ends too early"),
        ("e < 0.1 e", r"at character 9 \('e'\): expected and, or, or the end"),
        ("(e < 0.1", r"expected \)"),
        ("e < 0.1)", "at character 8"),
        ("e < 'low'", "column 'e' is a number, so it cannot be compared with 'low'"),
        ("word = 3", "column 'word' is text.*quotes"),
        ("word = NaCl", "texts stand in quotes"),
        ("stable > true", "have no size"),
        ("stable = 1", "column 'stable' is true or false"),
        ("e < none", "has no size"),
        ("e in (1, none)", "none cannot stand in a list; write: e = none"),
        ("e in 1", r"expected \("),
        ("e in ()", "expected a column or a value"),
        ("e not 1", "expected in"),
        ("e < word", "they cannot be compared"),
        ("ee < 1", r"no column 'ee' \(texts stand in quotes\); did you mean"),
        ("hull_distance < 1", r"no column 'hull_distance' \(.*\); there are: run, index"),
        ("e < 1; drop table runs", "at character 6: '; drop"),
        ("__import__('os')", "no column '__import__'"),
        ("1 < 2", "expected the name of a column"),
        ("e < 1x", "cannot be read at character 5"),
        ("word = 'open", "cannot be read at character 8"),
        ("(" * (DEEPEST + 1) + "e < 1", f"more than {DEEPEST}"),
        ("not " * (DEEPEST + 1) + "stable", f"more than {DEEPEST}"),
        ("e < 1 or " * LONGEST, f"at most {LONGEST}"),
    ],
)
def test_what_is_no_filter(text: str, said: str, one_run: Catalogue) -> None:
    with pytest.raises(RequestError, match=said):
        one_run.table(1, text)


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    with Catalogue(tmp_path_factory.mktemp("where")) as catalogue:
        run = add(catalogue, crystals(len(ROWS)))
        records = [StageRecord(index=i, outcome="passed", values=row) for i, row in enumerate(ROWS)]
        catalogue.record(run, "stage", 1, records)
        yield catalogue


@pytest.mark.parametrize(
    "text",
    [
        "later",
        "not later",
        "later = true",
        "not later < 3",
        "later = 'a'",
        "later in (true, 1)",
        "later = word",
        "e < later",
    ],
)
def test_a_column_that_nobody_has_given_a_value_fulfils_nothing(text: str, target: str) -> None:
    with Catalogue(target) as catalogue:
        run = add(catalogue, crystals(2))
        catalogue.add_stage(run, stage="stage", version=1, columns={"later": Column(meaning="not measured yet")})
        catalogue.record(
            run, "stage", 1, [StageRecord(index=0, outcome="passed", values={"e": 1.0, "word": "a", "later": None})]
        )
        assert catalogue.table(run, f"{text} or e > 0", columns=["index"]).column("index").to_pylist() == [0]
        assert catalogue.table(run, text).num_rows == 0
        assert catalogue.table(run, "later = none").num_rows == 2


def test_values_are_bound_and_never_part_of_the_statement(one_run: Catalogue) -> None:
    assert one_run.table(1, "word = '\\' OR 1=1 --'").num_rows == 0
    assert one_run.table(1, "formula in ('x\\'); DROP TABLE runs; --')").num_rows == 0
    assert len(one_run.runs()) == 1


def test_named_columns() -> None:
    assert named_columns("a < 1 and (b in (2) or not a = none) and 'c' != d") == ["a", "b", "d"]
    with pytest.raises(RequestError):
        where_clause("a < 1", {})


SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne}
Truth = Callable[[Values], bool | None]


def _compare(name: str, sign: str, value: float) -> tuple[str, Truth]:
    def truth(row: Values) -> bool | None:
        return None if row.get(name) is None else SIGNS[sign](row[name], value)

    return f"{name} {sign} {value!r}", truth


def _negate(part: tuple[str, Truth]) -> tuple[str, Truth]:
    def truth(row: Values) -> bool | None:
        found = part[1](row)
        return None if found is None else not found

    return f"not ({part[0]})", truth


def _join(word: str, left: tuple[str, Truth], right: tuple[str, Truth]) -> tuple[str, Truth]:
    def truth(row: Values) -> bool | None:
        # Kleene's logic of three values.
        found, decisive = {left[1](row), right[1](row)}, word == "or"
        return decisive if decisive in found else None if None in found else not decisive

    return f"({left[0]}) {word} ({right[0]})", truth


_LEAVES = st.builds(
    _compare,
    st.sampled_from(["e", "n"]),
    st.sampled_from(sorted(SIGNS)),
    st.one_of(st.sampled_from([0.0, 0.05, 0.1, 1, 2, 3, -3]), st.floats(-1e6, 1e6), st.integers(-5, 5)),
)
FILTERS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.builds(_negate, inner), st.builds(_join, st.sampled_from(["and", "or"]), inner, inner)),
    max_leaves=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=FILTERS)
def test_filters_mean_what_three_valued_logic_means(one_run: Catalogue, made: tuple[str, Truth]) -> None:
    text, truth = made
    expected = [i for i, row in enumerate(ROWS) if truth(row)]
    assert one_run.table(1, text, columns=["index"]).column("index").to_pylist() == expected


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.sampled_from([*"en1.<>=!()',\" \\", "and ", "or ", "not ", "in ", "none", "stable "]), max_size=30
    )
)
def test_any_text_is_a_filter_or_a_request_error(one_run: Catalogue, parts: list[str]) -> None:
    try:
        one_run.table(1, "".join(parts), columns=["index"])
    except RequestError as error:
        assert str(error)
