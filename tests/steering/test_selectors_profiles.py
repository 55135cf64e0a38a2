"""Profiles on their way into a plan: from the YAML file to the targets, what is read, how often, and what is noted."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.written_profiles import SMALL, selected, spec_of, write, write_dump

from lm_eval_moe.profiles import Profile
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import ProfileStore, explain, load_spec, resolve

DESIGN = """
version: 1
name: every-rule
model: {layers: 3, experts: 4, top_k: 2}
seed: 3
interventions:
  - {layers: all, experts: {task: {profile: runs/gsm8k_en.safetensors, baseline: runs/flores_en.safetensors,
     threshold: 0.25}}, action: {soft: 0.5}}
  - {layers: 2, experts: {multilingual: {profiles: {en: runs/en.safetensors, sw: runs/sw.safetensors}, reference: en,
     threshold: 0.3}}, action: deactivate}
  - {layers: all, experts: {shared: {profiles: {en: runs/en.safetensors, zh: runs/zh.json}, top_m: 2, threshold: 0.7,
     source: en}}, action: {proportional: 0.022}, languages: [sw]}
  - {layers: all, experts: {exclusive: {profiles: {en: runs/en.safetensors, zh: runs/zh.json, sw: runs/sw.safetensors},
     languages: [sw], top_m: 2, threshold: 0.6}}, action: {bias: 1.0}}
  - {layers: all, experts: {risk_difference: {profile_a: runs/en.safetensors, profile_b: runs/sw.safetensors, top: 1}},
     action: activate}
  - {layers: all, experts: {random: {like: {task: {profile: runs/gsm8k_en.safetensors,
     baseline: runs/flores_en.safetensors, threshold: 0.25}}, seed: 1}}, action: {soft: 0.5}}
  - {layers: all, experts: {ids: {1: [3]}}, action: mask}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The steering file of the design with its profiles beside it; 10 tokens everywhere."""
    runs = tmp_path / "runs"
    runs.mkdir()
    # Δ, layer 1: 0.4 -0.4 0 0; layer 2: 0 0.1 -0.1 0
    write(runs / "gsm8k_en.safetensors", [("t", 10, [[9, 1, 5, 5], [5, 6, 4, 5]])], benchmark="gsm8k")
    write(runs / "flores_en.safetensors", [("t", 10, [[5, 5, 5, 5], [5, 5, 5, 5]])], benchmark="flores")
    write(runs / "en.safetensors", [("q1", 10, [[9, 1, 5, 5], [10, 5, 5, 0]])])
    write(runs / "sw.safetensors", [("q1", 10, [[5, 5, 5, 5], [10, 9, 1, 0]])], language="sw")
    write_dump(runs / "zh.json", 10, [[9, 2, 0, 9], [10, 0, 5, 5]])
    (tmp_path / "steer.yaml").write_text(DESIGN)
    return tmp_path


def test_a_steering_file_with_every_rule(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)  # paths start from the file's folder
    plan = resolve(load_spec(folder / "steer.yaml"), SMALL)
    found = [
        {layer: dict(zip(each.experts, each.coefficients, strict=True)) for layer, each in entry.targets.items()}
        for entry in plan.interventions
    ]
    control = found.pop(5)
    assert found == [
        {1: {0: 1.0}},
        {2: {1: 1.0}},
        {1: {0: pytest.approx(0.5)}, 2: {0: pytest.approx(0.5)}},
        {1: {1: 1.0}, 2: {1: 1.0}},  # `bias` heeds no coefficients; those of the rule are 1 and 9 / 14
        {1: {0: 1.0}},
        {1: {3: 1.0}},
    ]
    assert [len(experts) for experts in control.values()] == [1]
    assert 0 not in control[1]
    assert json.loads(json.dumps(plan.to_dict()))["spec"] == plan.spec
    assert plan.hash == resolve(load_spec(folder / "steer.yaml"), SMALL).hash


def test_a_plan_names_its_profiles_with_their_digests(folder: Path) -> None:
    plan = resolve(load_spec(folder / "steer.yaml"), SMALL)
    assert [source.given for source in plan.profiles] == [
        f"runs/{name}"
        for name in ("gsm8k_en.safetensors", "flores_en.safetensors", "en.safetensors", "sw.safetensors", "zh.json")
    ]
    for source in plan.profiles:
        assert source.path == folder / source.given
        assert source.sha256 == hashlib.sha256((folder / source.given).read_bytes()).hexdigest()
    first, last = plan.profiles[0], plan.profiles[-1]
    assert (first.model, first.span, first.steering, first.items) == ("a/model", "prompt", None, 1)
    assert (last.model, last.span, last.steering, last.items) == (None, None, None, None)
    assert resolve(spec_of({"ids": {1: [0]}}, folder), SMALL).profiles == ()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The arrays that are read, as they are: file name and array."""
    seen: list[tuple[str, str]] = []
    slicing = Profile._slice

    def noting(self: Profile, name: str) -> Any:
        seen.append((self.path.name, name))
        return slicing(self, name)

    monkeypatch.setattr(Profile, "_slice", noting)
    return seen


def test_a_file_that_several_rules_name_is_read_once_and_only_its_counts(
    folder: Path, reads: list[tuple[str, str]]
) -> None:
    resolve(load_spec(folder / "steer.yaml"), SMALL)
    assert {array for _, array in reads} == {"counts", "tokens"}
    assert len(reads) == len(set(reads)), "each array of each file once"
    assert {name for name, _ in reads} == {f"{name}.safetensors" for name in ("gsm8k_en", "flores_en", "en", "sw")}


