"""How far apart two profiles are, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lm_eval_moe.metrics import expert_overlap, normalized_js_divergence, where_routed
from lm_eval_moe.profiles.files import read_profile
from lm_eval_moe.profiles.profile import Profile, common_shape
from lm_eval_moe.shape import BANDS

__all__ = ["diff_profiles"]

_EXAMPLES = 5
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
    heads = f"A  {a.path}: {_head(a)}\nB  {b.path}: {_head(b)}"
    return "\n\n".join([heads, *_by_layer_and_band(a, b, experts), *_items(a, b)])


def _by_layer_and_band(a: Profile, b: Profile, experts: int) -> tuple[str, str]:
    """Return a line for every layer, naming so many experts, and one for every band."""
    shape, per_line = a.shape, min(experts, a.shape.experts)
    frequencies = (a.activity().pooled, b.activity().pooled)
    importances = (a.pooled_importance(), b.pooled_importance())
    change = frequencies[1] - frequencies[0]
    divergence = where_routed(normalized_js_divergence, *importances)
    overlap = where_routed(
        lambda f_a, f_b, tie_a, tie_b: expert_overlap(f_a, f_b, shape.top_k, tie_a, tie_b), *frequencies, *importances
    )
    head = f"{'layer':>5}  {'divergence':>10}  {'overlap':>7}"
    lines = [f"{head}  frequency in B minus that in A" if per_line else head]
    for row, layer in enumerate(shape.layers):
        largest = np.argsort(-np.abs(change[row]), kind="stable")[:per_line]
        changes = "  ".join(f"{expert:>4}: {change[row, expert]:+.3f}" for expert in largest)
        lines.append(f"{layer:>5}  {divergence[row]:>10.4f}  {overlap[row]:>7.3f}  {changes}".rstrip())
    bands = []
    for band in (*BANDS, "all"):
        layers = shape.band(band)
        at = [row for row, layer in enumerate(shape.layers) if layer in layers and not np.isnan(divergence[row])]
        if at:
            means = f"divergence {divergence[at].mean():.4f}  overlap {overlap[at].mean():.3f}"
            bands.append(f"{band:<6}  {means}")
    return "\n".join(lines), "\n".join(bands)


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
    for label, names, other_names in (("A", names_a, names_b), ("B", names_b, names_a)):
        only = [f"{benchmark} {item}" for benchmark, item in names if (benchmark, item) not in other_names]
        examples = f" ({', '.join(only[:_EXAMPLES])}{', ...' if len(only) > _EXAMPLES else ''})" if only else ""
        lines.append(f"items only in {label}: {len(only):,}{examples}")
    return ["\n".join(lines)]
