"""One small evaluation, everything about which can be changed: its model, its tasks, and how it is run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from lm_eval.tasks import TaskManager

from lm_eval_moe import simple_evaluate
from support.small_models import SENTENCES, make_model

CHAT_TEMPLATE = "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}"

UTILS = """
import json
from pathlib import Path

import datasets


def load(**_):
    lines = Path(__file__).with_name("data.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return datasets.DatasetDict(
        test=datasets.Dataset.from_list(rows[:4]), dev=datasets.Dataset.from_list(rows[4:])
    )


def question(doc):
    return "Q: " + doc["text"]
"""


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated and how.

    Attributes:
        model: Folder of the model.
        tasks: Folder of the task files.
        model_args: Further model arguments.
        arguments: Further arguments of `simple_evaluate`.
        threads: More than the test itself has.
        backend: By name.
    """

    model: Path
    tasks: Path
    model_args: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    backend: str = "hf-moe"

    def run(self, cache: Path | None = None, tasks: list[str] | None = None, **more: Any) -> dict[str, Any]:
        """Evaluate, through everything that a user's run goes through."""
        own = torch.get_num_threads()
        torch.set_num_threads(own + self.threads)
        try:
            results = simple_evaluate(
                self.backend,
                {"pretrained": str(self.model), "device": "cpu", "max_length": 200, **self.model_args},
                tasks=["own_choice", "own_text"] if tasks is None else tasks,
                task_manager=TaskManager(include_path=[str(self.tasks)], include_defaults=False),
                use_cache=str(cache) if cache else None,
                **{"limit": 2, "bootstrap_iters": 0, **self.arguments, **more},
            )
        finally:
            torch.set_num_threads(own)
        assert results is not None
        return results

    def with_model_args(self, **changes: Any) -> Evaluation:
        return replace(self, model_args={**self.model_args, **changes})

    def with_arguments(self, **changes: Any) -> Evaluation:
        return replace(self, arguments={**self.arguments, **changes})

    def with_model(self, folder: Path) -> Evaluation:
        """Return the evaluation of a copy of the model, in a folder of the same name."""
        return replace(self, model=shutil.copytree(self.model, folder / self.model.name))

    def with_tasks(self, folder: Path) -> Evaluation:
        """Return the evaluation of a copy of the tasks."""
        return replace(self, tasks=shutil.copytree(self.tasks, folder / "tasks", ignore=shutil.ignore_patterns("__*")))


def write_evaluation(folder: Path, tokenizer: Any) -> Evaluation:
    """Write a random model and two tasks: choices, and text drawn at random."""
    model = make_model("qwen3_moe")
    model.generation_config.do_sample = False
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "utils.py").write_text(UTILS, encoding="utf-8")
    rows = [{"text": text, "answer": number % 2} for number, text in enumerate(SENTENCES["en"] + SENTENCES["de"])]
    (tasks / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    routing = {"language": "en", "benchmark": "own", "item": "row"}
    common = {"test_split": "test", "fewshot_split": "dev", "num_fewshot": None}
    write_task(
        tasks / "own_choice.yaml",
        {
            **{"task": "own_choice", **common, "output_type": "multiple_choice"},
            **{"doc_to_text": "Is it so? {{text}}", "doc_to_choice": ["no", "yes"], "doc_to_target": "{{answer}}"},
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0, "routing": routing},
        },
        ["custom_dataset: !function utils.load"],
    )
    write_task(
        tasks / "own_text.yaml",
        {
            **{"task": "own_text", **common, "output_type": "generate_until", "doc_to_target": "{{answer}}"},
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 4, "do_sample": True, "temperature": 1.0},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0, "routing": {**routing, "benchmark": "own_text"}},
        },
        ["custom_dataset: !function utils.load", "doc_to_text: !function utils.question"],
    )
    text = (tasks / "own_choice.yaml").read_text(encoding="utf-8")
    text = text.replace("task: own_choice", "task: own_choice_sw").replace("language: en", "language: sw")
    (tasks / "own_choice_sw.yaml").write_text(text, encoding="utf-8")
    return Evaluation(folder / "model", tasks)


def write_task(path: Path, content: dict[str, Any], functions: list[str]) -> None:
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(kept) + "\n".join(functions) + "\n", encoding="utf-8")


def edit(path: Path, old: str, new: str) -> None:
    """Change a text file in one place."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")
