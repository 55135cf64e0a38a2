"""What must hold for every family: each check is one function over a tiny model of it.

A check fails by an AssertionError or by any error of the package; it returns what the table shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from lm_eval_moe import HFMoE, parse_spec, resolve
from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.backends.hf.contexts import planning
from lm_eval_moe.doctor import examine
from lm_eval_moe.recording import RequestKey, RoutingRecord
from lm_eval_moe.replacing import replaced
from lm_eval_moe.routers import intercepted, shape_from_config
from support.conformance import native
from support.conformance.families import Family, build
from support.hf_cases import generated, likelihoods, scored
from support.token_trees import drawn_requests

__all__ = ["CHECKS", "Case"]

PAIRS = [
    ("The cat sat", " on the mat."),
    ("Сколько яблок осталось?", " ноль"),
    ("猫坐在垫子", "上"),
    ("Rain fell all night on the quiet", " town"),
]
"""Of different lengths, so that a batch of them is padded."""

PROMPTS = [context for context, _ in PAIRS]
NEW_TOKENS = 5


@dataclass
class Case:
    """A family's tiny model behind lm-eval's own model class and behind ours, on the same weights."""

    family: Family
    tokenizer: Any
    dtype: torch.dtype = torch.float32

    @cached_property
    def model(self) -> Any:
        return build(self.family.model_type, dtype=self.dtype)

    @cached_property
    def blocks(self) -> list[native.Block]:
        return native.blocks(self.model, self.family)

    @cached_property
    def plain(self) -> HFLM:
        return HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=4, max_length=256)

    @cached_property
    def lm(self) -> HFMoE:
        return HFMoE(pretrained=self.model, tokenizer=self.tokenizer, batch_size=4, max_length=256, capture="all")

    def tokens(self, pair: tuple[str, str]) -> torch.Tensor:
        """The tokens that a request feeds, ``[1, T]``."""
        context, continuation = self.plain._encode_pair(*pair)
        return torch.tensor([[*context, *continuation][:-1]])

    def steer(self, action: Any, experts: Any, **more: Any) -> None:
        entry = {"layers": "all", "experts": {"ids": {"all": experts}}, "action": action, **more}
        self.lm.set_steering(parse_spec({"version": 1, "interventions": [entry]}))

    def records(self) -> list[RoutingRecord]:
        found = [self.lm.captured.record(RequestKey("task", number, 0)) for number in range(len(PAIRS))]
        assert all(found), "a request has no record"
        return found

    def score(self) -> list[float]:
        """Log-likelihoods in one padded batch, with fresh records."""
        self.lm.captured.clear()
        return likelihoods(self.lm, scored(PAIRS))

    def score_alone(self, number: int) -> float:
        """One request in a batch of its own, with fresh records under the same key."""
        self.lm.captured.clear()
        [request] = [scored(PAIRS)[number]]
        return likelihoods(self.lm, [request])[0]

    def reset(self) -> None:
        self.lm.set_steering(None)
        self.lm.captured.clear()


CHECKS: dict[str, Callable[[Case], Any]] = {}


def check(name: str) -> Callable[[Callable[[Case], Any]], Callable[[Case], Any]]:
    def add(function: Callable[[Case], Any]) -> Callable[[Case], Any]:
        CHECKS[name] = function
        return function

    return add


@check("routers")
def routers_are_found(case: Case) -> None:
    """Found in every decoder layer that routes by learned weights, and nowhere else; from the config alone as well."""
    sites = case.lm._sites
    shape = case.lm.routing_shape
    assert shape.layers == case.family.moe_layers == tuple(block.layer for block in case.blocks)
    assert (shape.experts, shape.top_k) == (case.family.experts, case.family.top_k)
    assert shape.depth == len(case.model.get_submodule(case.family.layers))
    assert shape_from_config(deepcopy(case.model.config)) == shape
    for site, block in zip(sites, case.blocks, strict=True):
        assert site.block.router is block.router
        assert site.block.weight is block.weight
        assert site.block.weight.shape[0] == site.block.num_experts + site.block.extra == case.family.columns


@check("no-op")
def watching_changes_no_bit(case: Case) -> None:
    """Log-likelihoods and greedy texts with capture on, and at zero strength, are those of lm-eval's own model."""
    requests, prompts = scored(PAIRS), generated(PROMPTS, max_gen_toks=NEW_TOKENS)
    expected = likelihoods(case.plain, requests)
    texts = case.plain.generate_until(prompts, disable_tqdm=True)
    for steering in (None, {"soft": 0.0}, {"proportional": 0.0}, {"bias": 0.0}):
        if steering:
            case.steer(steering, [0, 5])
        assert case.score() == expected
        assert case.lm.generate_until(prompts, disable_tqdm=True) == texts


