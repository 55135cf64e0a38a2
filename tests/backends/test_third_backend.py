"""A backend that the package has never heard of runs through every command, and gives what `hf-moe` gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lm_eval.tasks import TaskManager
from support.paths import TESTS
from support.profile_records import read_records
from support.toy_engine import ToyEngine

import lm_eval_moe
from lm_eval_moe import simple_evaluate
from lm_eval_moe.backends.base import is_routed
from lm_eval_moe.backends.registry import BACKENDS, register_backend
from lm_eval_moe.cli import main
from lm_eval_moe.doctor import examine, render_text
from lm_eval_moe.doctor.against import parity
from lm_eval_moe.doctor.sample import SampleResult
from lm_eval_moe.errors import UserError
from lm_eval_moe.identity import Identity
from lm_eval_moe.recording import ExpectedRow
from lm_eval_moe.resources import tasks_dir

STEERING = (
    "version: 1\nname: promote\ninterventions:\n"
    "- {layers: middle, experts: {ids: {all: [2, 9]}}, action: {soft: 0.5}, languages: [sw]}\n"
    "- {layers: early, experts: {ids: {all: [4]}}, action: activate, tokens: prompt}\n"
)
MODELS = ("toy", "hf-moe")
ONE_MODEL = ("--model_args", "pretrained=demo")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for inside in ("_entries", "_homes"):  # as they were before, afterwards
        monkeypatch.setattr(BACKENDS, inside, dict(getattr(BACKENDS, inside)))
    register_backend("toy", "support.toy_engine:ToyEngine")


@pytest.fixture
def steering(tmp_path: Path) -> Path:
    file = tmp_path / "steer.yaml"
    file.write_text(STEERING, encoding="utf-8")
    return file


def run(model: str, folder: Path, *arguments: str, tasks: str = "demo_arith_en,demo_arith_sw") -> dict[str, Any]:
    """Return the results of a run through the command line, with its samples."""
    given = ["run", "--model", model, *ONE_MODEL, "--tasks", tasks, "--limit", "6", "--batch_size", "4"]
    assert main([*given, "--log_samples", "--output_path", str(folder / model), *arguments]) == 0
    (file,) = (folder / model).rglob("results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))
    results["samples"] = {
        re.sub(r"samples_(.*)_\d{4}.*", r"\1", log.stem): [json.loads(line) for line in log.open(encoding="utf-8")]
        for log in (folder / model).rglob("samples_*.jsonl")
    }
    return results


def assert_alike(one: Any, other: Any, where: str = "") -> None:
    """Numbers may differ in their last bits, since passes are cut otherwise; nothing else may."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name, value in one.items():
            assert_alike(value, other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_alike(mine, theirs, f"{where}.{number}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=2e-4, abs=2e-4), where
    else:
        assert one == other, where


def test_a_steered_run_has_the_same_results(steering: Path, tmp_path: Path) -> None:
    toy, hf = (run(model, tmp_path, "--steering", str(steering), "--routing_fields", "all") for model in MODELS)
    assert_alike(toy["results"], hf["results"])
    for name in ("tasks", "groups", "steering", "model_shape", "capture"):
        assert_alike(toy["routing"][name], hf["routing"][name], name)
    assert toy["routing"]["tasks"]["demo_arith_sw"]["steered_tokens"] > 0
    assert toy["results"]["demo_arith_sw"]["steered_change,none"] > 0
    assert toy["config"]["model"] == "toy"
    for task, documents in hf["samples"].items():
        for mine, theirs in zip(toy["samples"][task], documents, strict=True):
            assert (
                mine["routing_divergence"] == pytest.approx(theirs["routing_divergence"], abs=1e-4)
                if ("routing_divergence" in theirs)
                else "routing_divergence" not in mine
            )


@pytest.mark.parametrize("span", ["prompt", "all"])
def test_a_run_from_the_response_cache_is_the_run_that_was_computed(
    span: str, steering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--steering", str(steering), "--use_cache", str(tmp_path / "answers")]
    given += ["--model_args", f"pretrained=demo,capture={span}"]
    computed = run("toy", tmp_path / "computed", *given)
    assert "0 answers read" in capsys.readouterr().err
    recalled = run("toy", tmp_path / "recalled", *given)
    assert re.search(r"\b[1-9]\d* answers read, 0 computed", capsys.readouterr().err)
    for name in ("results", "routing", "samples"):
        assert recalled[name] == computed[name], name


def test_generated_answers_and_their_routing_are_the_same(tmp_path: Path, task_of_generation: str) -> None:
    given = ["--include_path", str(tmp_path), "--model_args", "pretrained=demo,capture=all"]
    toy, hf = (run(model, tmp_path, *given, tasks=task_of_generation) for model in MODELS)
    [mine], [theirs] = toy["samples"].values(), hf["samples"].values()
    assert [sample["resps"] for sample in mine] == [sample["resps"] for sample in theirs]
    assert_alike(toy["routing"]["tasks"], hf["routing"]["tasks"])


@pytest.fixture
def task_of_generation(tmp_path: Path) -> str:
    data = tmp_path / "questions.json"
    data.write_text(json.dumps([{"q": f"{a} + {a + 1} =", "a": str(2 * a + 1)} for a in range(2, 10)]))
    task = {
        "task": "toy_generation",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
        "metadata": {"version": 1, "routing": {"language": "en", "benchmark": "toy", "item": "row"}},
    }
    (tmp_path / "toy_generation.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return "toy_generation"


def test_profiles_are_the_same(steering: Path, tmp_path: Path) -> None:
    for model in MODELS:
        given = ["profile", "--model", model, *ONE_MODEL, "--tasks", "demo_arith_en,demo_arith_sw", "--limit", "5"]
        assert main([*given, "--output", str(tmp_path / model), "--steering", str(steering)]) == 0
    for language in ("en", "sw"):
        toy, hf = (read_records(tmp_path / model / f"{language}.safetensors") for model in MODELS)
        assert toy[1] == hf[1]
        for mine, theirs in zip(toy[2], hf[2], strict=True):
            assert mine.tokens == theirs.tokens
            np.testing.assert_array_equal(mine.counts, theirs.counts)
            np.testing.assert_allclose(mine.gate_mass, theirs.gate_mass, rtol=1e-4, atol=1e-4)


def test_a_sweep_gives_the_same_table(tmp_path: Path) -> None:
    base = {"version": 1, "interventions": [{"layers": "middle", "experts": {"ids": {"all": [1]}}, "action": "mask"}]}
    sweep = {
        "version": 1,
        "steering": base,
        "grid": {"interventions.0.layers": ["early", "middle"]},
        "tasks": ["demo_arith_en"],
        "controls": 1,
        "evaluation": {"limit": 5, "batch_size": 4},
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    tables = []
    for model in MODELS:
        out = tmp_path / model
        assert main(["sweep", str(file), "--model", model, *ONE_MODEL, "--output", str(out)]) == 0
        tables.append(json.loads((out / "table.json").read_text(encoding="utf-8")))
    assert_alike(*tables)


def test_the_doctor_proves_what_it_can_and_says_what_it_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "toy", *ONE_MODEL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"].startswith("OK, as far as answers and records show")
    outcomes = {proof["name"]: proof for proof in found["proofs"]}
    unseen = {"selection", "capture_counts"}
    assert {name for name, proof in outcomes.items() if proof["outcome"] == "pass"} == outcomes.keys() - unseen
    for name in unseen:
        assert outcomes[name]["outcome"] == "not applicable"
        assert "not possible with this backend" in outcomes[name]["summary"], name
    assert all(1 <= row["sentences_changed"] <= 4 for row in outcomes["effect"]["layers"].values())
    assert main(["doctor", "--model", "toy", *ONE_MODEL, "--config-only"]) == 0


class Confusing(ToyEngine):
    """Records the selections of the expert before, in one layer."""

    def _listening(self, forest: Any, steerer: Any) -> Any:
        passes, recorder = super()._listening(forest, steerer)
        selection = recorder.selection

        def shifted(position: int, indices: Any, weights: Any) -> None:
            selection(position, (indices + (position == 3)) % self.routing_shape.experts, weights)

        recorder.selection = shifted  # type: ignore[method-assign]
        return passes, recorder


class MixingUp(ToyEngine):
    """Gives every request the record of the one before it in its batch."""

    def _scored(self, rows: Any, dice: Any) -> Any:
        others = [*rows[-1:], *rows[:-1]]
        swapped = [ExpectedRow(mine.uses, mine.language, its.tokens) for mine, its in zip(rows, others, strict=True)]
        logits = super()._scored(swapped, dice)
        return [*logits[1:], *logits[:1]]


@pytest.mark.parametrize(
    ("kind", "proof", "why"),
    [
        (Confusing, "reach", "guarded activate misses tokens in layer(s) 3; guarded mask leaks in layer(s) 3"),
        (MixingUp, "batching", "sentences have a different record alone than in a batch"),
    ],
)
def test_records_that_are_wrong_are_found_out_without_modules(kind: type[ToyEngine], proof: str, why: str) -> None:
    found = examine(kind(batch_size=4))
    findings = {entry.name: finding for entry, finding in found.findings}
    assert findings[proof].outcome == "fail", render_text(found)
    assert why in findings[proof].summary


@pytest.fixture
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *sys.path]))


@pytest.mark.usefixtures("_children_find_the_tests")
def test_two_backends_agree_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["doctor", "--model", "toy", "--model_args", "pretrained=demo,dtype=float32", "--against", "hf-moe"]
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["backends"], found["dtypes"], found["texts"]) == (["toy", "hf-moe"], [None, "float32"], 16)
    assert [plan["plan"] for plan in found["plans"]] == ["none", "soft", "bias", "activate", "mask"]
    for plan in found["plans"]:
        assert plan["scores"] < 1e-3
        assert plan["selections"] > 8_000
        assert plan["differing"] <= 4
    assert main([*given, "--against_args", "pretrained=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_comparison_of_backends_has_a_sample_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["doctor", *ONE_MODEL, "--against", "toy"]
    assert main([*given, "--config-only"]) == 2
    assert "--against, --config_only" in capsys.readouterr().err
    assert main(["doctor", *ONE_MODEL, "--against", "toi"]) == 2
    assert "there is no routed model 'toi' (did you mean 'toy'?)" in capsys.readouterr().err


def seen(
    backend: str, dtype: str | None = "float32", *, of: str = "x", score: float = 0.0, flips: int = 0
) -> SampleResult:
    """Return what a backend of two layers made of four texts that are routed each in its own way."""
    counts = np.zeros((4, 2, 8), dtype=np.int64)
    for text in range(4):
        counts[text, :, [text, text + 1]] = 500
    counts[0, 0, 0] -= flips
    counts[0, 0, 7] += flips
    identity = Identity({"model.backend": backend, "model.weights": {"files": of}}).to_dict()
    scores, importance = np.arange(4.0) + score, counts / counts.sum(-1, keepdims=True)
    bands = {"middle": [0, 1], "all": [0, 1]}
    texts = [([1, 2], [3])] * 4
    plans = [{"none": array} for array in (scores, counts, importance, np.full(4, 500))]
    return SampleResult(backend, dtype, identity, bands, texts, *plans)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({}, ""),
        ({"score": 0.0009}, ""),
        ({"score": 0.0011}, "log-likelihood by 1.1e-03 (at most 0.001)"),
        ({"score": 0.0011, "dtype": "bfloat16"}, ""),
        ({"flips": 16}, ""),
        ({"flips": 17}, "17 of 8000 selections, more than near-ties explain"),
        ({"flips": 17, "dtype": "bfloat16"}, ""),
    ],
)
def test_what_is_judged_of_two_backends(other: dict[str, Any], problem: str) -> None:
    found = parity(seen("hf-moe"), seen("vllm-moe", **other))
    assert found.ok is not bool(problem)
    assert problem in found.verdict


def test_a_mixed_up_record_is_wrong_in_any_precision() -> None:
    one = seen("hf-moe", "bfloat16")
    other = seen("vllm-moe", "bfloat16")
    found = parity(one, replace(other, counts={"none": other.counts["none"][::-1]}))
    assert "records are closer to another text's" in found.verdict
    found = parity(one, replace(other, tokens={"none": other.tokens["none"] + 1}))
    assert "4 texts have different numbers of tokens" in found.verdict


def test_two_backends_of_different_weights_are_not_compared() -> None:
    with pytest.raises(UserError, match=r"run different models: model\.weights"):
        parity(seen("hf-moe"), seen("vllm-moe", of="y"))


def test_an_unknown_model_is_an_error_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "hf-mo", *ONE_MODEL]) == 2
    assert "there is no routed model 'hf-mo' (did you mean 'hf-moe'?)" in capsys.readouterr().err
    assert main(["run", "--model", "hf-mo", *ONE_MODEL, "--tasks", "demo_arith_en", "--limit", "1"]) == 2
    said = capsys.readouterr().err
    assert "there is no model 'hf-mo' (did you mean 'hf-moe'?)" in said
    assert "one of lm-eval's own" in said


