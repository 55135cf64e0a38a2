"""The example workflow's own commands, run as GitHub runs them; only what installs packages is left out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import ROOT

pytestmark = pytest.mark.long

FILE = ROOT / "docs" / "examples" / "multilingual_gate.yml"
INSTALLS = "Install"  # the one step that is not run: the package under test is there already


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def commands(workflow: dict[str, Any], job: str) -> dict[str, str]:
    return {step["name"]: step["run"] for step in workflow["jobs"][job]["steps"] if "run" in step}


def run(command: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # GitHub's own way to run a step without `shell`.
    return subprocess.run(
        ["bash", "-e", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )


def test_both_jobs_install_alike_and_evaluate_alike(workflow: dict[str, Any]) -> None:
    gate, baseline = commands(workflow, "gate"), commands(workflow, "baseline")
    assert all(INSTALLS in job for job in (gate, baseline))
    assert [step for job in (gate, baseline) for step in job if "pip install" in job[step]] == [INSTALLS, INSTALLS]
    # The baseline is made by the very command that evaluates the candidate, but for where it writes.
    here = baseline["Evaluate the baseline"].replace("gate/baseline", "candidate")
    assert re.sub(r"\s*#.*", "", here) == re.sub(r"\s*#.*", "", gate["Evaluate the candidate"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="the workflow's steps are for bash")
def test_its_commands_pass_an_unchanged_model_and_stop_a_harmed_one(
    workflow: dict[str, Any], real_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    env = {**os.environ, **workflow["env"], "LIMIT": "12", "TASKS": "demo_arith_en,demo_arith_sw"}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    gate, baseline = commands(workflow, "gate"), commands(workflow, "baseline")

    done = run(gate["Evaluate the candidate"], tmp_path, env)
    assert done.returncode == 0, done.stderr
    # The same evaluation is the baseline's: its command is the same (see above).
    (tmp_path / "gate").mkdir()
    shutil.copytree(tmp_path / "candidate", tmp_path / "gate" / "baseline")
    shutil.copy(tmp_path / "candidate.safetensors", tmp_path / "gate" / "baseline.safetensors")
    done = run(baseline["Write a policy, unless there is one"], tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "gate" / "policy.yaml").is_file()

    done = run(gate["Judge it"], tmp_path, env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("## Gate: passed\n")
    kept = next(step["with"]["path"] for step in workflow["jobs"]["gate"]["steps"] if "upload-artifact" in str(step))
    assert sorted(path.name for path in tmp_path.glob(kept)) == ["gate.json", "gate.xml"]

    # Another baseline, and a candidate that is worse than it: the step fails.
    plain, harmed = real_pair
    for source, target in ((plain, tmp_path / "gate" / "baseline"), (harmed, tmp_path / "candidate")):
        shutil.rmtree(target)
        shutil.copytree(source / "demo", target)
        shutil.copy(source / "profile.safetensors", target.with_name(f"{target.name}.safetensors"))
    done = run(gate["Judge it"], tmp_path, env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Gate: regression" in (tmp_path / "summary.md").read_text(encoding="utf-8")
