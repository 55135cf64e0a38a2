"""Runs as users start them: the same results as `hf-moe`, from the cache, at random, by one bar, and in one message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from support.on_vllm.apart import LONGEST
from support.on_vllm.engines import EAGER, closing, engine

from lm_eval_moe import simple_evaluate
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.errors import UserError
from lm_eval_moe.harness.task_index import TaskManager
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.resources import tasks_dir

STEERING = (
    "version: 1\nname: promote\ninterventions:\n"
    "- {layers: middle, experts: {ids: {all: [2, 9]}}, action: {soft: 0.5}, languages: [sw]}\n"
    "- {layers: early, experts: {ids: {all: [4]}}, action: activate, tokens: prompt}\n"
)
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
GREEDY = ["demo_arith_en", "demo_arith_sw", "own_answers", "own_long", "own_texts"]
LIMIT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with tasks of every kind, a steering file, and the demo model with a chat template."""
    folder = tmp_path_factory.mktemp("command")
    sums = [
        {"q": f"{a} + {a + 1} =", "a": str(2 * a + 1), "long": " ".join(str(i * a % 97) for i in range(40 * a))}
        for a in range(2, 10)
    ]
    texts = [{"text": " ".join(f"{i} + {i % k} = {i + i % k} ." for i in range(20 * k))} for k in range(1, 5)]
    (folder / "sums.json").write_text(json.dumps(sums))
    (folder / "texts.json").write_text(json.dumps(texts))

    def task(name: str, file: str, **settings: Any) -> None:
        routing = {"language": "en", "benchmark": name, "item": "row"}
        common = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / file)}},
            "test_split": "test",
            "metadata": {"version": 1, "routing": routing},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(common | settings))

    generating = {"output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}"}
    exact = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    asked = {"until": ["\n"], "max_gen_toks": 6}
    task("own_answers", "sums.json", **generating, metric_list=exact, generation_kwargs=asked | {"do_sample": False})
    drawn = asked | {"do_sample": True, "temperature": 1.0}
    task("own_drawn", "sums.json", **generating, metric_list=exact, generation_kwargs=drawn, repeats=3)
    choices = {"output_type": "multiple_choice", "doc_to_choice": ["1 2", "3 4 5"], "doc_to_target": 0}
    few = {"num_fewshot": 1, "fewshot_split": "test"}
    task("own_long", "sums.json", doc_to_text="{{long}} {{q}}", metric_list=[{"metric": "acc"}], **choices, **few)
    whole = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    task("own_texts", "texts.json", metric_list=[{"metric": "byte_perplexity"}], **whole)

    (folder / "steer.yaml").write_text(STEERING)
    (folder / "model").mkdir()
    for file in demo_model_path().iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def lm(folder: Path) -> Iterator[Any]:
    with closing(engine(str(folder / "model"), steering=str(folder / "steer.yaml"), **EAGER)) as lm:
        yield lm


