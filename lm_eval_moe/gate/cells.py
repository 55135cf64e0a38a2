"""The columns that the terminal's and the Markdown table share."""

from __future__ import annotations

from lm_eval_moe.gate.flips import Flips
from lm_eval_moe.gate.verdict import Verdict, VerdictLine
from lm_eval_moe.number_text import Scale, p_number

__all__ = ["explained", "flip_tables", "footer", "tables_of"]

_SCORES = ("check", "result", "baseline", "candidate", "change", "at worst", "margin", "p corr.", "items")
_FLIPS = ("", "doc", "item", "right", "baseline", "candidate")
_LONGEST = 40  # characters of an answer
_DRIFTS = ("check", "result", "early", "middle", "late", "items")


def tables_of(verdict: Verdict) -> list[tuple[tuple[str, ...], list[tuple[VerdictLine, list[str]]], str]]:
    """Return the tables of scores and of drifts: headers, lines with their cells behind name and result, what it is."""
    scores = [(line, _score_cells(line)) for line in verdict.lines if line.kind != "drift"]
    drifts = [(line, _drift_cells(line)) for line in verdict.lines if line.kind == "drift"]
    return [(_SCORES, scores, ""), (_DRIFTS, drifts, "routing drift, mean divergence / limit")]


def explained(verdict: Verdict) -> list[VerdictLine]:
    """Return the lines whose sentence one has to read: all that did not simply hold; what matters most comes first."""
    order = {"fail": 0, "unjudged": 1, "warn": 2, "pass": 3}
    lines = [
        line
        for line in verdict.lines
        if line.effect != "pass" or line.status in ("allowed", "inconclusive") or line.beyond_chance
    ]
    return sorted(lines, key=lambda line: order[line.effect])


def flip_tables(verdict: Verdict) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Return the tables of flipped items: title, headers and rows; no rows where there is nothing to show."""
    return [(flips.title, _FLIPS, _flip_rows(flips)) for flips in verdict.flips]


def _flip_rows(flips: Flips) -> list[list[str]]:
    rows = []
    for kind, total in (("lost", flips.lost), ("gained", flips.gained)):
        examples = (flips.shown or {}).get(kind, ())
        rows += [
            [
                *(kind, str(flip.doc_id), _shorten(flip.name or ""), _shorten(flip.target)),
                *(
                    _answered(answer, score, flips)
                    for answer, score in ((flip.baseline, flip.before), (flip.candidate, flip.after))
                ),
            ]
            for flip in examples
        ]
        if examples and total > len(examples):
            rows.append([kind, "", f"and {total - len(examples)} more", "", "", ""])
    return rows


def _answered(answer: str | None, score: float, flips: Flips) -> str:
    """Return what was answered, with the score where it is not simply right or wrong."""
    graded = "" if flips.is_share and score in (0, 1) else f"{score:.4g}: "
    return graded + ("not logged" if answer is None else _shorten(answer) or "nothing")


def _shorten(text: str | None) -> str:
    """Return text on one line, the end of a long one: there an answer stands after its reasoning."""
    line = " ".join((text or "").split())
    return line if len(line) <= _LONGEST else f"…{line[1 - _LONGEST :]}"


def footer(verdict: Verdict) -> str:
    """Return what the verdict rests on; nothing if nothing was tested."""
    if not verdict.tests:
        return ""
    together = "in the one test" if verdict.tests == 1 else f"over all {verdict.tests} tests together"
    scope = {
        "holm": f"{together} (Holm)",
        "bonferroni": f"{together} (Bonferroni)",
        "none": "in each test by itself, not over all tests together",
    }[verdict.correction]
    text = f"If nothing has changed, a regression is called in at most {100 * verdict.alpha:g} of 100 runs, {scope}."
    if any(line.is_share for line in verdict.lines):
        text += " Changes and margins of shares are in percentage points."
    if any(line.status == "inconclusive" and line.effect == "fail" for line in verdict.lines):
        text += " Scores that failed because they are inconclusive are not counted there."
    return text


def _score_cells(line: VerdictLine) -> list[str]:
    if line.before is None or line.after is None or line.drop is None or line.margin is None:
        return ["", "", "", "", "", "", str(line.items or "")]
    change = line.after - line.before
    scale = Scale(line, plain=True)
    signed = _signed("+" if change > 0 else "-", abs(change), scale)
    loses = "+" if line.drop * change > 0 else "-"  # where lower is better a loss is a rise
    worst = "" if line.upper is None else _signed(loses, max(line.upper, 0.0), scale)
    p = line.adjusted_p if line.adjusted_p is not None else line.p
    return [
        scale.value(line.before),
        scale.value(line.after),
        signed,
        worst,
        scale.size(line.margin),
        "" if p is None else p_number(p),
        str(line.items),
    ]


def _drift_cells(line: VerdictLine) -> list[str]:
    cells = [
        f"{line.drift[band]:.3f} / {line.limits[band]:g}" if band in line.drift else ""
        for band in ("early", "middle", "late")
    ]
    return [*cells, str(line.items or "")]


def _signed(sign: str, size: float, scale: Scale) -> str:
    return f"{sign if size else ''}{scale.size(size)}"
