"""What the rules that read routing profiles share: their fields, and which items of a profile they compare."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.metrics import shares_of
from lm_eval_moe.profiles import Activity, Profile, ProfilePath
from lm_eval_moe.steering.language_filter import canonical, parse_language
from lm_eval_moe.steering.selectors._base import Scope
from lm_eval_moe.yaml_values import YamlValue, show

__all__ = [
    "Profiles",
    "Sample",
    "all_items",
    "dump_profiles",
    "language_shares",
    "parse_member",
    "parse_profile",
    "parse_profiles",
    "require_comparable",
    "sample_languages",
    "sample_one_language",
]

_SUFFIXES = (".safetensors", ".json")

Profiles = dict[str, ProfilePath]
"""Canonical language → profile."""


def parse_profile(field: YamlValue) -> ProfilePath:
    """Read the path of an existing profile; relative ones start from the steering file's folder.

    Raises:
        UserError: It is not a safetensors or JSON file, or there is none.
    """
    given = field.text(empty=False)
    path = field.place.base_dir / given
    if path.suffix not in _SUFFIXES:
        raise field.error(f"{show(given)} is not a profile", f"give a file that ends in {' or '.join(_SUFFIXES)}")
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise field.error(f"{show(given)} cannot be read: {reason}", "give the path of a profile") from error
    if not found:
        folder = str(field.place.base_dir)
        raise field.error(f"there is no file {show(given)}", f"relative paths start from the folder {show(folder)}")
    return ProfilePath(given, path, field.place)


def parse_profiles(field: YamlValue) -> Profiles:
    """Read ``{en: …, sw: …}``, at least two languages.

    Raises:
        UserError: A code is not a language, a language is given twice or alone, or a profile does not exist.
    """
    profiles: Profiles = {}
    for code, value in field.mapping("{en: en.safetensors, sw: sw.safetensors}").items():
        language = parse_language(YamlValue(value.place, code))
        if language in profiles:
            raise value.error(f"the language {language} is given twice", "give one profile per language")
        profiles[language] = parse_profile(value)
    if len(profiles) < 2:
        raise field.error(f"{len(profiles)} given", "give the profiles of at least two languages")
    return profiles


def parse_member(field: YamlValue, profiles: Profiles) -> str:
    """Read a language that must be one of the profiles'."""
    language = parse_language(field)
    if language not in profiles:
        raise field.error(f"there is no profile of {language}", f"the profiles cover {', '.join(profiles)}")
    return language


def dump_profiles(profiles: Profiles) -> dict[str, str]:
    """Return the paths as given."""
    return {language: profile.given for language, profile in profiles.items()}


@dataclass(frozen=True)
class Sample:
    """Items of a profile that a rule compares with others.

    Attributes:
        given: The profile's place in the steering file.
        profile: The profile.
        rows: The items.
    """

    given: ProfilePath
    profile: Profile
    rows: tuple[int, ...]

    @property
    def activity(self) -> Activity:
        """How often the experts are selected in these items."""
        with self.given.named():
            return self.profile.activity(self.rows)

    @property
    def languages(self) -> set[str]:
        """The languages of the items, where they are known."""
        return {self.profile.items[row].language for row in self.rows} - {""}

    @property
    def pooled(self) -> bool:
        """Whether some row does not name its item."""
        return not all(self.profile.items[row].item for row in self.rows)

    @property
    def keys(self) -> set[tuple[str, str]]:
        """Benchmark and item of every row that names them."""
        items = (self.profile.items[row] for row in self.rows)
        return {(item.benchmark, item.item) for item in items if item.item}


def all_items(scope: Scope, given: ProfilePath) -> Sample:
    """Return all items of a profile.

    Raises:
        UserError: The file cannot be used.
    """
    profile = scope.profiles.load(given)
    return Sample(given, profile, tuple(range(len(profile.items))))


