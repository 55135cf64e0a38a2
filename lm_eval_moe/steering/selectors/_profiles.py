"""What the rules that read routing profiles share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lm_eval_moe.errors import UserError
from lm_eval_moe.steering._fields import Field, show
from lm_eval_moe.steering.language_filter import parse_language
from lm_eval_moe.steering.selectors._base import Scope

__all__ = ["ProfilePath", "Profiles", "dump_profiles", "parse_member", "parse_profile", "parse_profiles", "unavailable"]

_SUFFIXES = (".safetensors", ".json")


@dataclass(frozen=True)
class ProfilePath:
    """A routing profile: its path as given, and where that is."""

    given: str
    path: Path


Profiles = dict[str, ProfilePath]
"""Canonical language → profile."""


def parse_profile(field: Field) -> ProfilePath:
    """Read the path of an existing profile; relative ones start from the steering file's folder.

    Raises:
        UserError: It is no safetensors or JSON file, or there is none.
    """
    given = field.text(empty=False)
    path = field.place.base_dir / given
    if path.suffix not in _SUFFIXES:
        raise field.error(f"{show(given)} is no profile", f"give a file that ends in {' or '.join(_SUFFIXES)}")
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:
        raise field.error(f"{show(given)} cannot be read: {error}", "give the path of a profile") from error
    if not found:
        folder = str(field.place.base_dir)
        raise field.error(f"there is no file {show(given)}", f"relative paths start from the folder {show(folder)}")
    return ProfilePath(given, path)


def parse_profiles(field: Field) -> Profiles:
    """Read ``{en: …, sw: …}``, at least two languages.

    Raises:
        UserError: A code is no language, a language is given twice or alone, or a profile does not exist.
    """
    profiles: Profiles = {}
    for code, value in field.mapping("{en: en.safetensors, sw: sw.safetensors}").items():
        language = parse_language(Field(value.place, code))
        if language in profiles:
            raise value.error(f"the language {language} is given twice", "give one profile a language")
        profiles[language] = parse_profile(value)
    if len(profiles) < 2:
        raise field.error(f"{len(profiles)} given", "give the profiles of at least two languages")
    return profiles


def parse_member(field: Field, profiles: Profiles) -> str:
    """Read a language that must be one of the profiles'."""
    language = parse_language(field)
    if language not in profiles:
        raise field.error(f"there is no profile of {language}", f"the profiles are of {', '.join(profiles)}")
    return language


def dump_profiles(profiles: Profiles) -> dict[str, str]:
    """Return the paths as given."""
    return {language: profile.given for language, profile in profiles.items()}


def unavailable(rule: str, scope: Scope) -> UserError:
    """Return the error to raise where experts would be selected from profiles."""
    return scope.place.error(
        f"selecting experts from profiles ({rule}) is not available in this version",
        "list the experts under `ids`: {8: [3, 17]}",
    )
