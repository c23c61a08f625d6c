"""The language of `--where`: comparisons of columns with values, read by a parser of its own and never evaluated as code.

    filter     = both {"or" both}
    both       = one {"and" one}
    one        = "not" one | "(" filter ")" | comparison
    comparison = column ("<" | "<=" | ">" | ">=" | "=" | "==" | "!=") (value | column)
               | value (the same signs) column
               | column ["not"] "in" "(" value {"," value} ")"
               | column                                          where the column is true or false
    value      = number | 'text' | "text" | true | false | none

What is not known fulfils no comparison and no negation of one; `band_gap = none` and `band_gap != none` ask whether it
is known.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias

from euhedral.errors import RequestError

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

LONGEST = 10_000
"""Characters of a filter at most."""
DEEPEST = 100
"""Brackets and negations within each other at most."""
Literal: TypeAlias = float | int | str | bool | None

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![A-Za-z_0-9.]))
    |(?P<word>[A-Za-z_][A-Za-z_0-9]*)
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<sign><=|>=|!=|==|=|<|>|\(|\)|,))""",
    re.VERBOSE | re.DOTALL,
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CONSTANTS: dict[str, Literal] = {"true": True, "false": False, "none": None, "null": None}
_KEYWORDS = frozenset({"and", "or", "not", "in", *_CONSTANTS})


@dataclass(frozen=True, kw_only=True)
class FilterColumn:
    """A column that a filter may name.

    Attributes:
        kind: 'number', 'integer', 'text', 'bool', or 'unknown' where no crystal has a value, so that it fulfils nothing.
        element: what stands for it in SQL.
    """

    kind: str
    element: ColumnElement


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


def where_clause(text: str, columns: Mapping[str, FilterColumn]) -> ColumnElement:
    """The SQL condition of a filter; all values are bound, never put into the statement.

    Raises:
        RequestError: on anything that is no filter, with the place, and on an unknown column, with the nearest names.
    """
    return _Parser(text, columns).parse()


def named_columns(text: str) -> list[str]:
    """The columns that a filter names, without judging it otherwise. Raises RequestError where it cannot be split."""
    words = [t.text for t in _tokens(text) if t.kind == "word" and t.text.lower() not in _KEYWORDS]
    return list(dict.fromkeys(words))


def unknown_column(name: str, known: Sequence[str], *, in_filter: bool = False) -> RequestError:
    """The error that names the columns nearest to one that is not there; in a filter it may have been meant as a text."""
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    remark = " (texts stand in quotes)" if in_filter else ""
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    return RequestError(f"there is no column '{name}'{remark}; {hint}")


