"""Which languages an intervention is limited to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lm_eval_moe.yaml_values import YamlValue, show

if TYPE_CHECKING:
    from typing import Self

__all__ = ["LanguageFilter", "canonical", "parse_language"]

_FIX = "write all, a list like [sw, bn], or {all_but: [en]}"


@lru_cache(maxsize=4096)
def canonical(language: str) -> str:
    """Return the canonical tag of any spelling of a language, as `canonical_language` does."""
    from lm_eval_moe.languages import canonical_language  # here, since langcodes' tables take a while to load

    return canonical_language(language)


def parse_language(field: YamlValue) -> str:
    """Return the canonical tag of a language code.

    Raises:
        UserError: The value is not the code of a language.
    """
    code = field.text()
    try:
        return canonical(code)
    except ValueError as error:
        raise field.error(f"{show(code)} is not a language code", "give a code like en, sw or zh-Hant") from error


@dataclass(frozen=True)
class LanguageFilter:
    """``all``, only some languages, or all but some, as canonical tags.

    Attributes:
        only: The languages admitted, or ``None`` for no such limit.
        but: The languages left out.
    """

    only: frozenset[str] | None = None
    but: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read ``all``, ``[sw, bn]`` or ``{all_but: [en]}``.

        Raises:
            UserError: It is none of these, a code is unknown, or the list is empty.
        """
        if field.value == "all":
            return cls()
        if isinstance(field.value, Mapping):
            return cls(but=_languages(field.keys(["all_but"])["all_but"]))
        return cls(only=_languages(field))

    def dump(self) -> str | list[str] | dict[str, list[str]]:
        """Return the filter as YAML holds it."""
        if self.only is not None:
            return sorted(self.only)
        return {"all_but": sorted(self.but)} if self.but else "all"

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self.only is None and not self.but

    @property
    def mentioned(self) -> frozenset[str]:
        """The languages that the filter names."""
        return (self.only or frozenset()) | self.but

    def admits(self, language: str | None) -> bool:
        """Say whether a request in ``language`` is steered.

        Any spelling of a language will do. A request whose language is not known (``None``) is admitted by ``all``
        alone: no limit can be shown to hold for it.

        Raises:
            ValueError: ``language`` is not the code of a language.
        """
        if self.is_all or language is None:
            return self.is_all
        return self.admits_tag(canonical(language))

    def admits_tag(self, tag: str | None) -> bool:
        """Say the same of a canonical tag; ``None`` is a language that the filter does not mention."""
        return tag not in self.but and (self.only is None or tag in self.only)


def _languages(field: YamlValue) -> frozenset[str]:
    if isinstance(field.value, str):
        raise field.error(f"expected a list of languages, got {show(field.value)}", _FIX)
    languages = frozenset(parse_language(item) for item in field.items("[sw, bn]"))
    if not languages:
        raise field.error("the list of languages is empty", _FIX)
    return languages
