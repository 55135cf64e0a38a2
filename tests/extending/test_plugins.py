"""One of each kind in a package of somebody else's, through the real commands; the files are those of the docs."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import ROOT

from lm_eval_moe import HFMoE, discovery, resources
from lm_eval_moe.analysis import Analysis
from lm_eval_moe.backends.registry import BACKENDS
from lm_eval_moe.cli import main
from lm_eval_moe.compare.formats import FORMATS
from lm_eval_moe.compare.formats._base import SUFFIXES
from lm_eval_moe.doctor import finding
from lm_eval_moe.errors import UserError
from lm_eval_moe.report.figures import BENCHMARK, PROFILES, SWEEP
from lm_eval_moe.results.values import Metric
from lm_eval_moe.routers import blocks
from lm_eval_moe.routing_fields import CURVES, FIELDS, Curve, RoutingField, chosen_fields, register
from lm_eval_moe.steering.actions import Action
from lm_eval_moe.steering.selectors import Selector
from tools.multilingual import task_files

PAGE = ROOT / "docs" / "extending.md"
REGISTRIES: tuple[discovery.Registry[Any], ...] = (
    *(Action.registry, Selector.registry, Analysis.registry, CURVES, FIELDS, finding._PROOFS),
    *(FORMATS, SUFFIXES, BENCHMARK, PROFILES, SWEEP, BACKENDS),
)
DEMO = ("--model_args", "pretrained=demo")
MISSING = """

@BENCHMARK.figure("never", order=16, title="A figure of the sky")
def never(subject):
    from lm_eval_moe.analysis import NotPossible

    raise NotPossible("it needs a moon", "give one")
"""


def shown_files(page: Path) -> dict[str, str]:
    """The files that a page shows: a name in backquotes that ends a paragraph, then the code."""
    found = re.findall(r"`(moe_extras/[\w./]+)`[^`]*?:\n\n```\w+\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return dict(found)


def write_package(folder: Path) -> None:
    files = shown_files(PAGE)
    [files["moe_extras/adapter.py"]] = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "adapters.md").read_text("utf-8"), re.DOTALL
    )
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """What a plug-in registers is gone afterwards."""
    before = [(dict(registry._entries), dict(registry._homes)) for registry in REGISTRIES]
    adapters, folders, modules = dict(blocks._ADAPTERS), dict(resources._plugin_dirs), set(sys.modules)
    discovery._loaded = None
    yield
    for registry, (entries, homes) in zip(REGISTRIES, before, strict=True):
        registry._entries, registry._homes = entries, homes
    blocks._ADAPTERS.clear()
    blocks._ADAPTERS.update(adapters)
    resources._plugin_dirs.clear()
    resources._plugin_dirs.update(folders)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("moe_extras", "broken_extras"):
            del sys.modules[name]
    discovery._loaded = None


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _forgotten: None) -> Path:
    """The package of the docs, named by the environment variable."""
    write_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(discovery.VARIABLE, "moe_extras")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_shows_one_file_of_each_kind() -> None:
    assert {Path(name).name for name in shown_files(PAGE)} == {
        *("__init__.py", "action.py", "rule.py", "field.py", "table.py", "figure.py", "proof.py", "backend.py"),
        *("benchmark.yml", "_moe_colours_yaml"),
    }


@pytest.fixture
def colours(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package, with the task files of its benchmark and rows for it."""
    assert task_files.main(["colours"]) == 0
    write_rows(package / "data")
    monkeypatch.setenv("MOE_BENCH_DIR", str(package / "data"))
    return package


def write_rows(folder: Path) -> None:
    for language, words in {"en": ("blood", "grass"), "sw": ("damu", "nyasi")}.items():
        path = folder / "colours" / f"{language}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"question": f"{word} {number}:", "answer": place} for number in (1, 2) for place, word in enumerate(words)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(out: Path, *arguments: str) -> dict[str, Any]:
    command = [
        "run",
        "--model",
        "hf-moe",
        *DEMO,
        "--tasks",
        "moe_colours",
        "--output_path",
        str(out),
        "--batch_size",
        "4",
    ]
    assert main([*command, *arguments]) == 0
    [path] = out.rglob("results_*.json")
    results: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return results


