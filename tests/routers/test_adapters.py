"""Models with their own code: found by structure, or refused with a message and mended by an adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hf_cases import PAIRS, likelihoods, scored
from support.own_models import ALL_IN_ONE, EXPERTS, TOP_K, saved
from support.paths import ROOT
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_moe import HFMoE, parse_spec
from lm_eval_moe.cli import main
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.routers import blocks


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(blocks, "_ADAPTERS", dict(blocks._ADAPTERS))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The adapter that the documentation shows, as a user saves it."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code.count("\n") < 30
    path = tmp_path / "my_adapter.py"
    path.write_text(code, encoding="utf-8")
    return path


def check(lm: HFMoE, experts: str = "experts") -> None:
    """What is captured is what each expert of the list is called with; steering reaches the selection."""
    assert (lm.routing_shape.layers, lm.routing_shape.experts, lm.routing_shape.top_k) == ((0, 1, 2), EXPERTS, TOP_K)
    received = np.zeros((3, EXPERTS), dtype=int)
    handles = [
        expert.register_forward_pre_hook(
            lambda _, args, at=(layer, number): received.__setitem__(at, received[at] + len(args[0]))
        )
        for layer, decoder in enumerate(lm.model.model.layers)
        for number, expert in enumerate(getattr(decoder.mlp, experts))
    ]
    likelihoods(lm, scored(PAIRS))
    for handle in handles:
        handle.remove()
    counts = [lm.captured.record(RequestKey("task", number, 0)).counts for number in range(len(PAIRS))]
    np.testing.assert_array_equal(np.sum(counts, axis=0), received)
    for action, share in (("activate", 1), ("mask", 0)):
        entry = {"layers": "all", "experts": {"ids": {"all": [1, 4]}}, "action": action, "guard": True}
        lm.set_steering(parse_spec({"version": 1, "interventions": [entry]}))
        lm.captured.clear()
        likelihoods(lm, scored(PAIRS))
        for number in range(len(PAIRS)):
            record = lm.captured.record(RequestKey("task", number, 0))
            assert (record.counts[:, [1, 4]] == share * record.tokens).all()


def test_a_list_of_experts_is_found_by_its_structure(tokenizer: Any, tmp_path: Path) -> None:
    path = saved("gate", tmp_path / "model", tokenizer)
    check(HFMoE(pretrained=path, trust_remote_code=True, capture="all", batch_size=1))
    with pytest.raises(UserError, match=r"its own code(?s:.*)--trust_remote_code"):
        HFMoE(pretrained=path)


def renamed(path: str, *changes: tuple[str, str]) -> None:
    """Change the code of a saved model."""
    [code] = Path(path).glob("modeling_*.py")
    text = code.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    code.write_text(text, encoding="utf-8")


MAKES_EXPERTS = f"self.experts = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range({EXPERTS}))"
OTHER = f"nn.ModuleList(nn.Identity() for _ in range({EXPERTS + 1}))"


@pytest.mark.parametrize(
    "more", ["", f"self.norms = {OTHER}", f"self.others = nn.ModuleList([nn.Identity()] * {EXPERTS})"]
)
def test_a_list_of_experts_is_found_under_any_name(more: str, tokenizer: Any, tmp_path: Path) -> None:
    """Beside other lists, too: of another length, or as long, as where each linear has a list of its own."""
    path = saved("gate", tmp_path / "model", tokenizer)
    moved = MAKES_EXPERTS.replace("experts", "ffns")
    renamed(path, (MAKES_EXPERTS, f"{moved}\n        {more}"), ("enumerate(self.experts)", "enumerate(self.ffns)"))
    for weights in Path(path).glob("*.safetensors"):
        tensors = {name.replace(".experts.", ".ffns."): value for name, value in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
    check(HFMoE(pretrained=path, trust_remote_code=True, capture="all", batch_size=1), "ffns")


def test_several_lists_with_a_router_are_ambiguous(tokenizer: Any, tmp_path: Path) -> None:
    path = saved("gate", tmp_path / "model", tokenizer)
    second = f"self.router = nn.Linear(hidden, {EXPERTS + 1})"
    both = f"{MAKES_EXPERTS.replace('experts', 'ffns')}\n        self.norms = {OTHER}\n        {second}"
    renamed(path, (MAKES_EXPERTS, both), ("enumerate(self.experts)", "enumerate(self.ffns)"))
    message = r"cannot identify the experts of model\.layers\.0\.mlp \(MyMoEBlock\).*ffns of 6 and norms of 7"
    with pytest.raises(UserError, match=f"{message}(?s:.*)docs/adapters.md"):
        HFMoE(pretrained=path, trust_remote_code=True)


def test_a_model_that_says_no_k_takes_it_from_its_adapter(adapter: Path, tokenizer: Any, tmp_path: Path) -> None:
    path = saved("linear", tmp_path / "model", tokenizer)
    renamed(path, (f"num_experts_per_tok = {TOP_K}", "unused = 0"))
    config = Path(path) / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("num_experts_per_tok", "own_k"), encoding="utf-8")
    arguments = {"pretrained": path, "trust_remote_code": True, "capture": "all", "batch_size": 1}
    with pytest.raises(UserError, match=r"does not say how many experts it selects(?s:.*)its `of` must give top_k"):
        HFMoE(**arguments, adapter=adapter)
    text = adapter.read_text(encoding="utf-8")
    adapter.write_text(text.replace("len(block.experts))", f"len(block.experts), top_k={TOP_K})"), encoding="utf-8")
    check(HFMoE(**arguments, adapter=adapter))


@pytest.mark.parametrize("loaded", [False, True])
def test_an_adapter_for_other_blocks_is_said_to_be_so(
    loaded: bool, adapter: Path, tokenizer: Any, tmp_path: Path
) -> None:
    path: Any = saved("linear", tmp_path / "model", tokenizer)
    adapter.write_text(adapter.read_text(encoding="utf-8").replace('"MyMoEBlock"', '"MyMoEBlok"'), encoding="utf-8")
    given = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True) if loaded else path
    message = "GatedBlock is for MyMoEBlok, which OwnForCausalLM does not have; the blocks here are MyMoEBlock\n"
    with pytest.raises(UserError, match=message):
        HFMoE(pretrained=given, trust_remote_code=True, adapter=adapter, tokenizer=tokenizer)


def test_doctor_on_a_config_alone_says_so_as_well(
    adapter: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved("linear", tmp_path / "model", tokenizer)
    adapter.write_text(adapter.read_text(encoding="utf-8").replace('"MyMoEBlock"', '"MyMoEBlok"'), encoding="utf-8")
    given = f"pretrained={path},adapter={adapter}"
    assert main(["doctor", "--config-only", "--trust_remote_code", "--model_args", given]) == 2
    assert "GatedBlock is for MyMoEBlok" in capsys.readouterr().err


def test_a_block_of_unknown_form_is_refused_until_an_adapter_is_given(
    adapter: Path, tokenizer: Any, tmp_path: Path
) -> None:
    path = saved("linear", tmp_path / "model", tokenizer)
    arguments = {"pretrained": path, "trust_remote_code": True, "capture": "all", "batch_size": 1}
    with pytest.raises(RoutingBypassedError, match=r"Linear returns no selected indices(?s:.*)docs/adapters.md"):
        HFMoE(**arguments)
    check(HFMoE(**arguments, adapter=adapter))


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("", "", None),
        (".topk(top_k)", ".topk(top_k, largest=False)", ["recorded without effect", "an effect that is not recorded"]),
        ("weights / weights.sum(-1, keepdim=True)", "weights", ["with a weight other than the recorded one"]),
        ("return indices", "return (indices + 1) % 6", ["recorded without effect"]),
    ],
)
def test_doctor_proves_an_adapter_and_finds_a_wrong_one(
    right: str,
    wrong: str,
    words: list[str] | None,
    adapter: Path,
    tokenizer: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = saved("linear", tmp_path / "model", tokenizer)
    adapter.write_text(adapter.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    arguments = ["doctor", "--trust_remote_code", "--model_args", f"pretrained={path},adapter={adapter}"]
    assert main(arguments) == (0 if words is None else 1)
    assert main([*arguments, "--allow_unproven"]) == (0 if words is None else 1)
    printed = capsys.readouterr()
    said = " ".join(printed.out.split())
    assert ("verdict: OK" if words is None else "verdict: NOT OK") in said
    assert all(word in said for word in words or [])
    assert ("run lm-eval-moe doctor to see what is wrong" in printed.err) is (
        words is not None and "effect" in words[0]
    )


def test_an_expert_that_no_module_or_parameter_is_of_is_not_proven_unless_allowed(
    adapter: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved("linear", tmp_path / "model", tokenizer)
    code = tmp_path / "model" / "modeling_linear.py"
    # One linear for all experts: nothing shows from outside which of its rows are whose.
    one = code.read_text(encoding="utf-8")
    one = one.replace(
        f"self.experts = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range({EXPERTS}))",
        "self.experts = All(hidden)",
    )
    one = one.replace("class MyMoEBlock", ALL_IN_ONE + "class MyMoEBlock")
    code.write_text(one, encoding="utf-8")
    config = AutoConfig.from_pretrained(path, trust_remote_code=True)
    torch.manual_seed(0)
    fresh = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    save_file(fresh.state_dict(), tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    text = adapter.read_text(encoding="utf-8").replace("len(block.experts)", str(EXPERTS))
    adapter.write_text(text, encoding="utf-8")
    arguments = ["doctor", "--trust_remote_code", "--model_args", f"pretrained={path},adapter={adapter}"]
    assert main([*arguments, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["verdict"].split(".")[0]) == (False, "NOT PROVEN")
    assert main([*arguments, "--allow_unproven"]) == 0
    assert "NOT PROVEN the experts do what is recorded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a Python file"),
        ("import a_module_that_nobody_has", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
        ("class Broken(", "SyntaxError"),
        ("from lm_eval_moe.routers import RoutedBlock", "has no adapter: no subclass of RoutedBlock"),
    ],
)
def test_an_adapter_that_cannot_be_read_is_a_users_mistake(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "adapter.py"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        HFMoE(pretrained="demo", adapter=path)


def test_the_command_line_takes_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "run",
        "--model",
        "hf-moe",
        "--model_args",
        "pretrained=demo,adapter=gone.py",
        "--tasks",
        "demo_arith_en",
    ]
    assert main(arguments) == 2
    assert "--model_args adapter: 'gone.py' is not a Python file" in capsys.readouterr().err
