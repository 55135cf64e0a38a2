"""The examination as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lm_eval_moe.doctor.anatomy import AFTERWARDS, UNKNOWN, steering_model_block
from lm_eval_moe.doctor.explanation import action_in_words, languages_in_words, targets_by_layers, tokens_in_words
from lm_eval_moe.shape import BANDS, format_ranges
from lm_eval_moe.tables import aligned
from lm_eval_moe.wrapping import hanging

if TYPE_CHECKING:
    from lm_eval_moe.doctor.anatomy import Anatomy
    from lm_eval_moe.doctor.examination import Examination
    from lm_eval_moe.doctor.finding import Finding, Proof
    from lm_eval_moe.doctor.reach_of_file import Reach
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["render_text"]

_WIDTH = 96
_SIGNS = {"pass": "ok", "fail": "FAILED", "not proven": "NOT PROVEN", "not applicable": "n/a"}
_ADVISED = ("fail", "not proven")


def render_text(found: Examination, *, verbose: bool = False) -> str:
    """Return the examination as lines of at most 96 characters.

    Args:
        found: The examination.
        verbose: Show what each layer did even where all layers did alike.
    """
    blocks = [f"model: {found.model}"]
    if found.anatomy is not None:
        blocks.append(_block("routing", _anatomy(found.anatomy)))
    if found.findings:
        blocks.append(_proofs(found, verbose))
        blocks += [table for entry in found.findings if (table := _layer_table(*entry, verbose))]
    if found.plan is not None:
        blocks.append(_steering(found.plan, found.reach))
    blocks.append(_wrapped("verdict: ", found.verdict))
    blocks += [_wrapped("note: ", note) for note in found.notes]
    return "\n\n".join(blocks)


def _anatomy(found: Anatomy) -> list[tuple[str, str]]:
    shape = found.shape
    rows = [
        ("model", f"{found.model_class}, type {found.model_type}"),
        ("adapter", ", ".join(found.adapters)),
        ("decoder layers", f"{shape.depth}, counted from 0"),
        ("layers that route", f"{format_ranges(shape.layers)} ({len(shape.layers)})"),
    ]
    if found.dense_layers:
        rows.append(("dense layers", format_ranges(found.dense_layers)))
    if found.token_id_layers:
        rows.append(("by token id", f"{format_ranges(found.token_id_layers)}: a table chooses, nothing to steer"))
    if found.uncovered_layers:
        rows.append(("NOT RECOGNISED", f"{format_ranges(found.uncovered_layers)}: experts without a known router"))
    rows += [("experts, top-k", f"E = {shape.experts} a layer, K = {shape.top_k} selected per token")]
    if found.extra:
        rows.append(
            ("extra columns", f"{found.extra} beside the experts (shared, zero or skip): never steered or counted")
        )
    rows.append(
        (
            "scoring",
            {
                AFTERWARDS: "after the choice: the logits themselves decide",
                UNKNOWN: "known once weights are loaded",
            }.get(found.scoring, found.scoring),
        )
    )
    rows.append(("expert groups", f"{found.groups[0]}, of which {found.groups[1]} chosen" if found.groups else "none"))
    rows.append(("selection bias", ", ".join(found.selection_bias) or "none"))
    rows.append(("shared experts", ", ".join(found.shared) or "none"))
    bands = (f"{name} {format_ranges(shape.band(name))}" for name in BANDS)
    rows.append(("bands", "; ".join(bands)))
    block = ", ".join(f"{name}: {size}" for name, size in steering_model_block(shape).items())
    rows.append(("steering file", f"model: {{{block}}}"))
    return rows


def _proofs(found: Examination, verbose: bool) -> str:
    width = max(len(entry.title) for entry, _ in found.findings)
    signs = max(7, *(len(_SIGNS[finding.outcome]) + 1 for _, finding in found.findings))
    lines = ["proofs"]
    for entry, finding in found.findings:
        head = f"  {_SIGNS[finding.outcome]:<{signs}}{entry.title:<{width}}  "
        lines.append(_wrapped(head, finding.summary))
        if verbose:
            lines.append(_wrapped(" " * len(head) + "observed: ", entry.observes))
        if finding.outcome in _ADVISED and finding.advice:
            lines.append(_wrapped(" " * len(head) + "-> ", finding.advice))
    return "\n".join(lines)


def _layer_table(entry: Proof, finding: Finding, verbose: bool) -> str:
    """Show by layer the shares that were measured, where they differ from layer to layer or anything failed."""
    shown = [name for name in entry.shares if any(name in row for row in finding.layers.values())]
    if shown:
        rows = {layer: [_percent(row.get(name)) for name in shown] for layer, row in finding.layers.items()}
        differ = len({tuple(row) for row in rows.values()}) > 1
        if not (differ or verbose or finding.outcome in _ADVISED):
            return ""
        return _table(entry.table, ["layer", *(entry.shares[name] for name in shown)], rows)
    if not finding.layers or not (verbose or finding.outcome == "fail"):
        return ""
    # What is said in words is in the summary; a table of 96 characters has no room for it.
    columns_of = {name: [row[name] for row in finding.layers.values()] for name in next(iter(finding.layers.values()))}
    names = [
        name
        for name, values in columns_of.items()
        if any(value is not None for value in values) and not any(isinstance(value, str) for value in values)
    ]
    rows = {layer: [_cell(row[name]) for name in names] for layer, row in finding.layers.items()}
    return _table(f"{entry.title}, by layer", ["layer", *(name.replace("_", " ") for name in names)], rows)


def _steering(plan: SteeringPlan, reach: Reach | None) -> str:
    lines = [f"steering: {plan.name} (hash {plan.short_hash})"]
    for each in plan.interventions:
        what = f"{action_in_words(each)}; {tokens_in_words(each)}; {languages_in_words(each.languages)}"
        lines.append(_wrapped(f"  {each.index}  ", what))
        groups = list(targets_by_layers(each.targets.values()))
        wide = max(len(layers) for layers, _, _ in groups)
        for layers, experts, count in groups:
            lines.append(
                _wrapped(f"       layer {layers:<{wide}}  ", f"{'expert' if count == 1 else 'experts'} {experts}")
            )
        total = sum(len(targets.experts) for targets in each.targets.values())
        lines.append(f"       in all {total} expert(s) in {len(each.targets)} layer(s)")
    touched = plan.experts_by_layer()
    number, everything = sum(map(len, touched.values())), plan.shape.experts * len(plan.shape.layers)
    left = [layer for layer in plan.shape.layers if layer not in touched]
    lines.append(f"  touched:   {number} of {everything} experts, in layers {format_ranges(touched)}")
    lines.append(
        _wrapped(
            "  untouched: ",
            f"{f'layers {format_ranges(left)}; ' if left else ''}{everything - number} experts; shared experts; "
            f"padding{_limits(plan)}",
        )
    )
    if reach is not None:
        lines += ["", _reach(reach)]
    return "\n".join(lines)


def _limits(plan: SteeringPlan) -> str:
    phases = {each.tokens for each in plan.interventions}
    said = ""
    if phases == {"prompt"}:
        said += "; generated tokens"
    if phases == {"generated"}:
        said += "; prompt tokens"
    if all(each.languages.only is not None for each in plan.interventions):
        named = sorted(set().union(*(each.languages.only or () for each in plan.interventions)))
        said += f"; languages other than {', '.join(named)}"
    return said


def _reach(reach: Reach) -> str:
    if not any(each.tokens for each in reach.layers.values()):
        return "  reach: none of the doctor's sentences is in a language that the file steers: not measured"
    rows = {
        layer: [str(each.tokens), _percent(each.unsteered), _percent(each.steered)]
        for layer, each in reach.layers.items()
    }
    title = "  reach: tokens of the doctor's sentences at which a targeted expert is selected"
    return _table(title, ["layer", "tokens steered", "without steering", "with steering"], rows, indent="    ")


def _table(title: str, headers: Sequence[str], rows: Mapping[int, Sequence[str]], indent: str = "  ") -> str:
    """Lay out rows by layer; consecutive layers with the same cells share a row."""
    merged: list[list[str]] = []
    numbered = enumerate(rows.items())
    for (_, cells), group in groupby(numbered, key=lambda entry: (entry[1][0] - entry[0], tuple(entry[1][1]))):
        merged.append([format_ranges(layer for _, (layer, _) in group), *cells])
    return "\n".join([title, *aligned([headers, *merged], indent=indent)])


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: "-"}[value]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _percent(share: float | None) -> str:
    """Write a share; only what is exactly all or nothing is written so."""
    if share is None:
        return "-"
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1 %"
    if 99.9 < value < 100:
        return "> 99.9 %"
    return f"{value:.0f} %" if value in (0, 100) else f"{value:.1f} %"


def _block(title: str, rows: Iterable[tuple[str, str]]) -> str:
    entries = list(rows)
    width = max(len(label) for label, _ in entries)
    return "\n".join([title, *(_wrapped(f"  {label:<{width}}  ", value) for label, value in entries)])


def _wrapped(head: str, text: str) -> str:
    return "\n".join(hanging(head, text, _WIDTH))
