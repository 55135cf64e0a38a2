"""What the numbers of a benchmark say, in sentences that are computed from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lm_eval_moe.long_lists import LongList, Note, counted, folded
from lm_eval_moe.number_text import Scale, per_cent
from lm_eval_moe.report.table import marks_of
from lm_eval_moe.report.wording import listing, plural, sentence_case
from lm_eval_moe.results.benchmarks import Benchmark
from lm_eval_moe.results.marks import legend
from lm_eval_moe.shape import BANDS
from lm_eval_moe.statistics import ALPHA, Judgement

__all__ = ["Finding", "findings", "in_a_sentence", "notes"]


@dataclass(frozen=True)
class Finding:
    """What a finding is about, its sentences, and the lists that they only count."""

    about: str
    text: str
    lists: tuple[LongList, ...] = ()


def findings(benchmark: Benchmark) -> list[Finding]:
    """Return what stands above a benchmark's table."""
    entries = [
        _finding(benchmark.runs[0].label, [*_baseline(benchmark), *_depth(benchmark)]),
        *(
            _finding(f"{run.label} against {benchmark.runs[0].label}", _against(benchmark, number))
            for number, run in enumerate(benchmark.runs)
            if number > 0
        ),
        *_controls(benchmark),
    ]
    return [finding for finding in entries if finding.text]


def in_a_sentence(judgement: Judgement, scale: Scale, *, count: bool = True) -> str:
    """Say a difference, whether it is more than noise, and (``count``) how many values changed."""
    difference = judgement.difference
    text = scale.difference(difference)
    if judgement.verdict == "identical":
        return f"no change in any of the {difference.values} values"
    if judgement.verdict == "unknown":
        return f"{text}, and no standard error that could tell whether that is noise"
    counted = count and difference.changed is not None
    changed = f" ({difference.changed} of {difference.values} values changed)" if counted else ""
    judged = "beyond noise" if judgement.beyond else "no difference beyond noise"
    return f"{text}, {judged}{changed}"


def _finding(about: str, texts: Iterable[Note]) -> Finding:
    notes = list(texts)
    sentences = " ".join(sentence_case(note) for note in notes if isinstance(note, str))
    return Finding(about, sentences, tuple(note for note in notes if isinstance(note, LongList)))


def _baseline(benchmark: Benchmark) -> Iterator[str]:
    cells, scale = benchmark.cells[0], Scale(benchmark.metric)
    languages = [lang for lang in benchmark.languages if lang in cells]
    mean = benchmark.mean(0, languages, benchmark.score_of) if languages else None
    if mean is None:
        yield f"this run has no {benchmark.metric.title} on this benchmark."
        return
    subject = f"{benchmark.metric.title} {scale.estimate(mean)}"
    if len(languages) == 1:
        yield f"{subject} in {languages[0]}."
        return
    ranked = sorted(languages, key=lambda lang: cells[lang].score.estimate.value, reverse=benchmark.higher_is_better)
    worst, best = (scale.value(cells[lang].score.estimate.value) for lang in (ranked[-1], ranked[0]))
    ends = "the same in all of them" if worst == best else f"from {ranked[-1]} ({worst}) to {ranked[0]} ({best})"
    yield f"{subject} on average over {plural(len(languages), 'language')}, {ends}."
    non_reference = [lang for lang in languages if lang != benchmark.reference]
    if benchmark.reference in cells and non_reference:
        rest = benchmark.mean(0, non_reference, benchmark.score_of)
        assert rest is not None
        gap = rest.value - cells[benchmark.reference].score.estimate.value
        several = len(non_reference) > 1
        subject = f"the {len(non_reference)} other languages" if several else "the other language"
        size = scale.number(abs(gap))
        if size == scale.number(0.0):
            yield f"{subject} {'are on average' if several else 'is'} level with {benchmark.reference}."
        else:
            where = "above" if gap > 0 else "below"
            verb = "average" if several else "is"
            yield f"{subject} {verb} {size}{scale.points} {where} {benchmark.reference}."


