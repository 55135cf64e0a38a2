"""The dendrogram of languages by the experts that they use, with their families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.analysis.clustering import FamilyAgreement, LanguageClusters
from lm_eval_moe.drawing.canvas import drawing, short
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.multilingual.languages import known_languages
from lm_eval_moe.number_text import p_text
from lm_eval_moe.report.figures._axes import canvas, family_marker
from lm_eval_moe.report.figures._base import PROFILES, ProfilesSubject, ReportFigure
from lm_eval_moe.report.figures._tiers import MANY
from lm_eval_moe.report.wording import listing
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["families_figure"]


@PROFILES.figure("language_dendrogram", order=40, title="Dendrogram of languages")
def families_figure(subject: ProfilesSubject) -> ReportFigure:
    """Draw the tree, a leaf a language with its name and family.

    Raises:
        NotPossible: There are too few languages.
    """
    clusters = subject.inputs.result(LanguageClusters)
    distance = "Jensen-Shannon distance" if clusters.distance == "jensenshannon" else "1 less the correlation"
    return ReportFigure(
        "Languages by the experts they use",
        f"Average-linkage clustering of the activation frequencies in layers {format_ranges(clusters.layers)} by "
        f"{distance} (arXiv:2601.14050); the farther right two languages meet, the more alike they are routed. Every "
        "language family has a mark of its own.",
        f"Dendrogram of {len(clusters.languages)} languages: {', '.join(clusters.leaves)}, as its leaves stand.",
        clusters.columns,
        list(clusters.rows()),
        lambda colours: _draw(clusters, distance, colours),
        finding=_finding(clusters),
    )


def _finding(clusters: LanguageClusters) -> str:
    first = clusters.linkage[0]
    pair = [clusters.languages[int(leaf)] for leaf in first[:2]]
    sentences = [f"{listing(pair)} are routed most alike (distance {first[2]:.3f})."]
    agreement = clusters.agreement.get("family")
    if agreement is None:
        sentences.append("No two of these languages are of one family, or all are: nothing can be said of families.")
    else:
        sentences.append(_of_families(agreement, "family"))
    branches = clusters.agreement.get("branch")
    if branches is not None and (agreement is None or dict(branches.groups) != dict(agreement.groups)):
        sentences.append(_of_families(branches, "branch of a family"))
    return " ".join(sentences)


def _of_families(agreement: FamilyAgreement, what: str) -> str:
    means = f"mean distance {agreement.within:.3f} within and {agreement.between:.3f} between"
    means += f", {p_text(agreement.p)} by random labels"
    if agreement.p >= 0.05:
        return f"It is not shown that languages of one {what} are routed more alike ({means})."
    return f"Languages of one {what} are routed more alike beyond chance ({means})."


def _draw(clusters: LanguageClusters, distance: str, colours: Colours) -> Figure:
    from matplotlib.transforms import offset_copy
    from scipy.cluster.hierarchy import dendrogram

    count = len(clusters.leaves)
    tree = dendrogram(clusters.linkage, no_plot=True)
    infos = known_languages()
    families = sorted({infos[lang].family for lang in clusters.languages if lang in infos})
    with drawing(colours):
        figure, axes = canvas(height=(0.24 if count <= MANY else 0.175) * count + 0.62, top=0.08, left=0.2, right=1.9)
        for xs, ys in zip(tree["icoord"], tree["dcoord"], strict=True):
            axes.plot(ys, xs, color=colours.ink, linewidth=1.0, solid_joinstyle="miter", solid_capstyle="butt")
        # SciPy puts leaves at 5, 15, 25, ...
        top = float(clusters.linkage[:, 2].max()) or 1.0
        axes.set_xlim(top * 1.03, -0.015 * top)
        axes.set_ylim(10 * count, 0)
        for place, language in enumerate(clusters.leaves):
            info = infos.get(language)
            y = 10 * place + 5
            if info:
                number = families.index(info.family)
                mark, colour = family_marker(number), colours.line(number)
                at = offset_copy(axes.get_yaxis_transform(), figure, x=0.66)
                axes.plot(1, y, mark, transform=at, color=colour, markersize=5.5, markeredgewidth=0, clip_on=False)
            for inches, text in ((0.06, short(language, 7)), (0.75, short(info.family if info else "", 17))):
                axes.annotate(
                    text,
                    (1, y),
                    (inches * 72, 0),
                    xycoords=axes.get_yaxis_transform(),
                    textcoords="offset points",
                    color=colours.ink,
                    va="center",
                    fontsize=9.5,
                    annotation_clip=False,
                )
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(distance)
        axes.locator_params(axis="x", nbins=5)
        return figure
