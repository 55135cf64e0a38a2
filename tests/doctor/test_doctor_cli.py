"""``lm-eval-moe doctor`` as a user meets it: what it prints, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.doctor.sabotage import ChoosesAnew, FusedRouter
from support.small_models import make_model
from transformers import AutoConfig, LlamaConfig
from transformers.models.qwen3_moe import modeling_qwen3_moe

from lm_eval_moe import HFMoE
from lm_eval_moe.cli import main

DEMO = ("--model_args", "pretrained=demo")
DEMO_WITH_ADAPTER = ("--model_args", "pretrained=demo,adapter=nowhere.py", "--config-only")

STEERING = """
version: 1
name: by-hand
interventions:
  - layers: all
    experts: {ids: {1-2: [0, 1, 2, 5]}}
    action: {soft: 0.5}
    tokens: prompt
    languages: [sw, ru]
  - layers: 2
    experts: {ids: {2: {3: 0.25, 7: 1.0}}}
    action: {proportional: 0.02}
    languages: {all_but: [en]}
  - layers: 2
    experts: {ids: {2: [6]}}
    action: mask
    guard: true
"""


def doctor(*arguments: str) -> int:
    return main(["doctor", *arguments])


def config_only(folder: Path, family: str = "deepseek_v3") -> str:
    """Write a folder that holds a config and nothing else."""
    make_model(family).config.save_pretrained(folder)
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    return f"pretrained={folder}"


def test_the_demo_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(*DEMO) == 0
    out = capsys.readouterr().out
    for line in (
        "  model              Qwen3MoeForCausalLM, type qwen3_moe",
        "  layers that route  0-7 (8)",
        "  experts, top-k     E = 16 per layer, K = 2 selected per token",
        "  scoring            softmax",
        "  bands              early 0-1; middle 2-5; late 6-7",
        "  steering file      model: {layers: 8, experts: 16, top_k: 2}",
        "  ok     every MoE layer is intercepted",
        "verdict: OK. ",
    ):
        assert line in out
    assert "FAILED" not in out
    assert max(map(len, out.splitlines())) <= 96


def test_verbose_shows_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(*DEMO, "--verbose", "--batch_size", "8") == 0
    out = capsys.readouterr().out
    assert "capture matches the experts, by layer" in out
    assert "each router decides its layer, by layer" in out


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(*DEMO, "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["schema_version"] == 1
    assert (found["model"], found["ok"], found["reason"], found["steering"]) == ("demo", True, None, None)
    assert found["verdict"].startswith("OK.")
    assert [each["name"] for each in found["proofs"]] == [
        "intercepted",
        "capture_identity",
        "selection",
        "capture_counts",
        "padding",
        "batching",
        "zero_strength",
        "effect",
        "reach",
        "generation",
    ]
    assert {each["outcome"] for each in found["proofs"]} == {"pass"}
    by_layer = {each["name"]: each["layers"] for each in found["proofs"]}
    for name in ("intercepted", "capture_counts", "effect", "reach"):
        assert list(by_layer[name]) == [str(layer) for layer in range(8)]
    tokens = next(each for each in found["proofs"] if each["name"] == "padding")["details"]["own_tokens"]
    assert all(row["selections"] == 2 * tokens for row in by_layer["capture_counts"].values())
    assert found["routing"]["shape"]["bands"]["middle"] == [2, 3, 4, 5]
    assert found["notes"]


def test_an_argument_that_overrides_the_config_is_heeded_before_the_weights_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "steer.yaml"
    file.write_text(
        "{version: 1, model: {top_k: 4}, interventions: [{layers: 1, experts: {ids: {1: [0]}}, action: mask}]}"
    )
    arguments = ("--config-only", "--steering", str(file), "--model_args")
    assert doctor(*arguments, "pretrained=demo") == 2
    assert "model.top_k" in capsys.readouterr().err
    assert doctor(*arguments, "pretrained=demo,num_experts_per_tok=4") == 0
    assert "top_k: 4}" in capsys.readouterr().out
    lm = HFMoE("demo", num_experts_per_tok=4)
    assert lm.routing_shape.top_k == 4


def test_config_only_needs_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("--model_args", config_only(tmp_path), "--config-only") == 0
    out = capsys.readouterr().out
    for line in (
        "  decoder layers     3, counted from 0",
        "  layers that route  1-2 (2)",
        "  dense layers       0",
        "  scoring            sigmoid",
        "  expert groups      2, of which 1 chosen",
        "  selection bias     gate.e_score_correction_bias",
        "  shared experts     shared_experts (DeepseekV3MLP)",
        "  bands              early none; middle 1-2; late none",
        "  steering file      model: {layers: 3, experts: 8, top_k: 2}",
        "verdict: Nothing was proved",
    ):
        assert line in out
    assert "proofs\n" not in out
    assert doctor("--model_args", f"pretrained={tmp_path}", "--config-only", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is None
    assert found["proofs"] == []


def test_a_steering_file_is_explained_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "steer.yaml"
    file.write_text(STEERING, encoding="utf-8")
    arguments = ("--model_args", config_only(tmp_path / "model"), "--config-only", "--steering", str(file))
    assert doctor(*arguments) == 0
    out = capsys.readouterr().out
    explained = out[out.index("steering: by-hand") : out.index("verdict")].splitlines()
    assert explained[1:-1] == [
        "  0  soft 0.5; prompt tokens; languages: ru, sw",
        "       layer 1-2  experts 0-2, 5",
        "       total: 8 expert(s) in 2 layer(s)",
        "  1  proportional 0.02; all tokens; all languages but en",
        "       layer 2  experts 3 (x 0.25), 7 (x 1)",
        "       total: 2 expert(s) in 1 layer(s)",
        "  2  mask, with guard; all tokens; all languages",
        "       layer 2  expert 6",
        "       total: 1 expert(s) in 1 layer(s)",
        "  touched:   11 of 16 experts, in layers 1-2",
        "  untouched: 5 experts; shared experts; padding",
    ]
    assert doctor(*arguments, "--json", "--set", "interventions.2.experts.ids={2: [0]}") == 0
    found = json.loads(capsys.readouterr().out)["steering"]
    assert found["interventions"][2] == {
        "index": 2,
        "action": "mask",
        "guard": True,
        "tokens": "all",
        "languages": "all",
        "experts": 1,
        "targets": {"2": {"0": 1.0}},
    }
    assert found["touched"]["experts_by_layer"] == {"1": [0, 1, 2, 5], "2": [0, 1, 2, 3, 5, 7]}
    assert found["untouched"] == {"layers": [], "experts": 6}
    assert found["reach"] is None


def test_a_steering_file_is_measured_on_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "steer.yaml"
    file.write_text(
        """
