"""Greedy generation with a KV cache and left padding: the same tokens with capture on, and each of them counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_moe.doctor.finding import ProofOutcome, proof
from lm_eval_moe.doctor.runs import NEW_TOKENS

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import GenerationRun, Runs, TokenizedSentence

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
        return _check_texts(plain, captured)
    if not runs.has_modules:
        return _check_records(runs, captured)
    fed, fed_captured = plain.fed, captured.fed
    if fed is None or fed_captured is None:
        return ProofOutcome("not applicable", "the model is fed embeddings: its tokens cannot be followed from outside")
    if fed.shape != fed_captured.shape or (fed != fed_captured).any():
        return _check_texts(plain, captured)
    padding = continued = 0
    wrong = []
    for sentence in captured.sentences:
        prompt, after = _tokens(runs, captured, sentence)
        padding += fed.shape[1] - len(prompt) - _steps(captured)
        continued += len(after)
        if problem := runs.miscounted(captured.records.get(sentence.number), len(prompt) + len(after)):
            wrong.append(f"{sentence.language}: {problem}")
    details = {
        "rows": len(captured.sentences),
        "padding_tokens": padding,
        "generated_tokens": continued,
        "wrong": wrong,
    }
    if wrong:
        return _counted_wrongly(wrong, captured, details)
    return ProofOutcome(
        "pass",
        f"{len(captured.sentences)} prompts, {padding} of padding; {continued} generated tokens counted",
        details=details,
    )


def _check_records(runs: Runs, captured: GenerationRun) -> ProofOutcome:
    """Judge by the records alone: all of the prompt, and of the answer no more than can have been fed."""
    continued = 0
    wrong = []
    for sentence in captured.sentences:
        prompt, record = len(runs.lm.tok_encode(sentence.context)), captured.records.get(sentence.number)
        tokens = record.tokens if record is not None else 0
        due = min(max(tokens, prompt), prompt + NEW_TOKENS - 1)  # the last token of an answer is never fed
        continued += tokens - prompt
        if problem := runs.miscounted(record, due):
            wrong.append(f"{sentence.language}: {problem}")
    details = {"rows": len(captured.sentences), "generated_tokens": continued, "wrong": wrong}
    if wrong:
        return _counted_wrongly(wrong, captured, details)
    return ProofOutcome(
        "pass", f"{len(captured.sentences)} prompts; {continued} generated tokens counted", details=details
    )


def _counted_wrongly(wrong: list[str], captured: GenerationRun, details: dict[str, Any]) -> ProofOutcome:
    return ProofOutcome(
        "fail",
        f"{len(wrong)} of {len(captured.sentences)} generations are counted wrongly ({wrong[0]})",
        "the routing fields of this model's generation tasks cannot be trusted; please report it",
        details=details,
    )


def _check_texts(plain: GenerationRun, captured: GenerationRun) -> ProofOutcome:
    rows = sum(one != captured_text for one, captured_text in zip(plain.texts, captured.texts, strict=True))
    return ProofOutcome(
        "fail",
        f"capture changes what is generated ({rows} of {len(plain.texts)} texts differ)",
        "do not compare answers generated under capture with those of the plain model, and please report it",
    )


def _steps(run: GenerationRun) -> int:
    """Return how many tokens a row were fed back: each pass after the prompt's feeds one."""
    widths = [0 if forward_pass.tokens is None else forward_pass.tokens.shape[1] for forward_pass in run.passes]
    return len([width for width in widths[1:] if width == 1])


def _tokens(runs: Runs, run: GenerationRun, sentence: TokenizedSentence) -> tuple[list[int], list[int]]:
    """Return a row's prompt without padding, and the generated tokens that were fed back, up to its end."""
    assert run.fed is not None
    room = run.fed.shape[1] - _steps(run)  # a prompt too long for the model is cut from the left
    prompt = runs.lm.tok_encode(sentence.context)[-room:]
    row = next(row for row in run.fed.tolist() if row[: len(row) - _steps(run)][-len(prompt) :] == prompt)
    after: list[int] = []
    for token in row[len(row) - _steps(run) :] if _steps(run) else []:
        if token in runs.modules.end_tokens:
            break
        after.append(token)
    return prompt, after
