"""The doctor with `vllm-moe`: its proofs, its comparison with `hf-moe`, and the identity that both rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which has an environment of its own")

from support.on_vllm.workload import make_model

from lm_eval_moe.backends.vllm.model import VLLMMoE
from lm_eval_moe.cli import main
from lm_eval_moe.doctor import examine, render_text
from lm_eval_moe.identity import ANSWER, REFERENCE, Identity

ENGINE = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "enforce_eager": True}


@pytest.fixture(scope="module")
def lm() -> Any:
    return VLLMMoE(pretrained="demo", **ENGINE)


def test_all_that_answers_and_records_show_is_proved(lm: VLLMMoE) -> None:
    found = examine(lm)
    assert found.ok, render_text(found)
    outcomes = {entry.name: finding.outcome for entry, finding in found.findings}
    unseen = {"selection", "capture_counts"}
    assert {name for name, outcome in outcomes.items() if outcome == "not applicable"} == unseen
    assert {name for name, outcome in outcomes.items() if outcome == "pass"} == outcomes.keys() - unseen
    assert found.verdict.startswith("OK, as far as answers and records show")


def test_an_engine_says_what_its_answers_depend_on(lm: VLLMMoE) -> None:
    identity = lm.identity()
    decided_by_the_run = {"prompts.seeds"}
    assert set(ANSWER.needed()) - identity.parts.keys() <= decided_by_the_run | {"versions.peft"}
    assert identity.parts["model.backend"] == "vllm-moe"
    assert identity.parts["model.weights"].keys() == {"files"}
    engine = identity.parts["computation.engine"]
    assert (engine["compilation"], engine["max_num_seqs"], engine["prefix_caching"]) == ("NONE", 16, True)
    assert identity.parts["model.experts"]
    assert identity.parts["prompts.max_gen_toks"] == lm.max_gen_toks
    assert Identity.from_dict(json.loads(json.dumps(identity.to_dict()))) == identity


def test_weights_without_files_are_hashed_where_they_lie(lm: VLLMMoE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm.weights, "_hash", None)
    [share] = lm.identity().parts["model.weights"].values()
    assert lm.identity().parts["model.weights"] == {"shares": share}
    assert len(share) == 32


def test_it_agrees_with_hf_moe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model("qwen3_moe", tmp_path / "model")
    given = ",".join(f"{name}={value}" for name, value in {"pretrained": model, **ENGINE}.items())
    assert main(["doctor", "--model", "vllm-moe", "--model_args", given, "--against", "hf-moe", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dtypes"] == ["float32", "float32"]
    for plan in found["plans"]:
        assert plan["differing"] <= 2, plan
        assert plan["even"][0] < 1e-3, plan


def test_only_the_backend_differs_from_the_identity_of_hf_moe(lm: VLLMMoE) -> None:
    code = (
        "import json; from lm_eval_moe import HFMoE; "
        "lm = HFMoE(pretrained='demo', dtype='float32', device='cpu', max_length=256); lm.trust_files(); "
        "print(json.dumps(lm.identity().to_dict()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    theirs = Identity.from_dict(json.loads(done.stdout.splitlines()[-1]))
    assert theirs.differences(lm.identity(), REFERENCE.needed()) == []
    assert theirs.unknown(lm.identity(), REFERENCE.needed()) == []
    assert "hf-moe and vllm-moe are mixed" in theirs.mixed(lm.identity())
