"""Every run less the baseline, by language."""

from __future__ import annotations

from lm_eval_moe.report.figures._base import BENCHMARK, BenchmarkSubject, ReportFigure
from lm_eval_moe.report.figures._dots import MEAN, Dot, change_drawings
from lm_eval_moe.report.wording import listing, sentence_case

__all__ = ["differences_figure"]

_COLUMNS = (
    *("benchmark", "language", "run", "baseline", "metric"),
    *("difference", "stderr", "low", "high", "kind", "verdict"),
)


@BENCHMARK.figure("differences", order=20, title="Change against the baseline")
def differences_figure(subject: BenchmarkSubject) -> ReportFigure | None:
    """Draw the differences to the baseline as dots with 95 % intervals, a row a language and one for their mean."""
    benchmark = subject.benchmark
    names = [*benchmark.languages, *([MEAN] if len(benchmark.languages) > 1 else [])]
    runs = range(1, len(benchmark.runs))
    judged = {run: benchmark.judgements(run, benchmark.score_of) for run in runs}
    for run in runs if MEAN in names else ():
        if (mean := benchmark.judgement(run, benchmark.shared(run), benchmark.score_of)) is not None:
            judged[run][MEAN] = mean
    judgements = {(name, run): judged[run][name] for name in names for run in runs if name in judged[run]}
    if not judgements:
        return None
    dots = [
        Dot(name, run, judgement.difference.value, judgement.interval, judgement.beyond)
        for (name, run), judgement in judgements.items()
    ]
    label = f"{sentence_case(benchmark.metric.title)} less the baseline's"
    baseline, run_labels = benchmark.runs[0].label, [run.label for run in benchmark.runs[1:]]
    counts = sorted({len(shared) for run in range(1, len(benchmark.runs)) if (shared := benchmark.shared(run))})
    over = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    averaged = f" The mean is over the {over} languages that a run shares with the baseline."
    averaged *= len(benchmark.languages) > 1
    caption = (
        "Lines are 95 % intervals of each difference by itself. A filled marker is one beyond noise, languages "
        f"corrected for each other.{averaged}"
    )
    alternative = (
        f"Dot plot of the difference in {benchmark.metric.title} of {listing(run_labels)} to {baseline}, by language, "
        "with 95 % intervals. The values are in the table above."
    )
    with_one = [name for name in benchmark.languages if any(name in of_run for of_run in judged.values())]
    drawings = change_drawings(dots, with_one, benchmark.metric, label, caption, alternative)
    return ReportFigure(
        f"Change of {benchmark.metric.title} against {baseline}",
        f"{caption}{drawings.note}",
        alternative,
        _COLUMNS,
        [
            (
                *(benchmark.name, name, benchmark.runs[run].label, baseline, benchmark.metric.key),
                *(judgement.difference.value, judgement.difference.stderr, *(judgement.interval or (None, None))),
                *(judgement.difference.how, judgement.verdict),
            )
            for (name, run), judgement in judgements.items()
        ],
        drawings.draw,
        key=tuple(range(1, len(benchmark.runs))),
        tabulated=False,
        folded=drawings.folded,
    )
