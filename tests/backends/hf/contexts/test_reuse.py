"""``reuse=auto`` answers and records what ``reuse=off`` does, through the model class and through whole evaluations."""

from __future__ import annotations

import gc
import json
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hf_cases import generated
from support.small_models import STATEFUL, make_model
from support.token_trees import Drawn, drawn_requests
from transformers import DynamicCache

from lm_eval_moe import HFMoE, parse_spec, resolve, simple_evaluate
from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.backends.hf.contexts import SharedRows, planning, scoring, shared_rows
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.harness.task_index import TaskManager
from lm_eval_moe.recording import Forest, Recorder, RequestKey
from lm_eval_moe.routing_record import ARRAYS

FAMILIES = ("qwen3_moe", "gpt_oss", "deepseek_v3", "mixtral", *STATEFUL)
LANGUAGES = {"en": "en", "sw": "sw"}
WORDS = ("the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", "down", "all", "night", "and", "day")


def both(family: str, tokenizer: Any, **more: Any) -> tuple[HFMoE, HFMoE]:
    """The same weights, with contexts shared and without; in double precision no two experts are all but equal."""
    model = make_model(family, dtype=torch.float64)
    model.set_experts_implementation("eager")
    given = {"pretrained": model, "tokenizer": tokenizer, "batch_size": 4, "max_length": 120, "capture": "all", **more}
    return HFMoE(**given), HFMoE(**given, reuse="off")


def steering(lm: HFMoE, *interventions: dict[str, Any]) -> Any:
    return resolve(parse_spec({"version": 1, "seed": 4, "interventions": list(interventions)}), lm.routing_shape)


def plans_of(lm: HFMoE) -> list[Any]:
    first, *_, last = lm.routing_shape.layers

    def at(layer: int, action: Any, **more: Any) -> dict[str, Any]:
        return {"layers": layer, "experts": {"ids": {layer: [1, 2]}}, "action": action, **more}

    return [
        None,
        steering(lm, at(first, {"soft": 0.7})),
        steering(lm, at(last, "activate", languages=["sw"]), at(first, "mask", tokens="prompt")),
        steering(lm, at(last, "activate", tokens="generated"), at(first, "deactivate", languages={"all_but": ["sw"]})),
    ]


def run(lm: HFMoE, requests: Any, plans: Any) -> Iterator[tuple[list[tuple[float, bool]], Mapping[Any, Any], int]]:
    for plan in plans:
        lm.set_steering(plan)
        with lm.capturing(CaptureRequest(languages=LANGUAGES, changes=True)) as captured:
            answers = lm.score_tokens(requests)
            records = {key: captured.record(key) for key, *_ in requests}
        yield answers, records, captured.steered_pairs.total()


def keyed(drawn: Sequence[Drawn]) -> list[Any]:
    return [(RequestKey("en", document, choice), context, own) for document, choice, context, own in drawn]


def assert_alike(found: Any, expected: Any) -> None:
    for (answers, records, pairs), (own, others, other_pairs) in zip(found, expected, strict=True):
        np.testing.assert_allclose([a for a, _ in answers], [a for a, _ in own], atol=2e-4)
        assert [greedy for _, greedy in answers] == [greedy for _, greedy in own]
        assert pairs == other_pairs
        for key, record in records.items():
            other = others[key]
            assert (record.tokens, record.counts.tolist()) == (other.tokens, other.counts.tolist())
            for name in (*ARRAYS, "targeted", "hit", "changed"):
                mine, theirs = (np.asarray(getattr(each, name), float) for each in (record, other))
                np.testing.assert_allclose(mine, theirs, atol=2e-5, rtol=1e-4, err_msg=name)


def cells_of(lm: HFMoE) -> list[Any]:
    """Plans that leave all layers but the last two as they are."""
    *_, one, last = lm.routing_shape.layers
    soft = {"layers": one, "experts": {"ids": {one: [1]}}, "action": {"soft": 0.4}}
    activate = {"layers": last, "experts": {"ids": {last: [0, 3]}}, "action": "activate", "tokens": "generated"}
    return [None, steering(lm, activate), steering(lm, soft, activate)]


