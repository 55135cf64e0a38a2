"""Prints what a steered run reports of routing, with whichever lm-eval is on the path: ``FOLDER OUTPUT``."""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.resources import steering_configs_dir, tasks_dir

TASKS = ["demo_arith", "two_filters_en", "two_filters_sw", "demo_text_en", "demo_text_hi"]


def bare(name: str) -> str:
    """Return a task's name without its group's, which lm-eval 0.5 puts before it."""
    return name.rpartition("::")[2]


def ours(scores: dict[str, Any], fields: set[str]) -> dict[str, Any]:
    return {key: value for key, value in scores.items() if key.partition(",")[0].removesuffix("_stderr") in fields}


def main(folder: Path, output: Path) -> None:
    for language in ("en", "sw"):
        (folder / f"two_{language}.yaml").write_text(
            f"include: {tasks_dir()}/demo/demo_arith_gen_{language}.yaml\ntask: two_filters_{language}\n"
            "filter_list:\n"
            "  - {name: first, filter: [{function: regex, regex_pattern: '(\\d+)'}, {function: take_first}]}\n"
            "  - {name: second, filter: [{function: take_first}]}\n"
            f"metadata: {{version: 1.0, routing: {{language: {language}, benchmark: two_filters, item: item_id}}}}\n",
            encoding="utf-8",
        )
    manager = TaskManager(include_path=[str(tasks_dir()), str(folder)], include_defaults=False)
    warnings.simplefilter("ignore", RoutingWarning)
    results = simple_evaluate(
        HFMoE(pretrained="demo", batch_size=8, device="cpu"),
        tasks=TASKS,
        task_manager=manager,
        limit=4,
        bootstrap_iters=10,
        steering=steering_configs_dir() / "demo_task_experts.yaml",
        routing_fields="all",
    )
    assert results is not None
    fields = {key.partition(",")[0] for scores in results["results"].values() for key in scores}
    fields = {name for name in fields if name.startswith(("routing_", "steered_")) and not name.endswith("_stderr")}
    routing = results["routing"]
    found = {
        "results": {bare(name): ours(scores, fields) for name, scores in results["results"].items()},
        "groups": {name: ours(scores, fields) for name, scores in results["groups"].items()},
        "samples": {
            bare(name): [
                {"doc_id": each["doc_id"], "filter": each["filter"], **ours(each, fields)}
                | {"metrics": [metric for metric in each["metrics"] if metric in fields]}
                for each in log
            ]
            for name, log in results["samples"].items()
        },
        "higher_is_better": {
            bare(name): {metric: better for metric, better in known.items() if metric in fields}
            for name, known in results["higher_is_better"].items()
        },
        "tasks": {bare(name): entry for name, entry in routing["tasks"].items()},
        "steering": routing["steering"],
        "printed": sorted(
            line.split("|")[5].strip() for line in make_table(results).splitlines() if "routing_" in line
        ),
    }
    output.write_text(json.dumps({"lm_eval": version("lm_eval"), "found": found}, default=str), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