def sample_one_language(scope: Scope, given: ProfilePath, language: str | None = None) -> Sample:
    """Return the items of a profile in a language; without one, all items, which must be of one.

    Raises:
        UserError: The file cannot be used, has several languages and none is chosen, or lacks the one that is.
    """
    everything = all_items(scope, given)
    labels = everything.profile.languages()
    if language is None:
        if len(labels) > 1:
            raise given.error(f"holds items in several languages: {_shown(labels)}", "choose one with `language: en`")
        return everything
    if set(labels) == {""}:  # the file does not say: take the word of the steering file
        return everything
    same = {label for label in labels if label and _is(label, language)}
    rows = tuple(row for row, item in enumerate(everything.profile.items) if item.language in same)
    if not rows:
        raise given.error(
            f"holds no items in {language}, it has {_shown(labels)}",
            f"give a profile that has some, such as one from a run with the {language} task",
        )
    return replace(everything, rows=rows)


def sample_languages(scope: Scope, profiles: Profiles) -> dict[str, Sample]:
    """Return every language's items; one file may hold several languages.

    Raises:
        UserError: A file cannot be used or lacks its language, two languages have the same items of one file, or the
            profiles are not comparable.

    Warns:
        RoutingWarning: The languages' items are not the same.
    """
    samples = {language: sample_one_language(scope, given, language) for language, given in profiles.items()}
    require_comparable(samples.values())
    if not any(sample.pooled for sample in samples.values()):
        items = [sample.keys for sample in samples.values()]
        common = set.intersection(*items)
        if any(len(common) < len(keys) for keys in items):
            sizes = ", ".join(f"{language} has {len(sample.keys)}" for language, sample in samples.items())
            warnings.warn(
                f"{(scope.place / 'profiles').where}: the profiles do not hold the same items: {sizes}, {len(common)} "
                "are in all of them; differences between items will be taken for differences between languages",
                RoutingWarning,
                stacklevel=2,
            )
    return samples


def language_shares(scope: Scope, profiles: Profiles, top_m: int) -> dict[str, NDArray[np.float64]]:
    """Return every language's share of every expert, ``[layers, E]``: steps 1 and 2 of arXiv 2601.14050.

    They are of the activation frequency a_k / T, pooled over a language's items (see `shares_of`).

    Raises:
        UserError: A profile cannot be used.
    """
    samples = sample_languages(scope, profiles)
    frequencies = np.stack([sample.activity.pooled[scope.rows] for sample in samples.values()])
    return dict(zip(samples, shares_of(frequencies, top_m), strict=True))


def require_comparable(samples: Iterable[Sample]) -> None:
    """Refuse samples whose difference would not be one of the texts.

    Raises:
        UserError: Two share items of the same file, or their span or the steering during the capture differ.
    """
    for first, second in combinations(samples, 2):
        if first.profile.sha256 == second.profile.sha256 and set(first.rows) & set(second.rows):
            copied = "" if first.profile is second.profile else ", byte for byte"
            raise second.given.error(
                f"is the same file as {show(first.given.given)}{copied}", "give two different profiles"
            )
        one, other = first.profile.header, second.profile.header
        if None in (one.span, other.span):
            continue  # a file of pooled counts does not say
        if one.span != other.span:
            raise second.given.error(
                f"counts the tokens of the span {other.span!r}, but {show(first.given.given)} those of {one.span!r}",
                "give profiles of the same span (--model_args capture=…)",
            )
        if one.steering != other.steering:
            raise second.given.error(
                f"is of a model {_steered(other.steering)}, but {show(first.given.given)} of one "
                f"{_steered(one.steering)}",
                "give profiles of the same model, preferably without steering",
            )


def _steered(steering: str | None) -> str:
    return f"steered by {steering[:16]}" if steering else "without steering"


def _shown(labels: dict[str, int]) -> str:
    return ", ".join(f"{label or 'unknown'} ({count})" for label, count in labels.items())


def _is(label: str, language: str) -> bool:
    try:
        return label == language or canonical(label) == language
    except ValueError:
        return False
