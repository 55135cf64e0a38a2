"""Profiles of texts: the counts are those of plain passes, whatever the batch, and an interruption changes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import oracle
from support.hf_cases import build
from support.profile_records import read_records
from support.profiled_texts import profiled, source

from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.profiles import read_profile
from lm_eval_moe.profiles.unfinished import read_unfinished, unfinished_path
from lm_eval_moe.profiling.capture import CaptureOptions, ProfileJob
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.steering import load_spec, resolve

pytestmark = pytest.mark.long


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_items_are_those_of_plain_passes_in_every_script_and_batch_size(
    family: str, tokenizer: Any, real_texts: dict[str, list[str]], tmp_path: Path
) -> None:
    for batch_size in (1, 3, 8):
        lm = build(family, tokenizer, batch_size=batch_size, max_length=500)
        for language, long in real_texts.items():
            texts = [text[:110] for text in long]  # of one window each: some scripts take four tokens a character
            path = tmp_path / f"{batch_size}" / f"{language}.safetensors"
            header, items, records = read_records(profiled(lm, source(tmp_path, language, texts), path))
            assert header.span == "prompt"
            assert [item.item for item in items] == [f"n{number}" for number in range(len(texts))]
            assert {(item.benchmark, item.language) for item in items} == {("news", language)}
            for text, record in zip(texts, records, strict=True):
                tokens = lm.tok_encode(text)
                expected = oracle.run(family, lm.model, tokens)
                everything = slice(0, len(tokens))
                assert record.tokens == len(tokens)
                np.testing.assert_array_equal(record.counts, expected.counts(everything, 8))
                np.testing.assert_allclose(record.gate_mass, expected.gate_mass(everything, 8), atol=1e-4)
                np.testing.assert_allclose(record.importance, expected.importance(everything, 8), atol=1e-5)


def test_a_long_text_is_cut_into_windows_that_count_every_token_once(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, max_length=32)
    text = "Rain fell all night on the quiet town. " * 9
    _, _, (record,) = read_records(profiled(lm, source(tmp_path, "en", [text]), tmp_path / "en.safetensors"))
    tokens = lm.tok_encode(text)
    windows = [tokens[start : start + 32] for start in range(0, len(tokens), 32)]
    assert len(windows) > 3
    parts = [oracle.run("qwen3_moe", lm.model, window).counts(slice(None), 8) for window in windows]
    assert record.tokens == len(tokens)
    np.testing.assert_array_equal(record.counts, np.sum(parts, axis=0))


def test_aggregate_pools_all_items_in_one_row(tokenizer: Any, real_texts: dict[str, Any], tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, max_length=500)
    texts = source(tmp_path, "sw", real_texts["sw"])
    _, _, records = read_records(profiled(lm, texts, tmp_path / "items.safetensors"))
    _, (item,), (row,) = read_records(profiled(lm, texts, tmp_path / "pooled.safetensors", aggregate=True))
    expected = RoutingRecord.pooled(records)
    assert (item.item, item.language, item.benchmark) == ("", "sw", "news")
    assert row.tokens == expected.tokens
    np.testing.assert_array_equal(row.counts, expected.counts)
    np.testing.assert_allclose(row.gate_mass, expected.gate_mass, rtol=1e-5)
    np.testing.assert_allclose(row.importance, expected.importance, atol=1e-6)


@pytest.mark.parametrize("aggregate", [False, True])
def test_a_run_that_broke_off_goes_on_to_the_same_bytes(aggregate: bool, tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, batch_size=1)
    texts = source(tmp_path, "en", [f"The cat sat on mat number {number}." for number in range(30)])
    whole = profiled(lm, texts, tmp_path / "whole.safetensors", aggregate=aggregate)
    options = CaptureOptions(aggregate=aggregate, save_every=0)
    path = tmp_path / "broken.safetensors"

    def stop(count: int) -> None:
        if job.done > 16:
            raise KeyboardInterrupt

    job = ProfileJob(lm, texts, path, options, lm.identity())
    with pytest.raises(KeyboardInterrupt):
        job.run(stop)
    assert not path.exists()
    job = ProfileJob(lm, texts, path, options, lm.identity())
    assert job.done == 16
    job.run()
    assert path.read_bytes() == whole.read_bytes()
    assert not unfinished_path(path).exists()
    assert ProfileJob(lm, texts, path, options, lm.identity()).finished


def test_a_begun_profile_of_other_settings_is_refused_and_restarted(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, batch_size=1)
    texts = source(tmp_path, "en", ["The cat sat on the mat."] * 20)
    path = tmp_path / "en.safetensors"

    def stop(count: int) -> None:
        if job.done > 8:
            raise KeyboardInterrupt

    job = ProfileJob(lm, texts, path, CaptureOptions(save_every=0), lm.identity())
    with pytest.raises(KeyboardInterrupt):
        job.run(stop)
    lm.set_capture("all")
    with pytest.raises(UserError, match=r"different settings: span was prompt, is all"):
        ProfileJob(lm, texts, path, CaptureOptions(), lm.identity())
    with pytest.raises(UserError, match=r"source.sha256 was"):
        ProfileJob(lm, source(tmp_path, "en", ["Other text."]), path, CaptureOptions(), lm.identity())
    job = ProfileJob(lm, texts, path, CaptureOptions(restart=True), lm.identity())
    assert job.done == 0
    job.run()
    profile = read_profile(path)
    assert profile.header.span == "all"


def test_a_damaged_side_file_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer)
    path = tmp_path / "en.safetensors"
    unfinished_path(path).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"--restart"):
        ProfileJob(lm, source(tmp_path, "en", ["A text."]), path, CaptureOptions(), lm.identity())


def test_a_killed_process_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "news_en.txt"
    file.write_text("\n".join(f"Sentence {n} of the long text." for n in range(500)), encoding="utf-8")
    common = ["profile", "--model_args", "pretrained=demo", "--texts", f"en={file}", "--batch_size", "2"]
    command = [*common, "--save_every", "0", "--output"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-m", "lm_eval_moe", *command, str(killed)], stderr=subprocess.DEVNULL)
    side = unfinished_path(killed / "en.safetensors")
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if side.exists() and read_unfinished(side).done:
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "en.safetensors").exists()
    assert 0 < read_unfinished(side).done < 500
    assert main([*command, str(killed)]) == 0
    assert main([*common, "--output", str(whole)]) == 0
    assert (killed / "en.safetensors").read_bytes() == (whole / "en.safetensors").read_bytes()
    assert not side.exists()


def test_selection_rules_read_the_profiles(
    real_texts: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = tmp_path / "sums_en.txt"
    sums.write_text("\n".join(f"{n} + {n + 2} = {2 * n + 2}" for n in range(20)), encoding="utf-8")
    articles = tmp_path / "articles_en.txt"
    articles.write_text("\n".join(real_texts["en"]), encoding="utf-8")
    for name, text in (("sums", sums), ("news", articles)):
        arguments = ["--output", str(tmp_path / name), "--texts", f"eng_Latn={text}"]
        assert main(["profile", "--model_args", "pretrained=demo", *arguments]) == 0
    spec = tmp_path / "steer.yaml"
    spec.write_text(
        "version: 1\nname: sums\ninterventions:\n  - layers: all\n    experts:\n"
        "      task: {profile: sums/en.safetensors, baseline: news/en.safetensors, threshold: 0.1}\n"
        "    action: {soft: 0.5}\n",
        encoding="utf-8",
    )
    one = read_profile(tmp_path / "sums" / "en.safetensors")
    b = read_profile(tmp_path / "news/en.safetensors")
    frequency = [
        np.mean([c / t for c, t in zip(p.rows("counts", range(len(p.items))), p.tokens, strict=True)], axis=0)
        for p in (one, b)
    ]
    shape = one.header.shape
    assert one.items[4].item == "line:5"
    chosen = {(shape.layers[row], expert) for row, expert in np.argwhere(frequency[0] - frequency[1] > 0.1).tolist()}
    plan = resolve(load_spec(spec), shape)
    (intervention,) = plan.interventions
    assert chosen
    assert {(layer, e) for layer, t in intervention.targets.items() for e in t.experts} == chosen
    capsys.readouterr()
    steered = ["--output", str(tmp_path / "steered"), "--texts", f"en={sums}", "--steering", str(spec)]
    assert main(["profile", "--model_args", "pretrained=demo", *steered]) == 0
    profile = read_profile(tmp_path / "steered" / "en.safetensors")
    assert profile.header.steering == plan.hash
    assert profile.header.provenance is not None
    assert profile.header.provenance["steering"] == {"name": "sums", "hash": plan.hash}
