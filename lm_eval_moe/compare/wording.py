"""Numbers and notes in words, the same in every format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lm_eval_moe.compare.board import Board, Head, RunRow, Section
from lm_eval_moe.compare.cells import BoardCell, Change
from lm_eval_moe.long_lists import Note
from lm_eval_moe.number_text import Scale, p_number, p_text, per_cent
from lm_eval_moe.results.marks import legend, listed, signs_of
from lm_eval_moe.statistics import ALPHA, draws_needed

__all__ = [
    "MISSING",
    "are_languages_in_rows",
    "caption",
    "change_text",
    "change_words",
    "control_text",
    "corner",
    "interval_text",
    "row_detail",
    "section_notes",
    "value_text",
]

MISSING = "\N{EN DASH}"
_MOST_COLUMNS = 12
_BETTER, _WORSE = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"


def value_text(cell: BoardCell, head: Head) -> str:
    """Return ``54.0``, with the signs of its marks: shares in per cent, other numbers as they are."""
    if cell.estimate is None:
        return MISSING
    return f"{Scale(head.metric).number(cell.estimate.value)} {signs_of(cell.marks)}".strip()


def change_text(cell: BoardCell, head: Head) -> str:
    """Return ``+2.4``, a triangle where it is beyond chance, and the signs of its marks; empty without a baseline."""
    change = cell.change
    if change is None:
        return ""
    text = Scale(head.metric).change(change.difference.value)
    return f"{text}{_mark(change)} {signs_of(change.marks)}".strip()


def _mark(change: Change) -> str:
    if not change.beyond or change.better is None:
        return ""
    return _BETTER if change.better else _WORSE


def change_words(change: Change) -> str:
    """Say a mark in words, for those who hear the page."""
    if change.difference.changed == 0:
        return "no item changed"
    if change.p is None:
        return "no standard error is known"
    if not change.beyond or change.better is None:
        return "not beyond chance"
    return "better, beyond chance" if change.better else "worse, beyond chance"


def interval_text(change: Change | None, head: Head) -> str:
    """Return ``[+0.4, +4.4]``, empty where it is not known."""
    return Scale(head.metric).interval(change.interval if change else None)


def control_text(row: RunRow, head: Head) -> tuple[str, str]:
    """Return a run's average gain over random controls with its marks; its interval of a new draw, and its rank."""
    gain = row.control.average if row.control else None
    if gain is None:
        return MISSING, ""
    mark = ""
    if gain.differs_from_draw:
        mark = _BETTER if (gain.gain > 0) == head.higher_is_better else _WORSE
    # The first column is over the run's languages, too.
    mark = f"{mark} {signs_of(row.cells[0].marks)}".rstrip()
    scale = Scale(head.metric)
    interval = scale.interval((gain.new_draw_low, gain.new_draw_high))
    rank = "" if gain.rank_p is None else f"rank {p_text(gain.rank_p)}"
    return scale.change(gain.gain) + mark, ", ".join(filter(None, (interval, rank)))


def are_languages_in_rows(section: Section) -> bool:
    """Whether a table is turned round: more than a dozen languages, and at least as many as runs, are found in rows."""
    languages = sum(head.kind == "value" for head in section.heads)
    return languages > _MOST_COLUMNS and languages >= len(section.rows)


def corner(section: Section, board: Board) -> str:
    """Return what stands above the names of a table's rows."""
    if not are_languages_in_rows(section):
        return "run"
    return "language" if board.settings.columns == "languages" else ""


def row_detail(row: RunRow, section: Section) -> str:
    """Return what stands beside a run's label: what it leaves out, and that the run is the baseline."""
    compared = any(peer.baseline == row.label for peer in section.rows) and row.label.lower() != "baseline"
    return ", ".join(filter(None, (row.detail, "baseline" * compared)))


def caption(section: Section) -> str:
    """Return what a table shows: benchmark, metric, unit and direction."""
    metrics = {(head.metric, head.higher_is_better) for head in section.heads if head.metric is not None}
    if len(metrics) != 1:
        return section.title
    ((metric, higher),) = metrics
    unit = " in per cent" if metric.is_share else ""
    return f"{section.title}: {metric.title}{unit}, {'higher' if higher else 'lower'} is better"


def section_notes(section: Section, board: Board) -> list[Note]:
    """Return what has to be known to read a table."""
    return [
        *legend(section.marks),
        *_how_compared(section, board),
        *_columns(section),
        *_order(section, board),
        *_errors(section),
        *_controls(section),
        *section.notes,
    ]


