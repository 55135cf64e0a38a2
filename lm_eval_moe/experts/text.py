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


def render_text(found: Found, *, explain: bool = False) -> str:
    """Return the totals by band, what is selected by layer and, if wanted, the reasons for the first experts."""
    plan, shape = found.plan, found.plan.shape
    dense = "" if len(shape.layers) == shape.depth else f", MoE layers {format_ranges(shape.layers)}"
    head = [
        f"steering: {plan.name} (hash {plan.short_hash})",
        f"shape:    {shape.depth} decoder layers{dense}, {shape.experts} experts a layer, top-{shape.top_k}",
    ]
    if len(plan.profiles) > _HASHED:
        models = dict.fromkeys(each.model or "an unnamed model" for each in plan.profiles)
        said = f"{len(plan.profiles)} files of {counted(list(models), 'models')}; --json and the file of --output have "
        head.append(_wrapped("profiles: ", f"{said}the SHA-256 of each"))
    blocks = ["\n".join(head)]
    for each in found.rules:
        blocks.append(_rule(each, plan.seed, shape))
        if each.thresholds:
            blocks.append(_thresholds(each))
        if explain:
            blocks.append(_explained(each))
    if 0 < len(plan.profiles) <= _HASHED:
        sources = [f"{file_name(each.given)}: {profile_in_words(each)}" for each in plan.profiles]
        blocks.append("\n".join(_wrapped("profile:  ", source) for source in sources))
    return "\n\n".join(blocks)


def _rule(found: FoundByRule, seed: int, shape: RoutingShape) -> str:
    lines = [
        _wrapped(
            f"{found.planned.index}  rule:   ",
            f"{rule_in_words(found.rule, seed, short=True)}; {layers_in_words(found)}",
        ),
        _wrapped("   action: ", action_in_words(found.planned)),
        "",
        *_totals(found, shape),
        "",
    ]
    weighted = any(choice.coefficient != 1 for choice in found.choices)
    rows = _layer_rows(found, weighted)
    title = "experts (coefficient)" if weighted else "experts"
    wide = max(len("layer"), *(len(layers) for layers, _, _ in rows))
    lines.append(f"   {'layer':<{wide}}  {'n':>3}  {title}")
    lines += [_wrapped(f"   {layers:<{wide}}  {number:>3}  ", experts) for layers, number, experts in rows]
    if any(number > _LISTED for _, number, _ in rows):
        lines += ["", "   All experts: --output FILE.yaml, --reasons FILE.csv or --json."]
    return "\n".join(lines)


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
        else:
            texts = [f"{expert}" + f"\xa0({coefficient:#.3g})" * weighted for expert, coefficient in experts[:_LISTED]]
            more = len(experts) - len(texts)
            shown = ", ".join(texts) + f" and {more} more" * bool(more)
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
    """Return a line an expert, with the numbers that the rule compared and the reason, and how many more there are."""
    choices = found.choices[:_EXPLAINED]
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
    beside = _WIDTH - len(head) - 2 >= _WHY_LEAST
    lines = [
        f"   why, intervention {found.planned.index}: {count(len(found.choices), 'expert')}",
        head + ("  why" * beside),
    ]
    for row, choice in zip(table, choices, strict=True):
        if beside:
            lines.append(_wrapped(f"{row:<{len(head)}}  ", _brief(choice.why)))
        else:
            lines += [row, _wrapped(" " * 9, _brief(choice.why))]
    if more := len(found.choices) - len(choices):
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