version: 1
interventions:
  - {layers: 4, experts: {ids: {4: [5]}}, action: mask, guard: true, languages: [en]}
  - {layers: 6, experts: {ids: {6: [9]}}, action: activate, guard: true, tokens: generated}
""",
        encoding="utf-8",
    )
    assert doctor(*DEMO, "--json", "--steering", str(file)) == 0
    reach = json.loads(capsys.readouterr().out)["steering"]["reach"]
    assert set(reach["layers"]) == {"4", "6"}
    masked, activated = reach["layers"]["4"], reach["layers"]["6"]
    assert (masked["steered"], activated["steered"]) == (0.0, 1.0)

    # The same, counted by the model's own records of the same sentences, one span and language at a time.
    from lm_eval.api.instance import Instance

    from lm_eval_moe.doctor.sentences import SENTENCES

    tokens = {}
    shares = {}
    for span in ("all", "continuation"):
        lm = HFMoE(pretrained="demo", batch_size=4, capture=span)
        requests = [
            Instance("loglikelihood", {}, (each.context, each.continuation), 0, metadata=(each.language, number, 1))
            for number, each in enumerate(SENTENCES)
        ]
        lm.loglikelihood(requests, disable_tqdm=True)
        kept = [
            record
            for key in lm.captured.records
            if (record := lm.captured.record(key)) is not None and (span == "continuation" or key.task == "en")
        ]
        tokens[span] = sum(record.tokens for record in kept)
        layer, expert = (4, 5) if span == "all" else (6, 9)
        hits = sum(int(record.counts[layer, expert]) for record in kept if record.counts is not None)
        shares[span] = hits / tokens[span]
    assert (masked["tokens"], activated["tokens"]) == (tokens["all"], tokens["continuation"])
    assert (masked["unsteered"], activated["unsteered"]) == (shares["all"], shares["continuation"])


def test_a_language_that_no_sentence_is_in_is_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "steer.yaml"
    file.write_text(
        "version: 1\ninterventions:\n"
        "  - {layers: all, experts: {ids: {all: [1]}}, action: {soft: 1}, languages: [fi]}\n",
        encoding="utf-8",
    )
    assert doctor("--model_args", f"pretrained=demo,steering={file}") == 0
    out = capsys.readouterr().out
    assert "none of the doctor's sentences is in a language that the file steers" in out
    assert "languages other than fi" in out


# ------------------------------------------------------------------------------------------------ when it is not well


def test_a_proof_that_fails_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(modeling_qwen3_moe.Qwen3MoeSparseMoeBlock, "forward", ChoosesAnew.forward)
    assert doctor(*DEMO) == 1
    out = capsys.readouterr().out
    assert "  FAILED each router decides its layer" in out
    assert "-> load the model without replaced kernels" in out
    assert "verdict: NOT OK. 2 of 10 proofs failed" in out
    assert max(map(len, out.splitlines())) <= 96


def test_a_bypassed_router_is_a_verdict_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(modeling_qwen3_moe.Qwen3MoeTopKRouter, "forward", FusedRouter.forward)
    assert doctor(*DEMO) == 1
    printed = capsys.readouterr()
    assert "verdict: NOT OK. lm-eval-moe cannot follow this model's routing" in printed.out
    assert "multiplied by its own weight 0 times" in " ".join(printed.out.split())
    assert "Traceback" not in printed.err
    assert doctor(*DEMO, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert "without kernel replacement" in found["reason"]
    assert found["proofs"] == []


def dense(folder: Path) -> str:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaConfig(vocab_size=320, **sizes).save_pretrained(folder)
    return f"pretrained={folder}"


MISTAKES: list[tuple[str, list[str], list[str]]] = [
    ("no such model", ["--model_args", "pretrained=./nowhere"], ["cannot load the config"]),
    ("no model", ["--model_args", "dtype=float32"], ["--model_args", "pretrained="]),
    ("unknown argument", ["--model_args", "pretrained=demo,dtpye=float32"], ["--model_args", "dtpye"]),
    ("no such config", ["--model_args", "pretrained=./nowhere", "--config-only"], ["cannot load the config"]),
    ("no adapter file", [*DEMO_WITH_ADAPTER], ["adapter", "not a Python file"]),
    ("batch size", [*DEMO, "--batch_size", "0"], ["--batch_size", "at least 1"]),
    ("no file to override", [*DEMO, "--set", "seed=1"], ["--set", "--steering"]),
    ("no steering file", [*DEMO, "--steering", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
]


@pytest.mark.parametrize(("arguments", "words"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_message_and_exit_code_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    message = printed.err[printed.err.index("lm-eval-moe: error:") :]
    for word in [*words, "->"]:
        assert word.lower() in message.lower()


@pytest.mark.parametrize("arguments", [[], ["--config-only"]], ids=["weights", "config only"])
def test_a_model_that_cannot_be_steered_is_refused_as_everywhere(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor("--model_args", dense(tmp_path / "dense"), *arguments) == 2
    assert "dense model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("layers: 2", "layers: 0"), ["layer", "1-2"]),
        (("[6]", "[8]"), ["8", "7"]),
        (("action: mask", "action: masc"), ["did you mean 'mask'"]),
        (("name: by-hand", "model: {layers: 48}"), ["model.layers", "48"]),
    ],
    ids=["dense layer", "expert", "action", "another model"],
)
def test_a_wrong_steering_file_is_refused(
    edit: tuple[str, str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "steer.yaml"
    file.write_text(STEERING.replace(*edit), encoding="utf-8")
    model = config_only(tmp_path / "model")
    assert doctor("--model_args", model, "--config-only", "--steering", str(file)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for word in ["steer.yaml", *words]:
        assert word in printed.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lm_eval_moe.cli import main\n"
        "try: main(['doctor', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'lm_eval', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for flag in ("--model_args", "--config-only", "--steering", "--json"):
        assert flag in done.stdout


def test_the_config_of_a_saved_model_and_its_weights_tell_the_same_shape(
    tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model("ernie4_5_moe").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "ernie4_5_moe"
    shapes = []
    for arguments in ([], ["--config-only"]):
        assert doctor("--model_args", f"pretrained={tmp_path}", "--json", *arguments) == 0
        shapes.append(json.loads(capsys.readouterr().out)["routing"])
    assert shapes[0] == shapes[1]
