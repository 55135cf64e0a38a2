"""What users met: tables, references, verdicts and rows of another model, another prompt or another day."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.identity.changes import CHANGES, one_weight
from support.identity.one_evaluation import Evaluation, edit, write_evaluation

from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.gate.drift import unchecked_profiles
from lm_eval_moe.identity import REFERENCE, ROW, Identity
from lm_eval_moe.profiles import PROFILE_ARRAYS, read_profile, write_profile
from lm_eval_moe.profiles.merge import merge_profiles
from lm_eval_moe.results import LabelledRun, Run, latest, read_results

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Evaluation:
    return write_evaluation(tmp_path_factory.mktemp("base"), tokenizer)


IN_OTHER_WORDS = {
    "model.config": "the profile's routing shape is .*top 2",
    "capture.span": "captured span is prompt, but this run's is all",
    "task.fewshot": "fewshot of the profile's own_choice is 0, but that of own_choice_sw is 1",
}


@pytest.mark.parametrize("part", [part for part in REFERENCE.needed() if part in CHANGES])
def test_a_reference_profile_of_something_else_is_refused(part: str, base: Evaluation, tmp_path: Path) -> None:
    """Also before anything is computed: the second run ends with the message, not with a divergence."""
    before, after = CHANGES[part](base, tmp_path)
    profile = tmp_path / "reference.safetensors"
    before.run(routing_profile=profile)
    content = profile.read_bytes()
    if part == "task.fewshot":
        edit((after := base.with_tasks(tmp_path / "sw")).tasks / "own_choice_sw.yaml", "task:", "num_fewshot: 1\ntask:")
    with pytest.raises(UserError, match=IN_OTHER_WORDS.get(part, part)) as error:
        after.run(tasks=["own_choice_sw"], routing_profile=profile)
    assert str(profile) in str(error.value)
    assert profile.read_bytes() == content


def test_results_say_where_the_reference_comes_from(base: Evaluation, tmp_path: Path) -> None:
    profile = tmp_path / "reference.safetensors"
    assert base.run(routing_profile=profile)["routing"]["reference_source"] == {"kind": "run"}
    source = base.run(routing_profile=profile)["routing"]["reference_source"]
    assert (source["kind"], source["file"], source["steering"]) == ("profile", str(profile), None)
    written = read_profile(profile)
    assert written.header.identity is not None
    assert source["identity"] == written.header.identity.hash


def sweep(evaluation: Evaluation, folder: Path) -> list[str]:
    steering = {
        "version": 1,
        "name": "base",
        "interventions": [{"layers": "all", "experts": {"ids": {"all": [1, 2]}}, "action": {"soft": 0.5}}],
    }
    content = {
        **{"version": 1, "steering": steering, "grid": {"interventions.0.action.soft": [0.5, 1.0]}},
        **{"tasks": ["own_choice"], "controls": 0, "evaluation": {"limit": 3, "batch_size": 2}},
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return [
        *("sweep", str(file), "--model_args", f"pretrained={evaluation.model},max_length=200", "--device", "cpu"),
        *("--include_path", str(evaluation.tasks), "--output", str(folder / "out")),
    ]


def change_one_weight(evaluation: Evaluation, folder: Path) -> None:
    changed = one_weight(evaluation, folder / "changed")[1]
    (evaluation.model / "model.safetensors").write_bytes((changed.model / "model.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_one_weight, "model.weights"),
        (lambda e, _: edit(e.tasks / "own_choice.yaml", "Is it so?", "Is it so!"), "own_choice.content"),
        (lambda e, _: edit(e.tasks / "data.jsonl", "The cat sat", "The dog sat"), "own_choice.data"),
    ],
    ids=["weights", "template", "data"],
)
def test_a_sweep_prints_no_table_of_something_else(
    change: Callable[[Evaluation, Path], None],
    named: str,
    base: Evaluation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command in the same folder, after the weights in place or a task's file were changed."""
    own = base.with_model(tmp_path / "a").with_tasks(tmp_path / "b")
    command = sweep(own, tmp_path)
    assert main(command) == 0
    assert "own" in capsys.readouterr().out
    assert main(command) == 0
    capsys.readouterr()
    change(own, tmp_path)
    assert main(command) == 2
    output = capsys.readouterr()
    assert named in output.err
    assert "Traceback" not in output.err
    assert not output.out