def _depth(benchmark: Benchmark) -> Iterator[str]:
    """Say in which band of layers the languages' routing differs least from the reference's."""
    run = benchmark.runs[0]
    curves = [cell.divergence.curve for cell in benchmark.cells[0].values() if cell.divergence.curve]
    bands = {band: [run.layers.index(layer) for layer in run.band(band)] for band in BANDS}
    by_language = []
    for curve in curves:
        means = {band: _mean([curve[i] for i in at]) for band, at in bands.items()}
        depths = {band: mean for band, mean in means.items() if mean is not None}
        if len(depths) == len(BANDS):
            by_language.append(depths)
    if not by_language:
        return
    overall = {band: math.fsum(depths[band] for depths in by_language) / len(by_language) for band in BANDS}
    texts = {band: f"{mean:.3f}" for band, mean in overall.items()}
    if len(set(texts.values())) == 1:
        yield f"mean divergence to {benchmark.reference} is {texts['middle']} in early, middle and late layers alike."
        return
    lowest = min(overall, key=overall.__getitem__)
    agreeing = sum(min(depths, key=depths.__getitem__) == lowest for depths in by_language)
    yield (
        f"mean divergence to {benchmark.reference} is {listing([f'{texts[band]} ({band})' for band in BANDS])}, "
        f"lowest in the {lowest} layers; that holds in {agreeing} of {plural(len(by_language), 'language')}. Large "
        "models are reported to be lowest in the middle."
    )


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def _against(benchmark: Benchmark, run: int) -> Iterator[Note]:
    scale = Scale(benchmark.metric)
    languages = benchmark.shared(run)
    overall = benchmark.judgement(run, languages, benchmark.score_of) if languages else None
    if overall is None:
        yield "the two runs have no score of this benchmark in common."
        return
    sentence = f"{benchmark.metric.title} over {plural(len(languages), 'language')}: {in_a_sentence(overall, scale)}"
    non_reference = tuple(lang for lang in languages if lang != benchmark.reference)
    if 0 < len(non_reference) < len(languages):
        rest = benchmark.judgement(run, non_reference, benchmark.score_of)
        assert rest is not None
        sentence += f"; without {benchmark.reference}: {in_a_sentence(rest, scale)}"
    yield sentence + "."
    if len(languages) > 1 and overall.verdict not in ("identical", "unknown"):
        yield from _one_by_one(benchmark, run, scale)
    yield from _divergence_against(benchmark, run)
    marks = [mark for number in (0, run) for mark in benchmark.marks(number, languages)]
    yield from legend(marks, signs=False)
    shares = [
        share
        for cell in benchmark.cells[run].values()
        if (share := benchmark.runs[run].steered_selection(cell.task)) is not None
    ]
    if shares:
        yield (
            "where steering was in force, at least one targeted expert was selected in "
            f"{100 * math.fsum(shares) / len(shares):.1f} % of the (token, layer) pairs."
        )


def _one_by_one(benchmark: Benchmark, run: int, scale: Scale) -> Iterator[Note]:
    judged = benchmark.judgements(run, benchmark.score_of)
    beyond = {lang: judgement.difference.value for lang, judgement in judged.items() if judgement.beyond}
    if not beyond:
        yield f"In none of the {len(judged)} languages is the difference beyond noise."
        return
    ranked = sorted(beyond, key=beyond.__getitem__)
    changes = [f"{lang} ({scale.change(beyond[lang])})" for lang in ranked]
    lists = folded(f"The {len(changes)} languages with a difference beyond noise", changes)
    which = f"from {changes[0]} to {changes[-1]}" if lists else listing(changes)
    yield (
        f"Of the {len(judged)} differences by language, {len(beyond)} {'is' if len(beyond) == 1 else 'are'} beyond "
        f"noise: {which}, after correction for so many looks (Holm)."
    )
    yield from lists


def _divergence_against(benchmark: Benchmark, run: int) -> Iterator[str]:
    of = benchmark.divergence_of
    languages = benchmark.shared(run, of=of)
    reasons = benchmark.why_not_compared(run, languages)
    if reasons:
        yield f"their divergences are not the same quantity and are not compared: {'; '.join(reasons)}."
        return
    before, after = (benchmark.mean(number, languages, of) if languages else None for number in (0, run))
    judgement = benchmark.judgement(run, languages, of) if languages else None
    if before is None or after is None or judgement is None:
        return
    judged = "" if judgement.verdict == "unknown" else f": {in_a_sentence(judgement, Scale(None), count=False)}"
    first, second = f"{before.value:.3f}", f"{after.value:.3f}"
    moves = f"stays at {first}" if first == second else f"goes from {first} to {second}"
    yield f"middle-layer divergence to {benchmark.reference} {moves}{judged}."


