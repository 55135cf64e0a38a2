"""How many tokens of each task were steered: counted for every request, and loud where it is none."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from support import demo_runs

from lm_eval_moe import HFMoE, parse_spec
from lm_eval_moe.cli import main
from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.harness.requests import make_request
from lm_eval_moe.recording import RequestKey

TASKS = ["demo_arith_en", "demo_arith_sw"]
MIDDLE = 4  # of the bundled model's eight layers


@pytest.fixture(scope="module")
def loaded() -> HFMoE:
    return HFMoE(pretrained="demo", batch_size=8)


@pytest.fixture
def lm(loaded: HFMoE) -> Iterator[HFMoE]:
    yield loaded
    loaded.set_steering(None)
    loaded.set_capture("prompt")


def spec(*interventions: dict[str, Any]) -> Any:
    usual = {"layers": "middle", "experts": {"ids": {"all": [1, 5]}}, "action": {"soft": 0.9}}
    content = {"version": 1, "name": "test", "interventions": [usual | changes for changes in interventions or ({},)]}
    return parse_spec(content, source="test", base_dir=Path())


def evaluate(lm: HFMoE, manager: TaskManager, tasks: list[str], steering: Any, **kwargs: Any) -> dict[str, Any]:
    return demo_runs.evaluate(lm, manager, tasks, limit=4, steering=steering, **kwargs)


def steered(results: dict[str, Any]) -> dict[str, int]:
    return {task: entry["steered_tokens"] for task, entry in results["routing"]["tasks"].items()}


def fed(lm: HFMoE, samples: list[dict[str, Any]]) -> tuple[int, int]:
    """Tokens of prompts and of continuations that the model is called with for all choices, by the tokenizer alone."""
    prompts = continuations = 0
    for sample in samples:
        for context, continuation in sample["arguments"]:
            prompt, whole = (len(lm.tokenizer.encode(text)) for text in (context, context + continuation))
            prompts, continuations = prompts + prompt, continuations + whole - prompt - 1
    return prompts, continuations


@pytest.mark.parametrize("capture", ["prompt", "off"])
def test_every_choice_of_every_document_counts_whatever_is_captured(
    lm: HFMoE, manager: TaskManager, capture: str
) -> None:
    lm.set_capture(capture)
    results = evaluate(lm, manager, TASKS, spec())
    for task in TASKS:
        prompts, continuations = fed(lm, results["samples"][task])
        assert prompts > 4 * 4 * 5
        assert steered(results)[task] == (prompts + continuations) * MIDDLE
    # Two interventions on one layer steer one pair; one in another layer and language adds to it.
    both = spec({}, {"layers": "2-4", "action": "activate"}, {"layers": 7, "languages": ["sw"], "tokens": "prompt"})
    several = evaluate(lm, manager, TASKS, both)
    prompts, continuations = fed(lm, several["samples"]["demo_arith_sw"])
    assert steered(several)["demo_arith_sw"] == (prompts + continuations) * MIDDLE + prompts
    assert steered(several)["demo_arith_en"] == steered(results)["demo_arith_en"]


@pytest.mark.parametrize("changes", [{}, {"tokens": "generated"}, {"tokens": "prompt"}])
def test_generation_counts_what_the_recorder_sees_on_the_device(lm: HFMoE, changes: dict[str, Any]) -> None:
    """Rows of one batch stop at different lengths."""
    lm.set_steering(spec(changes))
    requests = [
        make_request("generate_until", (prompt, {"until": until, "max_gen_toks": size}), "demo_arith_en", number)
        for number, (prompt, until, size) in enumerate(
            [("3 + 4 =", ["\n"], 9), ("Anna has nine bottles.", ["e"], 9), ("One", [], 1), ("Sara", [], 7)]
        )
    ]
    lm.captured.clear()
    lm.generate_until(requests, disable_tqdm=True)
    seen = [lm.captured.record(RequestKey("demo_arith_en", number, 0)) for number, _ in enumerate(requests)]
    expected = sum(int(record.targeted.sum()) for record in seen if record is not None)
    assert lm.captured.steered_pairs["demo_arith_en"] == expected > 0
    lm.captured.clear()
    lm.set_capture("off")
    lm.generate_until(requests, disable_tqdm=True)
    assert lm.captured.steered_pairs["demo_arith_en"] == expected


def test_long_texts_count_no_token_twice(lm: HFMoE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "_max_length", 16)
    lm.set_steering(spec())
    text = "Anna has nine bottles. Sara has ten bottles. " * 6
    arguments = ("", text) if version("lm_eval").startswith("0.5") else (text,)
    request = make_request("loglikelihood_rolling", arguments, "demo_text_en", 0)
    lm.captured.clear()
    lm.loglikelihood_rolling([request], disable_tqdm=True)
    record = lm.captured.record(RequestKey("demo_text_en", 0, 0))
    assert record is not None
    # A text's last token is never fed, the prefix is.
    assert record.tokens == len(lm.tokenizer.encode(text)) > 3 * 16
    assert lm.captured.steered_pairs["demo_text_en"] == record.targeted.sum() == record.tokens * MIDDLE
    lm.captured.clear()


@pytest.mark.parametrize("capture", ["prompt", "off"])
def test_recalled_answers_count_as_computed_ones(lm: HFMoE, manager: TaskManager, tmp_path: Path, capture: str) -> None:
    tasks = [*TASKS, "demo_arith_gen_en", "demo_arith_gen_sw"]
    lm.set_capture(capture)
    without = evaluate(lm, manager, tasks, spec())
    assert all(count > 0 for count in steered(without).values())
    cache = str(tmp_path / "cache")
    computed = evaluate(lm, manager, tasks, spec(), use_cache=cache)
    passes: list[None] = []
    handle = lm.model.register_forward_pre_hook(lambda *_: passes.append(None))
    recalled = evaluate(lm, manager, tasks, spec(), use_cache=cache)
    handle.remove()
    assert not passes
    assert steered(recalled) == steered(computed) == steered(without)
    for task in tasks[2:]:
        answers = [[sample["resps"] for sample in results["samples"][task]] for results in (without, recalled)]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("capture", ["prompt", "off"])
def test_a_task_without_a_steered_token_is_warned_of(lm: HFMoE, manager: TaskManager, capture: str) -> None:
    lm.set_capture(capture)
    with pytest.warns(RoutingWarning) as caught:
        results = evaluate(lm, manager, TASKS, spec({"languages": ["fr"]}))
    said = [str(warning.message) for warning in caught if warning.category is RoutingWarning]
    assert [text.partition(":")[0] for text in said] == [f"task {task}" for task in TASKS]
    assert "`languages: fr`, not sw" in said[1]
    assert results["routing"]["warnings"] == said
    assert steered(results) == dict.fromkeys(TASKS, 0)
    with pytest.warns(RoutingWarning, match="task demo_arith_sw: .*`tokens: generated`"):
        results = evaluate(lm, manager, TASKS[1:], spec({"tokens": "generated"}))
    assert steered(results) == {"demo_arith_sw": 0}


def test_what_a_file_leaves_out_by_name_is_no_surprise(lm: HFMoE, manager: TaskManager) -> None:
    """But for a run of nothing else."""
    but_english = spec({"languages": {"all_but": ["en"]}})
    results = evaluate(lm, manager, TASKS, but_english)  # a warning would be an error
    assert steered(results)["demo_arith_en"] == 0 < steered(results)["demo_arith_sw"]
    with pytest.warns(RoutingWarning, match="task demo_arith_en: .*`languages: all but en`"):
        evaluate(lm, manager, TASKS[:1], but_english)


def test_zero_strength_is_said_once(lm: HFMoE, manager: TaskManager) -> None:
    with pytest.warns(RoutingWarning) as caught:
        results = evaluate(lm, manager, TASKS, spec({"action": {"soft": 0.0}}, {"action": {"bias": 0}}))
    (text,) = [str(warning.message) for warning in caught if warning.category is RoutingWarning]
    assert "'test' has zero strength" in text
    assert steered(results) == dict.fromkeys(TASKS, 0)
    lm.set_steering(None)
    assert "steered_tokens" not in evaluate(lm, manager, TASKS, None)["routing"]["tasks"]["demo_arith_en"]


def test_profiles_of_steering_that_acts_nowhere_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "en.txt").write_text("Anna has nine bottles.\nSara has ten.\n", encoding="utf-8")
    steering = (
        "version: 1\nname: x\ninterventions: [{{layers: all, experts: {{ids: {{all: [1]}}}}, action: mask, {limit}}}]\n"
    )
    for number, (limit, reason) in enumerate(
        [("languages: [fr]", "languages: fr"), ("tokens: generated", "generated")]
    ):
        file, out = tmp_path / f"{number}.yaml", tmp_path / str(number)
        file.write_text(steering.format(limit=limit), encoding="utf-8")
        command = ["profile", "--model_args", "pretrained=demo", "--texts", f"en={tmp_path / 'en.txt'}"]
        command += ["--output", str(out), "--steering", str(file)]
        assert main(command) == 0
        error = capsys.readouterr().err
        assert error.count("the steering acts on none of its tokens") == 1
        assert f"lm-eval-moe: warning: {out / 'en.safetensors'}: the steering" in error
        assert reason in error
        assert main([*command, "--restart", "--strict"]) == 2
        assert "error: --strict: 1 warning" in capsys.readouterr().err