def test_specs_that_differ_in_a_threshold_can_share_what_was_read(folder: Path, reads: list[tuple[str, str]]) -> None:
    store = ProfileStore(SMALL)
    for threshold in (0.1, 0.2, 0.3):
        spec = load_spec(folder / "steer.yaml", [f"interventions.0.experts.task.threshold={threshold}"])
        shared = resolve(spec, SMALL, store)
        explain(spec, SMALL, store)
        assert len(reads) == len(set(reads))
        assert (shared.hash, shared.profiles) == (resolve(spec, SMALL).hash, resolve(spec, SMALL).profiles)
        del reads[8:]  # those of the plans without a store
    only = resolve(
        spec_of({"shared": {"profiles": {"en": "runs/en.safetensors", "zh": "runs/zh.json"}}}, folder), SMALL, store
    )
    assert [source.given for source in only.profiles] == ["runs/en.safetensors", "runs/zh.json"], "what this spec used"
    with pytest.raises(ValueError, match="not for"):
        resolve(spec_of({"ids": {1: [0]}}, folder), RoutingShape((1, 2), 5, 2, 3), store)


def test_only_the_rows_of_a_language_are_read(tmp_path: Path) -> None:
    good, bad = [[5, 5, 5, 5], [10, 10, 0, 0]], [[99, 99, 99, 99], [99, 99, 99, 99]]
    write(tmp_path / "all.safetensors", [("q1", 10, good), ("q1", 10, bad)], language=["en", "sw"])
    write(tmp_path / "base.safetensors", [("s1", 10, [[4, 6, 5, 5], [0, 10, 10, 0]])], benchmark="news")
    rule = {"task": {"profile": "all.safetensors", "baseline": "base.safetensors", "threshold": 0.5, "language": "en"}}
    assert selected(rule, tmp_path) == {2: {0: 1.0}}, "the damaged Swahili row is not looked at"


def test_an_experts_counts_may_be_missing_and_floats_that_are_counts_will_do(tmp_path: Path) -> None:
    write_dump(tmp_path / "en.json", 10, [[10, 10, 0, 0], [10, 10, 0, 0]])
    dump = json.loads((tmp_path / "en.json").read_text())
    assert "3" not in dump["1"]
    dump["1"] = {expert: {"activation_tokens": 10.0} for expert in "01"} | {"total_tokens": 10}
    (tmp_path / "en.json").write_text(json.dumps(dump), encoding="utf-8-sig")
    write_dump(tmp_path / "sw.json", 20, [[20, 0, 20, 0], [20, 0, 0, 20]])
    rule = {"multilingual": {"profiles": {"en": "en.json", "sw": "sw.json"}, "threshold": 0.5}}
    assert selected(rule, tmp_path) == {1: {2: 1.0}, 2: {3: 1.0}}


def test_an_unlabelled_profile_is_of_the_language_that_the_file_says(tmp_path: Path) -> None:
    write(tmp_path / "en.safetensors", [("q1", 10, [[9, 1, 5, 5], [10, 5, 5, 0]])], language="")
    write(tmp_path / "sw.safetensors", [("q1", 10, [[5, 5, 5, 5], [10, 9, 1, 0]])], language="swh_Latn")
    rule = {"multilingual": {"profiles": {"en": "en.safetensors", "sw": "sw.safetensors"}, "threshold": 0.3}}
    assert selected(rule, tmp_path) == {1: {1: 1.0}, 2: {1: 1.0}}


def test_a_large_profile_is_averaged_as_numpy_does(tmp_path: Path) -> None:
    shape = RoutingShape(tuple(range(4)), 32, 4, 4)
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 60, size=300)
    scores = [generator.gumbel(size=(4, count, 32)) + generator.normal(size=(4, 1, 32)) for count in tokens]
    counts = [
        np.stack([np.bincount(np.argsort(-layer)[:, :4].ravel(), minlength=32) for layer in each]) for each in scores
    ]
    half = len(tokens) // 2
    rows = [(f"q{row}", int(tokens[row]), counts[row].tolist()) for row in range(len(tokens))]
    write(tmp_path / "task.safetensors", rows[:half], shape=shape)
    write(tmp_path / "base.safetensors", rows[half:], shape=shape)
    mean = [
        np.mean([c / t for c, t in zip(counts[a:b], tokens[a:b], strict=True)], axis=0)
        for a, b in ((0, half), (half, len(rows)))
    ]
    expected = {}
    for layer in range(4):
        chosen = np.flatnonzero(mean[0][layer] - mean[1][layer] > 0.02).tolist()
        if chosen:
            expected[layer] = dict.fromkeys(chosen, 1.0)
    rule = {"task": {"profile": "task.safetensors", "baseline": "base.safetensors", "threshold": 0.02}}
    assert expected
    assert selected(rule, tmp_path, shape) == expected


def test_selecting_from_profiles_loads_neither_torch_nor_the_harness(folder: Path) -> None:
    code = (
        "import sys; from lm_eval_moe.shape import RoutingShape; from lm_eval_moe.steering import load_spec, resolve;"
        f"resolve(load_spec({str(folder / 'steer.yaml')!r}), RoutingShape((1, 2), 4, 2, 3));"
        "print(sorted({'torch', 'transformers', 'lm_eval'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