def test_a_benchmark_a_field_a_rule_and_an_action_of_a_plug_in_work_in_the_commands(
    colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (colours / "moe_extras" / "tasks" / "colours" / "moe_colours_sw.yaml").is_file()
    assert main(["ls", "tasks", "--benchmark", "colours", "--format", "json"]) == 0
    printed = capsys.readouterr().out
    assert [row["task"] for row in json.loads(printed[printed.index("[") :])] == ["moe_colours_en", "moe_colours_sw"]

    fields = ["--routing_fields", "routing_peak,routing_divergence"]
    plain = run(colours / "plain", *fields, "--routing_profile", "items.safetensors")
    peak = plain["results"]["moe_colours_sw"]["routing_peak,none"]
    curve = plain["routing"]["tasks"]["moe_colours_sw"]["curves"]["peak"]
    assert 0 < peak <= 1
    middle = plain["routing"]["model_shape"]["bands"]["middle"]
    assert peak == pytest.approx(sum(curve[layer] for layer in middle) / len(middle))
    assert "moe_extras" in plain["routing"]["identity"]["versions"]["plugins"]

    rule = ["busiest", "--profile", "items.safetensors", "--threshold", "0.3", "--action", "halve"]
    assert main(["experts", *rule, "--output", "busiest.yaml", "--thresholds", "0.2", "--explain"]) == 0
    said = capsys.readouterr().out
    assert "busiest (profile items.safetensors, threshold 0.3)" in said
    assert "of the tokens" in said
    written = yaml.safe_load(Path("busiest.yaml").read_text("utf-8"))
    assert (written["source"], written["interventions"][0]["action"]) == ("our own", "halve")

    steered = run(colours / "steered", *fields, "--steering", "busiest.yaml", "--allow_leak")
    assert steered["routing"]["tasks"]["moe_colours_sw"]["steered_tokens"] > 0
    assert steered["results"]["moe_colours_sw"]["routing_peak,none"] != peak

    # What the field says is not a score, and acc is.
    capsys.readouterr()
    assert main(["compare", str(colours / "plain"), str(colours / "steered"), "--format", "json"]) == 0
    board = capsys.readouterr().out
    assert '"acc,none"' in board
    assert "routing_peak" not in board


def test_a_backend_a_format_and_a_figure_of_a_plug_in_work_in_the_commands(
    colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, half = run(colours / "plain"), run(colours / "half", "--model", "hf-bf16")
    assert (plain["config"]["model"], half["config"]["model"]) == ("hf-moe", "hf-bf16")
    assert half["routing"]["identity"]["model"]["dtype"]["parameters"] == "bfloat16"
    divergence = "routing_divergence,none"
    assert half["results"]["moe_colours_sw"][divergence] == pytest.approx(
        plain["results"]["moe_colours_sw"][divergence], rel=0.1
    )
    assert main(["doctor", "--model", "hf-bf16", *DEMO, "--config-only"]) == 0

    capsys.readouterr()
    compared = [str(colours / "plain"), str(colours / "half"), "--title", "Mine"]
    assert main(["compare", *compared, "--format", "latex", "--output", "board.tex"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("% Mine\n")
    assert f" & {plain['results']['moe_colours_sw']['acc,none']}" in printed
    assert Path("board.tex").read_text("utf-8") == printed

    with (colours / "moe_extras" / "figure.py").open("a", encoding="utf-8") as file:
        file.write(MISSING)
    figure = importlib.reload(sys.modules["moe_extras.figure"])
    assert BENCHMARK["documents"].make is figure.documents_figure
    assert main(["report", str(colours / "plain"), "--output", "report.html", "--figures", "figures"]) == 0
    text = Path("report.html").read_text("utf-8")
    titles = ("Accuracy by language", "Documents by language")
    assert text.index(f"<h3>{titles[0]}</h3>") < text.index(f"<h3>{titles[1]}</h3>")
    assert "A figure of the sky: it needs a moon; give one." in text
    (data,) = Path("figures").glob("*_documents.csv")
    assert data.read_text("utf-8").split() == ["language,documents", "en,4", "sw,4"]
    assert data.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_an_adapter_and_a_proof_of_a_plug_in_work_in_the_doctor(
    package: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from support.own_models import saved

    model = saved("linear", package / "model", tokenizer)
    assert main(["doctor", "--trust_remote_code", "--model_args", f"pretrained={model}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    [proof] = [entry for entry in found["proofs"] if entry["name"] == "all_sentences"]
    assert (proof["outcome"], proof["title"]) == ("pass", "every sentence is recorded")
    assert found["proofs"][-1] is proof


def test_an_installed_package_is_found_by_its_entry_point_and_its_flags_are_in_the_help(tmp_path: Path) -> None:
    write_package(tmp_path)
    info = tmp_path / "moe_extras-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moe-extras\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[lm_eval_moe.plugins]\nmoe_extras = moe_extras\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environment.pop(discovery.VARIABLE, None)
    command = [sys.executable, "-m", "lm_eval_moe", "experts", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "one of busiest, exclusive, multilingual, risk_difference, shared, task" in said
    assert "--profile FILE busiest: the profile to count in; task: profile of the task's text" in said


def test_stored_answers_depend_on_every_file_of_a_plug_in_wherever_it_is_installed(tmp_path: Path) -> None:
    """Also on the module of a model's class: the plug-in names it by a string, and it may be another package's."""
    package = tmp_path / "site-packages" / "moe_own"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from lm_eval_moe.backends.registry import register_backend\n"
        "from moe_own import action\n"
        "register_backend('own', 'moe_engine:Own')\n",
        encoding="utf-8",
    )
    (package / "action.py").write_text("FACTOR = 1\n", encoding="utf-8")
    (package.parent / "moe_engine.py").write_text(
        "from lm_eval_moe import HFMoE\nclass Own(HFMoE):\n    backend_name = 'own'\n", encoding="utf-8"
    )
    code = (
        "from lm_eval_moe.backends.registry import load_model\n"
        "print('parts', load_model('own', {'pretrained': 'demo'}).identity().parts['versions.plugins'])\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT)]),
        discovery.VARIABLE: "moe_own",
    }

    def plugins() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, timeout=200
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.rpartition("parts ")[2]

    seen = [plugins(), plugins()]
    for name in ("moe_own/action.py", "moe_engine.py"):
        with (package.parent / name).open("a", encoding="utf-8") as file:
            file.write("OTHER = True\n")
        seen.append(plugins())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_no_plug_in_is_looked_for_where_no_registry_is(tmp_path: Path) -> None:
    (tmp_path / "loud_extras.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        discovery.VARIABLE: "loud_extras",
    }
    quiet = [["--help"], *([name, "--help"] for name in ("compare", "report", "doctor", "profile", "sweep"))]
    loud = [["experts", "--help"], ["compare", "nowhere"], ["doctor", *DEMO, "--config-only"]]
    for arguments, code in [*((line, 0) for line in quiet), *((line, 1) for line in loud)]:
        command = [sys.executable, "-m", "lm_eval_moe", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == code, (arguments, done.stderr)


def test_what_the_help_lists_without_importing_it_is_what_registers_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert f"format of the printed text: {', '.join(sorted(FORMATS))}," in " ".join(capsys.readouterr().out.split())
    assert main(["compare", "nowhere", "--format", "jsonn"]) == 2
    assert "there is no format 'jsonn' (did you mean 'json'?)" in capsys.readouterr().err


BROKEN = {
    "a module that is not there": (None, "ModuleNotFoundError: No module named 'broken_extras'"),
    "a module that fails": ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
    "a module that is no Python": ("class (", "SyntaxError"),
    "a name that is taken": (
        "from dataclasses import dataclass\nfrom lm_eval_moe.steering.actions import SwitchAction\n\n\n"
        "@dataclass(frozen=True)\nclass Mask(SwitchAction):\n    name = 'mask'\n",
        "the action 'mask' of broken_extras already exists, in lm_eval_moe.steering.actions.mask",
    ),
    "a format's name that is taken": (
        "from lm_eval_moe.compare.formats import Format, register\n\n\n"
        "def render(board, title):\n    return title\n\n\n"
        "register(Format('csv', render))\n",
        "the format 'csv' of broken_extras already exists, in lm_eval_moe.compare.formats.as_csv",
    ),
    "a suffix that is taken": (
        "from lm_eval_moe.compare.formats import Format, register\n\n\n"
        "def render(board, title):\n    return title\n\n\n"
        "register(Format('another', render, ('.md',)))\n",
        "the suffix '.md' of broken_extras already exists, in lm_eval_moe.compare.formats.as_markdown",
    ),
    "a figure's name that is taken": (
        "from lm_eval_moe.report.figures import BENCHMARK\n\n\n"
        "@BENCHMARK.figure('scores', order=1, title='Again')\ndef again(subject):\n    return None\n",
        "the benchmarks' figure 'scores' of broken_extras already exists, in lm_eval_moe.report.figures.scores",
    ),
    "a backend's name that is taken": (
        "from lm_eval_moe.backends.registry import register_backend\n\n"
        "register_backend('hf-moe', 'broken_extras:Other')\n",
        "the routed model 'hf-moe' of broken_extras already exists, in lm_eval_moe.backends.hf.model",
    ),
    "a rule with a flag of another form": (
        "from dataclasses import dataclass\nfrom lm_eval_moe.steering.selectors import Selector, options\n\n\n"
        "@dataclass(frozen=True)\nclass Odd(Selector):\n    name = 'odd'\n    top_m: str = options.language('x')\n\n"
        "    def explain(self, scope):\n        return []\n",
        "the rule 'odd' declares a field 'top_m' (text), which is a flag of the rule 'exclusive', as number",
    ),
}


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_plug_in_that_does_not_work_is_one_message(
    text: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if text is not None:
        (tmp_path / "broken_extras.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(discovery.VARIABLE, "broken_extras")
    for _ in range(2):  # and again, where it is looked for again
        assert main(["experts", "busiest"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(("name", "score"), [("peak", False), ("routing_peak", True), ("steered_peak", True)])
def test_a_field_s_name_says_whether_it_is_a_score(name: str, score: bool) -> None:
    curve = Curve("peak", lambda record, reference, shape: record.counts.max(-1), frozenset({"counts"}))
    with pytest.raises(UserError, match="declared as"):
        register(RoutingField(name, curve, score=score))
    assert name not in FIELDS
    register(RoutingField(name, curve, score=not score))
    assert chosen_fields(name, steered=True) == (FIELDS[name],)
    assert Metric(name, "none").is_routing


@pytest.mark.usefixtures("_forgotten")
def test_a_proof_that_needs_one_that_does_not_hold_proves_nothing() -> None:
    from lm_eval_moe.doctor import ProofOutcome, examine, proof

    @proof("never", "never holds", observes="nothing", order=1, if_missing="takes what never holds for granted")
    def never(runs: Any) -> ProofOutcome:
        return ProofOutcome("fail", "no")

    @proof("upon", "stands upon it", observes="nothing", order=2, needs=("never",))
    def upon(runs: Any) -> ProofOutcome:
        return ProofOutcome("pass", "yes")

    found = {entry.name: result for entry, result in examine(HFMoE(pretrained="demo", batch_size=4)).findings}
    assert (found["upon"].outcome, found["upon"].summary) == ("not proven", "takes what never holds for granted (yes)")

    @proof("lost", "needs what is not there", observes="nothing", order=3, needs=("neverr",))
    def lost(runs: Any) -> ProofOutcome:
        return ProofOutcome("pass", "yes")

    with pytest.raises(UserError, match="needs 'neverr', which does not exist"):
        finding.all_proofs()
