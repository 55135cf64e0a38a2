"""Half precision is steered in float32, logits that are no numbers are named, equal commands give equal bytes."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.hf_cases import PAIRS, build, generated, likelihoods, rolled, scored
from support.paths import ROOT

from lm_eval_moe import HFMoE
from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import Forest, Recorder
from lm_eval_moe.recording.finite import FiniteCheck, NotFinite
from lm_eval_moe.steering import parse_spec

pytestmark = pytest.mark.long

HALVES = [torch.bfloat16, torch.float16]
TARGETS = {1: 0.9, 6: -0.5}
Formula = Callable[[float, list[float], float], float]

FORMULAS: dict[str, tuple[Any, Formula]] = {
    "soft": ({"soft": 0.5}, lambda z, row, s: z + 0.5 * float(np.std(row))),
    "bias": ({"bias": 1.3}, lambda z, row, s: z + 1.3),
    "proportional": ({"proportional": 0.7}, lambda z, row, s: z + 0.7 * s * abs(z)),
    "activate": ("activate", lambda z, row, s: max(row)),
    "deactivate": ("deactivate", lambda z, row, s: min(row)),
    "mask": ("mask", lambda z, row, s: -1e9),
}


def steering(action: Any) -> Any:
    targets = TARGETS if "proportional" in action else list(TARGETS)  # no other action takes coefficients
    entry = {"layers": 1, "experts": {"ids": {1: targets}}, "action": action}
    return parse_spec({"version": 1, "interventions": [entry]})


@contextmanager
def seen_by(router: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Collect what a router is given, and the logits that it goes on with."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = router.register_forward_hook(lambda _, args, out: calls.append((args[0].clone(), out[0].clone())))
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_a_half_precision_model_is_steered_in_float32(name: str, dtype: torch.dtype, tokenizer: Any) -> None:
    """The formula in double precision on the model's own logits, rounded once to the model's type."""
    given, formula = FORMULAS[name]
    lm = build("qwen3_moe", tokenizer, dtype, batch_size=1)
    lm.set_steering(steering(given))
    router = lm.model.model.layers[1].mlp.gate
    with seen_by(router) as calls, torch.no_grad():
        likelihoods(lm, scored(PAIRS))
    exact = total = 0
    for hidden, found in calls:
        plain = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), router.weight)
        assert found.dtype == plain.dtype == dtype
        others = [expert for expert in range(8) if expert not in TARGETS]
        assert torch.equal(found[:, others], plain[:, others])
        for row, steered in zip(plain.double().tolist(), found, strict=True):
            for expert, coefficient in TARGETS.items():
                expected = formula(row[expert], row, coefficient)
                limit = torch.finfo(dtype).max
                rounded = torch.tensor(min(max(expected, -limit), limit), dtype=torch.float64).to(dtype)
                # Tie-breaking noise: standard deviation 1e-3.
                slack = 6e-3 if name in ("activate", "deactivate") else 0.0
                unit = torch.finfo(dtype).eps * max(abs(rounded.item()), 2**-10)
                assert abs(steered[expert].item() - rounded.item()) <= unit + slack
                exact += int(steered[expert] == rounded)
                total += 1
    assert total > 50
    if name not in ("activate", "deactivate"):
        # Float32 and float64 may round to different neighbours, but hardly ever do; arithmetic in halves often does.
        assert exact >= 0.99 * total


def test_the_rounding_test_tells_half_precision_arithmetic_apart() -> None:
    z = torch.randn(200, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).bfloat16()
    right = (z.double() + 0.5 * z.double().std(-1, unbiased=False, keepdim=True)).bfloat16()
    mean = z.mean(-1, keepdim=True)
    careless = z + 0.5 * (z - mean).square().mean(-1, keepdim=True).sqrt()
    assert (careless == right).float().mean() < 0.95


# ---------------------------------------------------------------------- logits that are no numbers

HOW: dict[str, dict[str, Any]] = {
    "captured": {"capture": "prompt"},
    "steered only": {"capture": "off", "steering": steering({"soft": 0.3})},
    "captured and masked": {"capture": "all", "steering": steering("mask")},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["likelihood", "rolling", "generation"])
def test_a_damaged_router_is_named_with_a_request(how: str, kind: str, tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer, **HOW[how])
    with torch.no_grad():
        lm.model.model.layers[2].mlp.gate.weight[5, 3] = math.nan
    requests, run = {
        "likelihood": (scored(PAIRS), lm.loglikelihood),
        "rolling": (rolled([context for context, _ in PAIRS]), lm.loglikelihood_rolling),
        "generation": (generated([context for context, _ in PAIRS]), lm.generate_until),
    }[kind]
    with pytest.raises(UserError) as caught:
        run(requests, disable_tqdm=True)
    # The layers below the damage are well: only its own is named. Batches hold 4 of the 6 requests.
    assert re.fullmatch(r"task task, document [0-5], request 0", caught.value.where or "")
    assert caught.value.problem == (
        "the router logits of layer 2 are NaN or infinite: the experts would be chosen at random; 3 more requests "
        "in the batch have the same problem"
    )
    assert "dtype=bfloat16" in (caught.value.fix or "")
    assert not lm.captured.records, "nothing of such a batch is kept"


def test_sampling_from_a_damaged_model_names_it_too(tokenizer: Any) -> None:
    """Sampling itself fails on NaN; the routers are looked at before it."""
    lm = build("qwen3_moe", tokenizer)
    with torch.no_grad():
        lm.model.model.layers[0].mlp.gate.weight.fill_(math.nan)
    with pytest.raises(UserError, match="router logits of layers 0-2 are NaN or infinite"):
        lm.generate_until(generated(["The cat"], do_sample=True, temperature=1.0), disable_tqdm=True)


@pytest.mark.parametrize("how", HOW)
def test_only_the_request_whose_tokens_are_damaged_is_named(how: str, tokenizer: Any) -> None:
    pairs = [("The cat", " sat"), ("The dog", " ran"), ("猫坐在垫子", "上"), ("The cow", " ate")]
    only = set(tokenizer.encode(pairs[2][0])) - {t for i in (0, 1, 3) for t in tokenizer.encode("".join(pairs[i]))}
    lm = build("qwen3_moe", tokenizer, **HOW[how])
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[min(only)] = math.nan
    with pytest.raises(UserError, match="layers 0-2 are NaN or infinite") as caught:
        lm.loglikelihood(scored(pairs, ["a", "b", "c", "d"]), disable_tqdm=True)
    assert caught.value.where == "task c, document 2, request 0"
    assert "more requests" not in caught.value.problem


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_that_overflow_float16_are_found_and_bfloat16_holds_them(sign: int, tokenizer: Any) -> None:
    def model(dtype: torch.dtype) -> HFMoE:
        lm = build("qwen3_moe", tokenizer, dtype)
        with torch.no_grad():
            lm.model.model.layers[1].post_attention_layernorm.weight.fill_(1.0)
            lm.model.model.layers[1].mlp.gate.weight[2] *= sign * 1e5
        return lm

    with pytest.raises(UserError, match=r"router logits of layers? 1"):
        likelihoods(model(torch.float16), scored(PAIRS))
    assert np.isfinite(likelihoods(model(torch.bfloat16), scored(PAIRS))).all()


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "phimoe", "gpt_oss"])
def test_infinities_that_a_model_puts_in_after_its_logits_are_its_own(family: str, tokenizer: Any) -> None:
    """Group limits and sparse mixers write infinities into scores; so may steering, by masking."""
    lm = build(family, tokenizer, torch.float16, steering=steering("mask"))
    assert np.isfinite(likelihoods(lm, scored(PAIRS))).all()


def test_padding_may_hold_anything(tokenizer: Any) -> None:
    """The last router of a right-padded batch gets NaN where nothing counts: answers and records stay the same."""
    lm = build("qwen3_moe", tokenizer, capture="all")
    before = likelihoods(lm, scored(PAIRS))
    records = {key: lm.captured.record(key) for key in lm.captured.records}
    lm.captured.clear()
    lengths: list[int] = []
    original, poisoned = lm._model_call, []

    def call(inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert lm._queue is not None
        coming = list(islice(lm._queue._rows, len(inps)))
        lm._queue._rows = chain(coming, lm._queue._rows)
        lengths[:] = [len(row.tokens or ()) for row in coming]
        return original(inps, *args, **kwargs)

    def poison(_: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        hidden = args[0].reshape(len(lengths), -1, args[0].shape[-1]).clone()
        for row, length in enumerate(lengths):
            poisoned.append(hidden.shape[1] - length)
            hidden[row, length:] = math.nan
        return (hidden.reshape(args[0].shape),)

    lm._model_call = call  # type: ignore[method-assign]
    handle = lm.model.model.layers[2].mlp.gate.register_forward_pre_hook(poison)
    try:
        assert likelihoods(lm, scored(PAIRS)) == before
    finally:
        handle.remove()
    assert sum(poisoned) > 10
    for key, record in records.items():
        found = lm.captured.record(key)
        assert found is not None
        for name in ("counts", "gate_mass", "importance", "importance_dense", "overlap"):
            assert np.array_equal(getattr(found, name), getattr(record, name), equal_nan=True), name


def test_the_recorder_leaves_out_padding_that_is_no_number() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2 * 3, 4)
    weights, indices = logits.softmax(-1).topk(2)

    def sums(spoil: float | None) -> Any:
        forest = Forest()
        first, second = forest.add(), forest.add()
        third = forest.add(second)
        recorder = Recorder(forest, 1, 4)
        recorder.start_pass(forest.begin_pass(np.array([[first, first, -1], [-1, second, third]])))
        seen, mass = logits.clone(), weights.clone()
        if spoil is not None:
            seen[[2, 3]], mass[[2, 3]] = spoil, spoil
        recorder.logits(0, seen)
        recorder.selection(0, indices, mass)
        recorder.end_pass()
        return recorder.sums_of([[first], [second, third]])

    clean = sums(None)
    for spoil in (math.nan, math.inf, -math.inf):
        for ours, expected in zip(sums(spoil), clean, strict=True):
            for name in ("counts", "gate_mass", "importance", "importance_dense", "routed"):
                assert np.array_equal(getattr(ours, name), getattr(expected, name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_each_kind_of_number_that_is_none_is_found(wrong: float, dtype: torch.dtype) -> None:
    check = FiniteCheck()

    def looked(position: int, row: int, token: int) -> NotFinite | None:
        forest = Forest()
        first, second = forest.add(), forest.add()
        check.start_pass(forest.begin_pass(np.array([[first, first, -1], [second, second, second]])))
        for layer in range(3):
            # Two columns of virtual tokens before the batch's own, the sum of 64 large numbers beyond float16.
            logits = torch.full((2, 5, 64), torch.finfo(torch.float16).max / 2, dtype=dtype)
            if layer == position:
                logits[row, token + 2, 7] = wrong
            check.see(layer, logits.reshape(10, 64))
        return check.end_pass()

    assert looked(-1, 0, 0) is None
    assert looked(1, 1, 2) == ((1,), (1,))
    assert looked(2, 0, 0) == ((2,), (0,))
    assert looked(1, 0, 2) is None, "padding"
    assert looked(1, 0, -1) is None, "a virtual token"


@pytest.mark.parametrize("wrong", [None, 0, 1, 2, 3])
def test_passes_that_are_looked_at_together_are_told_apart(wrong: int | None) -> None:
    """Four passes over three tokens, the last of which is padding in each: three are looked at together, then one."""
    check, forest = FiniteCheck(together=3), Forest()
    found = []
    for number in range(4):
        first, second = forest.add(), forest.add()
        check.start_pass(forest.begin_pass(np.array([first, second, -1])))
        logits = torch.zeros(3, 8)
        logits[2, 0] = math.nan
        if number == wrong:
            logits[1, 0] = math.inf
        check.see(5, logits)
        found.append(check.end_pass())
    found.append(check.look())
    expected: list[NotFinite | None] = [None] * 5
    if wrong is not None:
        expected[2 if wrong < 3 else 4] = NotFinite((5,), (2 * wrong + 1,))
    assert found == expected
    assert check.look() is None, "nothing is looked at twice"


# ---------------------------------------------------------------------- determinism

_TIMES = re.compile(r'^  "(date|total_evaluation_time_seconds)": .*$', re.M)


def test_the_same_command_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Steered with tie-breaking noise, all fields, samples and profile; only the date and the duration may differ."""
    written: list[dict[str, bytes]] = []
    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        command = [sys.executable, "-m", "lm_eval_moe", "run", "--model", "hf-moe", "--model_args", "pretrained=demo"]
        command += ["--tasks", "demo_arith_en,demo_arith_sw", "--limit", "6", "--batch_size", "4", "--log_samples"]
        command += ["--steering", str(ROOT / "steering_configs/demo_task_experts.yaml"), "--routing_fields", "all"]
        command += ["--set", "interventions.0.action=activate", "--output_path", "results"]
        command += ["--routing_profile", "profile.safetensors"]
        folder.mkdir()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        files = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                undated = re.sub(r"_\d{4}-\d\d-\d\dT[\d.-]+(?=\.json)", "", path.name)
                data = path.read_bytes()
                if undated == "results.json":
                    assert set(_TIMES.findall(data.decode())) <= {"date", "total_evaluation_time_seconds"}
                    data = _TIMES.sub("", data.decode()).encode()
                    assert json.loads(path.read_bytes())["routing"]["steering"]["hash"]
                files[undated] = data
        written.append(files)
    first, second = written
    assert {"results.json", "samples_demo_arith_en.jsonl", "profile.safetensors"} <= set(first)
    assert first.keys() == second.keys()
    for name, data in first.items():
        assert data == second[name], name
