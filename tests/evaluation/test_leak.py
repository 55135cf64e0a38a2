"""Experts that were selected on the items of a run: refused, or marked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager
from support.demo_runs import evaluate

from lm_eval_moe import HFMoE, parse_spec
from lm_eval_moe.cli import main
from lm_eval_moe.errors import RoutingWarning, UserError

SELECTED = {"demo_arith_en": [0, 1, 2, 3], "demo_text_en": [0, 1, 2, 3]}


@pytest.fixture
def lm() -> HFMoE:
    return HFMoE(pretrained="demo", batch_size=8)


@pytest.fixture
def folder(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> Path:
    """A folder with profiles of four arithmetic items and four texts, and a steering file that selects on them."""
    for name, samples in SELECTED.items():
        evaluate(lm, manager, {name: samples}, routing_profile=tmp_path / f"{name}.safetensors")
    (tmp_path / "steer.yaml").write_text(
        "version: 1\nname: on-four-items\ninterventions:\n- layers: middle\n  experts: {task: {profile: "
        "demo_arith_en.safetensors, baseline: demo_text_en.safetensors, threshold: 0.1}}\n  action: {soft: 0.5}\n",
        encoding="utf-8",
    )
    return tmp_path


def test_items_that_experts_were_selected_on_are_refused_or_marked(
    folder: Path, lm: HFMoE, manager: TaskManager
) -> None:
    """Also their translations; other items of the same task are none of them."""
    steering = str(folder / "steer.yaml")
    for task in SELECTED:
        with pytest.raises(
            UserError, match=rf"task {task}: 4 of its 4 documents .* selected on \({task}.safetensors: "
        ):
            evaluate(lm, manager, {task: SELECTED[task]}, steering=steering)
    translated = {"demo_arith_sw": [2, 3, 4, 5, 6]}
    with pytest.raises(UserError, match="2 of its 5 documents") as refusal:
        evaluate(lm, manager, translated, steering=steering)
    assert "--allow_leak" in str(refusal.value)
    with pytest.warns(RoutingWarning, match="task demo_arith_sw: 2 of its 5 documents are items that experts were se"):
        marked = evaluate(lm, manager, translated, steering=steering, allow_leak=True)["routing"]
    assert marked["tasks"]["demo_arith_sw"]["leaked_documents"] == 2
    clean = evaluate(lm, manager, {"demo_arith_sw": [4, 5, 6]}, steering=steering)["routing"]
    assert clean["tasks"]["demo_arith_sw"]["leaked_documents"] == 0
    sources = clean["steering"]["profiles"]
    assert [source["given"] for source in sources] == [f"{name}.safetensors" for name in SELECTED]
    assert all(len(source["sha256"]) == 64 and source["items"] == 4 for source in sources)
    json.dumps(clean)
    lm.set_steering(None)
    assert evaluate(lm, manager, translated)["routing"]["tasks"]["demo_arith_sw"]["leaked_documents"] == 0


def test_an_explicit_file_remembers_the_items_it_was_selected_on(folder: Path, lm: HFMoE, manager: TaskManager) -> None:
    explicit = folder / "explicit.yaml"
    task, text = (str(folder / f"{name}.safetensors") for name in SELECTED)
    arguments = ["experts", "task", "--profile", task, "--baseline", text, "--threshold", "0.1", "--layers", "middle"]
    assert main([*arguments, "--action", "soft=0.5", "--output", str(explicit)]) == 0
    for file in folder.glob("*.safetensors"):  # the file stands alone
        file.unlink()
    with pytest.raises(UserError, match=r"2 of its 5 documents .* \(.*: selected_on: "):
        evaluate(lm, manager, {"demo_arith_sw": [2, 3, 4, 5, 6]}, steering=str(explicit))
    clean = evaluate(lm, manager, {"demo_arith_sw": [4, 5, 6]}, steering=str(explicit))["routing"]
    assert clean["tasks"]["demo_arith_sw"]["leaked_documents"] == 0
    assert clean["steering"]["spec"]["selected_on"] == {"demo_arith": 4, "demo_text": 4}


def test_the_command_line_refuses_a_leak_with_one_message(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--model", "hf-moe", "--model_args", "pretrained=demo", "--tasks", "demo_arith_sw"]
    arguments += ["--limit", "3", "--batch_size", "8", "--steering", str(folder / "steer.yaml")]
    assert main(arguments) == 2
    assert "task demo_arith_sw: 3 of its 3 documents" in capsys.readouterr().err
    assert main([*arguments, "--allow-leak", "--output_path", str(tmp_path / "out")]) == 0
    [written] = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(written.read_text(encoding="utf-8"))["routing"]["tasks"]["demo_arith_sw"]["leaked_documents"] == 3


def test_what_cannot_be_checked_is_said(folder: Path, lm: HFMoE, manager: TaskManager) -> None:
    shape = lm.routing_shape
    counts = {
        str(layer): {
            **{
                str(expert): {"activation_tokens": expert % 3, "gate_values_sum": 1.0}
                for expert in range(shape.experts)
            },
            "total_tokens": 8,
        }
        for layer in shape.layers
    }
    (folder / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    rule = {"exclusive": {"profiles": {"en": "demo_arith_en.safetensors", "sw": "counts.json"}, "languages": ["sw"]}}
    entry = {"layers": "all", "experts": rule, "action": {"soft": 0.5}}
    spec = parse_spec({"version": 1, "name": "x", "interventions": [entry]}, source="x", base_dir=folder)
    others = {"demo_arith_sw": [8, 9]}
    with pytest.warns(RoutingWarning, match=r"counts\.json does not say which items were counted"):
        evaluate(lm, manager, others, steering=spec)
    lm.set_capture("off")
    with pytest.warns(RoutingWarning, match=r"counts\.json does not say which items were counted"):
        evaluate(lm, manager, others)
    lm.set_capture("prompt")
    lm.model.model.embed_tokens.weight.data[300, 5] += 1e-3
    with pytest.warns(RoutingWarning, match=r"is the profile of a model other than this run's \(model\.weights"):
        evaluate(lm, manager, others, steering=str(folder / "steer.yaml"))