def _how_compared(section: Section, board: Board) -> Iterator[str]:
    compared = [row for row in section.rows if row.baseline is not None]
    if not compared:
        return
    alpha = per_cent(board.settings.alpha)
    names = dict.fromkeys(row.baseline for row in compared)
    to = f"{next(iter(names))}" if len(names) == 1 else "the unsteered run of the same model (else the first run)"
    together = sum(head.kind == "value" for head in section.heads)
    corrected = f", after Holm's correction over the row's {together} columns" if together > 1 else ""
    averages = "; each average is one test" if any(head.kind == "average" for head in section.heads) else ""
    yield (
        f"Signed numbers: change from {to}. {_BETTER} better, {_WORSE} worse beyond chance at {alpha}"
        f"{corrected}{averages}." + (" Rows are not corrected for each other." if len(compared) > 1 else "")
    )
    changes = [cell.change for row in compared for cell in row.cells if cell.change is not None]
    if any(change.interval is not None for change in changes):
        alone = ", each by itself without that correction" if together > 1 else ""
        yield f"Intervals: {per_cent(1 - board.settings.alpha)}{alone}; none where no item changed."
    yield from _methods(compared)


def _methods(rows: Sequence[RunRow]) -> Iterator[str]:
    changes = [(row, cell.change) for row in rows for cell in row.cells if cell.change is not None]
    methods = {change.method for _, change in changes}
    if paired := methods - {"normal, unpaired", "identical"}:
        names = {
            "McNemar exact": "McNemar's exact test",
            "sign flip exact": "exact permutation test",
            "sign flip sampled": "permutation test (9999 draws)",
        }
        tests = ", ".join(names.get(method, method) for method in sorted(paired))
        yield f"Paired item by item: {tests}{_clusters(changes)}."
    elif "identical" in methods:
        yield "Paired item by item."
    unpaired = list(dict.fromkeys(row.label for row, change in changes if change.difference.how == "unpaired"))
    if unpaired:
        yield (
            f"UNPAIRED, from the standard errors alone: {listed(unpaired, 5)}. Its samples or the baseline's are "
            "missing or of other documents (evaluate with --log_samples): real differences are easily missed, and "
            "averages take the largest error that the languages' dependence allows."
        )
    if any(change.p is None for _, change in changes):
        yield "Changes without a standard error are not tested."


def _clusters(changes: Sequence[tuple[RunRow, Change]]) -> str:
    """Say what the changes of averages take for independent."""
    averages = [
        (row.label, c.difference) for row, c in changes if len(c.languages) > 1 and c.difference.how == "paired"
    ]
    # Items without a name are told apart by language: then there are as many clusters as values.
    unclustered = dict.fromkeys(label for label, average in averages if average.clusters == average.values)
    if not unclustered:
        return "; an item asked in several languages is one cluster"
    if len(unclustered) == len({label for label, _ in averages}):
        return "; languages count as independent, since it is not known which items are the same"
    return (
        "; an item asked in several languages is one cluster, but languages count as independent in "
        f"{', '.join(unclustered)}, where it is not known which items are the same"
    )


def _errors(section: Section) -> Iterator[str]:
    """Name the kinds of standard errors of averages, which CSV and JSON hold."""
    kinds: dict[str, list[str]] = {}
    for row in section.rows:
        for cell in row.cells:
            if cell.estimate is not None and len(cell.languages) > 1:
                kinds.setdefault(cell.estimate.kind, []).append(row.label)
    if len(kinds) > 1:
        texts = [f"{kind} in {', '.join(dict.fromkeys(labels))}" for kind, labels in kinds.items()]
        yield f"Standard errors of averages are not all of one kind: {'; '.join(texts)}."


def _columns(section: Section) -> Iterator[str]:
    for head in section.heads:
        mean = f"mean over {len(head.languages)} language{'s' * (len(head.languages) != 1)}"
        if head.kind == "average":
            yield f"{head.title}: {mean}."
        elif head.kind == "divergence":
            yield f"{head.title}: middle layers, to the reference, {mean}; lower is closer."


def _order(section: Section, board: Board) -> Iterator[str]:
    """Say how languages and runs are ordered, where there are enough of them to be looked for."""
    if board.settings.columns == "languages" and sum(head.kind == "value" for head in section.heads) > 2:
        yield "Languages are ordered by code, the reference first."
    if len(section.rows) > 2:
        by = {"given": "as given", "label": "by name"}.get(board.settings.sort, f"by {board.settings.sort}, best first")
        yield f"Runs are ordered {by}."


def _controls(section: Section) -> Iterator[str]:
    gains = [row.control for row in section.rows if row.control is not None]
    if not gains:
        return
    draws = sorted({gain.seeds for gain in gains})
    ranks = " or ".join(p_number(1 / (draw + 1)) for draw in draws)
    yield (
        f"vs random control: gain over the mean of {' or '.join(map(str, draws))} random draws of as many experts, "
        "with its 95 % prediction interval for a new random draw; marked where that leaves out 0. The rank p is (1 + "
        f"draws at least as good) / (draws + 1), {ranks} at least; {per_cent(ALPHA)} takes {draws_needed()} draws."
    )
    if 1 in draws:
        yield "One draw cannot tell how much the draw of experts matters: there is no interval and no mark."
    if not all(gain.clustered for gain in gains):
        yield (
            "Where no group has just these tasks, the interval takes the items of the languages to be as alike as can "
            "be: it is wide."
        )
