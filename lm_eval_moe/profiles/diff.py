"""How far apart two profiles are, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lm_eval_moe.metrics import expert_overlap, normalized_js_divergence, where_routed
from lm_eval_moe.profiles.files import read_profile
from lm_eval_moe.profiles.profile import Profile, common_shape
from lm_eval_moe.shape import BANDS

__all__ = ["diff_profiles"]

_NAMED = 5
"""Items that are only in one file are named up to this many."""


def diff_profiles(path_a: Path, path_b: Path, *, experts: int) -> str:
    """Return a table of layers, the means of their bands, and which items are only in one.

    All rows of a file are pooled, weighted by their tokens.

    Args:
        path_a: A profile, or JSON counts.
        path_b: The other one.
        experts: How many experts to name in each layer, by how much their frequency differs.

    Raises:
        UserError: A file cannot be read, or the two are of different shapes.
    """
    a, b = (read_profile(path, counts=True) for path in (path_a, path_b))
    shape = common_shape((a, b), "compare profiles of one model, or of models of one shape")
    a, b = a.fit(shape), b.fit(shape)
    table = _Table(a, b, experts)
    parts = [_heads(a, b), table.text(), table.bands()]
    return "\n\n".join([*parts, *_items(a, b)])


class _Table:
    def __init__(self, a: Profile, b: Profile, experts: int) -> None:
        self.shape = shape = a.shape
        self.experts = min(experts, shape.experts)
        frequencies = (a.activity().pooled, b.activity().pooled)
        importances = (a.pooled_importance(), b.pooled_importance())
        self.change = frequencies[1] - frequencies[0]
        self.divergence = where_routed(normalized_js_divergence, *importances)
        self.overlap = where_routed(
            lambda f_a, f_b, tie_a, tie_b: expert_overlap(f_a, f_b, shape.top_k, tie_a, tie_b),
            *(*frequencies, *importances),
        )

    def text(self) -> str:
        head = f"{'layer':>5}  {'divergence':>10}  {'overlap':>7}"
        lines = [f"{head}  frequency in B less that in A" if self.experts else head]
        for row, layer in enumerate(self.shape.layers):
            numbers = f"{layer:>5}  {self.divergence[row]:>10.4f}  {self.overlap[row]:>7.3f}"
            lines.append(f"{numbers}  {self._largest(row)}".rstrip())
        return "\n".join(lines)

    def bands(self) -> str:
        lines = []
        for band in (*BANDS, "all"):
            layers = self.shape.layers if band == "all" else self.shape.band(band)
            rows = [row for row, layer in enumerate(self.shape.layers) if layer in layers]
            rows = [row for row in rows if not np.isnan(self.divergence[row])]
            if rows:
                divergence, overlap = self.divergence[rows].mean(), self.overlap[rows].mean()
                lines.append(f"{band:<6}  divergence {divergence:.4f}  overlap {overlap:.3f}")
        return "\n".join(lines)

    def _largest(self, row: int) -> str:
        order = np.argsort(-np.abs(self.change[row]), kind="stable")[: self.experts]
        return "  ".join(f"{expert:>4}: {self.change[row, expert]:+.3f}" for expert in order)


def _heads(a: Profile, b: Profile) -> str:
    return "\n".join(f"{name}  {profile.path}: {_head(profile)}" for name, profile in (("A", a), ("B", b)))


def _head(profile: Profile) -> str:
    tokens = f"{profile.tokens.sum():,} tokens"
    if profile.is_dump:
        return f"JSON counts, {tokens}"
    header = profile.header
    languages = ", ".join(profile.languages())
    steering = f", steering {header.steering}" if header.steering else ""
    return f"{header.model}, {languages}, span {header.span}{steering}, {tokens}"


def _items(a: Profile, b: Profile) -> list[str]:
    names_a, names_b = (
        {(item.benchmark, item.item): None for item in profile.items if item.item} for profile in (a, b)
    )
    if not names_a or not names_b:  # pooled: there are no items to tell apart
        return []
    both = len(names_a.keys() & names_b.keys())
    lines = [f"items in both: {both:,}"]
    for label, own, other in (("A", names_a, names_b), ("B", names_b, names_a)):
        only = [f"{benchmark} {item}" for benchmark, item in own if (benchmark, item) not in other]
        named = f" ({', '.join(only[:_NAMED])}{', ...' if len(only) > _NAMED else ''})" if only else ""
        lines.append(f"items only in {label}: {len(only):,}{named}")
    return ["\n".join(lines)]
