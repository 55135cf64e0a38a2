"""``lm-eval-moe experts`` as a user meets it: both roads, the written file, totals, thresholds, mistakes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import ROOT, SHARED
from support.written_profiles import SMALL, write, write_dump

from lm_eval_moe.cli import main
from lm_eval_moe.experts.flags import rule_names
from lm_eval_moe.steering import load_spec, resolve
from lm_eval_moe.steering.selectors import Selector

REAL = SHARED / "routing-qwen3-30b-a3b-mgsm"

# Worked by hand: layers 1 and 2 of a model whose layer 0 is dense, four experts, ten tokens an item.
# Frequencies of the task: layer 1 (0.9 0.6 0.5 0), layer 2 (0.2 0.8 1 0); of the baseline: (0.1 0.5 0.9 0.5) and
# (0.5 0.5 1 0).
TASK = [[9, 6, 5, 0], [2, 8, 10, 0]]
BASELINE = [[1, 5, 9, 5], [5, 5, 10, 0]]
# Differences: layer 1 (0.8 0.1 -0.4 -0.5), layer 2 (-0.3 0.3 0 0).
RULE = ["task", "--profile", "task.safetensors", "--baseline", "base.safetensors", "--threshold", "0.2"]
STEERED = [*RULE, "--action", "soft=0.5"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task's profile, a baseline, and pooled counts of two languages."""
    write(tmp_path / "task.safetensors", [("a", 10, TASK), ("b", 10, TASK)], benchmark="maths")
    write(tmp_path / "base.safetensors", [("s", 10, BASELINE)], benchmark="plain")
    write_dump(tmp_path / "en.json", 10, TASK)
    write_dump(tmp_path / "sw.json", 10, BASELINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experts(*arguments: str) -> int:
    return main(["experts", *arguments])


def read_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert experts(*arguments, "--json") == 0
    loaded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return loaded


def test_the_table_shows_experts_layers_without_any_and_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert experts(*RULE[:-1], "0.5", "--action", "soft=0.5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    rows = [" ".join(line.split()) for line in lines]
    assert "1 1 0" in rows
    assert "2 0 none selected" in rows
    # With three decoder layers the split lies at 0.5 and 2.25: layer 0 is early and dense, 1 and 2 are middle.
    assert "early none - no MoE layer -" in rows
    assert "middle 1-2 1 1 of 2 12.5 %" in rows
    assert "in all 1-2 1 1 of 2 12.5 %" in rows


def test_explain_shows_the_numbers_that_were_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert experts(*STEERED, "--explain") == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "1 0 1 task 0.9000 - baseline 0.1000 = 0.8000 > 0.2" in said
    assert "2 1 1 task 0.8000 - baseline 0.5000 = 0.3000 > 0.2" in said


def test_what_many_languages_select_is_summed_up_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    languages = ["bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr"]
    for size, language in enumerate(languages, start=1):
        counts = [[size * (3 + (expert % 8 == 0)) for expert in range(64)] for _ in range(2)]
        write_dump(folder / f"{language}.json", 100 * size, counts)
    profiles = [f"{language}={language}.json" for language in languages]
    rule = ["shared", "--profiles", *profiles, "--top_m", "64", "--action", "soft=0.5"]
    shape = ["--shape", "layers=3,experts=64,top_k=2,moe_layers=1-2"]
    assert experts(*rule, *shape, "--explain", "--reasons", "why.csv") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) < 180, "128 experts of 12 languages"
    assert "profiles: 12 files" in lines[2]
    assert not any("sha256" in line for line in lines)
    text = " ".join(" ".join(lines).split())
    assert text.index("in all 1-2 128 2 of 2 100.0 %") < text.index("layer n experts") < text.index("why, intervention")
    assert "(12 entries, bg=bg.json to fr=fr.json)" in text
    assert "and 40 more" in text  # 24 of a layer's 64 are listed
    assert "and 88 more experts: --reasons" in text  # 40 of 128 are explained
    with Path("why.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = read_json(capsys, *rule, *shape)
    choices = found["interventions"][0]["choices"]
    assert [(int(row["layer"]), int(row["expert"]), row["why"]) for row in rows] == [
        (choice["layer"], choice["expert"], choice["why"]) for choice in choices
    ]
    assert [float(row["bg"]) for row in rows] == [choice["values"]["bg"] for choice in choices]
    assert len({profile["sha256"] for profile in found["profiles"]}) == 12


def test_few_profiles_stand_below_what_they_select(capsys: pytest.CaptureFixture[str]) -> None:
    assert experts(*STEERED) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-4:] if "sha256" in line] == [
        ["profile:", "task.safetensors:"],
        ["profile:", "base.safetensors:"],
    ]


