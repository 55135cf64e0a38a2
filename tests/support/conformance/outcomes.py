"""What the suite found, kept as one JSON file a version of transformers, and the page that is made from these files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers

from lm_eval_moe.doctor import anatomy_of
from support.conformance.checks import CHECKS, Case
from support.conformance.families import Family, discover
from support.paths import ROOT

__all__ = ["FOLDER", "PAGE", "Outcomes", "differences", "read_all", "render"]

FOLDER = Path(__file__).with_name("found")
PAGE = ROOT / "docs" / "families.md"

SCHEMA_VERSION = 4

# Rates are of random models: another version of torch draws other weights.
_TOLERANCE = 0.15


class Outcomes:
    """Collects what the checks of a run say."""

    def __init__(self) -> None:
        self.families: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}

    def add(self, case: Case, check: str, dtype: str, found: Any) -> None:
        """Note a passed check and what it returned."""
        entry = self.families.setdefault(case.family.model_type, {**_facts(case), "passed": {}, "reach": {}})
        entry["passed"].setdefault(dtype, []).append(check)
        if check == "reach":
            entry["reach"][dtype] = {name: round(rate, 2) for name, rate in found.items()}
        if check == "contexts":
            entry["contexts"] = found

    def document(self) -> dict[str, Any]:
        """Return the run as JSON-ready values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "transformers": transformers.__version__,
            "families": {name: self.families[name] for name in sorted(self.families)},
            "refused": self.refused,
            "elsewhere": discover().elsewhere,
        }


def _facts(case: Case) -> dict[str, Any]:
    family: Family = case.family
    anatomy = anatomy_of(case.model, case.lm._sites)
    block = case.lm._sites[0].block
    module = type(block).__module__.rpartition(".")[2]
    return {
        "class": family.class_name,
        "adapter": None if module == "blocks" else module,
        "scoring": case.lm._scoring,
        "groups": list(anatomy.groups) if anatomy.groups else None,
        "selection_bias": bool(anatomy.selection_bias),
        "beside": family.columns - family.experts,
        "hashed": bool(family.hashed_layers),
        "routers": family.routers,
        "padding": family.padding,
        "no_bfloat16": family.no_bfloat16,
    }


def read_all() -> dict[str, dict[str, Any]]:
    """Return the kept outcomes by version of transformers, newest first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("transformers-*.json")]
    found = [each for each in found if each["schema_version"] == SCHEMA_VERSION]
    found.sort(key=lambda each: [int(part) for part in each["transformers"].split(".")], reverse=True)
    return {each["transformers"]: each for each in found}


def differences(kept: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return where a run differs from what was kept; rates may differ a little."""
    found = [key for key in ("refused", "elsewhere") if kept[key] != now[key]]
    for name in sorted(kept["families"].keys() | now["families"].keys()):
        old, new = (dict(each["families"].get(name, {})) for each in (kept, now))
        rates = [each.pop("reach", {}) for each in (old, new)]
        pairs = [[(t, n, rate) for t in sorted(each) for n, rate in sorted(each[t].items())] for each in rates]
        same = len(pairs[0]) == len(pairs[1]) and all(
            a[:2] == b[:2] and abs(a[2] - b[2]) <= _TOLERANCE for a, b in zip(*pairs, strict=True)
        )
        if old != new or not same:
            found.append(name)
    return found


# ------------------------------------------------------------------------------------------------ the page

_HEAD = """\
# Model families

<!-- Made by `make families` from what the conformance suite found; not written by hand. -->

Every mixture-of-experts family that transformers can load as a causal language model, found by code, built as a tiny
random model and checked against plain transformers. {versions}

{totals}

Every family but those refused passes {all_checks}, in float32:

{explained}

In bfloat16: {bf16}.

Columns: *adapter* is the module of `lm_eval_moe/routers/families` that the family needs, empty for the generic path;
*scoring* is what the logits go through before the selection; *then* says what else decides: groups of experts, a
selection bias. *activate 1 / mask 3* are the shares of tokens at which one activated expert was selected, and any of
three masked ones, on a random model with random selection biases and, where the family has them, groups; *guarded* the
same with `guard: true`, where 100 % and 0 % also hold for as many activated experts as are selected, and for masks that
leave no more than that. Without the guard 100 % and 0 % mean that logits alone decide (with K = 1, as in zaya, ties are
broken at random); a trained model's rates differ, and `steered_selection` reports them. *contexts* says how
requests share what they begin with (docs/performance.md).
"""


