"""Put a page together and write it."""

from __future__ import annotations

import base64
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.compare.html_page import render_page
from lm_eval_moe.drawing.palette import DARK, LIGHT, RUN_COLOURS, Colours, css, page_colours
from lm_eval_moe.extras import require_extra
from lm_eval_moe.files import write_whole
from lm_eval_moe.number_text import Scale, minus
from lm_eval_moe.report.provenance import facts, mismatches, steering_facts, task_facts
from lm_eval_moe.report.wording import listing, plural, sentence_case
from lm_eval_moe.results import LabelledRun, Run, arrange, read_runs
from lm_eval_moe.results.arrangement import LeftOut
from lm_eval_moe.results.labels import shared_sentence
from lm_eval_moe.results.marks import legend, score_marks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lm_eval_moe.analysis import AnalysisInputs
    from lm_eval_moe.report.sections import BenchmarkSection, NamedFigure, ProfileSection, SweepSection
    from lm_eval_moe.results.sweeps import SweepReport

__all__ = ["report_html", "write_report"]

_FOLDER = Path(__file__).parent
_MOST_ROWS = 600  # of a figure's data on the page
_MOST_CSV = 250_000  # characters of the figures' data that the page carries; a cell takes two at least


def write_report(
    runs: Sequence[LabelledRun],
    path: Path,
    *,
    title: str,
    profile_sets: Sequence[AnalysisInputs] = (),
    sweeps: Sequence[SweepReport] = (),
    notes: Sequence[str] = (),
    figures: Path | None = None,
) -> list[Path]:
    """Write one self-contained HTML page on runs, profiles and sweeps; the first run is the baseline.

    The page needs no network; figures are inline SVG, in which a script of the page brings a language out. Everything
    that comes from the files is escaped.

    Args:
        runs: The runs, each with a label of its own; may be empty if there are profiles or sweeps.
        path: The file to write; folders on the way are made, an existing file is replaced.
        title: The page's heading.
        profile_sets: Profiles that belong together, each as a section.
        sweeps: Sweeps, a section for each of their benchmarks.
        notes: What was left aside when the files were read.
        figures: A folder that gets every figure as PNG and SVG, and its data as CSV.

    Returns:
        The files of the figures.

    Raises:
        UserError: The ``report`` extra is not installed, there is nothing to report, a run is without results, a file
            is damaged, or one cannot be written.
    """
    content = _content(runs, profile_sets, sweeps)
    write_whole(Path(path), _render(content, title, notes), "report")
    if figures is None:
        return []
    from lm_eval_moe.report.figure_files import write_figures

    with _quiet_fonts():
        return write_figures(content.figures, figures, [run.label for run in content.runs])


def report_html(runs: Sequence[LabelledRun], *, title: str, notes: Sequence[str] = ()) -> str:
    """Return the page of `write_report` on runs without writing it."""
    return _render(_content(runs, (), ()), title, notes)


def _content(
    runs: Sequence[LabelledRun], profile_sets: Sequence[AnalysisInputs], sweeps: Sequence[SweepReport]
) -> _Content:
    require_extra("a report", "matplotlib", "jinja2")
    from lm_eval_moe.report.sections import benchmark_sections, profile_sections, sweep_sections

    read = read_runs(runs) if runs or not (profile_sets or sweeps) else ()
    benchmarks, left_out = arrange(read) if read else ((), ())
    sections = (
        benchmark_sections(benchmarks, profile_sets),
        profile_sections(profile_sets, read),
        sweep_sections(sweeps),
    )
    return _Content(read, *sections, left_out)


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Matplotlib measures text with its own font, which has not all letters; the page shows it with the reader's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support .* natively", UserWarning)
        yield


@dataclass(frozen=True)
class _Content:
    runs: tuple[Run, ...]
    benchmarks: list[BenchmarkSection]
    profiles: list[ProfileSection]
    sweeps: list[SweepSection]
    left_out: tuple[LeftOut, ...]

    @property
    def figures(self) -> list[NamedFigure]:
        """All figures, in the page's order."""
        kinds: tuple[Sequence[Any], ...] = (self.benchmarks, self.profiles, self.sweeps)
        return [figure for kind in kinds for section in kind for figure in section.figures]


