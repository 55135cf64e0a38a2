"""Every command that a page shows is run, in the page's order, or checked as far as this machine can.

A page is a story: its commands, and its Python where it is no fragment, share a folder. What the bundled model can do
is done, on the first documents of each task. A command that needs another model or other data is parsed to its end, and
its tasks and steering files are looked up. For other programs, what they are pointed at has to be there.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from support.paths import ROOT

from lm_eval_moe.cli import main
from lm_eval_moe.cli.main import _parser
from lm_eval_moe.resources import tasks_dir
from lm_eval_moe.steering import load_spec

pytestmark = pytest.mark.long

PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)

EVALUATE = "lm-eval-moe run --model_args pretrained=demo --tasks demo_arith --log_samples"
PROFILE = "lm-eval-moe profile --model_args pretrained=demo --tasks"
# What a page takes to be there already.
GIVEN = {
    "gate.md": [
        f"{EVALUATE} --output_path baseline --routing_profile baseline.safetensors",
        f"{EVALUATE} --output_path results --routing_profile candidate.safetensors",
    ],
    "experts.md": [
        f"{PROFILE} demo_arith_dev_en --output maths",
        f"{PROFILE} demo_text_en --output text",
        "cp maths/en.safetensors gsm8k_en.safetensors",
        "cp text/en.safetensors flores_en.safetensors",
    ],
    "doctor.md": ["cp steering_configs/demo_task_experts.yaml steer.yaml"],
}
RULE = """
version: 1
name: rule
interventions:
  - layers: middle
    experts: {task: {profile: gsm8k_en.safetensors, baseline: flores_en.safetensors, threshold: 0.15}}
    action: {soft: 0.5}
"""
HOLDING_A_MODEL = """
from transformers import AutoModelForCausalLM, AutoTokenizer
from lm_eval_moe.demo_model import demo_model_path
model = AutoModelForCausalLM.from_pretrained(demo_model_path()).eval()
inputs = AutoTokenizer.from_pretrained(demo_model_path())("Sara has eight bananas.", return_tensors="pt")
"""
# Pages whose Python is run here; that of the others is run by tests of their own, or is part of something larger.
PYTHON = {"README.md", "analyse.md", "doctor.md", "experts.md", "library.md", "report.md"}
ELSEWHERE = {"adapters.md", "extending.md", "files.md", "results.md"}
FRAGMENTS = {"backends.md"}
# Nothing but a number of documents makes them long: they get the first of each task.
LIMITED = {"run", "profile", "demo"}
LIMIT = ["--limit", "8"]


@dataclass
class Step:
    """A command, or a block of Python, of a page."""

    text: str
    python: bool = False
    words: list[str] = field(default_factory=list)


def steps(page: Path) -> Iterator[Step]:
    for indent, language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        block = re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)
        if language == "python":
            yield Step(block, python=True)
        elif language == "sh":
            for line in re.sub(r"\\\n", " ", block).splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield Step(line)


def words_of(line: str) -> list[str]:
    """Return the words of a command line as a shell makes them, in the working directory."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def argument(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


def needs_what_is_not_here(words: list[str]) -> bool:
    """Whether a command needs a model or data of the hub, or vLLM."""
    model = re.search(r"pretrained=([^,]+)", argument(words, "--model_args") or "pretrained=demo")
    tasks = (argument(words, "--tasks") or "demo_").split(",")
    return (
        (argument(words, "--model") or "hf-moe") != "hf-moe"
        or model is None
        or model[1] != "demo"
        or not all(task.startswith("demo_") for task in tasks)
    )


def write_counts(path: Path, most: int) -> None:
    """Write JSON counts of a model of 48 layers of 128 experts, of which 8 are selected for each of 100 tokens."""
    counts = [100] * 3 + [most, 100 - most] + [50] * 8
    layer = {str(7 * place % 128): {"activation_tokens": n, "gate_values_sum": n / 8} for place, n in enumerate(counts)}
    path.write_text(json.dumps({str(at): {**layer, "total_tokens": 100} for at in range(48)}), encoding="utf-8")


def prepare(page: Path, folder: Path) -> dict[str, Any]:
    """Make the files that a page takes to be there, in the working directory; return the names that its Python does."""
    names: dict[str, Any] = {}
    (folder / "steering_configs").symlink_to(ROOT / "steering_configs")
    for line in GIVEN.get(page.name, []):
        run_words(words_of(line))
    if page.name == "experts.md":
        (folder / "rule.yaml").write_text(RULE, encoding="utf-8")
    if page.name in ("experts.md", "published_settings.md"):
        for most, name in enumerate(("en", "zh", "mgsm_en", "mgsm_zh"), start=90):
            write_counts(folder / f"{name}.json", most)
    if page == ROOT / "README.md":
        exec(HOLDING_A_MODEL, names)
    return names


