"""The command as a user or a CI job meets it, on real evaluations of the demo model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from scipy import stats
from scipy.spatial.distance import jensenshannon

from lm_eval_moe.cli import main
from lm_eval_moe.gate.policy import load_policy
from lm_eval_moe.profiles import read_profile


def rows(folder: Path, task: str) -> dict[str, float]:
    (log,) = folder.rglob(f"samples_{task}_*.jsonl")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {line["doc"]["item_id"]: line["acc"] for line in lines}


@pytest.fixture
def policy_file(real_pair: tuple[Path, Path], tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    plain = real_pair[0]
    assert main(["gate", "init", str(plain), "-o", str(file), "--profile", str(plain / "profile.safetensors")]) == 0
    return file


def arguments(real_pair: tuple[Path, Path], policy: Path, candidate: Path | None = None) -> list[str]:
    plain, harmed = real_pair
    other = candidate or harmed
    profiles = ["--baseline_profile", str(plain / "profile.safetensors")]
    profiles += ["--candidate_profile", str(other / "profile.safetensors")]
    return ["gate", "--baseline", str(plain), "--candidate", str(other), "--policy", str(policy), *profiles]


def test_a_harmed_model_is_stopped_and_every_file_says_so(
    real_pair: tuple[Path, Path], policy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / name for name in ("gate.xml", "gate.md", "gate.json")]
    flags = ["--junit", str(outputs[0]), "--markdown", str(outputs[1]), "--json", str(outputs[2])]
    assert main([*arguments(real_pair, policy_file), *flags]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("Gate: regression. 7 checks: ")

    given = json.loads(outputs[2].read_text(encoding="utf-8"))
    lines = {line["language"]: line for line in given["lines"] if line["kind"] == "language"}
    for language, line in lines.items():
        before, after = (rows(folder, f"demo_arith_{language}") for folder in real_pair)
        worse = sum(before[item] > after[item] for item in before)
        better = sum(before[item] < after[item] for item in before)
        assert line["drop"] == pytest.approx((worse - better) / len(before))
        oracle = stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue
        assert line["p"] == pytest.approx(oracle, rel=1e-9)
    assert lines["en"]["status"] == "regression"

    root = ET.fromstring(outputs[0].read_bytes())
    assert root.get("failures") == str(sum(line["effect"] == "fail" for line in given["lines"]))
    assert outputs[1].read_text(encoding="utf-8").startswith("## Gate: regression\n")


def test_drift_is_the_divergence_of_the_two_profiles(
    real_pair: tuple[Path, Path], policy_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "gate.json"
    main([*arguments(real_pair, policy_file), "--json", str(output)])
    drifts = [line for line in json.loads(output.read_text(encoding="utf-8"))["lines"] if line["kind"] == "drift"]
    assert [line["language"] for line in drifts] == ["en", "de", "sw"]
    assert {line["status"] for line in drifts} == {"drifted"}

    arrays, items = [], []
    for folder in real_pair:
        arrays.append(load_file(folder / "profile.safetensors")["importance"].astype(float))
        reader = read_profile(folder / "profile.safetensors")
        items.append(reader.items)
    assert items[0] == items[1]
    own = [row for row, item in enumerate(items[0]) if item.language == "sw"]
    values = []
    for row in own:
        for layer in (2, 3, 4, 5):  # the middle of 8 layers
            p, q = (array[row, layer] / array[row, layer].sum() for array in arrays)
            room = np.log(16) - (stats.entropy(p) + stats.entropy(q)) / 2
            values.append(jensenshannon(p, q) ** 2 / room)
    assert drifts[2]["drift"]["middle"] == pytest.approx(np.mean(values), rel=1e-6)
    assert drifts[2]["items"] == len(own) == 40


def test_the_same_run_passes(
    real_pair: tuple[Path, Path], policy_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(real_pair, policy_file, real_pair[0])) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "Gate: passed. 7 checks, none failed."
    assert "0.000 / " in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "none",
            "but no profile of the candidate is given: add --candidate_profile FILE",
        ),
        ("swapped", "is not the profile of the candidate: its steering.hash is none, the results say "),
        ("short", "40 items are only in the baseline's profile"),
    ],
)
def test_drift_that_cannot_be_judged_is_no_pass(
    real_pair: tuple[Path, Path],
    policy_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    message: str,
) -> None:
    plain, harmed = real_pair
    given = arguments(real_pair, policy_file, plain)
    if change == "none":
        given = given[:-2]
    elif change == "swapped":
        given = arguments(real_pair, policy_file)
        given[-1] = str(plain / "profile.safetensors")
    else:
        given[-1] = str(tmp_path / "merged.safetensors")
        assert main(["profile", "merge", given[-1], *[str(each) for each in _other_items(plain, tmp_path)]]) == 0
    output = tmp_path / "gate.json"
    main([*given, "--json", str(output)])
    drifts = [line for line in json.loads(output.read_text(encoding="utf-8"))["lines"] if line["kind"] == "drift"]
    assert message in drifts[0]["sentence"]
    assert drifts[0]["effect"] == "unjudged"
    if change != "swapped":  # there the scores regress
        assert main(given) == 2
    assert harmed.exists()
    capsys.readouterr()


def _other_items(plain: Path, folder: Path) -> list[Path]:
    """Return the profile's own file with half of its items renamed, as if others had been evaluated."""
    from lm_eval_moe.profiles import ProfileItem, write_profile

    source = plain / "profile.safetensors"
    arrays = load_file(source)
    reader = read_profile(source)
    header = reader.header
    items = [ProfileItem(item.benchmark, f"other {item.item}", item.language, item.task) for item in reader.items]
    file = folder / "other.safetensors"
    write_profile(file, header, items, arrays)
    return [file]


