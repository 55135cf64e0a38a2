"""Dataclasses that are written to JSON and read again: their fields are the keys, and their types the form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FLAG", "NUMBER", "OPTIONAL", "TEXT", "WHOLE", "Written", "form_of"]

TEXT, NUMBER, WHOLE, FLAG = "text", "a number", "a whole number", "true or false"
OPTIONAL = {"optional": True}
"""Metadata of a field that is left out of the JSON where it is None or an empty table."""


class Written:
    """Base of frozen dataclasses that a file holds; what the file does not say, or says to be null, is the default."""

    @classmethod
    def from_dict(cls, written: Mapping[str, Any] | None) -> Self:
        """Read a table; keys that are not known are left aside. Its form is checked elsewhere (`form_of`)."""
        said = written or {}
        readers = _readers(cls)  # type: ignore[arg-type] # a class is hashable
        return cls(**{name: read(said[name]) for name, read in readers if said.get(name) is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the table, JSON-ready, its keys in the fields' order."""
        entries = {field: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {field.name: _plain(value) for field, value in entries.items() if not _left_out(field, value)}


def form_of(kind: Any) -> Any:
    """Return the form of a dataclass, or of the type of one of its fields, as `lm_eval_moe.results.form` reads it.

    A field's metadata may say another ``form``, where its type does not say all.
    """
    kind = _without_none(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: field.metadata.get("form") or form_of(hints[field.name]) for field in fields(kind)}
    if get_origin(kind) is tuple:
        return [form_of(get_args(kind)[0])]
    if get_origin(kind) is Mapping:
        value = get_args(kind)[1]
        return {} if value is Any else {None: form_of(value)}
    return {str: TEXT, float: NUMBER, int: WHOLE, bool: FLAG}[kind]


@cache
def _readers(cls: type) -> list[tuple[str, Callable[[Any], Any]]]:
    hints = get_type_hints(cls)
    return [(name, _reader(kind)) for name, kind in hints.items()]


def _reader(kind: Any) -> Callable[[Any], Any]:
    """Return what makes a field's value of JSON."""
    kind = _without_none(kind)
    if is_dataclass(kind):
        read: Callable[[Any], Any] = kind.from_dict  # type: ignore[union-attr]
        return read
    if get_origin(kind) is tuple:
        return tuple
    if get_origin(kind) is Mapping:
        value = _without_none(get_args(kind)[1])
        if is_dataclass(value) or get_origin(value) is tuple:
            read = _reader(value)
            empty: Any = () if read is tuple else None
            return lambda table: {key: read(empty if each is None else each) for key, each in table.items()}
    return lambda value: value


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
    return kind


def _left_out(field: Field[Any], value: object) -> bool:
    return bool(field.metadata.get("optional")) and (value is None or value == {})


def _plain(value: Any) -> Any:
    if isinstance(value, Written):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
