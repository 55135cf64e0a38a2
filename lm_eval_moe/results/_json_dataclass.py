"""Dataclasses that are written to JSON and read again: their fields are the keys, and their types the form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from typing import Self

__all__ = ["FLAG", "NUMBER", "OPTIONAL", "TEXT", "WHOLE", "JsonDataclass", "schema_of"]

TEXT, NUMBER, WHOLE, FLAG = "text", "a number", "a whole number", "true or false"
OPTIONAL = {"optional": True}
"""Metadata of a field that is left out of the JSON where it is None or an empty table."""


class JsonDataclass:
    """Base of frozen dataclasses that a file holds; what the file does not say, or says to be null, is the default."""

    @classmethod
    def from_dict(cls, written: Mapping[str, Any] | None) -> Self:
        """Read a table; keys that are not known are left aside. Its form is checked elsewhere (`schema_of`)."""
        values = written or {}
        kinds = _kinds(cls)  # type: ignore[arg-type] # a class is hashable
        return cls(**{name: _read(kind, values[name]) for name, kind in kinds.items() if values.get(name) is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the table, JSON-ready, its keys in the fields' order."""
        entries = ((field, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return {
            field.name: _plain(value)
            for field, value in entries
            if not (field.metadata.get("optional") and (value is None or value == {}))
        }


def schema_of(kind: Any) -> Any:
    """Return the form of a dataclass, or of the type of one of its fields, as `lm_eval_moe.results.schema` reads it.

    A field's metadata may say another ``form``, where its type does not say all.
    """
    kind = _without_none(kind)
    if is_dataclass(kind):
        kinds = _kinds(kind)  # type: ignore[arg-type]
        return {field.name: field.metadata.get("form") or schema_of(kinds[field.name]) for field in fields(kind)}
    if get_origin(kind) is tuple:
        return [schema_of(get_args(kind)[0])]
    if get_origin(kind) is Mapping:
        value = get_args(kind)[1]
        return {} if value is Any else {None: schema_of(value)}
    return {str: TEXT, float: NUMBER, int: WHOLE, bool: FLAG}[kind]


@cache
def _kinds(cls: type) -> dict[str, Any]:
    return {name: _without_none(kind) for name, kind in get_type_hints(cls).items()}


def _read(kind: Any, value: Any) -> Any:
    if hasattr(kind, "from_dict"):
        return kind.from_dict(value)
    if get_origin(kind) is tuple:
        return tuple(value or ())
    if get_origin(kind) is Mapping and get_args(kind)[1] is not Any:
        inner = _without_none(get_args(kind)[1])
        return {key: _read(inner, entry) for key, entry in (value or {}).items()}
    return value


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
    return kind


def _plain(value: Any) -> Any:
    if isinstance(value, JsonDataclass):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
