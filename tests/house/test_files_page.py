"""The page on files says what is in them, and its examples work."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file
from support.paths import ROOT

from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.pairing.entries import load_entries
from lm_eval_moe.pairing.registry import PairingRegistry
from lm_eval_moe.shape import RoutingShape

PAGE = (ROOT / "docs/files.md").read_text(encoding="utf-8")
CHOICES = ["one", "two"]


def table(heading: str, header: str) -> list[str]:
    """The names in the first column of a table with this header, below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = section.split(f"\n| {header} |")[1].split("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's dataset of two languages, evaluated by its two tasks with a profile."""
    folder = tmp_path_factory.mktemp("quiz")
    rows = [
        {"id": number, "lang": lang, "question": f"{word} {number}", "choices": CHOICES, "answer": number % 2}
        for lang, word in (("en", "Anna has apples"), ("sw", "Anna ana tofaa"))
        for number in range(5)
    ]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (split,) = (block for block in blocks("python") if "def sw" in block)
    (folder / "split.py").write_text(split, encoding="utf-8")
    (task,) = (block for block in blocks("yaml") if "process_docs" in block)
    task = task.replace("test: quiz.jsonl", f"test: {folder / 'quiz.jsonl'}")
    for language in ("en", "sw"):
        own = task.replace("quiz_sw", f"quiz_{language}").replace("split.sw", f"split.{language}")
        own = own.replace("language: sw", f"language: {language}")
        (folder / f"quiz_{language}.yaml").write_text(own, encoding="utf-8")
    given = ["--model_args", "pretrained=demo", "--tasks", "quiz_en,quiz_sw", "--include_path", str(folder)]
    given += ["--output_path", str(folder / "out"), "--routing_profile", str(folder / "profile.safetensors")]
    assert main(["run", *given, "--log_samples"]) == 0
    return folder


def test_one_dataset_of_two_languages_is_two_tasks_that_pair(run: Path) -> None:
    (file,) = (run / "out").rglob("results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))
    entries = results["routing"]["tasks"]
    assert {task: (entry["language"], entry["evaluated_documents"]) for task, entry in entries.items()} == {
        "quiz_en": ("en", 5),
        "quiz_sw": ("sw", 5),
    }
    assert entries["quiz_sw"]["field_documents"]["routing_divergence"] == 5
    (log,) = file.parent.glob("samples_quiz_sw_*.jsonl")
    assert {json.loads(line)["doc"]["lang"] for line in log.read_text(encoding="utf-8").splitlines()} == {"sw"}


def test_profiles_hold_what_the_page_says(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = run / "profile.safetensors"
    arrays = load_file(path)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    header, items = json.loads(metadata["header"]), json.loads(metadata["items"])
    assert set(metadata) == {"format", "schema_version", "header", "items"}
    assert metadata["format"] == "lm-eval-moe profile"
    assert set(table("A profile", "array")) == {*arrays, "consecutive_overlap"}
    types = {name: (str(array.dtype), array.ndim) for name, array in arrays.items()}
    assert types == {
        "counts": ("int32", 3),
        "gate_mass": ("float32", 3),
        "importance": ("float32", 3),
        "tokens": ("int64", 1),
    }
    assert {*header, "provenance"} == set(table("A profile", "key of `header`"))
    assert set(header["shape"]) == set(table("Layers and bands", "key"))
    assert set().union(*items) == set(table("A profile", "key of an item"))
    assert len(items) == len(arrays["tokens"]) == 10
    np.testing.assert_allclose(arrays["importance"].sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(
        arrays["counts"].sum(-1), header["shape"]["top_k"] * arrays["tokens"][:, None] + np.zeros(8)
    )

    (example,) = (block for block in blocks("python") if "safe_open" in block)
    monkeypatch.chdir(run)
    exec(example, {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    swahili = arrays["counts"][[item["language"] == "sw" for item in items]].sum(0).argmax(-1)
    assert printed == [[str(layer), str(expert)] for layer, expert in enumerate(swahili)]


@pytest.mark.parametrize("depth", range(1, 100))
def test_bands_are_rounded_up(depth: int) -> None:
    shape = RoutingShape(tuple(range(depth)), 4, 2, depth)
    ends = (0, math.ceil(depth / 6), math.ceil(3 * depth / 4), depth)
    expected = [tuple(range(start, end)) for start, end in itertools.pairwise(ends)]
    assert [shape.band(name) for name in ("early", "middle", "late")] == expected
    if depth in (27, 48):
        said = ", ".join(f"{band[0]}-{band[-1]}" for band in expected)
        assert f"{depth} layers: {said}" in " ".join(PAGE.split())


def test_the_keys_of_parallel_files_are_those_of_the_page(tmp_path: Path) -> None:
    (example,) = (block for block in blocks("yaml") if "entries:" in block)
    path = tmp_path / "mine.yaml"
    path.write_text(example, encoding="utf-8")
    registry = PairingRegistry(load_entries(path))
    pairing = registry.pairing("quiz_jp_cot")
    assert pairing is not None
    assert (pairing.language, pairing.benchmark, pairing.item) == ("ja", "quiz[mode=cot]", ("chapter", "number"))
    content = yaml.safe_load(example)
    content["entries"][0]["nonsense"] = 1
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match="unknown key 'nonsense'") as refused:
        load_entries(path)
    allowed = str(refused.value).rsplit("allowed here are ", 1)[1].split(", ")
    assert set(table("Which task is which language", "key")) >= set(allowed)
    for key in ("language", "benchmark", "item", "note"):
        assert key in allowed


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ("{language: lang, benchmark: quiz, item: id}", "metadata.routing.language: 'lang' is not a language code"),
        (
            "{language_column: lang, benchmark: quiz, item: id}",
            "metadata.routing.language_column: a task is in one lan",
        ),
        ("{language: en, benchmark: quiz}", "metadata.routing: 'item' is missing"),
    ],
)
@pytest.mark.parametrize("name", ["quiz_xx", "quiz_group", "quiz_tag", "quiz_*"])
def test_a_pairing_that_cannot_be_is_refused_before_weights_and_data_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], routing: str, message: str, name: str
) -> None:
    (task,) = (block for block in blocks("yaml") if "process_docs" in block)
    task = task.replace("task: quiz_sw", "task: quiz_xx\ntag: quiz_tag").replace(
        "process_docs: !function split.sw\n", ""
    )
    task = re.sub(r"routing: \{.*?\}", f"routing: {routing}", task).replace("quiz.jsonl", "no_such_file.jsonl")
    (tmp_path / "quiz.yaml").write_text(task, encoding="utf-8")
    (tmp_path / "group.yaml").write_text("group: quiz_group\ntask: [quiz_xx]\n", encoding="utf-8")
    given = ["--model_args", "pretrained=no/such/model", "--tasks", name, "--include_path", str(tmp_path)]
    assert main(["run", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    if "missing" not in message:
        assert "write one task per language" in error
