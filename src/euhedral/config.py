"""Tables of named classes with a frozen config each, and plain values parsed into these configs."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from euhedral.errors import ConfigError

Table = Mapping[str, tuple[str, str]]
"""Name -> 'module:config class' and 'module:class'; modules are imported when a name is looked up."""


def third_parties(group: str) -> set[str]:
    """Names that installed packages add to a table by entry points."""
    return {point.name for point in entry_points(group=group)}


def find_classes(table: Table, group: str, name: str, kind: str) -> tuple[type, type] | None:
    """Config class and class of a name, or None for one that nobody registered.

    Args:
        table: of the shipped ones, which stand over entry points of their name.
        group: of the entry points, whose value is an object with attributes `config` and `kind`, the two classes.
        name: to look up.
        kind: name of the attribute that holds the class.
    """
    if name in table:
        config, found = (_import(target) for target in table[name])
        return config, found
    for point in entry_points(group=group):
        if point.name == name:
            entry = point.load()
            return entry.config, getattr(entry, kind)
    return None


def parse_config(config_class: type, values: Mapping[str, Any], *, within: Sequence[str] = ()) -> Any:
    """Parse plain values into a frozen dataclass, strictly.

    Args:
        config_class: the dataclass.
        values: by field, nested as it is.
        within: names of what the values belong to, which errors put before the field's.

    Raises:
        ConfigError: for an unknown key (naming the nearest known one) or a value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(config_class, values, "")
    try:
        return TypeAdapter(config_class).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (*within, *first["loc"])) or "the configuration"
        raise ConfigError(f"{place}: {first['msg']} (got {first.get('input')!r})") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """', did you mean X?' for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _refuse_unknown(config_class: type, values: Mapping[str, Any], place: str) -> None:
    hints = typing.get_type_hints(config_class)
    known = [f.name for f in dataclasses.fields(config_class)]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"unknown key {place}{key}{nearest(key, known)}; known: {', '.join(known)}")
        if not isinstance(value, Mapping):
            continue
        nested = hints[key] if dataclasses.is_dataclass(hints[key]) else _of_kind(hints[key], value, f"{place}{key}")
        if nested is not None:
            _refuse_unknown(typing.cast(type, nested), value, f"{place}{key}.")


def _of_kind(hint: Any, values: Mapping[str, Any], place: str) -> type | None:
    """The dataclass of a union that `values["kind"]` names; None where the hint is no union of dataclasses."""
    members = [member for member in typing.get_args(hint) if dataclasses.is_dataclass(member)]
    if len(members) < 2:
        return None
    kinds = {f.default: member for member in members for f in dataclasses.fields(member) if f.name == "kind"}
    kind = values.get("kind")
    if kind not in kinds:
        known = ", ".join(str(name) for name in kinds)
        raise ConfigError(f"{place}.kind: expected one of {known}{nearest(str(kind), map(str, kinds))} (got {kind!r})")
    return typing.cast(type, kinds[kind])


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
