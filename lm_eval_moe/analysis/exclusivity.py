"""``exclusivity``: how many experts of a layer belong to one language, and how many languages share an expert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.analysis._base import Analysis
from lm_eval_moe.analysis._inputs import AnalysisInputs
from lm_eval_moe.metrics import shares_of
from lm_eval_moe.shape import BANDS, RoutingShape
from lm_eval_moe.tables import TableValue, aligned

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Exclusivity"]

_SHOWN = 0.4  # the released ablation's θ


@dataclass(frozen=True)
class Exclusivity(Analysis):
    """Languages' shares of experts by layer (arXiv 2601.14050): see methods of the rules ``shared`` and ``exclusive``.

    A language's share P of an expert is its frequency over the sum of all languages' frequencies, where only the
    ``top_m`` most frequent experts of a language and layer count. With n languages that use an expert alike, P is 1/n:
    thresholds below that say nothing, and the values depend on which languages are there.

    Attributes:
        shape: The model's.
        languages: Those compared.
        top_m: How many of a language's most active experts per layer count.
        exclusive: For every threshold θ ``[languages, L]`` how many experts a language has a share of at least θ of.
        shared_by: ``[L, n + 1]`` how many experts are among the ``top_m`` of so many languages, 0 to n.
    """

    name = "exclusivity"
    rank = 50
    columns = ("kind", "layer", "language", "threshold", "languages", "experts", "share_of_experts")
    shape: RoutingShape
    languages: tuple[str, ...]
    top_m: int
    exclusive: Mapping[float, NDArray[np.int64]]
    shared_by: NDArray[np.int64]

    @classmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Count the experts."""
        inputs.require_languages(2)
        frequencies = np.stack([routing.activity.pooled for routing in inputs.languages.values()])
        top_m = inputs.settings.top_m_of(inputs.shape)
        shares = shares_of(frequencies, top_m)
        sharing = (shares > 0).sum(0)  # [L, E]
        counts = np.arange(len(shares) + 1)
        return cls(
            inputs.shape,
            tuple(inputs.languages),
            top_m,
            {theta: (shares >= theta).sum(-1) for theta in inputs.settings.shares},
            (sharing[:, :, None] == counts).sum(1),
        )

    def band(self, name: str) -> list[int]:
        """Return the rows of a band's layers, or of ``all``."""
        layers = self.shape.band(name)
        return [self.shape.layers.index(layer) for layer in layers]

    def to_dict(self) -> dict[str, Any]:
        """Return the counts by layer, and shares of all experts by band."""
        return {
            "top_m": self.top_m,
            "experts": self.shape.experts,
            "languages": list(self.languages),
            "layers": list(self.shape.layers),
            "even_share": 1 / len(self.languages),
            "exclusive": {
                f"{theta:g}": {
                    language: {
                        "experts_by_layer": counts[row].tolist(),
                        "share_by_band": {band: self._share(counts[row], band) for band in (*BANDS, "all")},
                    }
                    for row, language in enumerate(self.languages)
                }
                for theta, counts in self.exclusive.items()
            },
            "shared_by": {str(count): self.shared_by[:, count].tolist() for count in range(len(self.languages) + 1)},
        }

    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield first how many experts are exclusive, then how many are shared by how many languages."""
        experts = self.shape.experts
        for theta, counts in self.exclusive.items():
            for at, language in enumerate(self.languages):
                for layer, count in zip(self.shape.layers, counts[at].tolist(), strict=True):
                    yield ("exclusive", layer, language, theta, None, count, count / experts)
        for layer, row in zip(self.shape.layers, self.shared_by.tolist(), strict=True):
            for number, count in enumerate(row):
                yield ("shared_by", layer, None, None, number, count, count / experts)

    def lines(self) -> list[str]:
        """Return a line a language at one threshold, and how many languages share an expert."""
        theta = min(self.exclusive, key=lambda threshold: abs(threshold - _SHOWN))
        rows = [["", *BANDS, "all"]]
        for at, language in enumerate(self.languages):
            shares = [self._share(self.exclusive[theta][at], band) for band in (*BANDS, "all")]
            rows.append([language, *("-" if share is None else f"{100 * share:.1f} %" for share in shares)])
        several = len(self.languages)
        used = 1 + np.arange(several)
        sharing = []
        for band in (*BANDS, "all"):
            counts = self.shared_by[self.band(band)].sum(0)[1:]
            sharing.append(f"{counts @ used / counts.sum():.2f}" if counts.sum() else "-")
        rows.append([f"languages an expert (of {several})", *sharing])
        heading = (
            f"experts that a language has a share of at least {theta:g} of (of its {self.top_m} most active; even:"
        )
        return [f"{heading} {1 / several:.2f})", *aligned(rows)]

    def _share(self, counts: NDArray[np.int64], band: str) -> float | None:
        at = self.band(band)
        return float(counts[at].sum() / (len(at) * self.shape.experts)) if at else None
