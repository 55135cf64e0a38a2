"""The gate's policy, version 1: what may fall by how much, and how sure one has to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from lm_eval_moe.errors import UserError
from lm_eval_moe.gate.allowances import Allowed, language_tag, one_line
from lm_eval_moe.shape import BANDS
from lm_eval_moe.strict_yaml import read_yaml
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

__all__ = ["BenchmarkPolicy", "DriftLimits", "Margin", "Margins", "Policy", "load_policy", "parse_policy"]

T = TypeVar("T")
VERSION = 1
Correction = Literal["holm", "bonferroni", "none"]
Test = Literal["drop", "margin"]
Inconclusive = Literal["pass", "warn", "fail"]
Exceeded = Literal["warn", "fail"]
Samples = Literal["required", "preferred"]


@dataclass(frozen=True)
class Margin:
    """How much a score may fall: in its own units, or as a share of the baseline's score; and where that is written."""

    value: float
    relative: bool = False
    where: str = field(default="", compare=False)

    @classmethod
    def parse(cls, field: YamlValue) -> Margin:
        """Read ``0.05`` or ``{relative: 0.1}``."""
        if isinstance(field.value, Mapping):
            return cls(field.keys(["relative"])["relative"].number(0, 1), True, field.place.where)
        return cls(field.number(0, 1_000_000), where=field.place.where)

    def of(self, score: float) -> float:
        """Return the margin in the score's units."""
        return self.value * abs(score) if self.relative else self.value

    def hides_any_loss(self, score: float) -> bool:
        """Whether it is no smaller than the score, so that no loss is a regression; of 0 there is nothing to lose."""
        return score != 0 and self.of(score) >= abs(score)


@dataclass(frozen=True)
class Margins:
    """The margins of a benchmark."""

    language: Margin
    macro: Margin
    languages: Mapping[str, Margin] = field(default_factory=dict)

    @classmethod
    def parse(cls, field: YamlValue, default: Margins | None = None) -> Margins:
        """Read ``{language: 0.05, macro: 0.02, languages: {sw: 0.08}}``; the default's stand for what is left out."""
        names = ["language", "macro"]
        fields = field.keys([] if default else names, [*(names if default else []), "languages"])
        margins = {}
        if "languages" in fields:
            for key, value in fields["languages"].mapping("{sw: 0.08}").items():
                tag = language_tag(YamlValue(value.place, key))
                if tag in margins:
                    raise value.error(f"{tag!r} already has a margin", "give every language only one")
                margins[tag] = Margin.parse(value)
        language, macro = (fields.get(name) for name in names)
        return cls(
            Margin.parse(language) if language else default.language,  # type: ignore[union-attr]
            Margin.parse(macro) if macro else default.macro,  # type: ignore[union-attr]
            {**(default.languages if default else {}), **margins},
        )

    def of_language(self, language: str | None) -> Margin:
        """Return the margin of one language."""
        return self.languages.get(language or "", self.language)


@dataclass(frozen=True)
class BenchmarkPolicy:
    """What holds for one benchmark.

    Attributes:
        margins: How much may be lost.
        minimum_items: Fewer in a language cannot be judged.
        metric: Its key (``acc,none``); None: accuracy, else exact match, else the task's first.
        languages: What has to be there; None: what the baseline has.
    """

    margins: Margins
    minimum_items: int
    metric: str | None = None
    languages: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, field: YamlValue, default: BenchmarkPolicy) -> BenchmarkPolicy:
        """Read an entry of ``benchmarks``."""
        fields = field.keys([], ["margins", "minimum_items", "metric", "languages"])
        return cls(
            _read_or_default(
                fields, "margins", lambda margins: Margins.parse(margins, default.margins), default.margins
            ),
            _read_or_default(fields, "minimum_items", _count, default.minimum_items),
            _read_or_default(fields, "metric", _metric, None),
            _read_or_default(fields, "languages", _languages, None),
        )


@dataclass(frozen=True)
class DriftLimits:
    """The largest mean divergence between the candidate's and the baseline's routing of the same items.

    Attributes:
        limits: By band (``early``, ``middle``, ``late``), between 0 and 1; a band left out is not looked at.
        exceeded: Whether a drift beyond its limit fails the gate or is only told.
    """

    limits: Mapping[str, float]
    exceeded: Exceeded = "fail"

    @classmethod
    def parse(cls, field: YamlValue) -> DriftLimits:
        """Read ``{early: 0.05, middle: 0.05, late: 0.05, exceeded: fail}``."""
        fields = field.keys([], [*BANDS, "exceeded"])
        limits = {band: fields[band].number(0, 1) for band in BANDS if band in fields}
        if not limits:
            raise field.error(
                "no band has a limit", f"give a limit for at least one of {', '.join(BANDS)}, or leave the key out"
            )
        return cls(limits, _read_or_default(fields, "exceeded", _one_of(Exceeded), "fail"))


