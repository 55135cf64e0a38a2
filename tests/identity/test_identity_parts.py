"""Every part of an identity is seen to change when that part alone is changed, and no answer is taken for another's."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.identity.changes import CHANGES, ELSEWHERE, TOGETHER
from support.identity.one_evaluation import Evaluation, edit, write_evaluation
from support.small_models import make_model

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.weights import LoadedWeights
from lm_eval_moe.identity import ANSWER, PARTS, Identity
from lm_eval_moe.identity.sources import source_files

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Evaluation:
    return write_evaluation(tmp_path_factory.mktemp("base"), tokenizer)


def identity_of(results: dict[str, Any]) -> Identity:
    return Identity.from_dict(json.loads(json.dumps(results["routing"]["identity"])))


def changed_parts(before: Identity, after: Identity) -> set[str]:
    names = {name for name in PARTS if before.only([name]) != after.only([name])}
    assert bool(names) == bool(before.differences(after, PARTS) or before.unknown(after, PARTS))
    return names


def answers_read(caplog: pytest.LogCaptureFixture) -> tuple[int, int]:
    """Return how many answers the last evaluation read from its cache, and how many it computed."""
    lines = [record.getMessage() for record in caplog.records if "answers read" in record.getMessage()]
    read, computed = re.findall(r"(\d+) answers read, (\d+) computed", lines[-1])[0]
    return int(read), int(computed)


def test_every_part_has_a_change_or_a_reason() -> None:
    assert CHANGES.keys() | ELSEWHERE.keys() == PARTS.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()


def test_the_same_evaluation_has_the_same_identity_and_reads_every_answer(
    base: Evaluation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lm_eval_moe")
    before = base.run(tmp_path / "cache")
    copy = base.with_model(tmp_path / "a").with_tasks(tmp_path / "b")
    after = copy.run(tmp_path / "cache")
    assert identity_of(before) == identity_of(after)
    assert answers_read(caplog)[1] == 0
    assert after["results"] == before["results"]


@pytest.mark.parametrize("part", CHANGES)
def test_a_changed_part_is_seen_and_its_answers_are_computed_anew(
    part: str, base: Evaluation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lm_eval_moe")
    before, after = CHANGES[part](base, tmp_path)
    first = identity_of(before.run(tmp_path / "cache"))
    second = identity_of(after.run(tmp_path / "cache"))
    changed = changed_parts(first, second)
    assert part in changed
    assert changed - {part} <= TOGETHER.get(part, set())
    if part in ANSWER.needed():
        read, computed = answers_read(caplog)
        # Seeds count where answers are drawn at random: the two documents of the one task, not the choices.
        assert (read, computed) == ((4, 2) if part == "prompts.seeds" else (0, 6))


@pytest.mark.parametrize("asked", ["do_sample: true\n", ""], ids=["do_sample", "a temperature alone"])
def test_three_seeds_give_three_answers(asked: str, base: Evaluation, tmp_path: Path) -> None:
    base = base.with_tasks(tmp_path)
    edit(base.tasks / "own_text.yaml", "  do_sample: true\n", f"  {asked}" if asked else "")
    texts = []
    for seed in (1, 2, 3):
        results = base.run(tmp_path / "cache", torch_random_seed=seed, log_samples=True, limit=4)
        texts.append([sample["resps"] for sample in results["samples"]["own_text"]])
    assert len({str(text) for text in texts}) == 3


def changed_file(folder: Path, name: str) -> bool:
    """Whether a changed file of a model's folder is seen, given the arguments that make it count."""
    hashes = []
    for content in (b"one", b"two"):
        (folder / name).write_bytes(content)
        weights = LoadedWeights(str(folder), {})
        weights.use_files()
        hashes.append(weights.hash(dict))
    return hashes[0] != hashes[1]


