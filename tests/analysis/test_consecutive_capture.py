"""The overlap of consecutive tokens in profiles: that of a plain loop over tokens, whatever the batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import oracle
from support.hf_cases import build
from support.profile_records import read_records

from lm_eval_moe import HFMoE
from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.profiles import read_profile
from lm_eval_moe.profiles.merge import merge_profiles
from lm_eval_moe.profiling.capture import CaptureOptions, ProfileJob
from lm_eval_moe.profiling.documents import Document
from lm_eval_moe.profiling.fields import Fields
from lm_eval_moe.profiling.text_files import TextFile
from lm_eval_moe.recording import ARRAYS as ARRAYS_OF_RECORDS
from lm_eval_moe.recording import Forest, Recorder

ARRAYS = ("consecutive_overlap",)


def source(folder: Path, texts: list[str]) -> TextFile:
    file = folder / "news_en.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return TextFile(file, "en", "news", Fields(), limit=None)


def profiled(lm: HFMoE, texts: Any, path: Path, **options: Any) -> Path:
    ProfileJob(lm, texts, path, CaptureOptions(**{"arrays": ARRAYS, **options}), lm.identity()).run()
    return path


def overlaps(path: Path) -> Any:
    return read_profile(path).array("consecutive_overlap").astype(np.float64)


def pairs_of(family: str, lm: HFMoE, tokens: list[int]) -> list[list[float]]:
    """The overlap of every pair of neighbouring tokens, by layer, from a pass over this sequence alone."""
    found = []
    for layer in oracle.run(family, lm.model, tokens).indices:
        sets = [set(token) for token in layer.tolist()]
        found.append([len(a & b) / len(a | b) for a, b in pairwise(sets)])
    return found


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_items_have_the_overlap_of_a_loop_over_their_tokens(
    family: str, tokenizer: Any, real_texts: dict[str, list[str]], tmp_path: Path
) -> None:
    texts = [text[: 20 + 9 * at] for at, text in enumerate(text for each in real_texts.values() for text in each[:2])]
    for batch_size in (1, 5):  # padded beside longer ones, or not
        lm = build(family, tokenizer, batch_size=batch_size, max_length=500)
        found = overlaps(profiled(lm, source(tmp_path, texts), tmp_path / f"{batch_size}.safetensors"))
        expected = [np.mean(pairs_of(family, lm, lm.tok_encode(text)), axis=1) for text in texts]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_windows_of_a_long_text_are_sequences_of_their_own(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, batch_size=3, max_length=16)
    texts = ["The cat sat on the mat. How many apples are left? " * 3, "The cat sat."]
    per_text = []
    for text in texts:
        tokens = lm.tok_encode(text)
        windows = [tokens[start : start + 16] for start in range(0, len(tokens), 16)]
        each = [pairs_of("qwen3_moe", lm, window) for window in windows]
        per_text.append([[pair for window in each for pair in window[layer]] for layer in range(len(each[0]))])
    assert len(per_text[0][0]) > 32  # three windows at least, of different lengths

    found = overlaps(profiled(lm, source(tmp_path, texts), tmp_path / "items.safetensors"))
    np.testing.assert_allclose(found, [np.mean(each, axis=1) for each in per_text], atol=1e-6)

    pooled = overlaps(profiled(lm, source(tmp_path, texts), tmp_path / "pooled.safetensors", aggregate=True))
    every = [first + second for first, second in zip(*per_text, strict=True)]
    np.testing.assert_allclose(pooled, [np.mean(every, axis=1)], atol=1e-6)


class Texts:
    """Documents that are prompts with an answer, as a task has them."""

    language, benchmarks, tasks = "en", ("b",), ("t",)
    parts: Mapping[str, Any] = {}

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def documents(self) -> Any:
        for number, (text, continuation) in enumerate(self.pairs):
            yield Document(str(number), "b", "t", text, continuation)

    def describe(self) -> dict[str, Any]:
        return {"kind": "test"}


def test_prompt_and_answer_are_joined_token_to_token(tokenizer: Any, tmp_path: Path) -> None:
    pairs = [("The cat sat", " on the mat."), ("How many apples", " are left on the mat?")]
    found, expected = {}, {}
    for span in ("prompt", "continuation", "all"):
        lm = build("qwen3_moe", tokenizer, capture=span, batch_size=2)
        found[span] = overlaps(profiled(lm, Texts(pairs), tmp_path / f"{span}.safetensors"))
        expected[span] = []
        for text, continuation in pairs:
            context, answer = lm._encode_pair(text, continuation)
            whole = pairs_of("qwen3_moe", lm, (context + answer)[:-1])
            cut = len(context)
            part = {"prompt": slice(0, cut - 1), "continuation": slice(cut, None), "all": slice(None)}[span]
            expected[span].append([np.mean(layer[part]) for layer in whole])
        np.testing.assert_allclose(found[span], expected[span], atol=1e-6)
    assert not np.allclose(found["all"], found["prompt"])


def test_a_text_of_one_token_has_none(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer)
    (token,) = lm.tok_encode("x")[:1]
    texts = source(tmp_path, [tokenizer.decode([token]), "The cat sat on the mat."])
    found = overlaps(profiled(lm, texts, tmp_path / "items.safetensors"))
    assert np.isnan(found[0]).all()
    assert not np.isnan(found[1]).any()
    pooled = overlaps(profiled(lm, texts, tmp_path / "pooled.safetensors", aggregate=True))
    np.testing.assert_allclose(pooled[0], found[1], atol=1e-6)


@pytest.mark.parametrize("aggregate", [False, True])
def test_nothing_else_of_a_profile_changes_with_it(aggregate: bool, tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer)
    texts = source(tmp_path, [f"The cat sat on mat number {number}." for number in range(9)])
    paths = [
        profiled(lm, texts, tmp_path / f"{len(arrays)}.safetensors", aggregate=aggregate, arrays=arrays)
        for arrays in ((), ARRAYS)
    ]
    without = read_profile(paths[0])
    with_it = read_profile(paths[1])
    assert with_it.arrays - without.arrays == {"consecutive_overlap"}
    for name in ("counts", "gate_mass", "importance"):
        rows = range(len(without.items))
        for mine, theirs in zip(without.rows(name, rows), with_it.rows(name, rows), strict=True):
            assert mine.tobytes() == theirs.tobytes()
    assert "arrays" not in (without.header.provenance or {})
    _, _, records = read_records(paths[1])
    np.testing.assert_array_equal(np.stack([record.overlap for record in records]), overlaps(paths[1]))


@pytest.mark.parametrize("aggregate", [False, True])
def test_a_run_that_broke_off_goes_on_with_it(aggregate: bool, tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, batch_size=1)
    texts = source(tmp_path, [f"The cat sat on mat number {number}." for number in range(20)])
    whole = profiled(lm, texts, tmp_path / "whole.safetensors", aggregate=aggregate)
    path, options = tmp_path / "broken.safetensors", CaptureOptions(aggregate=aggregate, save_every=0, arrays=ARRAYS)

    def stop(count: int) -> None:
        if job.done > 8:
            raise KeyboardInterrupt

    job = ProfileJob(lm, texts, path, options, lm.identity())
    with pytest.raises(KeyboardInterrupt):
        job.run(stop)
    with pytest.raises(UserError, match=r"different settings: arrays was \['consecutive_overlap'\], is None"):
        ProfileJob(lm, texts, path, CaptureOptions(aggregate=aggregate), lm.identity())
    job = ProfileJob(lm, texts, path, options, lm.identity())
    assert job.done == 8
    job.run()
    assert path.read_bytes() == whole.read_bytes()


def test_merged_profiles_keep_it_and_must_agree(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer)
    (tmp_path / "b").mkdir()
    texts = ["The cat sat on the mat.", "How many apples are left?"]
    first = profiled(lm, source(tmp_path, texts), tmp_path / "en.safetensors")
    other = source(tmp_path / "b", [text[5:] for text in texts])
    other.language = "sw"
    second = profiled(lm, other, tmp_path / "sw.safetensors")
    merge_profiles(tmp_path / "all.safetensors", [first, second])
    np.testing.assert_array_equal(
        overlaps(tmp_path / "all.safetensors"), np.concatenate([overlaps(first), overlaps(second)])
    )
    without = profiled(lm, other, tmp_path / "without.safetensors", arrays=())
    with pytest.raises(
        UserError, match=r"its additional arrays are none, those of .*en.safetensors are consecutive_ov"
    ):
        merge_profiles(tmp_path / "two.safetensors", [first, without])


def test_an_unknown_array_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "en.txt").write_text("The cat.")
    arguments = ["--texts", f"en={tmp_path / 'en.txt'}", "--output", str(tmp_path / "out"), "--arrays", "overlap"]
    assert main(["profile", "--model_args", "pretrained=demo", *arguments]) == 2
    assert "--arrays: there is no array 'overlap'" in capsys.readouterr().err


def test_a_recorder_that_does_not_compare_tokens_gives_the_same_but_for_that() -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for arrays in (ARRAYS_OF_RECORDS, set(ARRAYS_OF_RECORDS) - {"overlap"}):
        forest = Forest()
        rows = [forest.add(), forest.add()]
        recorder = Recorder(forest, 3, 8, arrays=arrays)
        generator.manual_seed(0)
        for _ in range(2):  # two passes over two rows of five tokens
            recorder.start_pass(forest.begin_pass(np.repeat([[row] for row in rows], 5, axis=1)))
            for position in range(3):
                logits = torch.randn(10, 8, generator=generator)
                weights, indices = logits.softmax(-1).topk(2)
                recorder.logits(position, logits)
                recorder.selection(position, indices, weights)
            recorder.end_pass()
        found.append([sums.take([0], [0], arrays) for sums in recorder.sums_of([[row] for row in rows])])
    for mine, theirs in zip(*found, strict=True):
        for name in ("counts", "gate_mass", "importance", "importance_dense"):
            assert getattr(mine, name).tobytes() == getattr(theirs, name).tobytes()
        assert not np.isnan(mine.overlap).any()
        assert theirs.overlap is None