@pytest.mark.parametrize(
    ("home", "problem"), [("support.toy_engine:Toy", "AttributeError"), ("toys:Toy", "ModuleNotFound")]
)
def test_a_backend_that_cannot_be_imported_is_one_message(
    home: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register_backend("broken", home)
    assert main(["doctor", "--model", "broken", *ONE_MODEL]) == 2
    assert f"--model broken: the backend {home} fails: {problem}" in capsys.readouterr().err


def test_an_argument_that_is_given_twice_is_refused() -> None:
    manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)
    with pytest.raises(UserError, match="batch_size is given twice"):
        simple_evaluate("toy", {"batch_size": 4}, tasks=["demo_arith_en"], task_manager=manager, batch_size=8)


def test_a_class_that_lacks_something_is_no_routed_model() -> None:
    from support.toy_engine import ToyEngine

    whole = ToyEngine()
    assert is_routed(whole)
    del whole.routing_shape
    assert not is_routed(whole)


def test_nothing_outside_its_folder_names_the_transformers_backend() -> None:
    package = Path(lm_eval_moe.__file__).parent
    naming = re.compile(r"HFMoE|backends\.hf|backends import hf")
    outside = [path for path in package.rglob("*.py") if package / "backends" / "hf" not in path.parents]
    named = {path.relative_to(package) for path in outside if naming.search(path.read_text(encoding="utf-8"))}
    # The package hands on the public name, and a model in hand is one of transformers.
    assert named == {Path("__init__.py"), Path("library/session.py")}


def test_the_backends_are_known_without_any_engine() -> None:
    code = (
        "import sys; from lm_eval_moe.backends.registry import BACKENDS; assert 'hf-moe' in BACKENDS; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
