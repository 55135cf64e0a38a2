"""A page from a real run: what lm-eval reports is what the page shows."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.tasks import TaskManager
from scipy import stats
from support.small_models import make_model
from support.written_results import PageReader

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.report import LabelledRun, write_report
from lm_eval_moe.resources import tasks_dir
from lm_eval_moe.steering import parse_spec

TASKS = ["demo_arith_en", "demo_arith_sw", "demo_arith_zh", "demo_arith_gen_en", "demo_arith_gen_sw", "demo_text_sw"]
SPEC = {
    "version": 1,
    "name": "middle",
    "interventions": [{"layers": "middle", "experts": {"ids": {1: [0, 3]}}, "action": {"bias": 2.0}}],
}


@pytest.fixture(scope="module")
def runs(tokenizer: Any) -> dict[str, dict[str, Any]]:
    manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)
    lm = HFMoE(pretrained=make_model("qwen3_moe"), tokenizer=tokenizer, batch_size=8)
    found = {}
    for label, spec in (("plain", None), ("steered", SPEC)):
        lm.set_steering(parse_spec(spec) if spec else None)
        found[label] = simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=8, bootstrap_iters=10)
    return found


def test_page_of_a_real_run_shows_its_numbers(runs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_report([LabelledRun(label, results) for label, results in runs.items()], path, title="real")
    text = path.read_text(encoding="utf-8")
    page = PageReader(text)
    plain, steered = (runs[label]["results"]["demo_arith_sw"] for label in runs)
    before, after = (np.array([sample["acc"] for sample in runs[label]["samples"]["demo_arith_sw"]]) for label in runs)
    row = page.row("sw")
    assert row[1] == f"{100 * plain['acc,none']:.1f}{100 * plain['acc_stderr,none']:.1f}"
    assert row[2] == f"{plain['routing_divergence,none']:.3f}{plain['routing_divergence_stderr,none']:.3f}"
    assert row[3].startswith(f"{100 * steered['acc,none']:.1f}")
    assert row[5].startswith(f"{steered['routing_divergence,none']:.3f}")
    change = f"{100 * (after - before).mean():+.1f}".replace("-", "\N{MINUS SIGN}").replace("+0.0", "0.0")
    assert row[4] == f"{change}{100 * stats.sem(after - before):.1f}"
    for benchmark in ("demo_arith", "demo_arith_gen", "demo_text"):
        assert f">{benchmark}</h2>" in text
    assert runs["steered"]["routing"]["steering"]["hash"] in text
    assert html.escape("8 of 180") in text


def test_the_table_of_a_text_benchmark_has_its_perplexity(runs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_report([LabelledRun("plain", runs["plain"])], path, title="real")
    page = PageReader(path.read_text(encoding="utf-8"))
    value = runs["plain"]["results"]["demo_text_sw"]["byte_perplexity,none"]
    rows = [row for table in page.tables for row in table if row and row[0] == "sw"]
    assert any(row[1].startswith(f"{value:.2f}") for row in rows)
