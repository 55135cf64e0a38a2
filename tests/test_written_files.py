"""Files of a run appear whole or not at all; what cannot be written is an error that names it."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_json, write_whole

pytestmark = pytest.mark.long

MODEL = [sys.executable, "-m", "lm_eval_moe", "run", "--model", "hf-moe", "--model_args", "pretrained=demo"]
RUN = [*MODEL, "--tasks", "demo_arith_en,demo_arith_sw", "--limit", "6", "--batch_size", "6", "--log_samples"]


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # a disk that is full after 4 KiB of a file


def test_a_full_disk_is_an_error_that_names_the_file_after_the_table(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    before = tmp_path / "out" / "of_before.json"
    before.write_text("{}")
    done = subprocess.run(
        [*RUN, "--output_path", str(tmp_path / "out")],
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "demo_arith_sw" in done.stdout  # the table is not lost
    message = done.stderr[done.stderr.index("lm-eval-moe: error:") :]
    assert f"--output_path {tmp_path / 'out'}" in message
    assert "the results could not be written" in message
    assert "the samples of demo_arith_sw could not be written" in message
    assert "File too large" in message
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["of_before.json"]


@pytest.mark.parametrize("output", ["out", "out/results.json"])
def test_a_run_leaves_its_files_and_nothing_else(tmp_path: Path, output: str) -> None:
    subprocess.run([*RUN, "--output_path", str(tmp_path / output)], check=True, capture_output=True)
    names = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert len(names) == 3
    assert names[0].startswith("results_")
    assert names[0].endswith(".json")
    assert all(name.startswith("samples_demo_arith_") for name in names[1:])
    assert not list((tmp_path / "out").rglob(".*"))


def test_an_interrupted_run_ends_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    cache = tmp_path / "answers"
    process = subprocess.Popen(
        [
            *MODEL,
            "--log_samples",
            "--limit",
            "150",
            "--tasks",
            "demo_arith",
            "--batch_size",
            "1",
            "--use_cache",
            str(cache),
            "--output_path",
            str(tmp_path),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not cache.with_name("answers.moe.sqlite").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said[-1500:]
    assert "interrupted" in said
    assert "--use_cache" in said
    assert "Traceback" not in said


def test_what_is_there_stays_where_a_file_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_json(file, {"a": 1})
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write the table"):
        write_whole(tmp_path / "folder", "text", "table")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "results.json"]