# ---------------------------------------------------------------------- running


def run_words(words: list[str]) -> None:
    if words[0] == "lm-eval-moe":
        limit = LIMIT if words[1] in LIMITED and words[2:3] != ["analyse"] and "--limit" not in words else []
        assert main([*words[1:], *limit]) == 0
    elif words[0] == "cp":
        shutil.copy(*words[1:])
        if words[2] == "sweep.yaml":  # over an hour of passes in little: two cells of few documents
            shorten_sweep(Path("sweep.yaml"))
    elif words[0] == "accelerate":
        launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words[1:], *LIMIT]
        subprocess.run(launcher, check=True, timeout=600)
    else:
        check_other(words)


def shorten_sweep(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    shorter = text.replace("batch_size: 32", "batch_size: 32, limit: 4").replace("[-0.5, 0.25, 0.5, 1.0]", "[0.5]")
    assert len(shorter.splitlines()) == len(text.splitlines())
    assert shorter != text
    path.write_text(shorter, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_do_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_task: TaskManager
) -> None:
    monkeypatch.chdir(tmp_path)
    names = prepare(page, tmp_path)
    for step in steps(page):
        if step.python:
            if page.name in PYTHON:
                exec(compile(step.text, str(page), "exec"), names)
            else:
                assert page.name in ELSEWHERE | FRAGMENTS
                ast.parse(step.text)
            continue
        words = words_of(step.text)
        assert set(words) & {"&&", "||", "|", ";", "&"} == set()
        if words[0] == "lm-eval-moe" and needs_what_is_not_here(words):
            parse_to_the_end(words[1:], every_task)
        else:
            run_words(words)


# ---------------------------------------------------------------------- parsing


@pytest.fixture(scope="module")
def every_task() -> TaskManager:
    return TaskManager(include_path=str(tasks_dir()))


def parse_to_the_end(arguments: list[str], every_task: TaskManager) -> None:
    """Parse a command that this machine cannot run; look up the tasks and the steering files that it names."""
    args, unknown = _parser(arguments[0]).parse_known_args(arguments)
    assert unknown == []
    assert callable(args.func)
    tasks = argument(arguments, "--tasks")
    if tasks is not None:
        assert [task for task in tasks.split(",") if not every_task.match_tasks([task])] == []
    if (steering := argument(arguments, "--steering")) is not None:
        [file] = ROOT.glob(f"steering_configs/**/{steering}")
        if (override := argument(arguments, "--set")) and ".json" in override:
            shutil.copy(
                file, steering
            )  # as the page says: paths are relative to the file, and its profiles are not here
            assert load_spec(steering, [override]).interventions


# ---------------------------------------------------------------------- other programs


def check_other(words: list[str]) -> None:
    """Check that what a command of another program is pointed at is there."""
    while "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]
    program, *rest = words
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if program == "make":  # the targets are what CI runs
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "pip":  # needs an index
        [extras] = re.findall(r"\[([\w,]+)\]$", rest[-1])
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    elif program == "pytest":  # they are tests themselves
        assert all((ROOT / path).exists() for path in rest)
    elif program in ("bash", "python") and rest[0].startswith("benchmarks/"):  # minutes to hours
        assert (ROOT / rest[0]).is_file()
        source = " ".join(path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/*.py"))
        assert [flag for flag in rest if flag.startswith("--") and f'"{flag}"' not in source] == []
    elif program == "python" and rest[0] == "-c":
        subprocess.run([sys.executable, *rest], check=True, timeout=300)
    elif program == "python" and rest[0] == "-m":  # what makes the repository's files: a test of its own compares them
        assert importlib.util.find_spec(rest[1]) is not None
    elif program == "vllm":  # needs vLLM
        json.loads(argument(rest, "--additional-config") or "{}")
        module, _, name = (argument(rest, "--worker-cls") or "").rpartition(".")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    else:
        pytest.fail(f"say how this command is tested: {' '.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_blocks_of_their_own(page: Path) -> None:
    """A command in a block that is called otherwise would not be run."""
    for _, language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language != "sh":
            assert language in {"python", "text", "yaml", "toml"}, "a block says what it is"
            assert (
                re.findall(r"(?m)^\s*(?:\$ )?(?:lm-eval-moe (?!.*error)|make |pip |accelerate |vllm ).*", block) == []
            )