@pytest.mark.parametrize(
    "name",
    [
        *("model.fp16.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "model-Q4.gguf"),
        *("adapter_model.safetensors", "adapter_config.json"),
    ],
)
def test_every_file_that_weights_can_come_from_counts(name: str, base: Evaluation, tmp_path: Path) -> None:
    """A variant, another format, or an adapter beside the model, which transformers loads unasked."""
    assert changed_file(base.with_model(tmp_path).model, name)
    assert not changed_file(base.with_model(tmp_path / "other").model, "README.md")


def test_a_router_that_was_set_otherwise_in_memory_is_another(tokenizer: Any) -> None:
    lm = HFMoE(pretrained=make_model("qwen3_moe"), tokenizer=tokenizer)
    before = lm.identity()
    lm.model.model.layers[1].mlp.gate.top_k = 1
    assert changed_parts(before, lm.identity()) == {"model.routers"}


def test_code_is_what_was_loaded_and_not_what_its_file_has_become(
    base: Evaluation, tmp_path: Path, tokenizer: Any
) -> None:
    before, _ = CHANGES["model.adapter"](base, tmp_path)
    path = Path(before.model_args["adapter"])
    lm, model = HFMoE(pretrained=make_model("qwen3_moe"), tokenizer=tokenizer, adapter=path), make_model("qwen3_moe")
    loaded = lm.identity()
    path.write_text(f"{path.read_text(encoding='utf-8')}    factor = 3\n", encoding="utf-8")
    assert lm.identity() == loaded
    assert changed_parts(loaded, HFMoE(pretrained=model, tokenizer=tokenizer, adapter=path).identity()) == {
        "model.adapter"
    }


@pytest.mark.parametrize(
    ("code", "helper"),
    [
        ("from bank import TEMPLATE\n", "bank.py"),
        ("def f():\n    import bank\n", "bank.py"),
        ("from .bank import TEMPLATE\n", "bank.py"),
        ("from . import bank\n", "bank.py"),
        ("import tools.bank as b\n", "tools/bank.py"),
        ("from tools import bank\n", "tools/bank.py"),
        ("import tools.bank\n", "tools/__init__.py"),
        ("import between\n", "bank.py"),
    ],
)
def test_code_is_known_with_all_that_it_imports(code: str, helper: str, tmp_path: Path) -> None:
    """Constants, imports within functions, relative ones, packages, and what the imported imports."""
    (tmp_path / "tools").mkdir()
    for name in ("bank.py", "tools/bank.py", "tools/__init__.py", "unrelated.py"):
        (tmp_path / name).write_text("TEMPLATE = 1\n", encoding="utf-8")
    (tmp_path / "between.py").write_text("import json, torch\nfrom bank import TEMPLATE\n", encoding="utf-8")
    (tmp_path / "utils.py").write_text(code, encoding="utf-8")
    files = source_files(tmp_path / "utils.py")
    assert tmp_path / helper in files
    assert tmp_path / "unrelated.py" not in files
    assert all(file.is_relative_to(tmp_path) for file in files)


def test_imports_are_found_without_running_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "elsewhere" / "not_to_be_run"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it was run')\n", encoding="utf-8")
    (package / "bank.py").write_text("TEMPLATE = 1\n", encoding="utf-8")
    (tmp_path / "utils.py").write_text("from not_to_be_run.bank import TEMPLATE\n", encoding="utf-8")
    monkeypatch.syspath_prepend(package.parent)
    files = source_files(tmp_path / "utils.py")
    assert set(files) == {tmp_path / "utils.py", package / "__init__.py", package / "bank.py"}


def test_parameters_that_were_changed_in_memory_are_told_apart(tokenizer: Any) -> None:
    """One element of one row, written past autograd's version counters."""
    lm = HFMoE(pretrained=make_model("qwen3_moe"), tokenizer=tokenizer)
    before = lm.identity()
    lm.model.model.embed_tokens.weight.data[300, 5] += 1e-3
    assert changed_parts(before, lm.identity()) == {"model.weights"}


def test_files_that_were_changed_while_the_model_was_loaded_do_not_stand_for_it(
    base: Evaluation, tmp_path: Path
) -> None:
    own = base.with_model(tmp_path)
    lm = HFMoE(pretrained=str(own.model))
    path = own.model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    lm.weights.use_files()
    assert set(lm.identity().parts["model.weights"]) == {"parameters"}


def test_a_loaded_models_parameters_are_not_taken_for_its_files(base: Evaluation) -> None:
    """Whoever holds the model may change it: its weights are told by its parameters, unless it is handed to nobody."""
    lm = HFMoE(pretrained=str(base.model))
    assert set(lm.identity().parts["model.weights"]) == {"parameters"}
    lm.weights.use_files()
    assert set(lm.identity().parts["model.weights"]) == {"files"}


def test_quantisation_is_a_part(tokenizer: Any) -> None:
    from transformers import BitsAndBytesConfig

    model = make_model("qwen3_moe")
    before = HFMoE(pretrained=model, tokenizer=tokenizer).identity()
    model.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    eight = HFMoE(pretrained=model, tokenizer=tokenizer).identity()
    model.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    four = HFMoE(pretrained=model, tokenizer=tokenizer).identity()
    assert changed_parts(before, eight) == changed_parts(eight, four) == {"model.quantization"}


HUB = """
import json, sys
from lm_eval_moe import HFMoE
parts = []
for revision in sys.argv[1:]:
    lm = HFMoE(pretrained="org/tiny", revision=revision, device="cpu")
    lm.weights.use_files()
    parts.append(lm.identity().to_dict())
print(json.dumps(parts))
"""


def test_a_model_of_the_hub_is_told_by_its_snapshot(base: Evaluation, tmp_path: Path) -> None:
    """Two commits of one repository in the hub's cache, the second with one changed weight."""
    from support.identity.changes import one_weight

    repository = tmp_path / "hub" / "models--org--tiny"
    commits = {"a" * 40: base.model, "b" * 40: base.model, "c" * 40: one_weight(base, tmp_path)[1].model}
    for commit, folder in commits.items():
        shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    output = subprocess.run(
        [sys.executable, "-c", HUB, "main", "b" * 40, "c" * 40],
        **{"env": environment, "cwd": tmp_path, "capture_output": True, "text": True, "check": True},
    ).stdout
    main, same, other = (Identity.from_dict(written) for written in json.loads(output.splitlines()[-1]))
    assert main.parts["model.revision"] == "a" * 40
    assert changed_parts(main, same) == {"model.revision"}
    assert changed_parts(same, other) == {"model.revision", "model.weights"}
    assert main.parts["model.weights"].keys() == {"files"}


def test_threads_of_an_accelerator_do_not_matter(base: Evaluation) -> None:
    """They are a part of what a processor computes alone."""
    lm = HFMoE(pretrained=str(base.model), device="cpu")
    assert lm.identity().parts["computation.threads"] == torch.get_num_threads()
