"""The examination as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lm_eval_moe.doctor.anatomy import AFTERWARDS, UNKNOWN, steering_model_block
from lm_eval_moe.doctor.explanation import (
    action_in_words,
    explain,
    languages_in_words,
    targets_by_layers,
    tokens_in_words,
)
from lm_eval_moe.number_text import share_text
from lm_eval_moe.shape import BANDS, format_ranges
from lm_eval_moe.tables import aligned
from lm_eval_moe.wrapping import hanging

if TYPE_CHECKING:
    from lm_eval_moe.doctor.anatomy import Anatomy
    from lm_eval_moe.doctor.examination import Examination
    from lm_eval_moe.doctor.finding import Proof, ProofOutcome
    from lm_eval_moe.doctor.target_shares import TargetShares
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["render_text"]

_WIDTH = 96
_SIGNS = {"pass": "ok", "fail": "FAILED", "not proven": "NOT PROVEN", "not applicable": "n/a"}
_ADVISED = ("fail", "not proven")
_SCORING = {AFTERWARDS: "after the choice: the logits themselves decide", UNKNOWN: "known once weights are loaded"}


def render_text(examination: Examination, *, verbose: bool = False) -> str:
    """Return the examination as lines of at most 96 characters.

    Args:
        examination: The examination.
        verbose: Show what each layer did even where all layers did the same.
    """
    blocks = [f"model: {examination.model}"]
    if examination.anatomy is not None:
        blocks.append(_block("routing", _anatomy(examination.anatomy)))
    if examination.findings:
        blocks.append(_proofs(examination, verbose))
        blocks += [table for entry in examination.findings if (table := _layer_table(*entry, verbose))]
    if examination.plan is not None:
        blocks.append(_steering(examination.plan, examination.reach))
    blocks.append(_wrapped("verdict: ", examination.verdict))
    blocks += [_wrapped("note: ", note) for note in examination.notes]
    return "\n\n".join(blocks)


def _anatomy(anatomy: Anatomy) -> list[tuple[str, str]]:
    shape = anatomy.shape
    dense, by_id, unknown = map(
        format_ranges, (anatomy.dense_layers, anatomy.token_id_layers, anatomy.uncovered_layers)
    )
    extra = f"{anatomy.extra} besides the experts (shared, zero or skip): never steered or counted"
    block = ", ".join(f"{name}: {size}" for name, size in steering_model_block(shape).items())
    rows = [
        ("model", f"{anatomy.model_class}, type {anatomy.model_type}", True),
        ("adapter", ", ".join(anatomy.adapters), True),
        ("decoder layers", f"{shape.depth}, counted from 0", True),
        ("layers that route", f"{format_ranges(shape.layers)} ({len(shape.layers)})", True),
        ("dense layers", dense, anatomy.dense_layers),
        ("by token id", f"{by_id}: a table decides, nothing to steer", anatomy.token_id_layers),
        ("NOT RECOGNISED", f"{unknown}: experts without a known router", anatomy.uncovered_layers),
        ("experts, top-k", f"E = {shape.experts} per layer, K = {shape.top_k} selected per token", True),
        ("extra columns", extra, anatomy.extra),
        ("scoring", _SCORING.get(anatomy.scoring, anatomy.scoring), True),
        ("expert groups", "{}, of which {} chosen".format(*anatomy.groups) if anatomy.groups else "none", True),
        ("selection bias", ", ".join(anatomy.selection_bias) or "none", True),
        ("shared experts", ", ".join(anatomy.shared) or "none", True),
        ("bands", "; ".join(f"{name} {format_ranges(shape.band(name))}" for name in BANDS), True),
        ("steering file", f"model: {{{block}}}", True),
    ]
    return [(label, text) for label, text, applies in rows if applies]


def _proofs(examination: Examination, verbose: bool) -> str:
    width = max(len(entry.title) for entry, _ in examination.findings)
    signs = max(7, *(len(_SIGNS[finding.outcome]) + 1 for _, finding in examination.findings))
    lines = ["proofs"]
    for entry, finding in examination.findings:
        head = f"  {_SIGNS[finding.outcome]:<{signs}}{entry.title:<{width}}  "
        lines.append(_wrapped(head, finding.summary))
        if verbose:
            lines.append(_wrapped(" " * len(head) + "observed: ", entry.observes))
        if finding.outcome in _ADVISED and finding.advice:
            lines.append(_wrapped(" " * len(head) + "-> ", finding.advice))
    return "\n".join(lines)


def _layer_table(entry: Proof, finding: ProofOutcome, verbose: bool) -> str:
    """Show by layer the shares that were measured, where they differ from layer to layer or anything failed."""
    columns = [name for name in entry.shares if any(name in row for row in finding.layers.values())]
    if columns:
        rows = {layer: [_percent(row.get(name)) for name in columns] for layer, row in finding.layers.items()}
        differ = len({tuple(row) for row in rows.values()}) > 1
        if not (differ or verbose or finding.outcome in _ADVISED):
            return ""
        return _table(entry.table, ["layer", *(entry.shares[name] for name in columns)], rows)
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


def _steering(plan: SteeringPlan, reach: TargetShares | None) -> str:
    lines = [f"steering: {plan.name} (hash {plan.short_hash})"]
    for intervention in plan.interventions:
        what = "; ".join(
            (
                action_in_words(intervention),
                tokens_in_words(intervention),
                languages_in_words(intervention.languages),
            )
        )
        lines.append(_wrapped(f"  {intervention.index}  ", what))
        groups = list(targets_by_layers(intervention.targets.values()))
        wide = max(len(layers) for layers, _, _ in groups)
        for layers, experts, count in groups:
            lines.append(
                _wrapped(f"       layer {layers:<{wide}}  ", f"{'expert' if count == 1 else 'experts'} {experts}")
            )
        total = sum(len(targets.experts) for targets in intervention.targets.values())
        lines.append(f"       total: {total} expert(s) in {len(intervention.targets)} layer(s)")
    explanation = explain(plan)
    touched, untouched = explanation["touched"], explanation["untouched"]
    everything = touched["experts"] + untouched["experts"]
    where = format_ranges(touched["layers"])
    lines.append(f"  touched:   {touched['experts']} of {everything} experts, in layers {where}")
    where = f"layers {format_ranges(untouched['layers'])}; " if untouched["layers"] else ""
    left_alone = f"{where}{untouched['experts']} experts; shared experts; padding{_limits(plan)}"
    lines.append(_wrapped("  untouched: ", left_alone))
    if reach is not None:
        lines += ["", _reach(reach)]
    return "\n".join(lines)


def _limits(plan: SteeringPlan) -> str:
    phases = {intervention.tokens for intervention in plan.interventions}
    text = ""
    if phases == {"prompt"}:
        text += "; generated tokens"
    if phases == {"generated"}:
        text += "; prompt tokens"
    if all(intervention.languages.only is not None for intervention in plan.interventions):
        languages = sorted(set().union(*(intervention.languages.only or () for intervention in plan.interventions)))
        text += f"; languages other than {', '.join(languages)}"
    return text


def _reach(reach: TargetShares) -> str:
    if not any(shares.tokens for shares in reach.layers.values()):
        return "  reach: none of the doctor's sentences is in a language that the file steers: not measured"
    rows = {
        layer: [str(shares.tokens), _percent(shares.unsteered), _percent(shares.steered)]
        for layer, shares in reach.layers.items()
    }
    title = "  reach: tokens of the doctor's sentences at which a targeted expert is selected"
    return _table(title, ["layer", "tokens steered", "without steering", "with steering"], rows, indent="    ")


def _table(title: str, headers: Sequence[str], rows: Mapping[int, Sequence[str]], indent: str = "  ") -> str:
    """Lay out rows by layer; consecutive layers with the same cells share a row."""
    runs = groupby(enumerate(rows.items()), key=lambda entry: (entry[1][0] - entry[0], tuple(entry[1][1])))
    merged = [[format_ranges(layer for _, (layer, _) in group), *cells] for (_, cells), group in runs]
    return "\n".join([title, *aligned([headers, *merged], indent=indent)])


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: "-"}[value]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _percent(share: float | None) -> str:
    return "-" if share is None else share_text(share)


def _block(title: str, rows: Iterable[tuple[str, str]]) -> str:
    entries = list(rows)
    width = max(len(label) for label, _ in entries)
    return "\n".join([title, *(_wrapped(f"  {label:<{width}}  ", value) for label, value in entries)])


def _wrapped(head: str, text: str) -> str:
    return "\n".join(hanging(head, text, _WIDTH))