def _percent(rate: float) -> str:
    return f"{rate:.0%}".replace("%", " %")


def _notes(entry: dict[str, Any]) -> list[str]:
    notes = []
    if entry["beside"]:
        columns = "column" if entry["beside"] == 1 else "columns"
        notes.append(f"{entry['beside']} more {columns} of the router, for shared, zero or skip experts, left out")
    if entry["hashed"]:
        notes.append("layers that choose by token id are left out")
    if entry["routers"] > 1:
        notes.append("only the feed-forward experts; the router of the attention's experts is left alone")
    if entry["padding"]:
        notes.append(f"left padding matters to the model itself: {entry['padding']}")
    if entry["no_bfloat16"]:
        notes.append(f"not in bfloat16: {entry['no_bfloat16']}")
    return notes


def _all_notes(entries: dict[str, dict[str, Any]]) -> str:
    """Return the notes of all versions, newest first; one that is not of all says of which it is."""
    where: dict[str, list[str]] = {}
    for version, entry in entries.items():
        for note in _notes(entry):
            where.setdefault(note, []).append(version)
    return "; ".join(note if len(of) == len(entries) else f"{note} ({', '.join(of)})" for note, of in where.items())


def _reaches(entry: dict[str, Any], how: str) -> bool:
    rates = entry["reach"]["float32"]
    return rates[f"activate {how}"] == 1.0 and rates[f"mask {how}"] == 0.0


def _totals(version: str, found: dict[str, Any]) -> str:
    families = found["families"].values()
    free = sum(_reaches(entry, "unguarded") for entry in families)
    guarded = sum(_reaches(entry, "guarded") for entry in families)
    return (
        f"- transformers {version}: {len(families) + len(found['refused'])} model types tried; {len(families)} pass "
        f"every check; {free} of them reach 100 % / 0 % by the logits alone, {guarded} with the guard; "
        f"{len(found['refused'])} refused; {len(found['elsewhere'])} modules of transformers with experts are not "
        "causal language models."
    )


def render(everything: dict[str, dict[str, Any]]) -> str:
    """Return the page for the kept outcomes of all versions, newest first."""
    versions = list(everything)
    newest = everything[versions[0]]
    in_bf16 = sorted({check for e in newest["families"].values() for check in e["passed"].get("bfloat16", [])})
    lines = [
        _HEAD.format(
            versions=f"Last run with transformers {' and '.join(versions)}.",
            totals="\n".join(_totals(version, found) for version, found in everything.items()),
            all_checks=f"{len(CHECKS)} checks",
            explained="\n".join(
                f"- *{name}*: {' '.join((function.__doc__ or '').split())}" for name, function in CHECKS.items()
            ),
            bf16=", ".join(f"*{name}*" for name in in_bf16),
        ),
        "| model type | class | adapter | scoring | then | activate 1 / mask 3 | guarded | contexts "
        "| with transformers | notes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted({name for found in everything.values() for name in found["families"]}):
        where = [version for version in versions if name in everything[version]["families"]]
        entry = everything[where[0]]["families"][name]
        rates = entry["reach"]["float32"]
        cells = [
            f"`{name}`",
            entry["class"],
            f"`{entry['adapter']}`" if entry["adapter"] else "",
            entry["scoring"] or ("in the block" if entry["adapter"] == "selecting_block" else "after the selection"),
            " and ".join(name for name, has in (("groups", entry["groups"]), ("bias", entry["selection_bias"])) if has),
            *(
                f"{_percent(rates[f'activate {how}'])} / {_percent(rates[f'mask {how}'])}"
                for how in ("unguarded", "guarded")
            ),
            entry["contexts"] or "each by itself",
            ", ".join(where),
            _all_notes({version: everything[version]["families"][name] for version in where}),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Refused", "", "| model type | why |", "|---|---|"]
    refused = {name: why for found in reversed(everything.values()) for name, why in found["refused"].items()}
    lines += [f"| `{name}` | {why} |" for name, why in sorted(refused.items())]
    lines += [
        "",
        "## Modules with experts that are not causal language models",
        "",
        "| module of transformers | why |",
        "|---|---|",
    ]
    elsewhere = {name: why for found in reversed(everything.values()) for name, why in found["elsewhere"].items()}
    lines += [f"| `{name}` | {why} |" for name, why in sorted(elsewhere.items())]
    return "\n".join(lines) + "\n"