def test_json_holds_choices_values_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    found = read_json(capsys, *STEERED, "--thresholds", "0,0.3,0.9")
    (entry,) = found["interventions"]
    assert [(each["layer"], each["expert"], each["coefficient"]) for each in entry["choices"]] == [(1, 0, 1), (2, 1, 1)]
    assert entry["choices"][0]["values"] == pytest.approx({"task": 0.9, "baseline": 0.1, "difference": 0.8})
    assert entry["counts"]["all"] == {"experts": 2, "layers": 2, "looked_at": 2}
    # More than 0: 0.8, 0.1 and 0.3; more than 0.3: not 0.8 - 0.5, which is the threshold itself; more than 0.9: none.
    assert [(each["threshold"], each["all"]["experts"]) for each in entry["thresholds"]] == [(0, 3), (0.3, 1), (0.9, 0)]
    assert [each["items"] for each in found["profiles"]] == [2, 1]


def flags_table() -> str:
    """The flags of the rules as ``docs/experts.md`` shows them."""
    rows = ["| rule | flag | meaning |", "|---|---|---|"]
    for rule in rule_names():
        for name, option in Selector.registry[rule].declared().items():
            several = " ..." if option.flag in ("pairs", "list") else ""
            rows.append(f"| `{rule}` | `--{name} {option.metavar}{several}` | {option.help} |")
    return "\n".join(rows)


