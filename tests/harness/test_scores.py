"""Our metrics in lm-eval's results, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.api.group import Group
from lm_eval.config.group import AggMetricConfig

from lm_eval_moe.harness.evaluating import HarnessRun
from lm_eval_moe.harness.scores import add_metrics

BETTER = {"gap": False, "spread": None}
DOCUMENTS = {"a": [{"gap": 1.0, "spread": 0.5}, {"gap": 3.0, "spread": 0.5}], "b": [{"spread": 0.2}], "c": []}


class LoadedTask:
    """What a group sees of a task."""

    def __init__(self, name: str) -> None:
        self.task_name = self._qualified_name = name


def run_of(*, by_size: bool = True, bootstrap_iters: int = 10) -> HarnessRun:
    tasks = {name: LoadedTask(name) for name in DOCUMENTS}
    group = Group("all", aggregate_metric_list=[AggMetricConfig(metric="acc", weight_by_size=by_size)])
    for task in tasks.values():
        group.add(task)
    group.get_all_tasks = lambda recursive=True: list(tasks.values())  # lm-eval looks for its own classes
    return HarnessRun(None, tasks, [group], {}, bootstrap_iters, lambda: None)


def sample(number: int, filtered: str) -> dict[str, Any]:
    return {"doc_id": number, "filter": filtered, "metrics": ["acc"], "acc": 1.0}


def results_of() -> dict[str, Any]:
    table: dict[str, Any] = {
        "a": {"alias": "a", "sample_len": 2, "acc,strict": 1.0},
        "b": {"alias": "b", "sample_len": 1, "acc,none": 0.0},
        "c": {"alias": "c", "sample_len": 4},
        "all": {"alias": "all", "acc,none": 0.5, "sample_count": {"acc,none": 3}},
    }
    return {
        "results": table,
        "groups": {"all": dict(table["all"])},
        "higher_is_better": {"c": {"acc": True}, "a": {"acc": True}, "b": {}, "all": {"acc": True}},
        "n-samples": {task: {"original": 5, "effective": 1} for task in "abc"},
        "samples": {
            "a": [sample(0, "strict"), sample(1, "strict"), sample(0, "loose"), sample(1, "loose")],
            "b": [sample(0, "none")],
            "c": [],
        },
    }


def test_means_and_errors_stand_under_no_filter() -> None:
    results = results_of()
    assert add_metrics(results, run_of(), BETTER, DOCUMENTS) == []
    assert list(results["results"]["a"].items())[3:] == [
        ("gap,none", 2.0),
        ("gap_stderr,none", pytest.approx(1.0)),  # the deviation of 1 and 3 is 2 ** 0.5
        ("spread,none", 0.5),
        ("spread_stderr,none", 0.0),
    ]
    assert results["results"]["b"] == {
        **{"alias": "b", "sample_len": 1, "acc,none": 0.0},
        **{"spread,none": 0.2, "spread_stderr,none": "N/A"},  # of one document
    }
    assert "spread,none" not in results["results"]["c"]


@pytest.mark.parametrize(("by_size", "mean"), [(True, (2 * 0.5 + 0.2) / 3), (False, 0.35)])
def test_a_group_weights_ours_as_its_scores(by_size: bool, mean: float) -> None:
    results = results_of()
    add_metrics(results, run_of(by_size=by_size), BETTER, DOCUMENTS)
    for table in (results["results"], results["groups"]):
        group = table["all"]
        assert group["gap,none"] == 2.0
        assert group["gap_stderr,none"] == pytest.approx(1.0)
        assert group["spread,none"] == pytest.approx(mean)
        assert group["spread_stderr,none"] == "N/A"
        assert list(group)[-1] == "sample_count"
        assert group["sample_count"] == {"acc,none": 3, "gap,none": 2, "spread,none": 3}


def test_an_unweighted_groups_error_is_that_of_its_mean() -> None:
    documents = {"a": [{"gap": 1.0}, {"gap": 3.0}], "b": [{"gap": 5.0}], "c": [{"gap": 0.0}, {"gap": 4.0}] * 2}
    results = results_of()
    results["samples"]["c"] = [sample(number, "none") for number in range(4)]
    assert add_metrics(results, run_of(by_size=False), BETTER, documents) == []
    assert results["results"]["all"]["gap_stderr,none"] == "N/A"  # b has one document
    del documents["b"]
    results = results_of()
    results["samples"]["c"] = [sample(number, "none") for number in range(4)]
    add_metrics(results, run_of(by_size=False), BETTER, documents)
    assert results["results"]["all"]["gap_stderr,none"] == pytest.approx((1.0**2 + 4 / 3) ** 0.5 / 2)


def test_without_bootstrap_there_are_no_errors() -> None:
    results = results_of()
    add_metrics(results, run_of(bootstrap_iters=0), BETTER, DOCUMENTS)
    assert results["results"]["a"]["gap_stderr,none"] == "N/A"
    assert results["results"]["all"]["gap_stderr,none"] == "N/A"


def test_the_log_has_a_documents_values_under_the_first_filter() -> None:
    results = results_of()
    add_metrics(results, run_of(), BETTER, DOCUMENTS)
    log = results["samples"]["a"]
    assert [entry.get("gap") for entry in log] == [1.0, 3.0, None, None]
    assert [entry["metrics"] for entry in log] == [["acc", "gap", "spread"]] * 2 + [["acc"]] * 2


def test_directions_are_told_of_tasks_and_groups() -> None:
    results = results_of()
    add_metrics(results, run_of(), BETTER, DOCUMENTS)
    assert list(results["higher_is_better"]) == ["a", "all", "b", "c"]
    assert results["higher_is_better"]["all"] == {"acc": True, **BETTER}
    assert results["higher_is_better"]["b"] == BETTER


def test_what_could_not_be_added_is_told() -> None:
    results = results_of()
    del results["results"]["b"], results["samples"]["a"][1]
    assert add_metrics(results, run_of(), BETTER, DOCUMENTS) == [
        "task a: its log does not have the 2 documents that were evaluated",
        "task b: it is not among lm-eval's results, which cover a, c, all",
    ]