def _tokens(text: str) -> list[_Token]:
    if len(text) > LONGEST:
        raise RequestError(f"the filter has {len(text)} characters; at most {LONGEST} are read")
    tokens, place, end = [], 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise RequestError(f"the filter cannot be read at character {start + 1}: {text[start : start + 20]!r}")
        kind = str(match.lastgroup)
        tokens.append(_Token(kind, match[kind], match.start(kind)))
        place = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str, columns: Mapping[str, FilterColumn]) -> None:
        self._text = text
        self._columns = columns
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> ColumnElement:
        if not self._tokens:
            raise RequestError("the filter is empty; expected e.g. \"e_above_hull < 0.1 and formula = 'NaCl'\"")
        found = self._either()
        if self._next < len(self._tokens):
            raise self._error("expected and, or, or the end")
        return found

    def _either(self) -> ColumnElement:
        from sqlalchemy import or_

        parts = [self._both()]
        while self._accept("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else or_(*parts)

    def _both(self) -> ColumnElement:
        from sqlalchemy import and_

        parts = [self._one()]
        while self._accept("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else and_(*parts)

    def _one(self) -> ColumnElement:
        from sqlalchemy import not_

        self._depth += 1
        if self._depth > DEEPEST:
            raise RequestError(f"the filter has more than {DEEPEST} brackets or negations within each other")
        if self._accept("not"):
            found = not_(self._one())
        elif self._accept("("):
            found = self._either()
            self._expect(")")
        else:
            found = self._comparison()
        self._depth -= 1
        return found

    def _comparison(self) -> ColumnElement:
        if self._is_column():
            name, column = self._column()
            if self._accept("not"):
                self._expect("in")
                return ~self._within(name, column)
            if self._accept("in"):
                return self._within(name, column)
            sign = self._sign(required=column.kind not in ("bool", "unknown"))
            if sign is None and column.kind == "unknown":
                return _open(column)
            if sign is None:
                return operator.eq(column.element, _bound(True))  # IS TRUE would be false of the unknown, not unknown
            if self._is_column():
                other, second = self._column()
                if "unknown" in (column.kind, second.kind):
                    return _open(column if column.kind == "unknown" else second)
                self._check_pair(name, column, other, second)
                return _COMPARE[sign](column.element, second.element)
            return self._compared(name, column, sign, self._value())
        value = self._value()
        sign = self._sign(required=True)
        if not self._is_column():
            raise self._error("expected the name of a column")
        name, column = self._column()
        return self._compared(name, column, _MIRRORED.get(str(sign), str(sign)), value)

    def _compared(self, name: str, column: FilterColumn, sign: str, value: Literal) -> ColumnElement:
        if value is None:
            if sign in _MIRRORED:
                raise RequestError(f"{name} {sign} none: what is not known has no size; use = or !=")
            return column.element.is_not(None) if sign == "!=" else column.element.is_(None)
        if column.kind == "unknown":
            return _open(column)
        self._check_kind(name, column, value)
        if isinstance(value, bool):
            if sign in _MIRRORED:
                raise RequestError(f"{name} {sign} {str(value).lower()}: true and false have no size; use = or !=")
            return operator.eq(column.element, _bound(value if sign != "!=" else not value))
        return _COMPARE[sign](column.element, _bound(value))

    def _within(self, name: str, column: FilterColumn) -> ColumnElement:
        self._expect("(")
        values: list[Any] = [self._value()]
        while self._accept(","):
            values.append(self._value())
        self._expect(")")
        for value in values:
            if value is None:
                raise RequestError(f"none cannot stand in a list; write: {name} = none")
            if column.kind != "unknown":
                self._check_kind(name, column, value)
        if column.kind == "unknown":
            return _open(column)
        if _family(column.kind) == "a number":
            values = [float(value) for value in values] if float in map(type, values) else values
        return column.element.in_([_bound(value) for value in values])

    def _check_kind(self, name: str, column: FilterColumn, value: Literal) -> None:
        expected = _family(column.kind)
        given = "text" if isinstance(value, str) else "true or false" if isinstance(value, bool) else "a number"
        if given != expected:
            hint = " (texts stand in quotes)" if expected == "text" else ""
            raise RequestError(f"column '{name}' is {expected}, so it cannot be compared with {value!r}{hint}")

    def _check_pair(self, name: str, column: FilterColumn, other: str, second: FilterColumn) -> None:
        if _family(column.kind) != _family(second.kind):
            raise RequestError(
                f"column '{name}' is {_family(column.kind)} and '{other}' is {_family(second.kind)}: they cannot be compared"
            )

    def _is_column(self) -> bool:
        token = self._peek()
        return token is not None and token.kind == "word" and token.text.lower() not in _KEYWORDS

    def _column(self) -> tuple[str, FilterColumn]:
        name = self._tokens[self._next].text
        if name not in self._columns:
            raise unknown_column(name, list(self._columns), in_filter=True)
        self._next += 1
        return name, self._columns[name]

    def _value(self) -> Literal:
        token = self._peek()
        if token is None or token.kind == "sign" or (token.kind == "word" and token.text.lower() not in _CONSTANTS):
            if token is not None and self._is_column():
                raise self._error("expected a value (texts stand in quotes)")
            raise self._error("expected a column or a value")
        self._next += 1
        if token.kind == "word":
            return _CONSTANTS[token.text.lower()]
        if token.kind == "text":
            return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
        whole = token.text.lstrip("+-").isdecimal() and len(token.text) < 18
        return int(token.text) if whole else float(token.text)

    def _sign(self, *, required: bool) -> str | None:
        token = self._peek()
        if token is not None and token.text in _COMPARE and token.kind == "sign":
            self._next += 1
            return token.text
        if required:
            raise self._error("expected one of < <= > >= = != in")
        return None

    def _accept(self, word: str) -> bool:
        token = self._peek()
        if token is not None and token.kind in ("word", "sign") and token.text.lower() == word:
            self._next += 1
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise self._error(f"expected {word}")

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _error(self, expected: str) -> RequestError:
        token = self._peek()
        if token is None:
            return RequestError(f"the filter {self._text!r} ends too early: {expected}")
        return RequestError(f"the filter cannot be read at character {token.place + 1} ({token.text!r}): {expected}")


def _bound(value: Literal) -> ColumnElement:
    """A value with a type of its own: a server would round 2.5 where it is compared with whole numbers."""
    from sqlalchemy import BigInteger, Boolean, Float, Text, literal

    types = {bool: Boolean(), int: BigInteger(), float: Float(53)}
    return literal(value, types.get(type(value), Text()))


def _open(column: FilterColumn) -> ColumnElement:
    """Neither true nor false, whatever a column that nobody has given a value yet is compared with."""
    return operator.eq(column.element, column.element)


def _family(kind: str) -> str:
    return {"text": "text", "bool": "true or false"}.get(kind, "a number")