def test_the_documented_flags_are_those_that_the_rules_declare() -> None:
    page = ROOT / "docs" / "experts.md"
    text = page.read_text(encoding="utf-8")
    [shown] = re.findall(r"^\| rule \| flag .*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(text.replace(shown, flags_table()), encoding="utf-8")
    else:
        assert shown == flags_table(), "run this test with UPDATE_DOCS=1"


RULES = {
    "task": STEERED,
    "control": [*STEERED, "--control", "random", "--seed", "7"],
    "languages": ["multilingual", "--profiles", "en=en.json", "sw=sw.json", "--threshold", "0.2", "--action", "mask",
                  "--set", "interventions.0.guard=true", "--layers", "1"],
    "shared": ["shared", "--profiles", "en=en.json", "sw=sw.json", "--top_m", "3", "--source", "en",
               "--action", "proportional=0.022", "--tokens", "prompt", "--steer_languages", "no,sw"],
    "exclusive": ["exclusive", "--profiles", "en=en.json", "sw=sw.json", "--languages", "sw", "--layers", "1,2",
                  "--action", "bias=-1.5", "--steer_languages", "all_but=en"],
    "risk": ["risk_difference", "--profile_a", "en.json", "--profile_b", "sw.json", "--top", "4", "--direction", "both",
             "--action", "proportional=1e-3"],
}  # fmt: skip


@pytest.mark.parametrize("arguments", RULES.values(), ids=RULES)
def test_the_written_file_does_what_the_rule_does(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["--shape", "layers=3,experts=4,top_k=2,moe_layers=1-2"]
    found = read_json(capsys, *arguments, *shape, "--output", "explicit.yaml")
    spec = load_spec("explicit.yaml")
    plan = resolve(spec, SMALL)
    assert plan.hash == found["hash"]
    assert not plan.profiles, "the file stands alone"
    chosen = {(each["layer"], each["expert"]): each["coefficient"] for each in found["interventions"][0]["choices"]}
    targets = plan.interventions[0].targets
    assert chosen == {
        (layer, expert): coefficient
        for layer, each in targets.items()
        for expert, coefficient in zip(each.experts, each.coefficients, strict=True)
    }
    assert spec.model is not None
    assert spec.model.dump() == {"layers": 3, "experts": 4, "top_k": 2}
    text = Path("explicit.yaml").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 120
    assert str(folder) not in text
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for source in found["profiles"]:
        for place in (comments, spec.description):
            assert f"{source['file']}: sha256 {source['sha256']}" in place
    assert spec.source.startswith("arXiv:")
    # The same input gives the same bytes, and other readers of YAML agree.
    assert experts(*arguments, *shape, "--output", "again.yaml") == 0
    assert Path("again.yaml").read_text(encoding="utf-8") == text
    assert yaml.safe_load(text)["interventions"][0]["languages"] == plan.interventions[0].languages.dump()


def test_a_rule_s_coefficients_are_written_for_the_action_that_heeds_them_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared = ["shared", "--profiles", "en=en.json", "sw=sw.json", "--top_m", "2", "--threshold", "0.9"]
    shape = ["--shape", "layers=3,experts=4,top_k=2,moe_layers=1-2"]
    weighted = read_json(capsys, *shared, *shape, "--action", "proportional=0.5", "--output", "weighted.yaml")
    plain = read_json(capsys, *shared, *shape, "--action", "soft=0.5", "--output", "plain.yaml")
    assert any(choice["coefficient"] != 1 for choice in weighted["interventions"][0]["choices"])
    assert {choice["coefficient"] for choice in plain["interventions"][0]["choices"]} == {1}
    ids = [
        yaml.safe_load(Path(f"{name}.yaml").read_text(encoding="utf-8"))["interventions"][0]["experts"]["ids"]
        for name in ("weighted", "plain")
    ]
    assert {layer: list(experts) for layer, experts in ids[0].items()} == ids[1]
    assert resolve(load_spec("plain.yaml"), SMALL).hash == plain["hash"]


def test_flags_and_a_steering_file_are_one_road(capsys: pytest.CaptureFixture[str]) -> None:
    rule = {"task": {"profile": "task.safetensors", "baseline": "base.safetensors", "threshold": 0.9}}
    entries = [{"layers": [1, 2], "experts": rule, "action": {"soft": 0.5}}]
    Path("rule.yaml").write_text(json.dumps({"version": 1, "interventions": entries}))
    by_flags = read_json(capsys, *STEERED, "--layers", "1,2")
    by_file = read_json(capsys, "--steering", "rule.yaml", "--set", "interventions.0.experts.task.threshold=0.2")
    assert by_flags["interventions"] == by_file["interventions"]
    assert by_flags["hash"] == by_file["hash"]
    assert (
        by_flags["hash"] == resolve(load_spec("rule.yaml", ["interventions.0.experts.task.threshold=0.2"]), SMALL).hash
    )
    control = read_json(
        capsys, "--steering", "rule.yaml", "--control", "random", "--seed", "4",
        "--set", "interventions.0.experts.task.threshold=0.2",
    )  # fmt: skip
    assert (
        control["hash"] == read_json(capsys, *STEERED, "--layers", "1,2", "--control", "random", "--seed", "4")["hash"]
    )
    assert control["name"] == "rule-random-control"


def test_a_file_with_several_interventions_is_written_whole(capsys: pytest.CaptureFixture[str]) -> None:
    def rule(layer: int) -> dict[str, Any]:
        return {"random": {"like": {"ids": {layer: {0: 0.25, 3: -2}}}, "seed": layer}}

    entries = [{"layers": "all", "experts": rule(layer), "action": {"proportional": 0.5}} for layer in (1, 2)]
    document = {"version": 1, "name": "két: #1", "description": "a\nb", "seed": 3, "interventions": entries}
    Path("two.yaml").write_text(json.dumps(document), encoding="utf-8")
    shape = ["--shape", "layers=3,experts=4,top_k=2,moe_layers=1,2"]
    found = read_json(capsys, "--steering", "two.yaml", *shape, "-o", "explicit.yaml")
    spec = load_spec("explicit.yaml")
    assert resolve(spec, SMALL).hash == found["hash"]
    assert spec.name == "két: #1"
    assert spec.description.startswith("a\nb. Experts of intervention 0: random control (seed 1) of ids")


def test_nothing_is_overwritten_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    target = Path("mine.yaml")
    target.write_text("mine", encoding="utf-8")
    assert experts(*STEERED, "--output", str(target)) == 2
    assert target.read_text(encoding="utf-8") == "mine"
    assert "--force" in capsys.readouterr().err
    assert experts(*STEERED, "--output", str(target), "--force") == 0
    assert load_spec(target).name == "task-experts-soft"


def test_names_in_files_cannot_end_a_comment(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "odd\nname.safetensors", [("a", 10, TASK)], benchmark="maths", model="x\nseed: 5\n")
    write(folder / "base2.safetensors", [("s", 10, BASELINE)], benchmark="plain", model="x\nseed: 5\n")
    found = read_json(
        capsys, "task", "--profile", "odd\nname.safetensors", "--baseline", "base2.safetensors",
        "--threshold", "0.2", "--action", "mask", "--output", "odd.yaml",
    )  # fmt: skip
    assert load_spec("odd.yaml").seed == 0
    assert resolve(load_spec("odd.yaml"), SMALL).hash == found["hash"]


def test_a_warning_is_one_line_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("en.safetensors"), [("a", 10, TASK), ("b", 10, TASK)], benchmark="maths", language="en")
    write(Path("sw.safetensors"), [("a", 10, BASELINE)], benchmark="maths", language="sw")
    arguments = ["shared", "--profiles", "en=en.safetensors", "sw=sw.safetensors", "--action", "mask"]
    assert experts(*arguments, "--thresholds", "0.6,0.8", "--top_m", "2") == 0
    said = capsys.readouterr().err
    assert said.count("lm-eval-moe: warning:") == 1
    assert "do not hold the same items" in said


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "nothing given": ([], ["neither a rule nor a steering file", "task"]),
    "unknown rule": (["tsk", "--action", "mask"], ["'tsk'", "did you mean 'task'"]),
    "random as a rule": (["random", "--action", "mask"], ["--control random"]),
    "no action": (RULE, ["--action", "soft=0.5"]),
    "a bad action": ([*RULE, "--action", "sofd=1"], ["--action", "did you mean 'soft'"]),
    "no baseline": (["task", "--profile", "task.safetensors", "--action", "mask"], ["experts task", "baseline"]),
    "a flag of another rule": ([*STEERED, "--top", "3"], ["--top", "unknown key"]),
    "no such profile": ([*STEERED, "--baseline", "no.safetensors"], ["--baseline", "no file 'no.safetensors'"]),
    "a threshold out of range": ([*STEERED, "--threshold", "2"], ["--threshold", "0 to 1"]),
    "a threshold too high": ([*STEERED, "--threshold", "0.85"], ["--threshold", "selects no expert", "0.8"]),
    "layers beyond the model": ([*STEERED, "--layers", "2-5"], ["--layers", "beyond"]),
    "a bad override": ([*STEERED, "--set", "interventions.0.layer=3"], ["--set interventions.0.layer", "layers"]),
    "a pair without a language": (["shared", "--profiles", "en.json", "--action", "mask"], ["LANG=FILE"]),
    "a language twice": (["shared", "--profiles", "en=a.json", "en=b.json", "--action", "mask"], ["given twice"]),
    "a bad language": ([*STEERED, "--steer_languages", "klingonese"], ["--steer_languages", "not a language code"]),
    "another kind of control": ([*STEERED, "--control", "rndom"], ["--control random"]),
    "no shape": (
        ["shared", "--profiles", "en=en.json", "sw=sw.json", "--action", "mask"],
        ["neither a profile nor", "--model_args", "--shape"],
    ),
    "a shape without experts": ([*STEERED, "--shape", "layers=3,top_k=2"], ["--shape", "'experts' is missing"]),
    "a shape misspelt": ([*STEERED, "--shape", "layer=3"], ["did you mean 'layers'"]),
    "a shape of words": ([*STEERED, "--shape", "layers=three,experts=4,top_k=2"], ["--shape: layers", "'three'"]),
    "a shape of too few experts": ([*STEERED, "--shape", "layers=3,experts=4,top_k=5"], ["top_k 5"]),
    "another shape than the profiles'": ([*STEERED, "--shape", "layers=3,experts=4,top_k=2"], ["another shape"]),
    "two shapes": ([*STEERED, "--shape", "layers=3", "--model_args", "pretrained=demo"], ["--model_args"]),
    "no model": ([*STEERED, "--model_args", "dtype=auto"], ["--model_args", "no model"]),
    "no model arguments": ([*STEERED, "--model_args", "demo"], ["--model_args", "key=value"]),
    "a rule and a file": (["task", "--steering", "x.yaml"], ["'task'", "--set"]),
    "a flag and a file": (["--steering", "x.yaml", "--layers", "1"], ["--layers", "--set"]),
    "no such file": (["--steering", "x.yaml"], ["x.yaml", "no such file"]),
    "thresholds of words": ([*STEERED, "--thresholds", "0.1,many"], ["--thresholds", "'many'"]),
    "thresholds of no threshold": (
        ["risk_difference", "--profile_a", "en.json", "--profile_b", "sw.json", "--top", "1", "--action", "mask",
         "--shape", "layers=3,experts=4,top_k=2,moe_layers=1-2", "--thresholds", "0.1"],
        ["--thresholds", "no threshold"],
    ),
    "a file of another kind": ([*STEERED, "--output", "task.safetensors"], ["--output", ".yaml"]),
    "no such folder": ([*STEERED, "--output", "no/x.yaml"], ["--output", "no folder"]),
    "nothing left of a layer": (
        ["shared", "--profiles", "en=en.json", "sw=sw.json", "--top_m", "4", "--threshold", "0.99", "--action", "mask",
         "--shape", "layers=3,experts=4,top_k=2,moe_layers=1-2"],
        ["error: experts shared: masking leaves 1 of the 4 experts of layer 1"],
    ),
    "reasons of another kind": ([*STEERED, "--reasons", "x.txt"], ["--reasons", ".csv"]),
    "a picture of another kind": ([*STEERED, "--plot", "x.jpg"], ["--plot", ".png"]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert experts(*arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("lm-eval-moe: error:")
    assert "->" in printed.err
    assert "Traceback" not in printed.err
    for word in words:
        assert word.lower() in printed.err.lower()


def test_the_shape_can_come_from_a_models_config(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [{"layers": "middle", "experts": {"ids": {"all": [2, 9]}}, "action": "mask"}]
    Path("ids.yaml").write_text(json.dumps({"version": 1, "interventions": entries}))
    found = read_json(capsys, "--steering", "ids.yaml", "--model_args", "pretrained=demo")
    assert found["shape"]["experts"] == 16
    assert found["interventions"][0]["counts"]["middle"] == {"experts": 8, "layers": 4, "looked_at": 4}


def test_the_shape_can_come_from_the_steering_file(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "version": 1,
        "model": {"layers": 12, "experts": 6, "top_k": 2},
        "interventions": [{"layers": "middle", "experts": {"ids": {"all": [2, 5]}}, "action": "mask"}],
    }
    Path("ids.yaml").write_text(json.dumps(document))
    found = read_json(capsys, "--steering", "ids.yaml")
    assert (
        found["shape"] == read_json(capsys, "--steering", "ids.yaml", "--shape", "layers=12,experts=6,top_k=2")["shape"]
    )
    assert found["interventions"][0]["counts"]["middle"]["layers"] == 7, "a sixth and three quarters of 12"
    del document["model"]["top_k"]  # type: ignore[attr-defined]
    Path("ids.yaml").write_text(json.dumps(document))
    assert experts("--steering", "ids.yaml") == 2
    assert "the file's `model`" in capsys.readouterr().err


def test_it_starts_without_torch() -> None:
    code = (
        f"import sys; from lm_eval_moe.cli import main\nassert main(['experts', *{STEERED!r}, '-o', 'out.yaml']) == 0\n"
        "assert not {'torch', 'transformers', 'lm_eval', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "written: out.yaml" in done.stdout


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/routing-qwen3-30b-a3b-mgsm")
def test_published_counts_give_the_file_that_the_counts_give_by_hand(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The 20 most active experts of both languages, all below 0.7, counted with plain loops."""
    top: dict[str, dict[int, dict[int, float]]] = {}
    for language in ("en", "zh"):
        shutil.copy(REAL / f"mgsm_{language}.json", folder)
        top[language] = {}
        for layer, entries in json.loads((REAL / f"mgsm_{language}.json").read_text()).items():
            counts = {int(e): c["activation_tokens"] for e, c in entries.items() if e != "total_tokens"}
            kept = sorted(counts, key=lambda e: (-counts[e], e))[:20]
            top[language][int(layer)] = {e: counts[e] / entries["total_tokens"] for e in kept}
    expected = {}
    for layer in range(10, 40):
        for expert in range(128):
            en, zh = (top[language][layer].get(expert, 0.0) for language in ("en", "zh"))
            if en + zh > 0 and max(en, zh) / (en + zh + 1e-10) < 0.7:
                expected[layer, expert] = en / (en + zh + 1e-10)
    arguments = [
        "shared", "--profiles", "en=mgsm_en.json", "zh=mgsm_zh.json", "--top_m", "20", "--threshold", "0.7",
        "--source", "en", "--layers", "10-39", "--action", "proportional=0.022",
        "--shape", "layers=48,experts=128,top_k=8", "--output", "shared.yaml",
    ]  # fmt: skip
    found = read_json(capsys, *arguments)
    ids = yaml.safe_load(Path("shared.yaml").read_text())["interventions"][0]["experts"]["ids"]
    written = {(layer, expert): share for layer, experts in ids.items() for expert, share in experts.items()}
    assert written.keys() == expected.keys()
    assert written == pytest.approx(expected, rel=1e-12)
    assert found["interventions"][0]["counts"]["all"]["experts"] == len(expected) == 420