def _controls(benchmark: Benchmark) -> Iterator[Finding]:
    """Compare every steered run with every random control: a claim for the chosen experts needs it."""
    scale = Scale(benchmark.metric)
    controls = [(number, run) for number, run in enumerate(benchmark.runs) if run.is_random_control]
    steered = [(n, run) for n, run in enumerate(benchmark.runs) if run.steering and not run.is_random_control]
    for number, run in steered:
        for control, control_run in controls:
            judgement = benchmark.judgement(
                number, benchmark.shared(number, to=control), benchmark.score_of, to=control
            )
            if judgement is not None:
                yield _finding(
                    f"{run.label} against {control_run.label}, which steers random experts",
                    [
                        f"{benchmark.metric.title}: {in_a_sentence(judgement, scale)}.",
                        "This is about this one draw, not about random sets.",
                    ],
                )
    if steered and not controls and not any(run.routing.control for _, run in steered):
        yield Finding(
            "Control",
            "No run steers random experts: without that control nothing can be said about the choice of experts.",
        )


def _averages(benchmark: Benchmark) -> Iterator[str]:
    """Name the kinds of the averages' standard errors."""
    if not benchmark.averages:
        return
    kinds: dict[str, list[str]] = {}
    for number, run in enumerate(benchmark.runs):
        mean = benchmark.mean(number, benchmark.having(number), benchmark.score_of)
        if mean is not None and mean.kind != "of one task":
            kinds.setdefault(mean.kind, []).append(run.label)
    texts = {
        "clustered by item": "treat the same item in several languages as one cluster",
        "languages as independent": "take the languages as independent, as it is not known here which items are the "
        "same across languages",
        "unknown": "are not known",
    }
    sentences = [
        f"their standard errors {texts[kind]}{'' if len(kinds) == 1 else f' in {listing(labels)}'}"
        for kind, labels in kinds.items()
    ]
    yield (
        f"Averages weigh every language alike; {'; '.join(sentences)}."
        if sentences
        else "Averages weigh every language alike."
    )


def _missing(benchmark: Benchmark, number: int) -> Iterator[Note]:
    """Say what a run lacks of the table."""
    run = benchmark.runs[number]
    unscored, lacking = benchmark.missing(number)
    if unscored:
        only = ", as it was run with --predict_only" * all(run.is_unscored(benchmark.tasks[lang]) for lang in unscored)
        yield f"{run.label} has no {benchmark.metric.title} in {counted(unscored, 'languages')}{only}."
        yield from folded(f"Languages without {benchmark.metric.title} in {run.label}", unscored)
    if lacking:
        yield (
            f"{run.label} lacks {counted(lacking, 'languages')}: its averages are over the languages that it has, "
            "differences over those that both runs have."
        )
        yield from folded(f"Languages that {run.label} lacks", lacking)


def notes(benchmark: Benchmark) -> list[Note]:
    """Return what has to be known to read the table."""
    sentences: list[Note] = []
    if len(benchmark.runs) == 1:
        sentences.append("± is one standard error.")
    else:
        sentences.append(
            "± is one standard error. A difference (Δ) is called beyond noise, and marked with an asterisk, if p is "
            f"below {per_cent(ALPHA)}: by McNemar's exact test of right-or-wrong items, else by a permutation test "
            "over items, unpaired by the standard errors. A run's languages are corrected for each other by Holm's "
            "method; an average is one test."
        )
    differences = [
        difference
        for run in range(1, len(benchmark.runs))
        for lang in benchmark.shared(run)
        if (difference := benchmark.difference(run, [lang], benchmark.score_of)) is not None
    ]
    if any(difference.how == "paired" for difference in differences):
        sentences.append("Standard errors of differences are paired: each item with the same item of the baseline.")
    if any(difference.how == "unpaired" and difference.stderr is not None for difference in differences):
        sentences.append(
            "Some standard errors of differences are unpaired, as the per-item scores of the same documents are not in "
            "both runs' results or the metric is not a mean over items: they are usually too large, and "
            "those of averages are the largest that the languages' dependence allows."
        )
    sentences += _averages(benchmark)
    if any(difference.stderr is None for difference in differences):
        sentences.append("Where no ± is given, the results have no standard error.")
    sentences += legend(marks_of(benchmark))
    sentences += [text for number in range(len(benchmark.runs)) for text in _missing(benchmark, number)]
    if benchmark.has_divergence:
        sentences.append(
            f"Divergence compares the routing of each item with that of the same item in {benchmark.reference} in the "
            "same run (middle layers; 0 is the same routing). Steering that promotes the same experts in every "
            "language lowers it by construction; that alone is not a gain."
        )
    return sentences
