"""The check when an engine has started: is every layer seen and changed, at the right tokens, and nothing otherwise?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.errors import RoutingBypassedError
from lm_eval_moe.recording import ExpectedRow, RequestKey, RoutingRecord, RowUse
from lm_eval_moe.shape import format_ranges
from lm_eval_moe.steering import parse_spec, resolve

if TYPE_CHECKING:
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["check_start"]

_KEY = RequestKey("start", 0, 0)
_PROMPT, _ANSWER = 24, 4
"""Tokens of the prompt, and of what is generated behind it."""

_ARRAYS = frozenset({"counts"})


def check_start(lm: Any) -> None:
    """Run a prompt as the model is, captured, and steered to the experts that it uses least.

    Args:
        lm: The model, a `VLLMMoE`.

    Raises:
        RoutingBypassedError: A layer was not seen, was seen at other tokens, or could not be changed; or the model's
            log-probabilities are others when it is only captured.
    """
    plain = [_run(lm, None, captured=False)[0] for _ in range(2)]
    captured_scores, record = _run(lm, None)
    assert record is not None
    # An engine may differ from itself in its last bits; capture must not add to that.
    if np.abs(captured_scores - plain[0]).max() > np.abs(plain[1] - plain[0]).max():
        raise _failure("the log-probabilities change when routing is captured")
    counts, tokens, top_k = record.counts, _PROMPT + _ANSWER - 1, lm.routing_shape.top_k
    assert counts is not None
    layers = np.array(lm.routing_shape.layers)
    if record.tokens != tokens or (counts.sum(1) != tokens * top_k).any():
        wrong = layers[counts.sum(1) != tokens * top_k]
        raise _failure(f"expected {top_k} experts for each of {tokens} tokens", wrong)
    least = {
        int(layer): np.argsort(layer_counts, kind="stable")[:top_k].tolist()
        for layer, layer_counts in zip(layers, counts, strict=True)
    }
    spec = {"version": 1, "name": "start", "interventions": [{"experts": {"ids": least}, "action": "activate"}]}
    spec["interventions"][0]["layers"] = "all"  # type: ignore[index]
    steered, record = _run(lm, resolve(parse_spec(spec), lm.routing_shape))
    assert record is not None
    if (unmoved := layers[(record.hit == 0) | (record.changed == 0)]).size:
        raise _failure("activated experts are not selected", unmoved)
    if np.array_equal(steered, plain[0]):
        raise _failure("steering changes no log-probability")
    lm.model.reset_prefix_cache()


def _run(lm: Any, plan: SteeringPlan | None, *, captured: bool = True) -> tuple[Any, RoutingRecord | None]:
    """Return the log-probabilities of a prompt and an answer under a plan, and the record."""
    before, span = lm.steering, lm.capture
    draw = np.random.default_rng(0)
    prompt = draw.integers(0, lm.vocabulary_size, _PROMPT).tolist()
    row = ExpectedRow((RowUse(_KEY, _PROMPT),), None, tuple(prompt))
    lm.set_steering(plan)
    lm.set_capture("all" if captured else "off")
    try:
        with lm.capturing(CaptureRequest(arrays=_ARRAYS, changes=True)) as recording:
            [output] = lm.answers_to([row], [prompt], _ANSWER)
            record = recording.record(_KEY)
    finally:
        lm.set_steering(before)
        lm.set_capture(span)
    log_probabilities = [
        candidates[token].logprob for candidates, token in zip(output.prompt_logprobs[1:], prompt[1:], strict=True)
    ]
    answer = output.outputs[0]
    log_probabilities += [
        candidates[token].logprob for candidates, token in zip(answer.logprobs, answer.token_ids, strict=True)
    ]
    return np.array(log_probabilities), record


def _failure(problem: str, layers: Any = ()) -> RoutingBypassedError:
    where = f" (layers {format_ranges([int(layer) for layer in layers])})" if len(layers) else ""
    return RoutingBypassedError(
        f"the check of vLLM's engine failed: {problem}{where}; capture and steering cannot be trusted",
        fix="add enforce_eager=True (no compilation), choose another kernel (moe_backend=triton), or use hf-moe",
        where="--model vllm-moe",
    )