@check("capture")
def records_hold_what_the_experts_received(case: Case) -> None:
    """Holds what the experts received: counts exactly, gate mass and importance to rounding."""
    experts = case.family.experts
    for number in range(len(PAIRS)):
        with native.selections(case.blocks, experts) as seen:
            case.score_alone(number)
        record = case.lm.captured.record(RequestKey("task", number, 0))
        counts, mass = seen.counts(experts)
        assert record.tokens == case.tokens(PAIRS[number]).shape[1]
        np.testing.assert_array_equal(record.counts, counts)
        np.testing.assert_allclose(record.gate_mass, mass, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(record.importance, _importance(seen, experts), rtol=1e-5, atol=1e-7)
        assert counts.sum() > 0


@check("padding")
def padding_does_not_count(case: Case) -> None:
    """Does not count: in one padded batch every request has the record that it has alone."""
    case.score()
    together = case.records()
    for number, record in enumerate(together):
        case.score_alone(number)
        alone = case.lm.captured.record(RequestKey("task", number, 0))
        assert record.tokens == alone.tokens
        np.testing.assert_array_equal(record.counts, alone.counts)
        np.testing.assert_allclose(record.gate_mass, alone.gate_mass, rtol=1e-3, atol=1e-4)


class _Listener:
    """Notes the logits, changes nothing."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def route(self, position: int, logits: torch.Tensor) -> torch.Tensor:
        self.logits.append(logits.clone())
        return logits

    def selected(self, position: int, indices: torch.Tensor, weights: torch.Tensor) -> None: ...

    def scored(self, position: int, how: str | None) -> None: ...

    def guarded(self, position: int, logits: torch.Tensor) -> None: ...

    def compares(self, position: int) -> bool:
        return False


@check("pre-activation")
def logits_are_what_the_linear_gives(case: Case) -> None:
    """The logits are hidden states times weight, bit by bit, of the routed experts, before any softmax or top-k."""
    tokens = case.tokens(PAIRS[3])
    listener = _Listener()
    with torch.no_grad():
        with native.edited(case.blocks, case.family.experts) as projected:
            plain = case.model(tokens).logits
        with intercepted(case.lm._sites, listener, top_k=case.family.top_k):
            watched = case.model(tokens).logits
    assert torch.equal(plain, watched)
    assert len(projected) == len(listener.logits) == len(case.blocks)
    for ours, theirs in zip(listener.logits, projected, strict=True):
        theirs = theirs.reshape(-1, case.family.columns)[:, : case.family.experts]
        assert torch.equal(ours, theirs)
        assert (theirs.std(-1) > 0).all()


def _soft(z: torch.Tensor, experts: list[int], strengths: list[float]) -> torch.Tensor:
    deviation = (z - z.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).sqrt()
    return z[..., experts] - 0.8 * deviation


def _proportional(z: torch.Tensor, experts: list[int], strengths: list[float]) -> torch.Tensor:
    return z[..., experts] * (1 + 0.6 * torch.tensor(strengths) * z[..., experts].sign())


def _bias(z: torch.Tensor, experts: list[int], strengths: list[float]) -> torch.Tensor:
    return z[..., experts] + 0.7


ACTIONS = {
    "soft": ({"soft": -0.8}, _soft),
    "proportional": ({"proportional": 0.6}, _proportional),
    "bias": ({"bias": 0.7}, _bias),
}


@check("actions")
def actions_equal_prescribed_logits(case: Case) -> None:
    """Soft, proportional and bias select and answer as the model's own routers do on logits changed by hand."""
    experts, strengths = [0, case.family.experts - 3], [0.7, 1.3]
    changed = False
    unsteered = case.score()
    for name, (action, by_hand) in ACTIONS.items():
        case.steer(action, dict(zip(experts, strengths, strict=True)) if name == "proportional" else experts)
        values = case.score()
        records = case.records()

        def edit(layer: int, z: torch.Tensor, by_hand: Any = by_hand) -> torch.Tensor:
            z = z.clone()
            z[..., experts] = by_hand(z, experts, strengths)
            return z

        for number, pair in enumerate(PAIRS):
            tokens = case.tokens(pair)
            _, continuation = case.plain._encode_pair(*pair)
            with (
                torch.no_grad(),
                native.selections(case.blocks, case.family.experts) as seen,
                native.edited(case.blocks, case.family.experts, edit),
            ):
                logits = case.model(tokens).logits[0].log_softmax(-1)
            expected = logits[-len(continuation) :].gather(1, torch.tensor(continuation)[:, None]).sum()
            counts, mass = seen.counts(case.family.experts)
            np.testing.assert_array_equal(records[number].counts, counts)
            np.testing.assert_allclose(records[number].gate_mass, mass, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(values[number], float(expected), atol=2e-3, rtol=1e-3)
        changed = changed or values != unsteered
    assert changed, "no action changed anything"


@check("change")
def changed_selections_are_counted(case: Case) -> None:
    """Counted are the tokens whose selection differs from the router's own on the same hidden states."""
    experts, last = case.family.experts, case.family.moe_layers[-1]
    with case.lm.capturing(CaptureRequest(changes=True)) as captured:
        found = []
        for steering in (False, True):
            if steering:
                entry = {"layers": last, "experts": {"ids": {last: [0, 5]}}, "action": {"soft": 0.8}}
                case.lm.set_steering(parse_spec({"version": 1, "interventions": [entry]}))
            with native.selections(case.blocks, experts) as seen:
                case.score_alone(3)
            [indices] = seen.indices[-1]
            found.append([{expert for expert in token if expert < experts} for token in indices.tolist()])
    record = captured.record(RequestKey("task", 3, 0))
    differing = sum(before != after for before, after in zip(*found, strict=True))
    assert record.changed.tolist() == [0] * (len(case.blocks) - 1) + [differing]
    assert 0 < differing < record.tokens


@check("reach")
def activated_and_masked_experts_are(case: Case) -> dict[str, float]:
    """With the guard, activated experts are selected always and with a weight, masked ones never."""
    experts = case.family.experts
    # As many as are selected, in the first and the last group; bans that leave a group fewer experts than are selected.
    forced = [1, experts - 2][: case.family.top_k]
    banned = [expert for expert in range(experts) if expert not in (2, 3)]
    rates: dict[str, float] = {}
    for action, targets, guard in (
        ("activate", forced[:1], False),
        ("activate", forced[:1], True),
        ("activate", forced, True),
        ("mask", [0, 1, experts - 1], False),
        ("mask", [0, 1, experts - 1], True),
        ("mask", banned, True),
    ):
        case.steer(action, targets, guard=guard)
        rate = _reached(case, targets, all_of_them=action == "activate", weighty=guard)
        name = f"{action} {'guarded' if guard else 'unguarded'}"
        worse = min if action == "activate" else max
        rates[name] = worse(rates.get(name, rate), rate)
    assert rates["activate guarded"] == 1.0
    assert rates["mask guarded"] == 0.0
    return rates


def _reached(case: Case, targets: list[int], *, all_of_them: bool, weighty: bool) -> float:
    """Return the share of tokens and layers whose selection holds all, or any, of the targets."""
    selected = tokens = 0
    for number in range(len(PAIRS)):
        with native.selections(case.blocks, case.family.experts) as seen:
            value = case.score_alone(number)
        assert np.isfinite(value)
        for (indices,), (weights,) in zip(seen.indices, seen.weights, strict=True):
            hits = torch.stack([(indices == target).any(-1) for target in targets], -1)
            selected += int((hits.all(-1) if all_of_them else hits.any(-1)).sum())
            tokens += len(indices)
            assert weights.isfinite().all()
            if weighty:
                assert (weights[torch.isin(indices, torch.tensor(targets))] > 0).all()
    return selected / tokens


@check("generation")
def generation_is_recorded_as_it_ran(case: Case) -> None:
    """In a left-padded batch with a KV cache, the prompts' tokens are counted, then one a pass while a row goes on."""
    experts = case.family.experts
    case.reset()
    with native.selections(case.blocks, experts) as seen:
        fed: list[torch.Tensor] = []

        def note(_: Any, args: Any, kwargs: Any) -> None:
            fed.append(kwargs["input_ids"] if "input_ids" in kwargs else args[0])

        handle = case.model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            case.lm.generate_until(generated(PROMPTS, max_gen_toks=NEW_TOKENS), disable_tqdm=True)
        finally:
            handle.remove()
    # One batch: rows in the order of lm-eval, longest prompt first.
    prompts = [case.tokenizer(text)["input_ids"] for text in PROMPTS]
    lengths = [len(prompt) for prompt in prompts]
    rows = fed[0].tolist()
    width = len(rows[0])
    assert len(rows) == len(PROMPTS)
    assert width == max(lengths)
    assert all(ids.shape == (len(PROMPTS), 1) for ids in fed[1:]), "no cache"
    assert len(fed) > 1
    for number, text in enumerate(PROMPTS):
        [row] = [
            r for r, ids in enumerate(rows) if list(ids[width - lengths[number] :]) == case.tokenizer(text)["input_ids"]
        ]
        stopped = [bool(ids[row, 0] == case.tokenizer.eos_token_id) for ids in fed[1:]]
        running = stopped.index(True) if True in stopped else len(stopped)
        pads = width - lengths[number]

        def keep(number: int, values: torch.Tensor, row: int = row, pads: int = pads, n: int = running) -> torch.Tensor:
            own = values.reshape(len(PROMPTS), -1, values.shape[-1])[row]
            return own[pads:] if number == 0 else own[: 1 if number <= n else 0]

        counts, mass = seen.counts(experts, keep)
        record = case.lm.captured.record(RequestKey("task", number, 0))
        assert record.tokens == lengths[number] + running
        np.testing.assert_array_equal(record.counts, counts)
        np.testing.assert_allclose(record.gate_mass, mass, rtol=1e-5, atol=1e-7)


def _importance(seen: native.SampleResult, experts: int) -> np.ndarray:
    """Mean combine weight, renormalised over each token's routed experts, of the tokens that have any."""
    rows = []
    for (indices,), (weights,) in zip(seen.indices, seen.weights, strict=True):
        dense = torch.zeros(len(indices), experts + 1).scatter_add_(1, indices.clamp(max=experts), weights)[:, :experts]
        total = dense.sum(1, keepdim=True)
        routed = total[:, 0] > 0
        rows.append((dense[routed] / total[routed]).sum(0).double() / max(int(routed.sum()), 1))
    return torch.stack(rows).numpy()


@check("contexts")
def shared_contexts_answer_the_same(case: Case) -> str | None:
    """Requests that share contexts, a few-shot prefix and a pass of several plans answer and are recorded as alone,
    in rows that branch or from copies of a cache; or the first of them show that they would not, which
    is reported, and each is computed by itself.
    """
    given = {
        "pretrained": case.model,
        "tokenizer": case.tokenizer,
        "batch_size": 4,
        "max_length": 256,
        "capture": "all",
    }
    lm, alone = HFMoE(**given), HFMoE(**given, reuse="off")
    requests = [
        (RequestKey("task", d, c), context, continuation)
        for d, c, context, continuation in drawn_requests(0, lm.vocabulary(), documents=20, longest=80)
    ]
    last = lm.routing_shape.layers[-1]
    specs = [{"layers": last, "experts": {"ids": {last: [1]}}, "action": {"soft": strength}} for strength in (0.2, 0.4)]
    plans = [None, *(resolve(parse_spec({"version": 1, "interventions": [spec]}), lm.routing_shape) for spec in specs)]
    # Prefixes are worth it for few documents, as they are for the many of an evaluation.
    small = [
        replaced(planning, name, value)
        for name, value in (("_SMALL_ROW", 1), ("_LONG_ROW", 1.25), ("_WORTH_A_PREFIX", 32))
    ]
    with warnings.catch_warnings(record=True) as said, lm.ahead(plans), small[0], small[1], small[2]:
        warnings.simplefilter("always")
        for plan in plans:
            for each in (lm, alone):
                each.set_steering(plan)
                each.captured.clear()
            mine, others = lm.score_tokens(requests), alone.score_tokens(requests)
            apart = _selected_otherwise(lm, alone, [key for key, *_ in requests])
            for (key, *_), (value, _), (expected, _) in zip(requests, mine, others, strict=True):
                record, other = lm.captured.record(key), alone.captured.record(key)
                assert record.tokens == other.tokens
                if key not in apart:
                    assert abs(value - expected) < 1e-3
                    np.testing.assert_allclose(record.gate_mass, other.gate_mass, atol=1e-3)
                    np.testing.assert_allclose(record.overlap, other.overlap, atol=1e-6)
        front = " ".join(context for context, _ in PAIRS) * 4
        asked = [f"{front} {number} {context}" for number in range(4) for context in PROMPTS]
        for each in (lm, alone):
            each.set_steering(plans[1])
            each.captured.clear()
        asked = generated(asked, max_gen_toks=3)
        assert lm.generate_until(asked, disable_tqdm=True) == alone.generate_until(asked, disable_tqdm=True)
        _selected_otherwise(lm, alone, [RequestKey("task", number, 0) for number in range(len(asked))])
    shared = lm._proof.refused is None
    assert shared == bool(lm._proof.length)
    assert [str(each.message) for each in said if "contexts are not shared" in str(each.message)][1:] == []
    assert shared == (not any("contexts are not shared" in str(each.message) for each in said))
    assert lm._proof.prefixed == shared
    return None if not shared else "copies of a cache" if lm._proof.forks else "rows that branch"


def _selected_otherwise(lm: HFMoE, other: HFMoE, keys: list[RequestKey]) -> set[RequestKey]:
    """Return where selections differ, which is next to nowhere: two experts may be equal but for the last bit, which is
    another one on another processor.
    """
    apart = {key: np.abs(lm.captured.record(key).counts - other.captured.record(key).counts).sum() for key in keys}
    assert sum(apart.values()) <= 0.005 * sum(other.captured.record(key).counts.sum() for key in keys)
    return {key for key, count in apart.items() if count}


@check("doctor")
def the_doctor_agrees(case: Case) -> None:
    """All proofs of `lm-eval-moe doctor` hold."""
    examination = examine(case.lm)
    assert examination.ok, [(entry.name, finding.summary) for entry, finding in examination.failed]
    assert all(finding.outcome == "pass" for _, finding in examination.findings)
