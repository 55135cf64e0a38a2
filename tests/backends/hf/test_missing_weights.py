"""A checkpoint that does not fill its model is refused: what it lacks would be drawn at random."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_models import make_model

from lm_eval_moe import HFMoE
from lm_eval_moe.errors import RoutingWarning, UserError

Change = Callable[[dict[str, torch.Tensor]], None]


def checkpoint(folder: Path, tokenizer: Any, family: str, change: Change) -> str:
    """Write a real checkpoint, and change the tensors of its file."""
    make_model(family).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return str(folder)


def without(*names: str) -> Change:
    return lambda tensors: [tensors.pop(name) for name in names] and None


def renamed(old: str, new: str) -> Change:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def shorter(name: str) -> Change:
    return lambda tensors: tensors.update({name: tensors[name][:-1].clone()})


GATE = "model.layers.2.mlp.gate.weight"
REFUSED = {
    "router missing": ("qwen3_moe", without(GATE), rf"it lacks {GATE} \(router of layer 2\): .* at random"),
    "router of another name": (
        "qwen3_moe",
        renamed(GATE, "model.layers.2.mlp.router.weight"),
        rf"it lacks {GATE} \(router of layer 2\); the model does not use model.layers.2.mlp.router.weight",
    ),
    "router of fewer experts": (
        "qwen3_moe",
        shorter(GATE),
        rf"the wrong shape for {GATE} \(\[7, 32\], expected \[8, "
        r"32\]\)",
    ),
    "selection bias missing": (
        "deepseek_v3",
        without("model.layers.1.mlp.gate.e_score_correction_bias"),
        r"it lacks model.layers.1.mlp.gate.e_score_correction_bias \(router of layer 1\)",
    ),
    "router bias missing": ("gpt_oss", without("model.layers.0.mlp.router.bias"), r"\(router of layer 0\)"),
    "fused experts missing": ("gpt_oss", without("model.layers.1.mlp.experts.down_proj"), r"\(experts of layer 1\)"),
    "a part of one expert missing": (
        "qwen3_moe",
        without("model.layers.1.mlp.experts.3.up_proj.weight"),
        r"cannot be assembled: model.layers.1.mlp.experts.gate_up_proj",
    ),
    "a part of one expert cut": (
        "mixtral",
        shorter("model.layers.1.block_sparse_moe.experts.3.w1.weight"),
        r"cannot be assembled: model.layers.1.mlp.experts.gate_up_proj",
    ),
    "one expert missing": (
        "mixtral",
        without(*(f"model.layers.0.block_sparse_moe.experts.7.w{part}.weight" for part in (1, 2, 3))),
        r"wrong shape for model.layers.0.mlp.experts.down_proj \(\[7, 32, 32\], expected \[8, 32, 32\]\)",
    ),
    "shared expert missing": (
        "qwen2_moe",
        without("model.layers.0.mlp.shared_expert.up_proj.weight"),
        r"\(experts of layer 0\)",
    ),
    "embedding missing": ("qwen3_moe", without("model.embed_tokens.weight"), r"\(embedding\)"),
    "head missing": ("qwen3_moe", without("lm_head.weight"), r"it lacks lm_head.weight \(embedding\)"),
    "norm cut": (
        "qwen3_moe",
        shorter("model.norm.weight"),
        r"wrong shape for model.norm.weight \(\[31\], expected "
        r"\[32\]\)",
    ),
    "experts in a dense layer": (
        "deepseek_v3",
        lambda tensors: tensors.update({"model.layers.0.mlp.experts.0.up_proj.weight": torch.zeros(16, 32)}),
        r"the model does not use model.layers.0.mlp.experts.gate_up_proj \(experts of layer 0\)",
    ),
}


@pytest.mark.parametrize(("family", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_gap_is_refused_by_name(family: str, change: Change, message: str, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        HFMoE(pretrained=checkpoint(tmp_path, tokenizer, family, change))


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_both_commands_end_with_one_message(command: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, tokenizer, "qwen3_moe", without(GATE))
    arguments = {"run": ["--model", "hf-moe", "--tasks", "demo_arith_en", "--limit", "1"], "doctor": []}[command]
    whole = [sys.executable, "-m", "lm_eval_moe", command, "--model_args", f"pretrained={folder}", *arguments]
    said = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert said.stderr.count("lm-eval-moe: error:") == 1
    assert f"checkpoint {folder}: the checkpoint does not fit the model: it lacks {GATE} (router of" in said.stderr
    assert "allow_missing_weights=true" in said.stderr
    assert "Traceback" not in said.stderr


def test_whoever_means_it_goes_on_with_a_warning(tokenizer: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, tokenizer, "qwen3_moe", without(GATE))
    with pytest.warns(RoutingWarning, match=rf"it lacks {GATE} .* \(allow_missing_weights=true\)"):
        model = HFMoE(pretrained=folder, allow_missing_weights=True)
    assert model.weights.incomplete
    with pytest.raises(UserError, match=r"cannot be assembled"):  # there is nothing that could be run
        HFMoE(
            pretrained=checkpoint(
                tmp_path, tokenizer, "qwen3_moe", without("model.layers.1.mlp.experts.3.up_proj.weight")
            ),
            allow_missing_weights=True,
        )


def test_other_missing_weights_are_a_warning(tokenizer: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, tokenizer, "qwen3_moe", without("model.layers.0.self_attn.q_norm.weight"))
    with pytest.warns(RoutingWarning, match=r"it lacks model.layers.0.self_attn.q_norm.weight: initialised at random"):
        model = HFMoE(pretrained=folder)
    assert model.weights.incomplete


def test_a_delta_is_checked_like_its_base(tokenizer: Any, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", tokenizer, "qwen3_moe", lambda _: None)
    delta = checkpoint(tmp_path / "delta", tokenizer, "qwen3_moe", lambda _: None)
    assert not HFMoE(pretrained=base, delta=delta).weights.incomplete
    checkpoint(tmp_path / "delta", tokenizer, "qwen3_moe", without(GATE))
    with pytest.raises(UserError, match=rf"checkpoint {delta}: .* it lacks {GATE}"):
        HFMoE(pretrained=base, delta=delta)


HARMLESS: dict[str, tuple[str, Change]] = {
    "nothing": ("mixtral", lambda _: None),
    "a tied head that is not stored": ("ernie4_5_moe", lambda tensors: tensors.pop("lm_head.weight", None) and None),
    "a layer that predicts a further token": (
        "deepseek_v3",
        lambda tensors: tensors.update(
            {
                "model.layers.3.mlp.gate.weight": torch.zeros(8, 32),
                "model.layers.3.mlp.experts.0.up_proj.weight": torch.zeros(16, 32),
                "model.layers.3.embed_tokens.weight": torch.zeros(320, 32),
            }
        ),
    ),
    "a vision tower": (
        "qwen3_moe",
        lambda tensors: tensors.update({"model.visual.blocks.0.mlp.gate.weight": torch.zeros(4, 4)}),
    ),
    "old rotary buffers": (
        "qwen3_moe",
        lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}),
    ),
}


@pytest.mark.parametrize(("family", "change"), HARMLESS.values(), ids=HARMLESS)
def test_what_is_no_gap_passes(family: str, change: Change, tokenizer: Any, tmp_path: Path) -> None:
    """Warnings of ours are errors in the tests."""
    assert not HFMoE(pretrained=checkpoint(tmp_path, tokenizer, family, change)).weights.incomplete


def test_several_files_and_a_peft_adapter_are_checked_as_one_model(tokenizer: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    make_model("qwen3_moe").save_pretrained(base, max_shard_size="60KB")
    tokenizer.save_pretrained(base)
    assert len(list(base.glob("*.safetensors"))) > 2
    get_peft_model(make_model("qwen3_moe"), LoraConfig(target_modules=["q_proj"], r=2)).save_pretrained(adapter)
    assert not HFMoE(pretrained=str(base), peft=str(adapter)).weights.incomplete
    listing = base / "model.safetensors.index.json"
    index = json.loads(listing.read_text(encoding="utf-8"))
    file = base / index["weight_map"].pop(GATE)
    save_file({name: tensor for name, tensor in load_file(file).items() if name != GATE}, file, {"format": "pt"})
    listing.write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=rf"it lacks {GATE} \(router of layer 2\)"):
        HFMoE(pretrained=str(base), peft=str(adapter))
