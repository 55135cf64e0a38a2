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
from lm_eval_moe.long_lists import counted
from lm_eval_moe.shape import BANDS, RoutingShape, format_ranges
from lm_eval_moe.steering import Choice
from lm_eval_moe.tables import aligned
from lm_eval_moe.wrapping import hanging

__all__ = ["render_text"]

_WIDTH = 100
_INDENT = "   "
_WHY_LEAST = 36  # a reason with less room than this goes on a line of its own
_LISTED = 24  # experts of a layer
_EXPLAINED = 40  # experts of an intervention; more are no text but a table
_WHY_MOST = 240  # characters of a reason
_HASHED = 8  # profiles; the hashes of more are for machines


def render_text(selection: Found, *, explain: bool = False) -> str:
    """Return the totals by band, what is selected by layer and, if wanted, the reasons for the first experts."""
    plan, shape = selection.plan, selection.plan.shape
    dense = "" if len(shape.layers) == shape.depth else f", MoE layers {format_ranges(shape.layers)}"
    head = [
        f"steering: {plan.name} (hash {plan.short_hash})",
        f"shape:    {shape.depth} decoder layers{dense}, {shape.experts} experts a layer, top-{shape.top_k}",
    ]
    if len(plan.profiles) > _HASHED:
        models = dict.fromkeys(source.model or "an unnamed model" for source in plan.profiles)
        summary = (
            f"{len(plan.profiles)} files of {counted(list(models), 'models')}; --json and the file of --output have "
        )
        head.append(_wrapped("profiles: ", f"{summary}the SHA-256 of each"))
    blocks = ["\n".join(head)]
    for rule in selection.rules:
        blocks.append(_rule(rule, plan.seed, shape))
        if rule.thresholds:
            blocks.append(_thresholds(rule))
        if explain:
            blocks.append(_explanation(rule))
    if 0 < len(plan.profiles) <= _HASHED:
        sources = [f"{file_name(source.given)}: {profile_in_words(source)}" for source in plan.profiles]
        blocks.append("\n".join(_wrapped("profile:  ", source) for source in sources))
    return "\n\n".join(blocks)


def _rule(rule: FoundByRule, seed: int, shape: RoutingShape) -> str:
    lines = [
        _wrapped(
            f"{rule.planned.index}  rule:   ",
            f"{rule_in_words(rule.rule, seed, short=True)}; {layers_in_words(rule)}",
        ),
        _wrapped("   action: ", action_in_words(rule.planned)),
        "",
        *_totals(rule, shape),
        "",
    ]
    weighted = any(choice.coefficient != 1 for choice in rule.choices)
    rows = _layer_rows(rule, weighted)
    title = "experts (coefficient)" if weighted else "experts"
    wide = max(len("layer"), *(len(layers) for layers, _, _ in rows))
    lines.append(f"   {'layer':<{wide}}  {'n':>3}  {title}")
    lines += [_wrapped(f"   {layers:<{wide}}  {number:>3}  ", experts) for layers, number, experts in rows]
    if any(number > _LISTED for _, number, _ in rows):
        lines += ["", "   All experts: --output FILE.yaml, --reasons FILE.csv or --json."]
    return "\n".join(lines)


def _layer_rows(rule: FoundByRule, weighted: bool) -> list[tuple[str, int, str]]:
    """Return layers, how many experts each has, and which; consecutive layers with the same share a row."""
    by_layer: dict[int, tuple[tuple[int, float], ...]] = dict.fromkeys(rule.layers, ())
    for choice in rule.choices:
        by_layer[choice.layer] += ((choice.expert, choice.coefficient),)
    rows = []
    entries = enumerate(by_layer.items())
    for (_, experts), group in groupby(entries, key=lambda entry: (entry[1][0] - entry[0], entry[1][1])):
        layers = [layer for _, (layer, _) in group]
        if not experts:
            experts_text = "none selected"
        else:
            texts = [f"{expert}" + f"\xa0({coefficient:#.3g})" * weighted for expert, coefficient in experts[:_LISTED]]
            more = len(experts) - len(texts)
            experts_text = ", ".join(texts) + f" and {more} more" * bool(more)
        rows.append((format_ranges(layers), len(experts), experts_text))
    return rows


def _totals(rule: FoundByRule, shape: RoutingShape) -> list[str]:
    counts = rule.counts(shape)
    rows = []
    for name, band_counts in counts.items():
        layers = shape.band(name)
        if band_counts.looked_at:
            share = 100 * band_counts.experts / (band_counts.looked_at * shape.experts)
            cells = [str(band_counts.experts), f"{band_counts.layers} of {band_counts.looked_at}", f"{share:.1f} %"]
        else:
            cells = ["-", "not looked at" if layers else "no MoE layer", "-"]
        rows.append(["in all" if name == "all" else name, format_ranges(layers), *cells])
    head = ["band", "layers", "experts", "layers with any", "of the experts looked at"]
    return aligned([head, *rows], left=2, indent=_INDENT)


def _thresholds(rule: FoundByRule) -> str:
    rows = [
        [
            f"{threshold:g}",
            *(str(counts[name].experts) if counts[name].looked_at else "-" for name in BANDS),
            str(counts["all"].experts),
            f"{counts['all'].layers} of {counts['all'].looked_at}",
        ]
        for threshold, counts in rule.thresholds.items()
    ]
    headers = ["threshold", *BANDS, "experts", "layers with any"]
    return "\n".join(["   experts that other thresholds select", *aligned([headers, *rows], indent=_INDENT)])


def _explanation(rule: FoundByRule) -> str:
    """Return a line an expert, with the numbers that the rule compared and the reason, and how many more there are."""
    choices = rule.choices[:_EXPLAINED]
    names = [] if _said_in_words(choices) else list(choices[0].values)
    headers = ["layer", "expert", "coefficient", *names]
    rows = [
        [
            str(choice.layer),
            str(choice.expert),
            f"{choice.coefficient:.4g}",
            *(f"{choice.values[name]:.4f}" for name in names),
        ]
        for choice in choices
    ]
    head, *table = aligned([headers, *rows], left=0, indent=_INDENT)
    fits_beside = _WIDTH - len(head) - 2 >= _WHY_LEAST
    lines = [
        f"   why, intervention {rule.planned.index}: {count(len(rule.choices), 'expert')}",
        head + ("  why" * fits_beside),
    ]
    for row, choice in zip(table, choices, strict=True):
        if fits_beside:
            lines.append(_wrapped(f"{row:<{len(head)}}  ", _brief(choice.why)))
        else:
            lines += [row, _wrapped(" " * 9, _brief(choice.why))]
    if more := len(rule.choices) - len(choices):
        lines.append(f"   and {more:,} more experts: --reasons FILE.csv writes why each is selected")
    return "\n".join(lines)


def _brief(why: str) -> str:
    """Leave out the middle of a reason that names dozens of languages: its end is the verdict."""
    if len(why) <= _WHY_MOST:
        return why
    start, end = why[: _WHY_MOST // 2].rpartition(" ")[0], why[-_WHY_MOST // 4 :].partition(" ")[2]
    return f"{start} \N{HORIZONTAL ELLIPSIS} {end}"


def _said_in_words(choices: Iterable[Choice]) -> bool:
    """Say whether the reasons hold all the numbers, so that columns would only repeat them."""
    return all(f"{value:.4f}" in choice.why for choice in choices for value in choice.values.values())


def _wrapped(head: str, text: str) -> str:
    return "\n".join(hanging(head, text, _WIDTH)).replace("\xa0", " ")