def test_init_writes_what_gate_reads_with_margins_from_the_noise(
    real_pair: tuple[Path, Path], policy_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(policy_file)
    rules = policy.of("demo_arith")
    assert rules is not None
    assert (rules.metric, rules.minimum_items, policy.samples) == ("acc,none", 40, "required")
    # By hand: (1.645 + 0.842) x sqrt(2 p (1 - p) (1 - 0.5) / 40) with p = (right + 2) / 44, up to the next 0.001.
    right = sum(rows(real_pair[0], "demo_arith_sw").values())
    share = (right + 2) / 44
    margin = (stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) * np.sqrt(share * (1 - share) / 40)
    assert rules.margins.of_language("sw").value == pytest.approx(np.ceil(1000 * margin) / 1000)
    assert rules.margins.macro.value < rules.margins.of_language("sw").value
    assert policy.routing_drift is not None
    assert set(policy.routing_drift.limits) == {"early", "middle", "late"}

    before = policy_file.read_text(encoding="utf-8")
    given = ["gate", "init", str(real_pair[0]), "-o", str(policy_file)]
    assert main(given) == 2
    assert "already exists" in capsys.readouterr().err
    assert policy_file.read_text(encoding="utf-8") == before
    assert main([*given, "--force", "--alpha", "0.01"]) == 0
    assert load_policy(policy_file).alpha == 0.01
    assert "routing_drift" not in yaml.safe_load(policy_file.read_text(encoding="utf-8"))


def test_power_of_a_baseline_and_of_a_plan(
    real_pair: tuple[Path, Path], policy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "power.json"
    plain, harmed = (str(each) for each in real_pair)
    assert main(["gate", "power", plain, "--policy", str(policy_file), "--json", str(output)]) == 0
    given = json.loads(output.read_text(encoding="utf-8"))
    assert (given["tests"], given["correlation"]) == (4, 0.5)
    assert [row["name"] for row in given["rows"]] == ["en", "de", "sw", "macro"]
    assert all(row["chances"] == sorted(row["chances"]) for row in given["rows"])

    assert main(["gate", "power", plain, "--pair", harmed, "--json", str(output)]) == 0
    before, after = ([rows(f, f"demo_arith_{k}") for k in ("en", "de", "sw")] for f in real_pair)
    pairs = [(np.array([b[i] for i in b]), np.array([a[i] for i in b])) for b, a in zip(before, after, strict=True)]
    pooled = sum(np.cov(b, a)[0, 1] for b, a in pairs) / sum(b.std(ddof=1) * a.std(ddof=1) for b, a in pairs)
    assert json.loads(output.read_text(encoding="utf-8"))["correlation"] == pytest.approx(max(pooled, 0.0), abs=0.02)

    capsys.readouterr()
    assert main(["gate", "power", "--items", "250", "--score", "0.6", "--languages", "11", "--drops", "0.05,0.1"]) == 0
    text = capsys.readouterr().out
    assert "12 tests share alpha 0.05 (holm)" in text
    assert [line.split()[0] for line in text.splitlines() if "60.0 %" in line] == ["one", "all"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--policy", "p.yaml"], "--baseline is missing"),
        (["power"], "give either a baseline's results or --items"),
        (["power", "--items", "0"], "--items: 0 is out of range"),
        (["power", "--items", "100", "--score", "1"], "--score: 1 is out of range"),
        (["power", "--items", "100", "--drops", "5"], "'5' is not a list of drops"),
        (["power", "--items", "100", "--correlation", "2"], "--correlation: 2 is out of range"),
        (["init", "none", "-o", "p.yaml"], "none: there is no such file or directory"),
    ],
)
def test_mistakes_are_one_message(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gate", *given]) == 2
    assert message in capsys.readouterr().err


def test_an_expired_allowance_is_judged_on_the_day_that_is_given(
    real_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    entry = "{benchmark: demo_arith, reason: known, until: 2026-12-31}"
    file.write_text(
        f"version: 1\nmargins: {{language: 0.05, macro: 0.05}}\nminimum_items: 10\nallow: [{entry}]\n", encoding="utf-8"
    )
    given = ["gate", "--baseline", str(real_pair[0]), "--candidate", str(real_pair[1]), "--policy", str(file)]
    assert main([*given, "--today", "2026-12-31"]) == 0
    capsys.readouterr()
    assert main([*given, "--today", "2027-01-01"]) == 1
    assert "expired after 2026-12-31 and no longer excuses anything" in capsys.readouterr().out
    assert main([*given, "--today", "soon"]) == 2


def test_the_gate_imports_no_torch_and_its_help_is_fast(real_pair: tuple[Path, Path], policy_file: Path) -> None:
    code = (
        "import sys\nfrom lm_eval_moe.cli import main\n"
        f"main({arguments(real_pair, policy_file)!r})\n"
        "print('heavy', sorted(name for name in ('torch', 'lm_eval', 'transformers') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "heavy []"
    times = []
    for _ in range(2):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "lm_eval_moe", "gate", "--help"], capture_output=True, check=True)
        times.append(time.monotonic() - start)
    assert min(times) < 1.0


def test_a_copied_folder_is_judged_alike(real_pair: tuple[Path, Path], policy_file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(real_pair[0], tmp_path / "moved"))
    assert main(arguments(real_pair, policy_file, copy)) == 0
