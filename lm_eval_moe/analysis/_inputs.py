"""What analyses are computed from: every language's routing, read when it is needed, and what else was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from lm_eval_moe.profiles import Activity, Profile, ProfilePath, ProfileStore
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from typing import Self

    from lm_eval_moe.results import Run

__all__ = ["AnalysisInputs", "AnalysisSettings", "LanguageRouting", "NotPossible"]

A = TypeVar("A", bound="Computed")

ItemName = tuple[str, str]
"""Benchmark and item."""


class NotPossible(Exception):  # noqa: N818 - not a mistake: the output says what is missing
    """An analysis cannot be done with what was given.

    Args:
        reason: Why.
        fix: What would make it possible.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}; {fix}")
        self.reason, self.fix = reason, fix


@dataclass(frozen=True)
class AnalysisSettings:
    """What can be chosen.

    Attributes:
        top_m: How many of a language's most active experts per layer count for exclusivity; None for the 15 of 128
            experts of arXiv 2601.14050 in proportion, at least the model's top-k (our choice).
        shares: Thresholds θ of a language's share of an expert.
        thresholds: Thresholds τ of differences of activation frequencies.
        distance: Between languages, for clustering.
        layers: Which layers languages are clustered by.
        resamples: Random permutations.
        seed: Of these.
    """

    top_m: int | None = None
    shares: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    thresholds: tuple[float, ...] = tuple(step / 20 for step in range(1, 11))
    distance: Literal["jensenshannon", "correlation"] = "jensenshannon"
    layers: Literal["all", "early", "middle", "late"] = "middle"
    resamples: int = 9999
    seed: int = 0

    def top_m_of(self, shape: RoutingShape) -> int:
        """Return ``top_m`` for a model."""
        return self.top_m or max(shape.top_k, round(shape.experts * 15 / 128))


@dataclass(frozen=True)
class LanguageRouting:
    """The rows of one language in one file.

    Attributes:
        language: Its tag.
        given: The file.
        profile: What is in it.
        rows: Which of its rows are of this language.
    """

    language: str
    given: ProfilePath
    profile: Profile
    rows: tuple[int, ...]

    @property
    def shape(self) -> RoutingShape:
        """The model's routing shape."""
        return self.profile.shape

    @property
    def is_dump(self) -> bool:
        """Whether it is JSON counts, which hold no items."""
        return self.profile.is_dump

    @cached_property
    def items(self) -> dict[ItemName, int]:
        """The rows of its items; empty where some row pools several.

        Raises:
            UserError: An item is there twice.
        """
        row_of_item: dict[ItemName, int] = {}
        for row in self.rows:
            item = self.profile.items[row]
            if not item.item:
                return {}
            first_row = row_of_item.setdefault((item.benchmark, item.item), row)
            if first_row != row:
                tasks = f"{self.profile.items[first_row].task} and {item.task}"
                raise self.given.error(
                    f"holds the item {item.item} of {item.benchmark} twice in {self.language}: in {tasks}",
                    "give profiles in which an item pairs with one item of another language: one task per language",
                )
        return row_of_item

    @cached_property
    def tokens(self) -> dict[int, int]:
        """The tokens of every row; of JSON counts those of the busiest layer."""
        return {row: int(self.profile.tokens[row]) for row in self.rows}

    @property
    def activity(self) -> Activity:
        """How often experts are selected: the mean over items, and pooled."""
        return self.profile.activity(self.rows)


class Computed(Protocol):
    """What is computed from the inputs, such as an analysis."""

    @classmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Compute it."""
        ...


@dataclass(frozen=True)
class AnalysisInputs:
    """What analyses are computed from.

    Attributes:
        shape: The model's routing shape.
        reference: The language that the others are compared with.
        languages: Every language's routing, the reference included.
        store: Has read the profiles.
        model: What the model was called; None, as the next two, where no file says.
        span: The tokens that were counted.
        steering: The hash of the steering during the capture.
        task: Profile of a task's text and of general text in the same language, and that language if it was named.
        benchmark: The benchmark whose items were chosen; None: those of all.
        runs: Results of evaluations of the same model.
        accuracies: An accuracy by language, from a table.
        accuracies_name: What the table is called.
        settings: What can be chosen.
    """

    shape: RoutingShape
    reference: str
    languages: Mapping[str, LanguageRouting]
    store: ProfileStore = field(repr=False)
    model: str | None = None
    span: str | None = None
    steering: str | None = None
    task: tuple[ProfilePath, ProfilePath, str | None] | None = None
    benchmark: str | None = None
    runs: tuple[Run, ...] = ()
    accuracies: Mapping[str, float] = field(default_factory=dict)
    accuracies_name: str = ""
    settings: AnalysisSettings = AnalysisSettings()
    _done: dict[type[Computed], Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def benchmarks(self) -> dict[str, int]:
        """How many rows of all languages are of each benchmark; none of files that do not say."""
        rows = (
            routing.profile.items[row]
            for routing in self.languages.values()
            if not routing.is_dump
            for row in routing.rows
        )
        return dict(Counter(item.benchmark for item in rows if item.benchmark))

    @property
    def others(self) -> list[str]:
        """The languages besides the reference."""
        return [language for language in self.languages if language != self.reference]

    def result(self, analysis: type[A]) -> A:
        """Return the result of an analysis, which is computed once.

        Raises:
            NotPossible: It cannot be done with this inputs.
            UserError: A profile is damaged.
        """
        if analysis not in self._done:
            self._done[analysis] = analysis.of(self)
        result: A = self._done[analysis]
        return result

    def require_languages(self, count: int) -> None:
        """Refuse fewer languages.

        Raises:
            NotPossible: There are fewer.
        """
        if len(self.languages) < count:
            names = ", ".join(self.languages)
            raise NotPossible(
                f"it compares at least {count} languages, the profiles are of {len(self.languages)}: {names}",
                "give the profiles of further languages",
            )
