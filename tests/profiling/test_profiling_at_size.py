"""Profiles of many texts: rows lie on disk as they come, a kill loses none that were saved, and nothing accumulates."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from support.hf_cases import build

from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.profiles import ProfileItem
from lm_eval_moe.profiles.unfinished import unfinished_path
from lm_eval_moe.profiling.capture import CaptureOptions, ProfileJob, planned
from lm_eval_moe.profiling.documents import Document
from lm_eval_moe.profiling.fields import Fields
from lm_eval_moe.profiling.text_files import TextFile
from lm_eval_moe.recording import RequestKey, RoutingRecord

pytestmark = pytest.mark.long

KILLED_WHILE_IT_WRITES = """
import os, signal, sys
from lm_eval_moe.cli import main
from lm_eval_moe.files import GrowingFile

written, append = 0, GrowingFile.append

def half(self, parts):
    global written
    written += 1
    if written == 30:
        data = b"".join(parts)
        append(self, [data[: len(data) // 2]])
        self.save(to_disk=False)
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, parts)

GrowingFile.append = half
main(sys.argv[1:])
"""


def source(folder: Path, language: str, texts: list[str]) -> TextFile:
    file = folder / f"news_{language}.txt"
    file.write_text("\n".join(texts), encoding="utf-8")
    return TextFile(file, language, "news", Fields(), limit=None)


def sentences(count: int) -> list[str]:
    return [f"{'The cat sat on the mat. ' * (1 + number % 3)}It is number {number}." for number in range(count)]


def arrays_in(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def test_the_arrays_are_those_of_the_records_joined_in_memory(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, batch_size=1, max_length=48)
    texts = sentences(11)
    job = ProfileJob(
        lm,
        source(tmp_path, "en", texts),
        tmp_path / "en.safetensors",
        CaptureOptions(arrays=("consecutive_overlap",)),
        lm.identity(),
    )
    job.run()
    tokens = [lm.tok_encode(text) for text in texts]
    windows = [[own[start : start + 48] for start in range(0, len(own), 48)] for own in tokens]
    assert {len(own) for own in windows} >= {1, 2}
    with lm.capturing(CaptureRequest(languages={"t": "en"})) as captured:
        for number, own in enumerate(windows):
            lm.score_tokens([(RequestKey("t", number, 0), window, window[-1:]) for window in own])
    records = [captured.record(RequestKey("t", number, 0)) for number in range(11)]
    found = arrays_in(job.path)
    for name, field in (("counts",) * 2, ("gate_mass",) * 2, ("importance",) * 2, ("consecutive_overlap", "overlap")):
        expected = np.concatenate([getattr(record, field)[None] for record in records])
        np.testing.assert_array_equal(found.pop(name), expected)
        assert expected.dtype == (np.int64 if name == "counts" else np.float32)  # sums of several windows
    np.testing.assert_array_equal(found.pop("tokens"), [len(own) for own in tokens])
    assert not found


def test_a_process_killed_in_the_middle_of_a_row_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "news_en.txt"
    file.write_text("\n".join(sentences(40)), encoding="utf-8")
    command = ["profile", "--model_args", "pretrained=demo", "--texts", f"en={file}", "--batch_size", "2", "--output"]
    killed = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_IT_WRITES, *command, str(killed)], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in killed.iterdir()] == [".en.unfinished.profile"]
    assert main([*command, str(killed)]) == 0
    assert main([*command, str(tmp_path / "whole")]) == 0
    assert [path.name for path in killed.iterdir()] == ["en.safetensors"]
    assert (killed / "en.safetensors").read_bytes() == (tmp_path / "whole" / "en.safetensors").read_bytes()


def test_a_torn_last_record_is_dropped_and_computed_again(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, batch_size=1)
    texts = source(tmp_path, "en", sentences(14))
    whole, path = tmp_path / "whole.safetensors", tmp_path / "en.safetensors"
    ProfileJob(lm, texts, whole, CaptureOptions(), lm.identity()).run()
    side, ends = unfinished_path(path), {}

    def stop(count: int) -> None:
        ends[job.done - count] = side.stat().st_size
        if job.done > 12:
            raise KeyboardInterrupt

    job = ProfileJob(lm, texts, path, CaptureOptions(), lm.identity())
    with pytest.raises(KeyboardInterrupt):
        job.run(stop)
    begun = side.read_bytes()
    assert list(ends) == [0, 4, 8, 12]
    for length, done in ((ends[12], 12), (ends[12] - 1, 8), (ends[8] + 100, 8), (ends[4] - 7, 0), (ends[0], 0)):
        side.write_bytes(begun[:length])
        job = ProfileJob(lm, texts, path, CaptureOptions(), lm.identity())
        assert job.done == done
        job.run()
        assert path.read_bytes() == whole.read_bytes()
        assert not side.exists()
        path.unlink()
    side.write_bytes(begun[:20])
    with pytest.raises(UserError, match=r"(?s)its beginning is damaged.*--restart"):
        ProfileJob(lm, texts, path, CaptureOptions(), lm.identity())


@pytest.mark.parametrize("aggregate", [False, True])
def test_what_an_older_version_left_is_one_message_or_a_restart(
    aggregate: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    older = tmp_path / "out" / ".en.unfinished.safetensors"
    older.write_bytes(b"rows of an older version")
    source(tmp_path, "en", sentences(3))
    command = ["profile", "--model_args", "pretrained=demo", "--texts", f"en={tmp_path / 'news_en.txt'}"]
    command += ["--output", str(tmp_path / "out"), *(["--aggregate"] if aggregate else [])]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert f"{older}: was started by an older version" in message
    assert "--restart" in message
    assert "Traceback" not in message
    assert main([*command, "--restart"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["en.safetensors"]


def test_a_span_without_tokens_leaves_nothing_behind(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, capture="continuation")
    path = tmp_path / "out" / "en.safetensors"
    job = ProfileJob(lm, source(tmp_path, "en", sentences(3)), path, CaptureOptions(), lm.identity())
    with pytest.raises(UserError, match="none of the documents in 'en' has a token in the span 'continuation'"):
        job.run()
    assert not list(path.parent.iterdir())


def live(kind: type) -> int:
    return sum(type(thing) is kind for thing in gc.get_objects())


def test_many_languages_do_not_accumulate(tokenizer: Any, tmp_path: Path) -> None:
    lm = build("qwen3_moe", tokenizer, batch_size=2)
    languages, count = [f"l{number}" for number in range(8)], 40
    row = 3 * 4 * len(lm.routing_shape.layers) * lm.routing_shape.experts
    jobs = planned(
        lm, [source(tmp_path, language, sentences(count)) for language in languages], tmp_path, CaptureOptions()
    )
    gc.collect()  # what other tests left
    before = {kind: live(kind) for kind in (RoutingRecord, ProfileItem, Document, TextFile, ProfileJob)}
    during: list[int] = []
    traced: list[int] = []
    of_arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)

    def progress(taken: int) -> None:
        during.append(live(RoutingRecord) - before[RoutingRecord])

    tracemalloc.start()
    try:
        while jobs:
            jobs.pop(0).run(progress)
            gc.collect()
            snapshot = tracemalloc.take_snapshot().filter_traces([of_arrays])
            traced.append(sum(trace.size for trace in snapshot.traces))
    finally:
        tracemalloc.stop()
    assert len(during) == len(languages) * count // lm.rows_at_once
    assert max(during) <= lm.rows_at_once  # those of one chunk
    after = {kind: live(kind) - before[kind] for kind in before}
    assert after[RoutingRecord] == after[ProfileItem] == after[Document] == 0
    assert after[TextFile] == after[ProfileJob] == -len(languages)
    assert max(traced) < 4 * row, traced  # of bytes of arrays


def test_the_command_lets_go_of_a_language_when_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[int] = []
    run: Callable[..., tuple[int, int]] = ProfileJob.run

    def counted(job: ProfileJob, *arguments: Any) -> tuple[int, int]:
        gc.collect()
        there.append(live(TextFile))
        return run(job, *arguments)

    monkeypatch.setattr(ProfileJob, "run", counted)
    gc.collect()  # what other tests left
    before = live(TextFile)
    texts = [f"{language}={source(tmp_path, language, sentences(2)).path}" for language in ("en", "sw", "de", "fr")]
    command = ["profile", "--model_args", "pretrained=demo", "--texts", *texts, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert [number - before for number in there] == [4, 3, 2, 1]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{language}.safetensors" for language in ("de", "en", "fr", "sw")]