@pytest.fixture
def evaluate(lm: Any, folder: Path) -> Callable[..., dict[str, Any]]:
    manager = TaskManager(include_path=[str(tasks_dir()), str(folder)], include_defaults=False)

    def evaluate(tasks: list[str], **arguments: Any) -> dict[str, Any]:
        found = simple_evaluate(
            lm, tasks=tasks, task_manager=manager, limit=LIMIT, log_samples=True, bootstrap_iters=0, **arguments
        )
        assert found is not None
        return found

    return evaluate


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `lm-eval-moe run` in a process of its own."""
    given = ["run", "--include_path", str(folder), "--limit", str(LIMIT), *arguments]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "lm_eval_moe", *given], env=env, capture_output=True, text=True, check=False
    )


def answers(results: dict[str, Any], task: str) -> list[list[str]]:
    """Return the answers to each document, repeat by repeat."""
    return [sample["resps"][0] for sample in results["samples"][task]]


def test_results_are_those_of_hf_moe(evaluate: Callable[..., dict[str, Any]], folder: Path) -> None:
    """Choices, answers, whole texts, few-shot, a chat template, and prompts that are too long, steered."""
    mine = evaluate(GREEDY, routing_fields="all", apply_chat_template=True)
    model = f"pretrained={folder / 'model'},dtype=float32,max_length={LONGEST - 2},capture=all"
    done = command(
        folder,
        *("--model", "hf-moe", "--model_args", model, "--device", "cpu", "--batch_size", "4"),
        *("--tasks", ",".join(GREEDY), "--steering", str(folder / "steer.yaml"), "--routing_fields", "all"),
        *("--apply_chat_template", "--log_samples", "--output_path", str(folder / "hf")),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (folder / "hf").rglob("results_*.json")
    expected = json.loads(file.read_text())
    for task in GREEDY:
        for field, value in expected["results"][task].items():
            if "stderr" in field or not isinstance(value, float):
                continue
            within = 1e-5 if "perplexity" in field else 1e-6
            assert mine["results"][task][field] == pytest.approx(value, rel=within, abs=within), (task, field)
        own, other = mine["routing"]["tasks"][task], expected["routing"]["tasks"][task]
        for name in ("language", "reference", "tokens", "steered_tokens"):
            assert own.get(name) == other.get(name), (task, name)
        for name, curve in other["curves"].items():
            assert own["curves"][name] == pytest.approx(curve, abs=1e-6, nan_ok=True), (task, name)
    assert mine["results"]["own_long"]["steered_change,none"] > 0
    about = mine["config"]
    assert (about["model"], about["model_dtype"], about["steering"]["name"]) == ("vllm-moe", "torch.float32", "promote")
    assert about["vllm_version"]


def test_a_run_from_the_cache_is_the_run_that_was_computed(
    evaluate: Callable[..., dict[str, Any]], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [*GREEDY, "own_drawn"]
    with caplog.at_level("INFO", logger="lm_eval_moe"):
        computed = evaluate(tasks, use_cache=str(folder / "answers"))
        assert " 0 answers read" in caplog.text
        caplog.clear()
        recalled = evaluate(tasks, use_cache=str(folder / "answers"))
        assert ", 0 computed" in caplog.text
    for part in ("results", "samples", "routing"):
        assert recalled[part] == computed[part], part
    plain = evaluate(["own_drawn"])
    assert answers(plain, "own_drawn") == answers(computed, "own_drawn")


def test_what_is_drawn_belongs_to_the_seed_and_the_repeat(evaluate: Callable[..., dict[str, Any]]) -> None:
    first, again = (answers(evaluate(["own_drawn"]), "own_drawn") for _ in range(2))
    assert first == again
    assert {len(each) for each in first} == {3}
    assert any(len(set(each)) > 1 for each in first)
    assert answers(evaluate(["own_drawn"], torch_random_seed=5), "own_drawn") != first


def test_one_bar_for_each_kind_of_request(
    evaluate: Callable[..., dict[str, Any]], lm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(GREEDY)
    said = capsys.readouterr().err
    for kind in ("loglikelihood", "generate_until", "loglikelihood_rolling"):
        bars = [line for line in said.split("\r") if line.startswith(f"Running {kind} requests:")]
        assert sum("   0%" in bar for bar in bars) == 1, kind
        assert "100%" in bars[-1], kind
    assert "Rendering prompts" not in said
    assert "Processed prompts" not in said


def test_one_request_at_a_time_gives_the_same(evaluate: Callable[..., dict[str, Any]], lm: Any) -> None:
    tasks = ["demo_arith_sw", "own_answers"]
    together = evaluate(tasks)
    with lm.at_batch_size(1):
        alone = evaluate(tasks)
    assert answers(alone, "own_answers") == answers(together, "own_answers")
    for task in tasks:
        for field, value in together["results"][task].items():
            if isinstance(value, float):
                assert alone["results"][task][field] == pytest.approx(value, abs=1e-6), (task, field)


def test_an_answer_without_room_for_a_prompt_is_refused(evaluate: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"task own_answers: the answer may have up to 256 tokens(?s:.*)max_model_len"):
        evaluate(["own_answers"], gen_kwargs=f"max_gen_toks={LONGEST}")


def test_the_command_leaves_batches_to_the_engine(folder: Path) -> None:
    model = f"pretrained={folder / 'model'},dtype=float32,max_model_len={LONGEST},max_num_seqs=16,enforce_eager=True"
    given = ["--tasks", "demo_arith_en,demo_arith_sw", "--control", "random:1", "--strict"]
    steered = ["--steering", str(folder / "steer.yaml"), "--output_path", str(folder / "out"), "--log_samples"]
    done = command(folder, "--model", "vllm-moe", "--model_args", model, *given, *steered)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "batch_size: auto" in done.stdout
    assert "acc_gain_over_control" in done.stdout
    assert "INFO 1" not in done.stderr  # vLLM's own log
    (file,) = (folder / "out").rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["config"]["batch_size"] == "auto"
    assert results["routing"]["warnings"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
        ({"steering": "beyond.yaml"}, "99"),
        ({"max_model_len": 256, "max_length": 256}, "give only one of them"),
        ({"pretrained": "/nowhere"}, "cannot load the config"),
    ],
)
def test_a_mistake_is_one_message_before_an_engine_starts(
    arguments: dict[str, Any], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    beyond = "version: 1\ninterventions:\n- {layers: all, experts: {ids: {all: [99]}}, action: mask}\n"
    Path("beyond.yaml").write_text(beyond)
    with pytest.raises(UserError, match=said):
        engine(**{"pretrained": "demo", **arguments})


def test_an_argument_that_nobody_knows_is_one_message() -> None:
    with pytest.raises(UserError, match=r"the model cannot be loaded: TypeError: .*max_model_length"):
        engine("demo", max_model_length=3)


def test_an_engine_that_dies_is_one_message(lm: Any) -> None:
    """The last test: there is no engine behind it."""
    core = [each for each in psutil.Process().children(recursive=True) if "EngineCore" in " ".join(each.cmdline())]
    assert core
    lm.set_steering(None)
    for process in core:
        process.kill()
    while not lm.model.llm_engine.engine_core.resources.engine_dead:
        time.sleep(0.1)  # until vLLM has seen it: what is asked in between is never answered
    with pytest.raises(UserError, match=r"vLLM has died\n  -> the first error in the log"):
        lm.score_tokens([(RequestKey("demo_arith_en", 0, 0), [5, 6, 7], [8])])
