"""Rows from a folder of JSON lines or from the hub, and what is said when they are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from support.answering_models import write_rows

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.local_data import BENCH_DIR_VARIABLE, has_local_file, local_folder, rows_of

ROWS = [{"id": "a", "question": "Moja?"}, {"id": "b", "question": "Mbili?"}]


@pytest.fixture(autouse=True)
def _no_folder_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(BENCH_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    write_rows(tmp_path / "bench" / "sums", "sw", ROWS)
    write_rows(tmp_path / "bench" / "sums", "sw.test", ROWS[:1])
    return tmp_path / "bench"


def load(
    split: str = "test",
    columns: tuple[str, ...] = ("id", "question"),
    *,
    bench_dir: Path | None = None,
    **changes: str,
) -> datasets.Dataset:
    moe = {"benchmark": "sums", "file": "sw", "dataset": "nobody/no-such-dataset", "config": "sw"}
    return rows_of(moe | changes, split, columns, bench_dir=bench_dir)


def test_rows_come_from_the_folder_of_the_environment(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(bench))
    assert load().to_list() == ROWS


def test_the_runs_own_folder_wins_over_the_environment(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "other" / "sums", "sw", ROWS[1:])
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(bench))
    assert load(bench_dir=tmp_path / "other").to_list() == ROWS[1:]


def test_the_split_may_be_part_of_the_files_name(bench: Path) -> None:
    assert load(file="sw.{split}", bench_dir=bench).to_list() == ROWS[:1]


def test_an_empty_variable_is_as_if_it_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BENCH_DIR_VARIABLE, "")
    assert local_folder() is None


def test_an_optional_split_is_looked_for_in_the_folder_only(bench: Path) -> None:
    assert has_local_file("sums", "sw", "test", bench)
    assert not has_local_file("sums", "sw.train", "train", bench)
    assert has_local_file("sums", "sw.train", "train")  # the hub is asked when the rows are


MISTAKES = {
    "a file that is not there": ({"file": "yo"}, r"bench_dir: .*yo\.jsonl does not exist\n.*has sw\.jsonl, sw\.test"),
    "a benchmark that is not there": ({"benchmark": "products"}, r"products/sw\.jsonl does not exist\n.*folders sums"),
    "a column that is not there": (
        {"columns": ("id", "questoin")},
        r"sw\.jsonl: the column 'questoin' is missing \(did you mean 'question'\?\)\n"
        r".*needs id, questoin; the columns are",
    ),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_missing_is_named_with_what_there_is(bench: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(bench_dir=bench, **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": "a", "question": "x"}\n{"id": \n', r"sw\.jsonl, line 2: is not JSON"),
        (b"[1, 2]\n", r"sw\.jsonl, line 1: expected an object, got \[1, 2\]"),
        (b"\n\n", r"sw\.jsonl: holds no rows"),
        (b'{"id": "\xff"}\n', r"sw\.jsonl: is not UTF-8"),
    ],
)
def test_a_broken_file_is_refused_with_the_line(bench: Path, content: bytes, message: str) -> None:
    (bench / "sums" / "sw.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(bench_dir=bench)


def test_a_missing_folder_is_named_with_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--metadata bench_dir: .*nowhere is not a folder"):
        load(bench_dir=tmp_path / "nowhere")
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"MOE_BENCH_DIR: .*nowhere is not a folder"):
        load()


def hub_dataset(folder: Path) -> str:
    """Write a dataset as the hub has it: a configuration a language, said in the card's head."""
    folder.mkdir()
    (folder / "sw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    card = "---\nconfigs:\n- config_name: sw\n  data_files:\n  - {split: test, path: sw.jsonl}\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    return str(folder)


def test_without_a_folder_rows_come_through_the_datasets_library(tmp_path: Path) -> None:
    dataset = hub_dataset(tmp_path / "hub")
    assert load(dataset=dataset).to_list() == ROWS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "yo"}, r"hub: the split 'test' of 'yo' cannot be loaded: BuilderConfig 'yo' not found"),
        ({"split": "train"}, r"hub: the split 'train' of 'sw' cannot be loaded: Unknown split"),
        ({"columns": ("answer",)}, r"hub \(sw\), split test: the column 'answer' is missing"),
    ],
)
def test_what_the_hub_does_not_have_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(dataset=hub_dataset(tmp_path / "hub"), **changes)


def test_a_hub_that_cannot_be_reached_is_one_message() -> None:
    with pytest.raises(UserError, match=r"no-such-dataset: the split 'test' .* cannot be loaded(?s:.*)MOE_BENCH_DIR"):
        load()
