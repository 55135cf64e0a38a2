"""The command line as a user meets it: one message for a mistake, the same numbers by either way of steering."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.utils import make_table
from transformers import LlamaConfig, LlamaForCausalLM

from lm_eval_moe.cli import main
from lm_eval_moe.demo_model import demo_model_path

pytestmark = pytest.mark.long

STEERING = """
version: 1
name: promote
interventions:
  - layers: middle
    experts: {ids: {all: [2, 9]}}
    action: {soft: 0.5}
"""


@pytest.fixture
def steering(tmp_path: Path) -> Path:
    file = tmp_path / "steer.yaml"
    file.write_text(STEERING, encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's log handlers keep the stream of the test that set them up, which pytest has closed by the next one."""
    monkeypatch.setattr("logging.raiseExceptions", False)


def run(
    *arguments: str, tasks: str = "demo_arith_en,demo_arith_sw", model: str = "hf-moe", limit: str | None = "3"
) -> int:
    limited = ["--limit", limit] if limit else []
    return main(["run", "--model", model, "--tasks", tasks, *limited, "--batch_size", "8", *arguments])


def results_in(folder: Path) -> dict[str, Any]:
    (file,) = folder.rglob("results_*.json")
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def test_steering_flag_and_model_argument_give_the_same_numbers(
    steering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_flag, by_argument = tmp_path / "flag", tmp_path / "argument"
    common = ("--log_samples", "--routing_fields", "all")
    model = "pretrained=demo"
    assert run("--model_args", model, "--steering", str(steering), "--output_path", str(by_flag), *common) == 0
    assert run("--model_args", f"{model},steering={steering}", "--output_path", str(by_argument), *common) == 0
    one, other = results_in(by_flag), results_in(by_argument)
    assert one["results"] == other["results"]
    assert one["routing"] == other["routing"]
    assert one["routing"]["schema_version"] == 1
    assert one["config"]["model"] == one["model_source"] == "hf-moe"
    printed = capsys.readouterr().out
    for field in ("acc", "routing_divergence", "routing_entropy", "steered_selection"):
        assert f"|{field}" in printed
    # What is on disk is what lm-eval's own tools read.
    table = make_table(one)
    assert "routing_divergence" in table
    (samples,) = by_flag.rglob("samples_demo_arith_sw_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    mean = sum(row["routing_divergence"] for row in rows) / len(rows)
    assert mean == pytest.approx(one["results"]["demo_arith_sw"]["routing_divergence,none"])


def test_a_run_names_its_steering_its_controls_and_its_files(steering: Path, tmp_path: Path) -> None:
    """In a process of its own, whose log is set up as a user's is."""
    tasks = ("--tasks", "demo_arith_en", "--limit", "3", "--batch_size", "8")
    model = ("--model_args", "pretrained=demo", "--steering", str(steering), "--output_path", str(tmp_path / "out"))
    command = [sys.executable, "-m", "lm_eval_moe", "run", *tasks, *model, "--control", "random:2", "--log_samples"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed, said = done.stdout, done.stderr
    lines = printed.splitlines()
    found = results_in(tmp_path / "out")["routing"]
    steered = found["steering"]
    header = lines.index(f"steering: {steered['name']} ({steered['hash'][:8]})")
    assert lines[header + 1].startswith("hf-moe ({'pretrained': 'demo'})")
    written = [Path(line.removeprefix("written: ")) for line in lines if line.startswith("written: ")]
    assert sorted(written) == sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert lines[-len(written) :] == [f"written: {path}" for path in written]
    for seed in (1, 2):
        assert f"lm-eval-moe: control {seed} of 2, seed {seed} (" in said
    assert ".partial" not in printed + said
    assert f"samples to {tmp_path / 'out' / 'demo'}" in said
    controls = said.partition("control 1 of 2")[2]
    assert "Building prompts: " in controls
    assert said.count("Selected tasks") == 1, "lm-eval has said it all of the first run"
    assert "with the response cache" not in said, "there is none"


def test_controls_whose_answers_are_known_leave_no_bars_behind(steering: Path, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    tasks = ("--tasks", "demo_arith_en", "--limit", "3", "--batch_size", "8")
    model = ("--model_args", "pretrained=demo", "--steering", str(steering), "--output_path", str(tmp_path / "out"))
    command = [sys.executable, "-m", "lm_eval_moe", "run", *tasks, *model, "--control", "random:2"]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal on Linux ends
        while chunk := os.read(screen, 1 << 16):
            shown += chunk
    os.close(screen)
    assert process.wait() == 0
    own, _, controls = shown.decode().partition("lm-eval-moe: control 1 of 2")
    kept = re.compile(r"[\r\n]([^\r\n:]+): +\d+%\|[^\r\n]*\r\n")  # a bar at whose end the line does
    assert kept.findall(own)[-1] == "Answering for this run and the next"
    assert "Running loglikelihood requests: " not in own, "one bar counts the requests"
    assert "]lm-eval-moe: " not in own, "a line of its own, not one of a bar"
    assert "control 2 of 2" in controls
    assert "%|" in controls, "there are bars"
    assert kept.findall(controls) == []


def test_set_overrides_a_field_of_the_file(steering: Path, tmp_path: Path) -> None:
    arguments = ("--model_args", "pretrained=demo", "--steering", str(steering), "--output_path", str(tmp_path / "out"))
    assert run(*arguments, "--set", "interventions.0.action.soft=-0.25", tasks="demo_arith_en") == 0
    spec = results_in(tmp_path / "out")["routing"]["steering"]["spec"]
    assert spec["interventions"][0]["action"] == {"soft": -0.25}


def dense_model(folder: Path, tokenizer: Any) -> str:
    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def changed(old: str, new: str) -> Callable[[Path], None]:
    return lambda file: file.write_text(STEERING.replace(old, new), encoding="utf-8")


# What is wrong, further arguments, and what the message must say: the place, what was given, and what to do.
MISTAKES: list[tuple[str, Callable[[Path], None] | None, list[str], list[str]]] = [
    (
        "unknown key",
        changed("layers:", "layer:"),
        [],
        ["steer.yaml: interventions.0", "'layer'", "did you mean 'layers'"],
    ),
    ("layer out of range", changed("middle", "6-8"), [], ["interventions.0.layers", "8", "0-7"]),
    ("expert out of range", changed("[2, 9]", "[2, 16]"), [], ["experts.ids", "16", "15"]),
    ("two selectors", changed("{ids: {all: [2, 9]}}", "{ids: {3: [1]}, random: {}}"), [], ["experts", "exactly one"]),
    ("another model's file", changed("name: promote", "model: {layers: 48}"), [], ["model.layers", "48"]),
    ("not YAML", changed("{soft: 0.5}", "{soft: 0.5"), [], ["steer.yaml", "line"]),
    ("unreadable file", lambda file: file.unlink(), [], ["steer.yaml", "no such file"]),
    ("profile rule", changed("{ids: {all: [2, 9]}}", "{task: {profile: a}}"), [], ["experts.task", "baseline"]),
    ("bad override", None, ["--set", "interventions.3.action=mask"], ["--set interventions.3", "a list of 1"]),
    ("unknown field", None, ["--routing_fields", "routing_divergense"], ["--routing_fields", "routing_divergence"]),
    ("unknown language", None, ["--routing_reference", "klingonese"], ["--routing_reference", "language code"]),
    ("no such folder", None, ["--include_path", "nowhere"], ["--include_path", "'nowhere'"]),
    ("no parallel file", None, ["--parallel", "nowhere.yaml"], ["nowhere.yaml"]),
]


@pytest.mark.parametrize(("edit", "arguments", "words"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_message_and_exit_code_2(
    edit: Callable[[Path], None] | None,
    arguments: list[str],
    words: list[str],
    steering: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if edit is not None:
        edit(steering)
    code = run("--model_args", "pretrained=demo", "--steering", str(steering), *arguments)
    said = capsys.readouterr().err
    assert code == 2
    message = said[said.index("lm-eval-moe: error:") :]
    for word in words:
        assert word.lower() in message.lower()
    assert "Traceback" not in said
    assert "->" in message, "it must say what to do"


def test_a_mistake_about_model_or_tasks_is_one_message_too(
    tmp_path: Path, tokenizer: Any, steering: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (["--model_args", f"pretrained={dense_model(tmp_path / 'dense', tokenizer)}"], {}, "dense model"),
        (
            ["--model_args", "pretrained=demo"],
            {"tasks": "demo_aritth,nothing_like_it"},
            "no task 'demo_aritth' (did you mean 'demo_arith'?) and no task 'nothing_like_it'\n  -> `lm-eval-moe ls`",
        ),
        (["--model_args", "pretrained=demo,dtype=float9"], {}, "dtype: 'float9' is not a torch dtype"),
        (["--model_args", "pretrained=demo,steerin=x"], {}, "'steerin' (did you mean 'steering'?)"),
        (
            ["--model_args", "pretrained=demo,num_experts_per_tok=99"],
            {},
            "is configured to select 99 of 16 experts per token",
        ),
        (["--model_args", "pretrained=demo", "--apply_chat_template"], {}, "tokenizer has no chat template"),
        (["--model_args", "pretrained=demo", "--check_integrity"], {}, "Unable to find package root"),
        (
            ["--model_args", "pretrained=demo", "--samples", '{"demo_arith_en": [999]}'],
            {"limit": None, "tasks": "demo_arith_en"},
            "k=180",
        ),
        (
            ["--model_args", "pretrained=demo", "--gen_kwargs", "max_gen_toks=5000"],
            {"tasks": "demo_arith_gen_en"},
            "max tokens to generate (5000) must be less",
        ),
        *(
            (["--model_args", "pretrained=demo", "--device", device], {}, f"there is no device {device}")
            for device, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
            if not there
        ),
        *([] if find_spec("wandb") else [(["--wandb_args", "project=x"], {}, "wandb is not installed")]),
        *([] if find_spec("trackio") else [(["--trackio_args", "project=x"], {}, "trackio is not installed")]),
        (["--model_args", f"pretrained={cut_off(tmp_path)}"], {}, "SafetensorError"),
        (["--tasks", broken_task(tmp_path)], {}, "a task file is not valid YAML: while parsing a flow sequence"),
        (["--model_args", f"pretrained={without_tokenizer(tmp_path)}"], {}, "there is no tokenizer in"),
        (["--model_args", "pretrained=demo,capture=promt"], {}, "did you mean 'prompt'"),
        (["--model_args", "pretrained=demo,capture=of"], {}, "did you mean 'off'"),
        (["--model_args", "pretrained=demo,enable_thinking=true"], {}, "add think_end_token"),
        (["--model_args", f"pretrained={tmp_path}/nowhere"], {}, "cannot load the config"),
        (["--steering", str(steering), "--model_args", "pretrained=x"], {"model": "hf"}, "use --model hf-moe"),
        (["--model_args", "pretrained=demo", "--control", "random:2"], {}, "give --steering FILE"),
    ]
    for arguments, options, words in cases:
        assert run(*arguments, **options) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said


def without_tokenizer(folder: Path) -> Path:
    return shutil.copytree(demo_model_path(), folder / "mute", ignore=shutil.ignore_patterns("tokenizer*"))


def broken_task(folder: Path) -> str:
    """Return a task file with a list that does not end."""
    file = folder / "broken.yaml"
    file.write_text("task: [a\n", encoding="utf-8")
    return str(file)


def cut_off(folder: Path) -> Path:
    """Return the demo model with weights that were not copied to their end."""
    damaged = shutil.copytree(demo_model_path(), folder / "damaged")
    [weights] = damaged.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    return damaged


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--tasks", "x", "--limti", "2"], "run does not take '--limti' (did you mean '--limit'?)"),
        (["report", "x", "--otuput=x"], "report does not take '--otuput=x' (did you mean '--output'?)"),
        (["ls", "tasks", "more"], "ls does not take 'more'"),
        (["--tsaks", "x"], "run does not take '--tsaks' (did you mean '--tasks'?)"),
    ],
)
def test_an_argument_that_a_command_does_not_have_is_named_with_the_nearest(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"error: {words}\n  -> see lm-eval-moe {words.split()[0]} --help" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["doctor", "--model_args", "{", "x"], "Invalid JSON: {"),
        (["run", "--tasks", "x", "--model_args", "{", "x"], "Invalid JSON: {"),
        (["profile", "--model_args", "pretrained=x", "--texts", "en=x", "-o", "9" * 400], "File name too long"),
    ],
)
def test_a_value_that_cannot_be_read_is_one_message(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "\n  -> " in said


def test_validate_says_what_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("task: mine\ntag: ours\ndataset_path: json\n", encoding="utf-8")
    assert main(["validate", "--tasks", "demo_arith,demo_arith_s*,mine,ours", "--include_path", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["demo_arith", "group"],
        ["demo_arith_sw", "task"],
        ["mine", "task"],
        ["ours", "tag"],
    ]
    for arguments, words in (
        (["demo_arth"], "there is no task 'demo_arth' (did you mean 'demo_arith'?)"),
        (["x", "--include_path", "nowhere"], "'nowhere' is not a directory"),
        ([","], "no task given"),
    ):
        assert main(["validate", "--tasks", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_a_file_of_options_may_have_all_of_them(
    tmp_path: Path, steering: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a model's name it is ours; what the command line says wins."""
    options = {
        **{"model_args": {"pretrained": "demo"}, "tasks": ["demo_arith_en", "demo_arith_de"], "limit": 2},
        **{"steering": str(steering), "set": "interventions.0.action.soft=0.25", "control": "random:1"},
        **{"routing_fields": "all", "routing_reference": "sw", "output_path": str(tmp_path / "out")},
    }
    file = tmp_path / "options.yaml"
    file.write_text(json.dumps(options), encoding="utf-8")
    assert main(["run", "--config", str(file), "--routing_reference", "de", "--batch_size", "8"]) == 0
    capsys.readouterr()
    [written] = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(written.read_text(encoding="utf-8"))
    assert found["config"]["model"] == "hf-moe"
    assert found["routing"]["reference"] == "de"
    assert found["routing"]["steering"]["spec"]["interventions"][0]["action"] == {"soft": 0.25}
    assert "acc_gain_over_control,none" in found["results"]["demo_arith_en"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"routing_refrence": "en"}, "'routing_refrence' is not an option of run (did you mean 'routing_reference'?)"),
        ({"--control": "random:1"}, "'--control' is not an option of run (did you mean 'control'?)"),
        ({"steering": 3}, "steering: expected a text, got 3"),
        ({"allow_leak": "no"}, "allow_leak: expected true or false, got 'no'"),
        ({"parallel": [1]}, "parallel: expected a text or a list of texts, got [1]"),
        ({"control": "random:0", "tasks": "demo_arith_en"}, "--control"),
    ],
)
def test_a_mistake_in_a_file_of_options_is_one_message(
    options: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(json.dumps(options), encoding="utf-8")
    assert main(["run", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lm_eval_moe.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
    assert time.perf_counter() - started < 30, "a hang, not a matter of speed"


@pytest.mark.parametrize("arguments", [["run", "--help"], ["run"], ["demo", "--help"], ["--version"]])
def test_commands_explain_themselves(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "--steering" in printed or "--output_path" in printed or "lm-eval-moe 0" in printed


def test_without_a_command_run_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "hf-moe", "--tasks", "demo_arith_en", "--routing_reference", "??"]) == 2
    assert "--routing_reference" in capsys.readouterr().err


def test_demo_writes_results_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--limit", "3", "--output_path", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "random control acc" in printed
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    steered = json.loads((tmp_path / "results_steered.json").read_text(encoding="utf-8"))
    control = json.loads((tmp_path / "results_random_control.json").read_text(encoding="utf-8"))
    assert steered["routing"]["steering"]["hash"][:8] in page
    per_layer = [{k: len(v) for k, v in r["routing"]["steering"]["experts"].items()} for r in (steered, control)]
    assert per_layer[0] == per_layer[1], "the control targets as many experts in each layer"
    for layer, experts in steered["routing"]["steering"]["experts"].items():
        assert not set(experts) & set(control["routing"]["steering"]["experts"][layer])
