"""What a figure of the report is, and where on the page each of them stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

from lm_eval_moe.analysis import NotPossible
from lm_eval_moe.discovery import Registry
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.long_lists import LongList
from lm_eval_moe.tables import TableValue, csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lm_eval_moe.analysis import AnalysisInputs
    from lm_eval_moe.results import Benchmark, Run
    from lm_eval_moe.results.sweeps import SweepBenchmark

__all__ = ["BENCHMARK", "PROFILES", "SWEEP", "BenchmarkSubject", "Folded", "Place", "ProfilesSubject", "ReportFigure"]

S = TypeVar("S")


@dataclass(frozen=True)
class Folded:
    """A further drawing of a figure's data: the page shows it on request, files have it beside the figure.

    Attributes:
        stem: The end of its files' names.
        title: What the reader unfolds.
        caption: How to read it.
        alternative: The text alternative.
        draw: Draws it with the given colours.
    """

    stem: str
    title: str
    caption: str
    alternative: str
    draw: Callable[[Colours], Figure]


@dataclass(frozen=True)
class ReportFigure:
    """A figure with what it shows, what it says, and its data: drawn twice, on the page and in files.

    Attributes:
        title: A few words.
        caption: How to read it.
        alternative: The text alternative, for those who do not see it.
        columns: The names of the data's columns.
        rows: The data.
        draw: Draws it with the given colours.
        finding: What the data say, computed from them; empty where the section says it.
        lists: What the finding only counts.
        key: Numbers of the runs whose colours and markers are in it.
        tabulated: Whether the page shows the data as a table; not where another table has them, or there are too many.
        folded: Further drawings of the same data.
        choices: What a reader can have brought out, by pointing at it or from a list: what is drawn with the ``gid``
            ``choice-N``, here and in the further drawings, is the N-th of them.
    """

    title: str
    caption: str
    alternative: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[TableValue]]
    draw: Callable[[Colours], Figure]
    finding: str = ""
    lists: tuple[LongList, ...] = ()
    key: tuple[int, ...] = ()
    tabulated: bool = True
    folded: tuple[Folded, ...] = ()
    choices: tuple[str, ...] = ()

    @cached_property
    def csv(self) -> str:
        """The data as CSV, numbers in full."""
        return csv_text(self.columns, self.rows)


@dataclass(frozen=True)
class BenchmarkSubject:
    """What the figures of a benchmark are made of.

    Attributes:
        benchmark: Scores and routing by language and run.
        profile_sets: Profiles that may be of the same model in the baseline's state.
        covered: Whether a section on profiles shows the baseline's routing on the same items, with intervals.
    """

    benchmark: Benchmark
    profile_sets: Sequence[AnalysisInputs] = ()
    covered: bool = False


@dataclass(frozen=True)
class ProfilesSubject:
    """What the figures of profiles are made of.

    Attributes:
        inputs: Profiles that belong together.
        runs: The runs of the page; None for one of another shape.
    """

    inputs: AnalysisInputs
    runs: Sequence[Run | None] = ()


Make = Callable[[S], "ReportFigure | None"]


@dataclass(frozen=True)
class _Declared(Generic[S]):
    order: int
    stem: str
    title: str
    make: Make[S]


class Place(Registry[_Declared[S]]):
    """A kind of section of the page, and the figures that stand in it, by their stems."""

    def figure(self, stem: str, *, order: int, title: str) -> Callable[[Make[S]], Make[S]]:
        """Return a decorator that puts the figure which a function makes into every section of this kind.

        The function returns None where there is nothing to draw, and raises `NotPossible` where the page shall say what
        is missing.

        Args:
            stem: The end of its files' names.
            order: Where it stands among the others, ascending; ours are multiples of 10.
            title: What it is called where it cannot be made.

        Raises:
            UserError: Another figure of this place has the stem.
        """

        def declare(make: Make[S]) -> Make[S]:
            self.add(stem, _Declared(order, stem, title, make), make)
            return make

        return declare

    def drawn(self, subject: S) -> tuple[dict[str, ReportFigure], list[str]]:
        """Return the figures of a section by their stems, in their order, and what is missing for the others.

        Raises:
            UserError: A profile is damaged.
        """
        figures: dict[str, ReportFigure] = {}
        missing = []
        for declared in sorted(self.values(), key=lambda entry: (entry.order, entry.stem)):
            try:
                figure = declared.make(subject)
            except NotPossible as reason:
                missing.append(f"{declared.title}: {reason.reason}; {reason.fix}.")
                continue
            if figure is not None:
                figures[declared.stem] = figure
        return figures, missing


BENCHMARK: Place[BenchmarkSubject] = Place("benchmarks' figure")
"""The sections of benchmarks."""

PROFILES: Place[ProfilesSubject] = Place("profiles' figure")
"""The sections of routing profiles."""

SWEEP: Place[SweepBenchmark] = Place("sweeps' figure")
"""The sections of sweeps, one for each of their benchmarks."""
