"""What rules select, as a person reads it in a terminal; lines of at most 100 characters."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from lm_eval_moe.experts.selection import Found, FoundByRule
from lm_eval_moe.experts.words import (
    action_in_words,
    count,
    file_name,
    layers_in_words,
    profile_in_words,
    rule_in_words,
)
from lm_eval_moe.shape import BANDS, RoutingShape, format_ranges
from lm_eval_moe.steering import Choice
from lm_eval_moe.tables import aligned
from lm_eval_moe.wrapping import hanging

__all__ = ["render_text"]

_WIDTH = 100
_INDENT = "   "
_WHY_LEAST = 36  # a reason with less room than this goes on a line of its own


def render_text(found: Found, *, explain: bool = False) -> str:
    """Return what is selected by layer, the totals by band and, if wanted, the reason for every expert."""
    plan, shape = found.plan, found.plan.shape
    dense = "" if len(shape.layers) == shape.depth else f", MoE layers {format_ranges(shape.layers)}"
    head = [
        f"steering: {plan.name} (hash {plan.short_hash})",
        f"shape:    {shape.depth} decoder layers{dense}, {shape.experts} experts a layer, top-{shape.top_k}",
    ]
    head += [_wrapped("profile:  ", f"{file_name(each.given)}: {profile_in_words(each)}") for each in plan.profiles]
    blocks = ["\n".join(head)]
    for each in found.rules:
        blocks.append(_rule(each, plan.seed, shape))
        if each.thresholds:
            blocks.append(_thresholds(each))
        if explain:
            blocks.append(_explained(each))
    return "\n\n".join(blocks)


def _rule(found: FoundByRule, seed: int, shape: RoutingShape) -> str:
    lines = [
        _wrapped(f"{found.planned.index}  rule:   ", f"{rule_in_words(found.rule, seed)}; {layers_in_words(found)}"),
        _wrapped("   action: ", action_in_words(found.planned)),
        "",
    ]
    weighted = any(choice.coefficient != 1 for choice in found.choices)
    rows = _layer_rows(found, weighted)
    title = "experts (coefficient)" if weighted else "experts"
    wide = max(len("layer"), *(len(layers) for layers, _, _ in rows))
    lines.append(f"   {'layer':<{wide}}  {'n':>3}  {title}")
    lines += [_wrapped(f"   {layers:<{wide}}  {number:>3}  ", experts) for layers, number, experts in rows]
    return "\n".join([*lines, "", *_totals(found, shape)])


def _layer_rows(found: FoundByRule, weighted: bool) -> list[tuple[str, int, str]]:
    """Return layers, how many experts each has, and which; consecutive layers with the same share a row."""
    by_layer: dict[int, tuple[tuple[int, float], ...]] = dict.fromkeys(found.layers, ())
    for choice in found.choices:
        by_layer[choice.layer] += ((choice.expert, choice.coefficient),)
    rows = []
    entries = enumerate(by_layer.items())
    for (_, experts), group in groupby(entries, key=lambda entry: (entry[1][0] - entry[0], entry[1][1])):
        layers = [layer for _, (layer, _) in group]
        if not experts:
            shown = "none selected"
        elif weighted:
            shown = ", ".join(f"{expert}\xa0({coefficient:#.3g})" for expert, coefficient in experts)
        else:
            shown = ", ".join(str(expert) for expert, _ in experts)
        rows.append((format_ranges(layers), len(experts), shown))
    return rows


def _totals(found: FoundByRule, shape: RoutingShape) -> list[str]:
    counts = found.counts(shape)
    rows = []
    for name, each in counts.items():
        layers = shape.band(name)
        if each.looked_at:
            share = 100 * each.experts / (each.looked_at * shape.experts)
            cells = [str(each.experts), f"{each.layers} of {each.looked_at}", f"{share:.1f} %"]
        else:
            cells = ["-", "not looked at" if layers else "no MoE layer", "-"]
        rows.append(["in all" if name == "all" else name, format_ranges(layers), *cells])
    head = ["band", "layers", "experts", "layers with any", "of the experts looked at"]
    return aligned([head, *rows], left=2, indent=_INDENT)


def _thresholds(found: FoundByRule) -> str:
    rows = [
        [
            f"{threshold:g}",
            *(str(counts[name].experts) if counts[name].looked_at else "-" for name in BANDS),
            str(counts["all"].experts),
            f"{counts['all'].layers} of {counts['all'].looked_at}",
        ]
        for threshold, counts in found.thresholds.items()
    ]
    headers = ["threshold", *BANDS, "experts", "layers with any"]
    return "\n".join(["   experts that other thresholds select", *aligned([headers, *rows], indent=_INDENT)])


def _explained(found: FoundByRule) -> str:
    """Return a line an expert, with the numbers that the rule compared and the reason."""
    names = [] if _said_in_words(found.choices) else list(found.choices[0].values)
    headers = ["layer", "expert", "coefficient", *names]
    rows = [
        [
            str(choice.layer),
            str(choice.expert),
            f"{choice.coefficient:.4g}",
            *(f"{choice.values[name]:.4f}" for name in names),
        ]
        for choice in found.choices
    ]
    head, *table = aligned([headers, *rows], left=0, indent=_INDENT)
    beside = _WIDTH - len(head) - 2 >= _WHY_LEAST
    lines = [f"   why, intervention {found.planned.index}: {count(len(rows), 'expert')}", head + ("  why" * beside)]
    for row, choice in zip(table, found.choices, strict=True):
        if beside:
            lines.append(_wrapped(f"{row:<{len(head)}}  ", choice.why))
        else:
            lines += [row, _wrapped(" " * 9, choice.why)]
    return "\n".join(lines)


def _said_in_words(choices: Iterable[Choice]) -> bool:
    """Say whether the reasons hold all the numbers, so that columns would only repeat them."""
    return all(f"{value:.4f}" in choice.why for choice in choices for value in choice.values.values())


def _wrapped(head: str, text: str) -> str:
    return "\n".join(hanging(head, text, _WIDTH)).replace("\xa0", " ")
