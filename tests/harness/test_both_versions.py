"""A steered run reports the same routing with either release of lm-eval."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.paths import TESTS

import lm_eval_moe
from lm_eval_moe.harness.versions import TESTED

SCRIPT = TESTS / "support" / "routing_of_a_run.py"
NEXT = Path(os.environ.get("LM_EVAL_NEXT") or Path(sys.prefix) / f"lm-eval-{TESTED[-1]}")


def run(folder: Path, *more: Path) -> dict[str, Any]:
    folder.mkdir()
    path = os.pathsep.join(map(str, (Path(lm_eval_moe.__file__).parents[1], *more)))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(folder / "found.json")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.long
@pytest.mark.skipif(not NEXT.is_dir(), reason="only `make test-next-lm-eval` installs lm-eval's next release")
def test_routing_is_the_same_with_either_release(tmp_path: Path) -> None:
    now, then = run(tmp_path / "now"), run(tmp_path / "next", NEXT)
    assert [now["lm_eval"], then["lm_eval"]] == list(TESTED)
    assert then["found"].keys() == now["found"].keys()
    for part, expected in now["found"].items():
        assert then["found"][part] == expected, part
    swahili = now["found"]["results"]["two_filters_sw"]
    assert {"routing_divergence,none", "routing_divergence_stderr,none", "steered_change,none"} <= swahili.keys()
    assert "routing_divergence,none" in now["found"]["groups"]["demo_arith"]
    assert len(now["found"]["samples"]["two_filters_sw"]) == 8
    assert now["found"]["printed"].count("routing_divergence") > 8
