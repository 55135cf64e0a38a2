"""Known regressions that a policy excuses until a date."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lm_eval_moe.languages import canonical_language
from lm_eval_moe.yaml_values import YamlValue, show

__all__ = ["Allowances", "Allowed", "Checks", "language_tag", "one_line"]

Checks = Literal["score", "drift"]
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def one_line(field: YamlValue) -> str:
    """Return text that is one printable line."""
    text = field.text(empty=False)
    if not text.isprintable():
        raise field.error("is not one line of printable text", "write it on one line")
    return text


def language_tag(field: YamlValue) -> str:
    """Return the canonical tag of a language in any spelling."""
    text = field.text(empty=False)
    try:
        return canonical_language(text)
    except ValueError as error:
        raise field.error(f"{show(text)} is not a language code", "write codes such as sw, zh or zh-Hant") from error


@dataclass(frozen=True)
class Allowed:
    """A known regression that does not fail the gate until its date has passed.

    Attributes:
        reason: Why.
        until: The last day on which it holds.
        task: The task, or None.
        benchmark: The benchmark, or None.
        language: The language, or None.
        checks: What it excuses.
    """

    reason: str
    until: datetime.date
    task: str | None = None
    benchmark: str | None = None
    language: str | None = None
    checks: tuple[Checks, ...] = ("score",)

    @classmethod
    def parse(cls, field: YamlValue) -> Allowed:
        """Read ``{language: sw, benchmark: mgsm, reason: …, until: 2027-01-31}``."""
        fields = field.keys(["reason", "until"], ["task", "benchmark", "language", "checks"])
        names: dict[str, str] = {name: one_line(fields[name]) for name in ("task", "benchmark") if name in fields}
        if "language" in fields:
            names["language"] = language_tag(fields["language"])
        if not names:
            raise field.error(
                "does not say what it allows", "give a task, a benchmark, a language, or a benchmark and a language"
            )
        checks: tuple[Checks, ...] = ("score",)
        if "checks" in fields:
            checks = tuple(item.choice(get_args(Checks)) for item in fields["checks"].items("[score, drift]"))
            if not checks:
                raise fields["checks"].error("the list is empty", "write [score], [drift] or [score, drift]")
        return cls(one_line(fields["reason"]), _date(fields["until"]), **names, checks=checks)

    def covers(self, check: Checks, task: str | None, benchmark: str, language: str | None) -> bool:
        """Whether it speaks of a check, whatever the date."""
        return (
            check in self.checks
            and self.task in (None, task)
            and self.benchmark in (None, benchmark)
            and self.language in (None, language)
        )

    def expired(self, today: datetime.date) -> bool:
        """Whether its last day has passed."""
        return today > self.until

    @property
    def what(self) -> str:
        """What it speaks of, in words."""
        parts = (("task", self.task), ("benchmark", self.benchmark), ("language", self.language))
        return ", ".join(f"{name} {value}" for name, value in parts if value)


class Allowances:
    """All allowances on a day, and which of them spoke of anything.

    Args:
        entries: The allowances.
        day: The day.
    """

    def __init__(self, entries: Sequence[Allowed], day: datetime.date) -> None:
        self.entries, self.day = entries, day
        self._met: set[int] = set()

    def find(self, check: Checks, task: str | None, benchmark: str, language: str | None) -> Allowed | None:
        """Return the first that covers a check and holds."""
        covering = [allowance for allowance in self.entries if allowance.covers(check, task, benchmark, language)]
        self._met |= {id(allowance) for allowance in covering}
        return next((allowance for allowance in covering if not allowance.expired(self.day)), None)

    def notes(self) -> list[str]:
        """Say which have expired and which speak of nothing."""
        notes = []
        for allowance in self.entries:
            if id(allowance) not in self._met:
                notes.append(f"the allowance for {allowance.what} matches nothing that was judged")
            elif allowance.expired(self.day):
                notes.append(
                    f"the allowance for {allowance.what} ({allowance.reason}) expired after {allowance.until} and no "
                    "longer excuses anything"
                )
        return notes


def _date(field: YamlValue) -> datetime.date:
    fix = "write the last day on which it holds as year-month-day, such as 2027-01-31"
    if not isinstance(field.value, str) or not _DATE.fullmatch(field.value):
        raise field.error(f"{show(field.value)} is not a date", fix)
    try:
        return datetime.date.fromisoformat(field.value)
    except ValueError as error:
        raise field.error(f"{field.value!r} is not a calendar date", fix) from error
