"""Results say which documents were evaluated, and over how many of them a field is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from support.demo_runs import evaluate, task_manager
from support.member_names import member_of

from lm_eval_moe import HFMoE, parse_spec
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.resources import tasks_dir

TASKS = ["demo_arith_en", "demo_arith_ru", "demo_arith_sw"]


@pytest.fixture(scope="module")
def lm() -> HFMoE:
    return HFMoE(pretrained="demo", batch_size=8)


@pytest.fixture(autouse=True)
def _as_it_was(lm: HFMoE) -> Any:
    yield
    lm.set_capture("prompt")
    lm.set_steering(None)


def routing(lm: HFMoE, manager: TaskManager, tasks: Any = TASKS, **kwargs: Any) -> Any:
    return evaluate(lm, manager, tasks, **kwargs)["routing"]


def hashes(lm: HFMoE, manager: TaskManager, **kwargs: Any) -> dict[str, str]:
    return {task: entry["document_hash"] for task, entry in routing(lm, manager, **kwargs)["tasks"].items()}


def test_the_hash_is_of_the_rows_and_their_content(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    three = hashes(lm, manager, limit=3)
    assert len(set(three.values())) == 3
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in three.values())
    assert hashes(lm, manager, samples={task: [2, 0, 1] for task in TASKS}) == three
    lm.set_capture("off")
    assert hashes(lm, manager, limit=3) == three
    for other in (hashes(lm, manager, limit=4), hashes(lm, manager, samples={task: [0, 1, 3] for task in TASKS})):
        assert not set(other.values()) & set(three.values())
    # One letter of one document, in the same rows.
    (tmp_path / "edited.yaml").write_text(
        f"include: {tasks_dir()}/demo/demo_arith_en.yaml\ntask: edited\nprocess_docs: !function edit.edited\n"
        "metadata: {version: 1.0, routing: {language: en, benchmark: edited, item: item_id}}\n",
        encoding="utf-8",
    )
    edit = (
        "def edited(docs):\n"
        "    return docs.select(range(3)[::STEP]).map(\n"
        "        lambda doc, i: doc | {'prompt': doc['prompt'] + '.' * (i == ROW)}, with_indices=True\n"
        "    )\n"
    )
    seen = set()
    for row, step in (("-1", "1"), ("1", "1"), ("-1", "-1")):  # as it is, with a full stop, in another order
        (tmp_path / "edit.py").write_text(edit.replace("ROW", row).replace("STEP", step), encoding="utf-8")
        files = task_manager(tmp_path)
        seen.add(routing(lm, files, ["edited"], limit=3)["tasks"]["edited"]["document_hash"])
    assert len(seen) == 3
    assert three["demo_arith_en"] in seen  # whatever the task's name


def test_a_divergence_over_some_documents_says_so(
    lm: HFMoE, manager: TaskManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lm_eval_moe")
    samples = {"demo_arith_en": [0, 1, 2], "demo_arith_ru": [0, 1, 2], "demo_arith_sw": [2, 3, 4, 5]}
    with pytest.warns(RoutingWarning) as caught:
        found = routing(lm, manager, samples=samples)
    (text,) = [str(warning.message) for warning in caught if warning.category is RoutingWarning]
    assert text.startswith("demo_arith_sw: routing_divergence covers 1 of its 4 documents; ")
    assert "demo_arith_en" in text
    counts = {task: entry["curve_documents"] for task, entry in found["tasks"].items()}
    assert counts["demo_arith_sw"] == {"divergence": 1, "entropy": 4, "overlap": 1}
    assert counts["demo_arith_ru"] == {"divergence": 3, "entropy": 3, "overlap": 3}
    assert counts["demo_arith_en"] == {"entropy": 3}
    fields = {task: entry["field_documents"] for task, entry in found["tasks"].items()}
    assert fields["demo_arith_sw"] == {"routing_divergence": 1, "routing_entropy": 4}
    assert fields["demo_arith_en"] == {"routing_entropy": 3}
    assert "demo_arith_sw: of its 4 documents, routing_divergence over 1" in caplog.text
    assert found["tasks"]["demo_arith_sw"]["evaluated_documents"] == 4


def test_averages_name_the_languages_that_are_partial(lm: HFMoE, manager: TaskManager) -> None:
    languages = list(manager.load(["demo_arith"])["tasks"])
    samples = {task: [0, 1] for task in languages} | {member_of("demo_arith", "demo_arith_sw"): [1, 2, 3]}
    with pytest.warns(RoutingWarning, match="covers 1 of its 3 documents"):
        groups = routing(lm, manager, ["demo_arith"], samples=samples)["groups"]
    assert groups["demo_arith"]["partial"] == {"sw": "1 of 3"}
    assert groups["demo_arith_non_english"]["partial"] == {"sw": "1 of 3"}
    others = len(languages) - 2
    assert groups["demo_arith_non_english"]["field_documents"]["routing_divergence"] == 2 * others + 1
    assert groups["demo_arith_non_english"]["field_documents"]["routing_entropy"] == 2 * others + 3
    apart = [name for name, entry in groups.items() if "sw" not in entry["languages"]]
    assert apart
    assert not any("partial" in groups[name] for name in apart)


def test_documents_without_a_captured_token_are_said(lm: HFMoE, manager: TaskManager) -> None:
    lm.set_capture("continuation")  # of one token, which is never fed
    with pytest.warns(
        RoutingWarning, match="demo_arith_en: no routing was captured for 2 of its 2 documents.*continuat"
    ):
        found = routing(lm, manager, TASKS[:1], limit=2)
    assert found["tasks"]["demo_arith_en"]["documents"] == 0


def test_no_capture_skips_no_check_of_leaks(lm: HFMoE, manager: TaskManager) -> None:
    lm.set_capture("off")
    documents = list(manager.load(TASKS[:1])["tasks"][TASKS[0]].eval_docs)
    content = {
        "version": 1,
        "name": "x",
        "selected_on": {"demo_arith": [documents[1]["item_id"]]},
        "interventions": [{"layers": "middle", "experts": {"ids": {"all": [1]}}, "action": {"soft": 0.5}}],
    }
    spec = parse_spec(content, source="x", base_dir=Path())
    with pytest.raises(
        UserError, match="task demo_arith_sw: 1 of its 3 documents are items that experts were selected"
    ):
        routing(lm, manager, TASKS[2:], limit=3, steering=spec)
    with pytest.warns(RoutingWarning, match="1 of its 3 documents"):
        found = routing(lm, manager, TASKS[2:], limit=3, steering=spec, allow_leak=True)
    assert found["tasks"]["demo_arith_sw"]["leaked_documents"] == 1
    assert found["tasks"]["demo_arith_sw"]["curves"] == {}