@pytest.fixture
def _rows_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefixes are worth it for few documents, as they are for the many of an evaluation."""
    monkeypatch.setattr(planning, "_SMALL_ROW", 1)
    monkeypatch.setattr(planning, "_LONG_ROW", 1.25)
    monkeypatch.setattr(planning, "_WORTH_A_PREFIX", 32)


@pytest.fixture(scope="module")
def models(tokenizer: Any) -> dict[str, tuple[HFMoE, HFMoE]]:
    return {family: both(family, tokenizer) for family in FAMILIES}


@pytest.mark.usefixtures("_rows_are_small")
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_random_trees(family: str, seed: int, models: dict[str, tuple[HFMoE, HFMoE]]) -> None:
    """Under every plan, one by one and all in one pass; sequences are longer than the model takes now and then."""
    lm, off = models[family]
    drawn = drawn_requests(seed, lm.vocabulary(), documents=16, longest=100)
    requests = [(RequestKey("sw" if d % 3 else "en", d, c), context, own) for d, c, context, own in drawn]
    for plans in (plans_of(lm), cells_of(lm)):
        expected = list(run(off, requests, plans))
        assert_alike(run(lm, requests, plans), expected)
        with lm.ahead(plans):
            assert_alike(run(lm, requests, plans), expected)
    assert lm._proof.refused is None
    assert lm._proof.prefixed
    assert lm._proof.forks == (lm._proof.layers is None) == (family in STATEFUL)


def test_a_run_that_is_too_small_for_a_proof_is_not_shared(tokenizer: Any) -> None:
    lm, off = both("qwen3_moe", tokenizer)
    requests = [(RequestKey("en", 0, choice), [1, 2, 3], [choice, 5]) for choice in range(2)]
    assert lm.score_tokens(requests) == off.score_tokens(requests)
    assert not lm._proof.length


# ---------------------------------------------------------------------- whole evaluations


def write_task(folder: Path, language: str, seed: int) -> str:
    """Write a task whose documents share beginnings, repeat each other and have one to five choices."""
    draw = random.Random(seed)
    stories = [" ".join(draw.choices(WORDS, k=30)) for _ in range(2)] + [""]
    rows = []
    for _ in range(14):
        question = f"{draw.choice(stories)} {' '.join(draw.choices(WORDS, k=draw.randint(1, 6)))} {language}"
        choices = [" ".join(draw.choices(WORDS, k=draw.randint(1, 3))) for _ in range(draw.choice((1, 2, 4)))]
        if draw.random() < 0.3:
            choices.append(choices[0])
        rows.append({"question": question.strip(), "choices": choices, "gold": draw.randrange(len(choices))})
    rows += rows[:2]
    data = folder / f"{language}.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    config = {
        "task": f"trees_{language}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "num_fewshot": 2,
        "fewshot_split": "test",
        "fewshot_config": {"sampler": draw.choice(("first_n", "default"))},
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_mutual_info")],
        "metadata": {"version": 1.0, "routing": {"language": language, "benchmark": f"trees{seed}", "item": "row"}},
    }
    (folder / f"trees_{language}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return f"trees_{language}"


def numbers(results: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of the results that may depend on the model, with its key path."""
    for key, value in results.items() if isinstance(results, Mapping) else enumerate(results):
        path = f"{where}.{key}"
        if isinstance(value, (Mapping, list, tuple)):
            yield from numbers(value, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path, float(value)


def evaluated(lm: HFMoE, tasks: list[str], folder: Path, **more: Any) -> dict[str, float]:
    given = {"task_manager": TaskManager(include_path=str(folder), include_defaults=False), "bootstrap_iters": 0}
    results = simple_evaluate(lm, tasks=tasks, **given, routing_fields="all", allow_leak=True, **more)
    assert results is not None
    kept = {"results": results["results"], "tasks": results["routing"]["tasks"]}
    samples = {task: [sample["resps"] for sample in own] for task, own in results["samples"].items()}
    return dict(numbers({**kept, "samples": samples}))


def assert_same_numbers(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    apart = {key: (found[key], expected[key]) for key in found if "samples" not in key}
    assert {k: v for k, v in apart.items() if not np.isclose(*v, atol=1e-5, rtol=0, equal_nan=True)} == {}
    samples = [(found[key], expected[key]) for key in found if "samples" in key]
    assert np.abs(np.subtract(*np.array(samples).T)).max() < 2e-4


@pytest.mark.filterwarnings("ignore:.*(falls short|no token in the span)")
@pytest.mark.usefixtures("_rows_are_small")
@pytest.mark.parametrize("seed", [0, 1, 2, 4])
@pytest.mark.parametrize("arguments", [{}, {"max_length": 60}, {"add_bos_token": True, "capture": "continuation"}])
def test_every_result_field_is_that_without_reuse(
    seed: int, arguments: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    tasks = [write_task(tmp_path, language, seed) for language in ("en", "sw")]
    lm, off = both(FAMILIES[seed], tokenizer, **arguments)
    for plan in plans_of(lm):
        for each in (lm, off):
            each.set_steering(plan)
        expected = evaluated(off, tasks, tmp_path)
        assert any("routing_divergence" in key for key in expected)
        assert_same_numbers(evaluated(lm, tasks, tmp_path), expected)
    assert lm._proof.length
    assert lm._proof.prefixed or "max_length" in arguments  # what is cut on the left may begin with something else


def test_a_task_has_the_same_fields_whatever_is_in_the_run_beside_it(tokenizer: Any, tmp_path: Path) -> None:
    tasks = [write_task(tmp_path, language, 5) for language in ("en", "sw", "de")]
    lm, off = both("qwen3_moe", tokenizer)
    kept = (".results.trees_sw", ".results.trees_en")
    expected = {key: value for key, value in evaluated(off, tasks[:2], tmp_path).items() if key.startswith(kept)}
    for own, size in ((tasks[:2], 1), (tasks, 3), (tasks, 64)):
        with lm.at_batch_size(size):
            found = {key: v for key, v in evaluated(lm, own, tmp_path).items() if key.startswith(kept)}
        apart = {key: (found[key], value) for key, value in expected.items() if abs(found[key] - value) > 1e-5}
        assert apart == {}
    assert lm._proof.length


def test_the_response_cache_keeps_what_was_computed_so(tokenizer: Any, tmp_path: Path) -> None:
    tasks = [write_task(tmp_path, language, 6) for language in ("en", "sw")]
    lm, off = both("qwen3_moe", tokenizer)
    expected = evaluated(off, tasks, tmp_path)
    first = evaluated(lm, tasks, tmp_path, use_cache=str(tmp_path / "answers"))
    assert evaluated(lm, tasks, tmp_path, use_cache=str(tmp_path / "answers")) == first
    assert_same_numbers(first, expected)
    kept = (lm.identity().parts["computation.reuse"], off.identity().parts["computation.reuse"])
    assert kept == ("contexts", "rows")


# ---------------------------------------------------------------------- what is held, and for how long


def test_nothing_of_a_run_is_held_once_it_has_ended(tokenizer: Any) -> None:
    """Sums may be those of thousands of segments on a device: they must not wait for Python to look for cycles."""
    lm, _ = both("qwen3_moe", tokenizer)
    requests = keyed(drawn_requests(1, lm.vocabulary(), documents=16, longest=100))
    asked = generated([f"{' '.join(WORDS * 4)} {word}" for word in WORDS], max_gen_toks=2)
    lm.score_tokens(requests)  # after which nothing has to be shown any more
    gc.collect()
    gc.disable()
    try:
        before = held()
        with lm.ahead(plans_of(lm)[:2]):
            lm.score_tokens(requests)
        lm.generate_until(asked, disable_tqdm=True)
        assert lm._proof.fronts
        assert held() == before
    finally:
        gc.enable()


def held() -> int:
    return sum(type(thing) in (Recorder, Forest, DynamicCache) for thing in gc.get_objects())


def test_a_pass_under_several_plans_is_bounded_by_its_tokens_and_its_sums(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, _ = both("qwen3_moe", tokenizer)
    known = lm._token_requests([(None, [1, 2, 3], [4]), (None, [5] * 10, [6])], lm.max_length)
    shared = SharedRows(lm, known)
    shared.fill(40)
    rows = shared.groups[0].rows  # of 10 and 3 tokens
    assert shared._plans_at_once(rows) == 4
    assert shared._plans_at_once(rows[1:]) == 13
    segment = 8 * len(lm.routing_shape.layers) * lm.routing_shape.experts * len(ARRAYS)
    monkeypatch.setattr(scoring, "_SUMS", 3 * segment * 6)  # each row has three segments at most
    assert shared._plans_at_once(rows) == 3
    monkeypatch.setattr(scoring, "_SUMS", 1)
    assert shared._plans_at_once(rows) == 1


def test_processes_that_find_a_size_by_trying_refuse_together(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that went its own way would wait for the others for ever."""
    lm, off = both("qwen3_moe", tokenizer)
    requests = keyed(drawn_requests(1, lm.vocabulary(), documents=16, longest=100))
    monkeypatch.setattr(lm, "batch_size_per_gpu", "auto")
    monkeypatch.setattr(lm, "gather", lambda own: [own, (False, "another model")])
    monkeypatch.setattr(lm, "_detect_batch_size", lambda *_: 4)
    answers = lm.score_tokens(requests)
    assert answers == off.score_tokens(requests)
    assert lm._proof.refused == "another model"


# ---------------------------------------------------------------------- models that do not answer the same


def neighbour_column(module: Any, args: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A layer that mixes in the column before, as convolutions do."""
    return hidden + 0.5 * torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]


def neighbour_row(module: Any, args: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A layer that mixes in the other rows of the batch."""
    return hidden + 0.5 * hidden.mean(0, keepdim=True)


@pytest.mark.parametrize("wrong", [neighbour_column, neighbour_row])
def test_a_model_that_answers_otherwise_is_seen_to(wrong: Any, tokenizer: Any) -> None:
    lm, off = both("qwen3_moe", tokenizer)
    lm.model.get_input_embeddings().register_forward_hook(wrong)
    requests = keyed(drawn_requests(1, lm.vocabulary(), documents=16, longest=100))
    with pytest.warns(RoutingWarning, match="log-probabilities differ by up to"):
        answers = lm.score_tokens(requests)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert lm.score_tokens(requests) == answers == off.score_tokens(requests)
    assert lm.plans_at_once == 1


def test_rows_that_branch_are_seen_to_by_themselves(tokenizer: Any) -> None:
    """What holds for sequences one behind the other, and behind a prefix, need not hold for those side by side."""
    lm, off = both("qwen3_moe", tokenizer)
    lm.model.get_input_embeddings().register_forward_hook(neighbour_column)
    one_choice = [(RequestKey("en", document, 0), [document, 9, 8], [4, 5]) for document in range(16)]
    lm.score_tokens(one_choice)
    assert (lm._proof.length, lm._proof.apart, lm._proof.refused) == (4, False, None)
    choices = [
        (RequestKey("en", document, choice), [7, 5, document], [choice, 4])
        for document in range(16)
        for choice in range(3)
    ]
    with pytest.warns(RoutingWarning, match="log-probabilities differ by up to"):
        assert lm.score_tokens(choices) == off.score_tokens(choices)


# Since transformers 5.24, and before.
CACHE_NAMES = ("cache", "past_key_values")


def failing(lm: HFMoE, *names: str) -> None:
    """Make the model fail where it is given any of some arguments."""
    original = lm.model.model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if given := [name for name in names if kwargs.get(name) is not None]:
            raise IndexError(f"{given[0]} is not for this model")
        return original(*args, **kwargs)

    lm.model.model.forward = forward


def test_a_model_that_fails_in_such_rows_is_told_of(tokenizer: Any) -> None:
    lm, off = both("qwen3_moe", tokenizer)
    failing(lm, "position_ids", *CACHE_NAMES)
    requests = keyed(drawn_requests(1, lm.vocabulary(), documents=16, longest=100))
    both_ways = (
        "side by side: IndexError: position_ids is .* from copies of a cache: IndexError: (cache|past_key_values) is"
    )
    with pytest.warns(RoutingWarning, match=both_ways):
        assert lm.score_tokens(requests) == off.score_tokens(requests)
    assert lm.plans_at_once == 1


def test_a_model_that_takes_no_rows_that_branch_goes_on_from_copies_of_its_cache(tokenizer: Any) -> None:
    lm, off = both("qwen3_moe", tokenizer)
    failing(lm, "position_ids")
    requests = keyed(drawn_requests(1, lm.vocabulary(), documents=16, longest=100))
    plans = [*plans_of(lm)[:2], None]
    assert_alike(run(lm, requests, plans), list(run(off, requests, plans)))
    assert (lm._proof.forks, lm._proof.refused) == (True, None)
    documents = [(RequestKey("en", document, 0), [document, 9, 8], [4, 5]) for document in range(16)]
    known = lm._token_requests([(None, *tokens) for _, *tokens in documents], lm.max_length)
    assert shared_rows(lm, known, lm._proof) is None  # they have nothing in common
    assert lm.score_tokens(documents) == off.score_tokens(documents)


@pytest.mark.usefixtures("_rows_are_small")
def test_what_was_shown_of_rows_that_branch_shows_nothing_of_copies_of_a_cache(tokenizer: Any) -> None:
    """The model takes short rows that branch, and neither long ones nor copies of its cache."""
    lm, off = both("qwen3_moe", tokenizer)
    original = lm.model.model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        places, cache = kwargs.get("position_ids"), next((kwargs[name] for name in CACHE_NAMES if name in kwargs), None)
        if (places is not None and places.max() > 70) or (places is None and cache is not None and len(cache)):
            raise IndexError("not for this model")
        return original(*args, **kwargs)

    lm.model.model.forward = forward
    lm.score_tokens(keyed(drawn_requests(3, lm.vocabulary(), documents=30, longest=40)))
    assert (lm._proof.apart, lm._proof.prefixed, lm._proof.forks) == (True, True, False)
    requests = keyed(drawn_requests(3, lm.vocabulary(), documents=30, longest=118))
    with pytest.warns(RoutingWarning, match="side by side: IndexError: .* from copies of a cache: IndexError"):
        assert lm.score_tokens(requests) == off.score_tokens(requests)


def test_a_longer_sequence_is_proven_anew(tokenizer: Any) -> None:
    lm, _ = both("qwen3_moe", tokenizer)
    for longest in (20, 100):
        lm.score_tokens(keyed(drawn_requests(3, lm.vocabulary(), documents=30, longest=longest)))
        assert lm._proof.length > longest // 2


# ---------------------------------------------------------------------- what a user can say


def test_another_word_than_auto_and_off_is_refused() -> None:
    with pytest.raises(UserError, match="--model_args reuse: 'on' is not a way to share contexts"):
        HFMoE("demo", reuse="on")


@pytest.mark.parametrize(("given", "kept"), [("auto", "auto"), (True, "auto"), ("off", "off"), (False, "off")])
def test_what_is_said_is_kept(given: Any, kept: str, tokenizer: Any) -> None:
    lm = HFMoE(pretrained=make_model("qwen3_moe"), tokenizer=tokenizer, reuse=given)
    assert lm.reuse == kept
    assert (lm.plans_at_once > 1) == (kept == "auto")


def test_rows_are_not_shared_where_lm_eval_is_told_to_share_none(tokenizer: Any) -> None:
    lm = HFMoE(pretrained=make_model("qwen3_moe"), tokenizer=tokenizer, logits_cache=False)
    assert lm.plans_at_once == 1
    assert lm.identity().parts["computation.reuse"] == "nothing"
