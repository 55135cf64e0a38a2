"""YAML without surprises: unique keys, no arbitrary objects, no alias bombs, and YAML 1.2's plain scalars.

PyYAML reads YAML 1.1, where ``no`` (Norwegian) is false, ``8:35`` is 515 and ``1e-3`` is a string. Here, as in YAML
1.2's core schema, only ``true`` and ``false`` are booleans and numbers look like numbers.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from lm_eval_moe.errors import UserError
from lm_eval_moe.yaml_limits import MAX_BYTES, Limited

__all__ = ["read_yaml", "yaml_key", "yaml_quoted", "yaml_text", "yaml_value"]

_LONGEST_KEY = 1000
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_SCALARS: dict[str, tuple[re.Pattern[str], str]] = {  # tag -> the text it may have, its possible first characters
    "null": (re.compile(r"~|null|Null|NULL|"), "~nN"),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    "int": (re.compile(r"[-+]?[0-9]{1,40}"), "-+0123456789"),
    "float": (
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        "-+.0123456789",
    ),
}


class _Loader(Limited):
    """PyYAML's safe loader, stricter."""

    yaml_implicit_resolvers: dict[Any, Any] = {
        first: [
            (_TAG + kind, re.compile(rf"(?:{text.pattern})\Z"))
            for kind, (text, start) in _SCALARS.items()
            if first in start
        ]
        for first in "".join(start for _, start in _SCALARS.values())
    } | {"": [(_TAG + "null", re.compile(r"\Z"))], "<": [(_MERGE, re.compile(r"<<\Z"))]}

    def construct_unique_mapping(self, node: yaml.Node) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="expected a mapping", problem_mark=node.start_mark)
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(problem="a key must be a plain value", problem_mark=key_node.start_mark)
            if key in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"key {_short(key)} is given twice", problem_mark=key_node.start_mark
                )
            keys.add(key)
        return self.construct_mapping(node, deep=True)

    def construct_list(self, node: yaml.Node) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            raise yaml.MarkedYAMLError(problem="expected a list", problem_mark=node.start_mark)
        return self.construct_sequence(node, deep=True)

    def construct_plain(self, node: yaml.Node) -> bool | int | float | None:
        kind = node.tag.removeprefix(_TAG)
        if not isinstance(node, yaml.ScalarNode) or not _SCALARS[kind][0].fullmatch(node.value):
            raise yaml.MarkedYAMLError(problem=f"not a value of type {kind}", problem_mark=node.start_mark)
        text: str = node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        return int(text) if kind == "int" else float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def refuse(self, node: yaml.Node) -> None:
        tag = node.tag.replace(_TAG, "!!")[:80]
        raise yaml.MarkedYAMLError(
            problem=f"the tag {tag} is not allowed, only plain values", problem_mark=node.start_mark
        )

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        **dict.fromkeys((_TAG + kind for kind in _SCALARS), construct_plain),
        _TAG + "str": yaml.SafeLoader.construct_yaml_str,
        _TAG + "seq": construct_list,
        _TAG + "map": construct_unique_mapping,
        None: refuse,
    }


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper for readers of either YAML: quotes are around each text that 1.1 or 1.2 takes for more."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Without quotes, PyYAML writes this character as it is, and readers take it for the end of a line.
        return self.represent_scalar(_TAG + "str", text, style='"' if "\x85" in text else None)


for _resolvers in (yaml.SafeDumper, _Loader):
    for _first, _of_tags in _resolvers.yaml_implicit_resolvers.items():
        for _tag, _pattern in _of_tags:
            _Dumper.add_implicit_resolver(_tag, _pattern, [_first])
_Dumper.add_representer(str, _Dumper.represent_text)


def _short(key: Hashable) -> str:
    text = repr(key)
    return text if len(text) <= 80 else f"{text[:77]}..."


def yaml_value(text: str, *, where: str) -> Any:
    """Parse one YAML document into ``None``, booleans, numbers, strings, lists and dicts.

    Raises:
        UserError: ``text`` is not valid YAML, gives a key twice, names a Python object, or nests or expands too far.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"not valid YAML: {problem}{at}", fix="correct it there", where=where) from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:  # the latter: half a surrogate pair, which is not text
        raise UserError(f"not valid YAML: {str(error).splitlines()[0]}", fix="remove it", where=where) from error


def yaml_text(value: Any) -> str:
    """Write a value of plain types so that `yaml_value` and readers of YAML 1.1 read the same from it."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=78)


def yaml_quoted(text: str) -> str:
    """Write a text in double quotes, on one line."""
    return yaml.dump(text, Dumper=_Dumper, default_style='"', allow_unicode=True, width=10**9).strip()


def yaml_key(text: str, indent: int = 0) -> str:
    """Write a key, indented and in quotes where it needs them; a colon and the value follow."""
    space = " " * indent
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) and yaml_text(text).startswith(f"{text}\n")
    written = text if plain else yaml_quoted(text)
    # A longer key would not be known for one before its colon.
    return f"{space}{written}" if len(written) <= _LONGEST_KEY else f"{space}? {written}\n{space}"


def read_yaml(path: Path, kind: str) -> Any:
    """Read a YAML file; UTF-8, with or without a byte-order mark, of at most 10 MB.

    Args:
        path: The file.
        kind: What messages call it.

    Raises:
        UserError: The file cannot be read, or what it holds is not acceptable YAML.
    """
    where = str(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot be read: {reason}", fix=f"give the path of a {kind} YAML file", where=where) from error
    if size > MAX_BYTES:
        raise UserError(
            f"is {size / 1e6:.0f} MB large", fix=f"a {kind} file is YAML text of at most 10 MB", where=where
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"is not UTF-8 text (byte {error.start})", fix=f"a {kind} file is YAML text; save it as UTF-8", where=where
        ) from error
    return yaml_value(text, where=where)