def run(evaluation: Evaluation, *more: str) -> list[str]:
    return [
        *("run", "--model", "hf-moe", "--model_args", f"pretrained={evaluation.model},max_length=200"),
        *("--device", "cpu", "--tasks", "own_choice", "--include_path", str(evaluation.tasks), *more),
    ]


def test_a_stale_profile_of_the_candidate_is_no_proof_that_nothing_drifted(
    base: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The candidate's weights were changed, but its profile is that of the run before: drift would be 0 everywhere."""
    own = base.with_model(tmp_path / "a")
    for side in ("baseline", "candidate"):
        profile = tmp_path / f"{side}.safetensors"
        written = ("--output_path", str(tmp_path / side), "--log_samples", "--routing_profile", str(profile))
        assert main(run(own, *written)) == 0
        change_one_weight(own, tmp_path / side)
    stale = (tmp_path / "baseline.safetensors").read_bytes()
    policy = {
        "version": 1,
        "margins": {"language": 0.01, "macro": 0.01},
        "minimum_items": 1,
        "routing_drift": {"middle": 0.5},
    }
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    gate = ["gate", "--policy", str(tmp_path / "policy.yaml")]
    for side in ("baseline", "candidate"):
        gate += [f"--{side}", str(tmp_path / side), f"--{side}_profile", str(tmp_path / f"{side}.safetensors")]
    capsys.readouterr()
    assert main(gate) != 2
    assert "is not the profile of" not in capsys.readouterr().out
    (tmp_path / "candidate.safetensors").write_bytes(stale)
    assert main(gate) == 2
    output = capsys.readouterr().out
    assert "is not the profile of the candidate: its model.weights.files is" in " ".join(output.split())


@pytest.mark.parametrize(
    "more",
    [
        ("--limit", "2"),
        ("--num_fewshot", "1"),
        ("--system_instruction", "Be brief."),
        ("--apply_chat_template",),
        ("--gen_kwargs", "max_gen_toks=3"),
    ],
    ids=lambda more: more[0],
)
def test_a_smoke_run_is_no_newer_result_of_a_row(
    more: tuple[str, ...], base: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output_path", str(tmp_path / "results"))
    assert main(run(base, *output)) == 0
    assert main(run(base, *output, *more)) == 0
    capsys.readouterr()
    code = main(["compare", str(tmp_path / "results"), "--format", "json", "--allow-mismatch"])
    board = json.loads(capsys.readouterr().out)
    assert code == 0
    assert len(board["tables"][0]["runs"]) == 2
    assert main(["compare", str(tmp_path / "results")]) == (0 if more[0] == "--gen_kwargs" else 2)


def test_rows_of_two_templates_do_not_stand_in_one(base: Evaluation, tmp_path: Path) -> None:
    """Two languages, the template edited, one of them again: the other one is of before."""
    own = base.with_tasks(tmp_path)
    for name in ("own_choice.yaml", "own_choice_sw.yaml"):
        command = run(own, "--output_path", str(tmp_path / "results"))
        command[command.index("own_choice")] = (
            "own_choice,own_choice_sw" if name == "own_choice.yaml" else "own_choice_sw"
        )
        assert main(command) == 0
        edit(own.tasks / "own_choice_sw.yaml", "Is it so?" if name == "own_choice.yaml" else "Is it so!", "Is it so!")
    runs, superseded = latest(read_results([tmp_path / "results"], warn=lambda text: None))
    assert [sorted(r.results["results"]) for r in runs] == [["own_choice_sw"], ["own_choice", "own_choice_sw"]]
    assert not superseded


@pytest.mark.parametrize("part", ["prompts.generation", "prompts.seeds"])
def test_a_reference_that_was_generated_belongs_to_how_it_was(part: str, base: Evaluation, tmp_path: Path) -> None:
    before, after = CHANGES[part](base.with_model_args(capture="continuation"), tmp_path)
    profile = tmp_path / "reference.safetensors"
    before.run(tasks=["own_text"], routing_profile=profile)
    with pytest.raises(UserError, match=part):
        after.run(tasks=["own_text"], routing_profile=profile)


def test_the_gate_says_which_profiles_it_could_not_check(base: Evaluation, tmp_path: Path) -> None:
    profile = tmp_path / "p.safetensors"
    base.run(routing_profile=profile)
    results = base.run()
    reader = read_profile(profile)
    header, items = reader.header, reader.items
    arrays = {name: np.stack(list(reader.rows(name, range(len(items))))) for name in PROFILE_ARRAYS}
    arrays["tokens"] = reader.tokens
    old = tmp_path / "old.safetensors"
    write_profile(old, replace(header, identity=None), items, arrays)
    results["routing"]["identity"] = json.loads(json.dumps(results["routing"]["identity"]))
    good, silent = Run(LabelledRun("r", results)), Run(LabelledRun("s", {**results, "routing": {"model": "m"}}))
    assert unchecked_profiles({"baseline": (profile, good), "candidate": (None, good)}) == []
    for path, of_run in ((old, good), (profile, silent)):
        (note,) = unchecked_profiles({"baseline": (profile, good), "candidate": (path, of_run)})
        assert "of the candidate could not be checked" in note


def test_profiles_of_a_model_and_of_its_adapter_are_not_merged(base: Evaluation, tmp_path: Path) -> None:
    with_adapter = CHANGES["model.peft"](base, tmp_path / "peft")[0]
    for name, evaluation in (("base", base), ("adapter", with_adapter)):
        evaluation.run(routing_profile=tmp_path / f"{name}.safetensors")
    out, paths = tmp_path / "merged.safetensors", [tmp_path / "base.safetensors", tmp_path / "adapter.safetensors"]
    from lm_eval_moe.profiles.merge import merge_profiles

    with pytest.raises(UserError, match=r"model\.peft was none, is"):
        merge_profiles(out, paths)
    assert not out.exists()


def test_what_another_backend_made_is_used_with_a_warning_that_names_both(base: Evaluation, tmp_path: Path) -> None:
    """The reference items of a profile, and profiles that experts are selected on; two profiles are not merged."""
    mixed = "hf-moe and other are mixed: in float32 they agree"
    before, after = CHANGES["model.backend"](base, tmp_path)
    profile = tmp_path / "reference.safetensors"
    before.run(routing_profile=profile)
    profiles = {"en": profile.name, "sw": "other.safetensors"}
    rule = {"shared": {"profiles": profiles, "top_m": 6, "threshold": 0.9, "source": "en"}}
    steering = {"version": 1, "interventions": [{"layers": "all", "experts": rule, "action": {"soft": 0.1}}]}
    file = tmp_path / "steer.yaml"
    file.write_text(yaml.safe_dump(steering), encoding="utf-8")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        after.run(tasks=["own_choice_sw"], routing_profile=profile)
        after.run(tasks=["own_choice_sw"], routing_profile=tmp_path / "other.safetensors", routing_reference="sw")
        after.run(tasks=["own_choice_sw"], steering=file, allow_leak=True)
    said = [str(each.message) for each in caught]
    assert any(f"the profile was made by a different backend: {mixed}" in text for text in said)
    assert any(mixed in text and "reference.safetensors is the profile of another backend" in text for text in said)
    assert any("other.safetensors and reference.safetensors: other and hf-moe are mixed" in text for text in said)
    with pytest.raises(UserError, match=r"model\.backend"):
        merge_profiles(tmp_path / "out.safetensors", [profile, tmp_path / "other.safetensors"])


def test_the_ways_of_a_backend_are_not_compared_with_anothers() -> None:
    hf = {
        "model.backend": "hf-moe",
        "model.class": "A",
        "model.config": {"a": 1, "new": 2},
        "model.weights": {"files": "x"},
    }
    vllm = {"model.backend": "vllm-moe", "model.class": "B", "model.config": {"a": 1}, "model.weights": {"files": "x"}}
    one = Identity(hf)
    assert one.mismatch(Identity(vllm), REFERENCE) == []
    assert [each.part for each in one.mismatch(Identity(vllm), ROW)] == ["model.backend"]
    other = Identity({**vllm, "model.config": {"a": 3}, "model.weights": {"files": "y"}})
    assert [each.part for each in one.mismatch(other, REFERENCE)] == ["model.config.a", "model.weights.files"]
    old = Identity({name: value for name, value in vllm.items() if name != "model.backend"})
    assert not one.mixed(old)
    assert "model.backend" in one.unknown(old, ROW.needed())
