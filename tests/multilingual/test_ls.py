"""``lm-eval-moe ls``: what is listed, the formats, the filters, and that it starts fast."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lm_eval_moe.cli.main import main
from lm_eval_moe.multilingual.manifest import load_manifests


def listed(capsys, *arguments):
    assert main(["ls", *arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_benchmark_is_listed_with_its_facts(capsys):
    (row,) = [row for row in listed(capsys) if row["group"] == "moe_ntrex"]
    assert row["kind"] == "routing"
    assert row["items"] == "1997"
    assert row["paired with English"] == "yes, by item_id"
    assert (row["dataset"], row["licence"]) == ("davidstap/NTREX", "CC BY-SA 4.0")
    assert {"en", "sw", "zh-Hant"} < set(row["languages"])


def test_every_benchmark_is_listed_once(capsys):
    assert sorted(row["group"] for row in listed(capsys)) == sorted(manifest.group for manifest in load_manifests())


def test_why_a_benchmark_is_not_paired_is_said(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    rows = {row["group"]: row["paired with English"] for row in listed(capsys)}
    assert rows["moe_medinstruct"].startswith("no: The dataset is in English only")
    main(["ls"])
    table = capsys.readouterr().out
    assert "The dataset is in English only" in table
    assert "Too narrow" not in table


def test_a_language_in_any_spelling_lists_the_tasks_in_it(capsys):
    tasks = [row["task"] for row in listed(capsys, "--language", "swh_Latn")]
    assert {"moe_ntrex_sw", "moe_flores_sw", "belebele_swh_Latn", "moe_xcopa_sw"} <= set(tasks)
    assert len(tasks) == len(set(tasks))
    assert {row["language"] for row in listed(capsys, "tasks", "-l", "sw")} == {"sw"}


def test_groups_say_over_how_many_tasks_and_languages_they_average(capsys):
    rows = {row["group"]: row for row in listed(capsys, "groups", "--benchmark", "gsm8k_instruct")}
    assert (rows["moe_gsm8k_instruct"]["tasks"], rows["moe_gsm8k_instruct"]["languages"]) == (10, 10)
    assert rows["moe_gsm8k_instruct_non_english"]["tasks"] == 9
    assert rows["moe_gsm8k_instruct_low_resource"] == {
        "group": "moe_gsm8k_instruct_low_resource",
        "tasks": 1,
        "languages": 1,
        "averages": ["bits_per_byte"],
    }


def test_languages_say_their_script_family_and_resources(capsys):
    (row,) = listed(capsys, "languages", "--language", "sw", "--benchmark", "ntrex")
    assert row == {
        "language": "sw",
        "name": "Swahili",
        "script": "Latn",
        "family": "Atlantic-Congo, Bantu",
        "resources": "low",
        "benchmarks": ["ntrex"],
    }


def test_csv_and_markdown_hold_the_same_rows(capsys):
    main(["ls", "tasks", "--benchmark", "gsm8k_instruct", "--format", "csv"])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    main(["ls", "tasks", "--benchmark", "gsm8k_instruct", "--format", "markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])] == rows
    assert len(rows) == 11


@pytest.mark.parametrize(("width", "gone"), [("60", "dataset, licence"), ("100", "licence")])
def test_in_a_narrow_terminal_columns_are_left_out_and_names_stay_whole(capsys, monkeypatch, width, gone):
    monkeypatch.setenv("COLUMNS", width)
    main(["ls", "--benchmark", "gsm8k_instruct"])
    out = capsys.readouterr().out
    assert "moe_gsm8k_instruct " in out
    assert "Too narrow for:" in out
    assert f"{gone}. --format markdown shows them." in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= int(width)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--language", "xx"], "'xx' is not a language code"),
        (["--language", "gsw"], "no benchmark has 'gsw'"),
        (["--benchmark", "ntrax"], "there is no benchmark 'ntrax' (did you mean 'ntrex'?)"),
    ],
)
def test_a_mistake_is_one_message(capsys, arguments, said):
    assert main(["ls", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_it_needs_neither_lm_eval_nor_torch_and_is_fast():
    code = (
        "import sys, time\n"
        "from lm_eval_moe.cli.main import main\n"
        "main(['ls'])\n"
        "main(['ls', 'tasks'])\n"
        "print(*(m for m in ('torch', 'lm_eval', 'transformers', 'datasets') if m in sys.modules), file=sys.stderr)\n"
        "print(time.process_time(), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, seconds = ran.stderr.splitlines()[-2:]
    assert loaded == ""
    assert float(seconds) < 3  # of processor time, for both; about 0.6 on an idle machine


def test_lm_evals_own_list_has_ours_and_those_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(
        "task: my_own_task\ntag: my_own_tag\ndataset_path: json\noutput_type: multiple_choice\n"
        "doc_to_text: '{{q}}'\ndoc_to_target: 0\n",
        encoding="utf-8",
    )
    assert main(["ls", "subtasks", "--include_path", str(tmp_path)]) == 0
    names = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert {"my_own_task", "demo_arith_sw", "hellaswag"} <= {*names}
    assert main(["ls", "tags", "--include_path", str(tmp_path)]) == 0
    tags = capsys.readouterr().out
    assert "my_own_tag" in tags
    assert "my_own_task" not in tags
    assert main(["ls", "--include_path", str(tmp_path / "none")]) == 2
    assert "--include_path: there is no folder" in capsys.readouterr().err
    assert main(["ls", "tags", "--language", "sw"]) == 2
    assert "--language" in capsys.readouterr().err
