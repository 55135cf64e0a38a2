"""How alike the experts of neighbouring tokens are, over the layers."""

from __future__ import annotations

from lm_eval_moe.analysis.consecutive_overlap import ConsecutiveOverlap
from lm_eval_moe.long_lists import LongList, counted, folded
from lm_eval_moe.report.figures._base import PROFILES, ProfilesSubject, ReportFigure
from lm_eval_moe.report.figures._curve_figure import curve_figure
from lm_eval_moe.report.figures._curves import of_profiles
from lm_eval_moe.report.wording import plural

__all__ = ["overlap_figure"]

_TITLE = "Overlap of neighbouring tokens' experts"


@PROFILES.figure("consecutive_overlap", order=30, title=_TITLE)
def overlap_figure(subject: ProfilesSubject) -> ReportFigure:
    """Draw the curves with their intervals, and the overlap by chance.

    Raises:
        NotPossible: It was not captured.
    """
    overlap = subject.inputs.result(ConsecutiveOverlap)
    label = "overlap of neighbouring tokens' experts"
    curves = of_profiles(subject.inputs, overlap.curves, label, level=overlap.chance)
    finding, lists = _finding(overlap)
    missing = f" Not captured for {counted(overlap.without, 'languages')}." if overlap.without else ""
    return curve_figure(
        curves,
        _TITLE,
        f"Jaccard overlap of the experts of consecutive tokens, mean over items{curves.intervals} "
        f"(arXiv:2510.04694). Dotted: two sets drawn evenly.{missing}",
        "the overlap of consecutive tokens' experts",
        finding=finding,
        lists=lists,
    )


def _finding(overlap: ConsecutiveOverlap) -> tuple[str, tuple[LongList, ...]]:
    count = plural(len(overlap.curves), "language")
    everywhere = [
        curve.language
        for curve in overlap.curves
        if all(interval.low is not None and interval.low > overlap.chance for interval in curve.layers.values())
    ]
    contrasts = {curve.language: curve.contrasts.get("middle - early") for curve in overlap.curves}
    intervals = {
        lang: interval for lang, interval in contrasts.items() if interval is not None and interval.low is not None
    }
    higher = [lang for lang, interval in intervals.items() if interval.low is not None and interval.low > 0]
    lower = [lang for lang, interval in intervals.items() if interval.high is not None and interval.high < 0]
    sentences = [
        f"Neighbouring tokens share more experts than by chance ({overlap.chance:.3f}), beyond noise in every layer, "
        f"in {len(everywhere)} of {count}."
    ]
    lists = folded("Languages not captured", overlap.without)
    for side, languages in (("above", higher), ("below", lower)):
        if languages:
            where = f"The middle layers lie {side} the early ones beyond noise"
            sentences.append(f"{where} in {counted(languages, 'languages')}.")
            lists += folded(f"Languages where the middle layers lie {side} the early ones beyond noise", languages)
    if intervals and not higher and not lower:
        sentences.append("Middle and early layers differ beyond noise in no language.")
    return " ".join(sentences), tuple(lists)
