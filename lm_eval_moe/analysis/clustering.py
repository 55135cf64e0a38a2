"""``clustering``: which languages use the experts alike, and whether those are of one family."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.analysis._base import Analysis, jsonable
from lm_eval_moe.analysis._inputs import AnalysisInputs, NotPossible
from lm_eval_moe.number_text import p_text
from lm_eval_moe.tables import TableValue, aligned

if TYPE_CHECKING:
    from typing import Self

__all__ = ["FamilyAgreement", "LanguageClusters", "adjusted_rand_index", "family_agreement"]

_GROUPINGS = ("family", "branch")


@dataclass(frozen=True)
class FamilyAgreement:
    """How well distances between languages agree with a grouping of them.

    Attributes:
        groups: Language to group; those that no table knows are not there.
        within: Mean distance of two languages of one group.
        between: Mean distance of two languages of different groups.
        p: How often random labels give a difference at least as large in the same direction; by random permutations.
        rand_index: Adjusted Rand index of the tree, cut into as many clusters as there are groups, and the groups: 1
            for the same partition, about 0 by chance.
    """

    groups: Mapping[str, str]
    within: float
    between: float
    p: float
    rand_index: float


@dataclass(frozen=True)
class LanguageClusters(Analysis):
    """Hierarchical clustering, by average linkage, of the languages' activation frequencies (arXiv 2601.14050).

    A language is the vector of its mean frequencies f_k over items, all chosen layers after one another. The distance
    ``jensenshannon`` is the root of the mean over layers of the Jensen-Shannon divergence of f / K (SciPy's
    ``jensenshannon`` of the vectors), ``correlation`` is 1 - r.

    Attributes:
        languages: In the order of the matrices' rows.
        layers: The decoder layers that the vectors are of.
        distance: Which distance.
        distances: ``[n, n]``.
        linkage: ``[n - 1, 4]``, as SciPy's ``linkage`` returns it and its ``dendrogram`` takes it.
        leaves: The languages as a dendrogram orders them.
        cophenetic: ``[n, n]`` the height at which two languages meet in the tree.
        cophenetic_correlation: How faithful the tree is to the distances.
        agreement: With language families and their branches; without those of which no two languages are.
    """

    name = "clustering"
    rank = 40
    columns = ("language_a", "language_b", "distance", "cophenetic_distance", "family_a", "family_b")
    languages: tuple[str, ...]
    layers: tuple[int, ...]
    distance: str
    distances: NDArray[np.float64]
    linkage: NDArray[np.float64]
    leaves: tuple[str, ...]
    cophenetic: NDArray[np.float64]
    cophenetic_correlation: float
    agreement: Mapping[str, FamilyAgreement]

    @classmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Cluster the languages."""
        from scipy.cluster.hierarchy import cophenet, leaves_list, linkage
        from scipy.spatial.distance import pdist, squareform

        inputs.require_languages(3)
        settings, shape = inputs.settings, inputs.shape
        layers = shape.band(settings.layers)
        if not layers:
            raise NotPossible(f"this model has no {settings.layers} layers", "cluster by all layers")
        at = [shape.layers.index(layer) for layer in layers]
        # In the languages' own order: which profile is given first makes no difference, ties included.
        languages = tuple(sorted(inputs.languages))
        vectors = np.stack([inputs.languages[language].activity.mean[at].ravel() for language in languages])
        condensed = pdist(vectors, settings.distance)
        condensed = np.where(condensed < 1e-12, 0.0, condensed)  # NaN stays
        if np.isnan(condensed).any():
            raise NotPossible("a language uses all experts alike, so that nothing correlates", "use jensenshannon")
        tree = linkage(condensed, "average")
        correlation, heights = cophenet(tree, condensed)
        distances = squareform(condensed)
        agreements = {
            grouping: family_agreement(languages, distances, tree, _groups(languages, grouping), settings.seed)
            for grouping in _GROUPINGS
        }
        return cls(
            languages,
            layers,
            settings.distance,
            distances,
            tree,
            tuple(languages[leaf] for leaf in leaves_list(tree)),
            squareform(heights),
            float(correlation),
            {grouping: agreement for grouping, agreement in agreements.items() if agreement is not None},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything a dendrogram needs."""
        families = _groups(self.languages, "family")
        return jsonable(
            {
                "distance": self.distance,
                "method": "average linkage",
                "layers": self.layers,
                "languages": self.languages,
                "distances": self.distances.tolist(),
                "linkage": self.linkage.tolist(),
                "leaves": self.leaves,
                "cophenetic_correlation": self.cophenetic_correlation,
                "agreement": {
                    name: vars(self.agreement[name]) if name in self.agreement else f"no two are of one {name}"
                    for name in _GROUPINGS
                },
                "without_family": [language for language in self.languages if language not in families],
            }
        )

    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield every pair of languages."""
        families = _groups(self.languages, "family")
        for i, j in combinations(range(len(self.languages)), 2):
            a, b = self.languages[i], self.languages[j]
            distances = (float(self.distances[i, j]), float(self.cophenetic[i, j]))
            yield (a, b, *distances, families.get(a), families.get(b))

    def lines(self) -> list[str]:
        """Return the order of the leaves, the tree's fidelity, and the agreement with families."""
        rows = [["leaves", " ".join(self.leaves)], ["cophenetic correlation", f"{self.cophenetic_correlation:.3f}"]]
        for name, agreement in self.agreement.items():
            means = f"within {agreement.within:.4f}, between {agreement.between:.4f} ({p_text(agreement.p)})"
            rows.append([f"by {name}", f"{means}, adjusted Rand index {agreement.rand_index:.2f}"])
        if not self.agreement:
            rows.append(["by family", "no two of these languages are of one family"])
        heading = f"clusters of languages ({self.distance} distance, {len(self.layers)} layers, average linkage)"
        return [heading, *aligned(rows, left=2)]


def family_agreement(
    languages: Sequence[str],
    distances: NDArray[np.float64],
    tree: NDArray[np.float64],
    groups: Mapping[str, str],
    seed: int = 0,
    permutations: int = 9999,
) -> FamilyAgreement | None:
    """Compare distances ``[n, n]`` and their tree with a grouping of the languages that it knows.

    Returns:
        None where no two languages are of one group, or all are.
    """
    from scipy.cluster.hierarchy import cut_tree

    places = [at for at, language in enumerate(languages) if language in groups]
    names = [groups[languages[at]] for at in places]
    kinds = len(set(names))
    if kinds < 2 or kinds == len(names):
        return None
    labels = np.unique(names, return_inverse=True)[1]
    first, second = np.triu_indices(len(places), 1)
    between = distances[np.ix_(places, places)][first, second]
    same = labels[first] == labels[second]
    observed = float(between[~same].mean() - between[same].mean())
    generator = np.random.default_rng(seed)
    shuffled = generator.permuted(np.tile(labels, (permutations, 1)), axis=1)
    same_group = shuffled[:, first] == shuffled[:, second]  # as many pairs as before: the groups keep their sizes
    inside = same_group @ between / same.sum()
    outside = (between.sum() - same_group @ between) / (~same).sum()
    p = (1 + int((outside - inside >= observed - 1e-12).sum())) / (1 + permutations)
    group_of = {languages[at]: name for at, name in zip(places, names, strict=True)}
    clusters = cut_tree(tree, n_clusters=kinds)[:, 0][places]
    rand = adjusted_rand_index(clusters, labels)
    return FamilyAgreement(group_of, float(between[same].mean()), float(between[~same].mean()), p, rand)


def adjusted_rand_index(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the Rand index of two partitions adjusted for chance (Hubert and Arabie 1985)."""
    from scipy.stats.contingency import crosstab

    table = crosstab(first, second).count

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    by_chance = rows * columns / math.comb(len(first), 2)
    most = (rows + columns) / 2
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)


def _groups(languages: Sequence[str], grouping: str) -> dict[str, str]:
    """Return the family, or the branch of a large one, of every language that the table knows."""
    from lm_eval_moe.multilingual.languages import known_languages

    infos = {language: info for language, info in known_languages().items() if language in languages}
    return {
        language: (info.branch or info.family) if grouping == "branch" else info.family
        for language, info in infos.items()
    }
