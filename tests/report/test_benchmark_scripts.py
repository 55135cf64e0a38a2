"""The benchmark scripts run, compare the variants' answers before timing them, and write what they say they write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.long

FOLDER = ROOT / "benchmarks"
TINY = ["--random", "qwen3_moe", "--layers", "6", "--hidden", "64", "--experts", "4", "--top_k", "2"]


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *TINY, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_overhead_times_every_variant_in_every_round(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    text = run("overhead.py", "--documents", "3", "--rounds", "2", "--gen_tokens", "2", "--json", str(file))
    assert text.count("| capture + steering | ") == 2
    report = json.loads(file.read_text())
    assert report["environment"]["layers"] == 6
    for kind, requests in (("loglikelihood", 12), ("generation", 3)):
        assert report[kind]["requests"] == requests
        assert {name: len(times) for name, times in report[kind]["seconds"].items()} == dict.fromkeys(
            ("hf", "output_router_logits", "capture off", "capture", "capture + steering"), 2
        )


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is a Unix one")
def test_the_memory_of_whole_evaluations_is_printed_and_written(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    text = run("memory.py", "--documents", "16", "--variants", "cache", "--json", str(file))
    (row,) = json.loads(file.read_text())
    assert row["documents"] == 16
    assert all(100 < row[variant] < 5000 for variant in ("hf", "cache"))
    assert f"| 16 (64) | {row['hf']:.0f} | {row['cache']:.0f} (" in text


def test_end_to_end_compares_before_it_times(tmp_path: Path) -> None:
    file = tmp_path / "endtoend.json"
    work = ("--work", "zero", "cells", "generation", "--limit", "3", "--rounds", "1", "--tokens", "2")
    text = run("endtoend.py", *work, "--sides", "auto", "--json", str(file))
    assert text.count("| capture + soft, reuse=auto | ") == 3
    found = json.loads(file.read_text())["work"]
    assert {name: told["items"] for name, told in found.items()} == {"zero": 12, "cells": 120, "generation": 12}
    for told in found.values():
        assert told["decisions_differ"] == 0
        assert told["fields"] < 1e-5
        assert set(told["cpu_seconds"]) == set(told["wall_seconds"]) == {"hf", "auto"}
