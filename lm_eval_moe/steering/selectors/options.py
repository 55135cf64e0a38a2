"""The fields of selection rules: how each kind is read and written, and its flag on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval_moe.steering.language_filter import parse_language
from lm_eval_moe.steering.selectors._base import MISSING, Flag, Option
from lm_eval_moe.steering.selectors._profiles import dump_profiles, parse_member, parse_profile, parse_profiles
from lm_eval_moe.yaml_values import YamlValue

__all__ = ["choice", "integer", "language", "member", "members", "number", "option", "profile", "profiles", "top_m"]


def option(
    text: str,
    metavar: str,
    read: Callable[[YamlValue, Mapping[str, Any]], Any],
    write: Callable[[Any], Any] = lambda value: value,
    *,
    default: Any = MISSING,
    flag: Flag = "text",
    brief: bool = False,
) -> Any:
    """Declare a field of a rule, in its dataclass; see `Option`."""
    return dataclasses.field(metadata={"option": Option(text, metavar, read, write, default, flag, brief)})


def profile(text: str) -> Any:
    """Declare the path of a profile."""
    return option(text, "FILE", lambda field, _: parse_profile(field), lambda value: value.given)


def profiles() -> Any:
    """Declare the profiles of several languages."""
    return option(
        "one profile per language", "LANG=FILE", lambda field, _: parse_profiles(field), dump_profiles, flag="pairs"
    )


def language(text: str, default: Any = MISSING) -> Any:
    """Declare a language."""
    return option(text, "LANG", lambda field, _: parse_language(field), default=default)


def member(text: str, default: Any = MISSING) -> Any:
    """Declare one of the languages of ``profiles``, a field before this one."""
    return option(text, "LANG", lambda field, before: parse_member(field, before["profiles"]), default=default)


def members(text: str) -> Any:
    """Declare some of the languages of ``profiles``, a field before this one, but not all of them."""
    return option(text, "LANG", _some_members, list, flag="list")


def number(text: str, low: float, high: float, default: Any = MISSING) -> Any:
    """Declare a number."""
    return option(text, "X", lambda field, _: field.number(low, high), default=default, flag="number", brief=True)


def top_m(default: int) -> Any:
    """Declare how many of a language's most active experts per layer count."""
    return integer("how many of a language's most active experts per layer count", 1, 10_000, default)


def integer(text: str, low: int, high: int, default: Any = MISSING) -> Any:
    """Declare a whole number."""
    return option(text, "N", lambda field, _: field.integer(low, high), default=default, flag="number", brief=True)


def choice(text: str, options: Sequence[str], default: Any = MISSING) -> Any:
    """Declare one of several words."""
    return option(text, "WHICH", lambda field, _: field.choice(options), default=default, brief=True)


def _some_members(field: YamlValue, before: Mapping[str, Any]) -> tuple[str, ...]:
    profiles = before["profiles"]
    languages = tuple(sorted({parse_member(item, profiles) for item in field.items("[sw]")}))
    if not 0 < len(languages) < len(profiles):
        raise field.error(
            f"{len(languages)} of the {len(profiles)} languages with profiles are named",
            f"name some of them, but not all: {', '.join(profiles)}",
        )
    return languages
