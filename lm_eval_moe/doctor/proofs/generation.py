"""Greedy generation with a KV cache and left padding: the same tokens with capture on, and each of them counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_moe.doctor.finding import ProofOutcome, proof
from lm_eval_moe.doctor.runs import NEW_TOKENS

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Asked, Generated, Runs

__all__ = ["examine"]


@proof(
    "generation",
    "generation is unchanged",
    observes="the tokens that are fed step by step (or the texts), with and without capture",
    order=80,
    needs=("selection",),
)
def examine(runs: Runs) -> ProofOutcome:
    """Compare the tokens fed step by step, and the records with them."""
    plain, captured = runs.generated, runs.generated_captured
    if plain.texts != captured.texts:
        return _changed(plain, captured)
    if not runs.has_modules:
        return _recorded(runs, captured)
    fed, fed_captured = plain.fed, captured.fed
    if fed is None or fed_captured is None:
        return ProofOutcome("not applicable", "the model is fed embeddings: its tokens cannot be followed from outside")
    if fed.shape != fed_captured.shape or (fed != fed_captured).any():
        return _changed(plain, captured)
    padding = continued = 0
    wrong = []
    for ask in captured.asked:
        prompt, after = _tokens(runs, captured, ask)
        padding += fed.shape[1] - len(prompt) - _steps(captured)
        continued += len(after)
        if problem := runs.miscounted(captured.records.get(ask.number), len(prompt) + len(after)):
            wrong.append(f"{ask.language}: {problem}")
    details = {"rows": len(captured.asked), "padding_tokens": padding, "generated_tokens": continued, "wrong": wrong}
    if wrong:
        return _counted_wrongly(wrong, captured, details)
    return ProofOutcome(
        "pass",
        f"{len(captured.asked)} prompts, {padding} of padding; {continued} generated tokens counted",
        details=details,
    )


def _recorded(runs: Runs, captured: Generated) -> ProofOutcome:
    """Judge by the records alone: all of the prompt, and of the answer no more than can have been fed."""
    continued = 0
    wrong = []
    for ask in captured.asked:
        prompt, record = len(runs.lm.tok_encode(ask.context)), captured.records.get(ask.number)
        tokens = record.tokens if record is not None else 0
        due = min(max(tokens, prompt), prompt + NEW_TOKENS - 1)  # the last token of an answer is never fed
        continued += tokens - prompt
        if problem := runs.miscounted(record, due):
            wrong.append(f"{ask.language}: {problem}")
    details = {"rows": len(captured.asked), "generated_tokens": continued, "wrong": wrong}
    if wrong:
        return _counted_wrongly(wrong, captured, details)
    return ProofOutcome("pass", f"{len(captured.asked)} prompts; {continued} generated tokens counted", details=details)


def _counted_wrongly(wrong: list[str], captured: Generated, details: dict[str, Any]) -> ProofOutcome:
    return ProofOutcome(
        "fail",
        f"{len(wrong)} of {len(captured.asked)} generations are counted wrongly ({wrong[0]})",
        "the routing fields of this model's generation tasks cannot be trusted; please report it",
        details=details,
    )


def _changed(plain: Generated, captured: Generated) -> ProofOutcome:
    rows = sum(one != other for one, other in zip(plain.texts, captured.texts, strict=True))
    return ProofOutcome(
        "fail",
        f"capture changes what is generated ({rows} of {len(plain.texts)} texts differ)",
        "do not compare answers generated under capture with those of the plain model, and please report it",
    )


def _steps(run: Generated) -> int:
    """Return how many tokens a row were fed back: each pass after the prompt's feeds one."""
    widths = [0 if each.tokens is None else each.tokens.shape[1] for each in run.passes]
    return len([width for width in widths[1:] if width == 1])


def _tokens(runs: Runs, run: Generated, ask: Asked) -> tuple[list[int], list[int]]:
    """Return a row's prompt without padding, and the generated tokens that were fed back, up to its end."""
    assert run.fed is not None
    room = run.fed.shape[1] - _steps(run)  # a prompt too long for the model is cut from the left
    prompt = runs.lm.tok_encode(ask.context)[-room:]
    row = next(row for row in run.fed.tolist() if row[: len(row) - _steps(run)][-len(prompt) :] == prompt)
    after: list[int] = []
    for token in row[len(row) - _steps(run) :] if _steps(run) else []:
        if token in runs.modules.end_tokens:
            break
        after.append(token)
    return prompt, after