@dataclass(frozen=True)
class Policy:
    """A policy file, checked.

    Attributes:
        name: What the output calls it.
        alpha: The largest chance of any false alarm among all tests of one gate.
        correction: How that is kept over several tests; with ``none`` it holds for each test alone.
        test: ``drop``: a regression is a drop beyond chance that is larger than the margin. ``margin``: it is beyond
            chance that the drop is larger than the margin.
        inconclusive: What becomes of a score that neither regressed nor is shown to be within its margin.
        samples: Whether scores have to be compared item by item.
        default: What holds for benchmarks that have no entry.
        benchmarks: By name; None: all that the baseline has are judged.
        routing_drift: None: not looked at.
        allow: Known regressions.
        source: The file.
    """

    name: str
    alpha: float
    correction: Correction
    test: Test
    inconclusive: Inconclusive
    samples: Samples
    default: BenchmarkPolicy
    benchmarks: Mapping[str, BenchmarkPolicy] | None
    routing_drift: DriftLimits | None
    allow: tuple[Allowed, ...]
    source: str = field(default="<api>", compare=False)

    @classmethod
    def parse(cls, field: YamlValue) -> Policy:
        """Read a whole file."""
        fields = field.keys(
            ["version", "margins", "minimum_items"],
            ["name", "alpha", "correction", "test", "inconclusive", "samples", "benchmarks", "routing_drift", "allow"],
        )
        fields["version"].version(VERSION)
        default = BenchmarkPolicy(Margins.parse(fields["margins"]), _count(fields["minimum_items"]))
        left_out = [name for name in ("routing_drift", "allow") if name in fields and fields[name].value is None]
        fields = {name: value for name, value in fields.items() if name not in left_out}
        return cls(
            name=_read_or_default(fields, "name", one_line, Path(field.place.source).name),
            alpha=_read_or_default(fields, "alpha", _alpha, 0.05),
            correction=_read_or_default(fields, "correction", _one_of(Correction), "holm"),
            test=_read_or_default(fields, "test", _one_of(Test), "drop"),
            inconclusive=_read_or_default(fields, "inconclusive", _one_of(Inconclusive), "warn"),
            samples=_read_or_default(fields, "samples", _one_of(Samples), "required"),
            default=default,
            benchmarks=_read_or_default(fields, "benchmarks", lambda entries: _benchmarks(entries, default), None),
            routing_drift=_read_or_default(fields, "routing_drift", DriftLimits.parse, None),
            allow=_read_or_default(fields, "allow", _allowed, ()),
            source=field.place.source,
        )

    def of(self, benchmark: str) -> BenchmarkPolicy | None:
        """Return what holds for a benchmark; None if it is not judged."""
        if self.benchmarks is None:
            return self.default
        return self.benchmarks.get(benchmark)


def parse_policy(mapping: Mapping[str, Any], source: str = "<api>") -> Policy:
    """Check a policy that is already in memory.

    Args:
        mapping: What a policy file holds.
        source: What error messages call it.

    Raises:
        UserError: Anything in it is unknown, missing, of the wrong type or out of range.
    """
    return Policy.parse(YamlValue(YamlPlace(source, Path.cwd()), mapping))


def load_policy(path: str | Path) -> Policy:
    """Read and check a policy file.

    Raises:
        UserError: The file cannot be read, is not acceptable YAML, or something in it is unknown, missing, of the wrong
            type or out of range; the message names the file and the key, what was given, what is allowed.
    """
    path = Path(path)
    try:
        content = read_yaml(path, "policy")
    except UserError as error:
        if path.is_file():
            raise
        fix = "give the path of a policy file; `lm-eval-moe gate init BASELINE -o policy.yaml` writes one"
        raise UserError(error.problem, fix=fix, where=error.where) from error
    return Policy.parse(YamlValue(YamlPlace(str(path), path.parent), content))


def _read_or_default(fields: Mapping[str, YamlValue], name: str, read: Callable[[YamlValue], T], default: T) -> T:
    return read(fields[name]) if name in fields else default


def _one_of(options: object) -> Callable[[YamlValue], Any]:
    """Return what reads one of the texts of a `Literal`."""
    return lambda field: field.choice(get_args(options))


def _count(field: YamlValue) -> int:
    return field.integer(1, 10**9)


def _allowed(field: YamlValue) -> tuple[Allowed, ...]:
    return tuple(Allowed.parse(entry) for entry in field.items("[{language: sw, reason: …, until: 2027-01-31}]"))


def _benchmarks(field: YamlValue, default: BenchmarkPolicy) -> dict[str, BenchmarkPolicy]:
    entries = field.mapping("{mgsm: {minimum_items: 200}}")
    if not entries:
        raise field.error("the list is empty", "leave `benchmarks` out to judge everything that the baseline has")
    policies = {}
    for key, value in entries.items():
        name = one_line(YamlValue(value.place, key))
        policies[name] = default if value.value is None else BenchmarkPolicy.parse(value, default)
    return policies


def _languages(field: YamlValue) -> tuple[str, ...] | None:
    if field.value == "all":
        return None
    tags = tuple(language_tag(item) for item in field.items("[de, sw]"))
    if not tags:
        raise field.error("the list is empty", "write all, or the languages that are required")
    return tuple(dict.fromkeys(tags))


def _metric(field: YamlValue) -> str:
    text = one_line(field)
    name, comma, filtered = text.partition(",")
    if not (name and comma and filtered):
        raise field.error(
            f"{text!r} does not name a filter", f"write metric and filter as in the results: '{name},none'"
        )
    return text


def _alpha(field: YamlValue) -> float:
    alpha = field.number(0, 0.5)
    if alpha == 0:
        raise field.error("at 0 nothing would ever count as a regression", "give a small number such as 0.05")
    return alpha
