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
    found = subject.inputs.result(ConsecutiveOverlap)
    label = "overlap of neighbouring tokens' experts"
    curves = of_profiles(subject.inputs, found.curves, label, level=found.chance)
    finding, lists = _finding(found)
    missing = f" Not captured for {counted(found.without, 'languages')}." if found.without else ""
    return curve_figure(
        curves,
        _TITLE,
        f"Jaccard overlap of the experts of consecutive tokens, mean over items{curves.intervals} "
        f"(arXiv:2510.04694). Dotted: two sets drawn evenly.{missing}",
        "the overlap of consecutive tokens' experts",
        finding=finding,
        lists=lists,
    )


def _finding(found: ConsecutiveOverlap) -> tuple[str, tuple[LongList, ...]]:
    count = plural(len(found.curves), "language")
    everywhere = [
        curve.language
        for curve in found.curves
        if all(each.low is not None and each.low > found.chance for each in curve.layers.values())
    ]
    contrasts = {curve.language: curve.contrasts.get("middle - early") for curve in found.curves}
    known = {lang: each for lang, each in contrasts.items() if each is not None and each.low is not None}
    higher = [lang for lang, each in known.items() if each.low is not None and each.low > 0]
    lower = [lang for lang, each in known.items() if each.high is not None and each.high < 0]
    said = [
        f"Neighbouring tokens share more experts than by chance ({found.chance:.3f}), beyond noise in every layer, in "
        f"{len(everywhere)} of {count}."
    ]
    lists = folded("Languages not captured", found.without)
    for side, languages in (("above", higher), ("below", lower)):
        if languages:
            where = f"The middle layers lie {side} the early ones beyond noise"
            said.append(f"{where} in {counted(languages, 'languages')}.")
            lists += folded(f"Languages where the middle layers lie {side} the early ones beyond noise", languages)
    if known and not higher and not lower:
        said.append("Middle and early layers differ beyond noise in no language.")
    return " ".join(said), tuple(lists)