def _render(content: _Content, title: str, notes: Sequence[str]) -> str:
    from markupsafe import Markup

    runs = content.runs
    script = ""
    if any(entry.figure.choices for entry in content.figures):
        script = (_FOLDER / "choosing.js").read_text(encoding="utf-8")
    with _quiet_fonts():
        carried = _carried(content.figures)
        placed = {
            entry.name: _place(entry, number, carried.get(entry.name)) for number, entry in enumerate(content.figures)
        }
    return render_page(
        _FOLDER / "page.html.jinja",
        title=title,
        lead=_lead(content),
        css=_styles(),
        script=Markup(script),
        script_hash=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        sentence_case=sentence_case,
        marker_of=lambda number: (number + number // RUN_COLOURS) % RUN_COLOURS,
        runs=runs,
        sections=content.benchmarks,
        profiles=content.profiles,
        sweeps=content.sweeps,
        placed=placed,
        outline=_outline(content),
        left_out=[_plain_row(entry, runs) for entry in content.left_out],
        facts=facts(runs),
        steerings=steering_facts(runs),
        tasks=task_facts(runs),
        mismatches=mismatches(runs),
        notes=notes,
    )


def _styles() -> Any:
    from markupsafe import Markup

    # Paper is light: dark colours are for screens only.
    schemes = (
        f":root {{ {css(LIGHT)} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {css(DARK)} }} }}\n"
    )
    return Markup(schemes + (_FOLDER / "page.css").read_text(encoding="utf-8"))


def _lead(content: _Content) -> str:
    runs = content.runs
    sentences = []
    if shared := shared_sentence(runs) if runs else "":
        sentences.append(shared)
    if len(runs) > 1:
        sentences.append(f"{len(runs)} runs; the first, {runs[0].label}, is the baseline of every comparison.")
    elif runs:
        sentences.append(f"One run: {runs[0].label}.")
    counts = [
        plural(count, noun, many)
        for count, noun, many in (
            (sum(len(section.profiles) for section in content.profiles), "routing profile", "routing profiles"),
            (len(content.sweeps), "benchmark of a sweep", "benchmarks of sweeps"),
        )
        if count
    ]
    if counts:
        sentences.append(sentence_case(listing(counts)) + ".")
    return " ".join(sentences)


def _outline(content: _Content) -> list[tuple[str, str]]:
    sections = [(f"s{number}", section.benchmark.name) for number, section in enumerate(content.benchmarks, start=1)]
    sections += [(f"r{number}", section.title) for number, section in enumerate(content.profiles, start=1)]
    sections += [(f"w{number}", section.title) for number, section in enumerate(content.sweeps, start=1)]
    return [*sections, ("provenance", "Where the numbers come from")]


def _place(entry: NamedFigure, number: int, data: str | None) -> dict[str, Any]:
    """Return a figure as the template wants it, with its data as CSV where the page carries them."""
    from markupsafe import Markup

    from lm_eval_moe.report.figures import language_title
    from lm_eval_moe.report.svg import to_svg

    figure = entry.figure
    titles = [*map(language_title, figure.choices)]

    def drawn(draw: Callable[[Colours], Figure], suffix: str, alternative: str) -> Any:
        return Markup(to_svg(draw(page_colours()), f"f{number}{suffix}", alternative, titles))

    table = None
    if figure.tabulated and len(figure.rows) <= _MOST_ROWS:
        table = [[_cell(cell) for cell in row] for row in figure.rows]
    folded = [
        (part.title, part.caption, drawn(part.draw, f"-{place}", part.alternative))
        for place, part in enumerate(figure.folded)
    ]
    return {
        "name": entry.name,
        "figure": figure,
        "svg": drawn(figure.draw, "", figure.alternative),
        "folded": folded,
        "choices": sorted(enumerate(titles), key=lambda choice: choice[1].lower()),
        "table": table,
        "csv": data and f"data:text/csv;charset=utf-8;base64,{base64.b64encode(data.encode()).decode()}",
    }


def _carried(figures: Sequence[NamedFigure]) -> dict[str, str]:
    """Return the data that the page carries, the shortest first, by the figures' names."""
    small = [entry for entry in figures if 2 * len(entry.figure.rows) * len(entry.figure.columns) <= _MOST_CSV]
    carried, room = {}, _MOST_CSV
    for entry in sorted(small, key=lambda entry: len(entry.figure.csv)):
        room -= len(entry.figure.csv)
        if room >= 0:
            carried[entry.name] = entry.figure.csv
    return carried


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return minus(f"{value:.4f}") if isinstance(value, float) else str(value)


def _plain_row(entry: LeftOut, runs: Sequence[Run]) -> tuple[str, str, list[str]]:
    texts = [
        f"{value[0].key} {Scale(value[0]).estimate(value[1])}" if value is not None else "" for value in entry.values
    ]
    scoring_runs = [run for run, value in zip(runs, entry.values, strict=True) if value is not None]
    sentences = legend((mark for run in scoring_runs for mark in score_marks(run, entry.task)), signs=False)
    return entry.task, ". ".join([entry.reason, *map(sentence_case, sentences)]), texts
