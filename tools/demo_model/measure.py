"""Measure the demo model: ``python -m tools.demo_model.measure`` prints the model card's tables.

The divergence here is computed from forward hooks on the routers of a plain transformers model, one text at a time and
without the package's capture: it is an independent check of that, too.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.demo_model.data import evaluation_problems, evaluation_sentences
from lm_eval_moe.demo_model.words import LANGUAGES
from tools.demo_model.training_items import pair_missing, random_problem

__all__ = ["divergence", "expert_importance", "main", "prior_only_accuracy"]

Array = npt.NDArray[np.float64]


@torch.no_grad()
def expert_importance(model: Any, tokenizer: Any, texts: Iterable[str]) -> Array:
    """Return each text's mean expert importance ``[texts, layers, experts]``, top-k form; every row sums to 1."""
    selected: list[tuple[torch.Tensor, torch.Tensor]] = []
    hooks = [
        layer.mlp.gate.register_forward_hook(lambda _module, _inputs, outputs: selected.append(outputs[1:]))
        for layer in model.model.layers
    ]
    rows = []
    try:
        for text in texts:
            selected.clear()
            model(**tokenizer(text, return_tensors="pt"))
            layers = []
            for weights, indices in selected:
                weights = (weights / weights.sum(-1, keepdim=True)).double()
                dense = torch.zeros(len(weights), model.config.num_experts, dtype=torch.float64)
                layers.append(dense.scatter(-1, indices, weights).mean(0).numpy())
            rows.append(np.stack(layers))
    finally:
        for hook in hooks:
            hook.remove()
    return np.stack(rows)


def _entropy(p: Array) -> Array:
    logarithm = np.log(p, out=np.zeros_like(p), where=p > 0)
    entropy: Array = -(p * logarithm).sum(-1)
    return entropy


def divergence(p: Array, q: Array) -> Array:
    """Return the entropy-normalised Jensen-Shannon divergence over the last axis (arXiv 2510.04694).

    ``JS(p, q) / max(ln E - (H(p) + H(q)) / 2, 1e-6)``, natural logarithm.
    """
    mean_entropy = (_entropy(p) + _entropy(q)) / 2
    jensen_shannon = _entropy((p + q) / 2) - mean_entropy
    normalised: Array = jensen_shannon / np.maximum(np.log(p.shape[-1]) - mean_entropy, 1e-6)
    return normalised


def prior_only_accuracy(code: str, draws: int = 20_000) -> float:
    """Return what a guess gets that knows the kind of problem, the options and how frequent answers are in training."""
    rng = random.Random(0)
    frequent: Counter[tuple[str, int]] = Counter()
    for _ in range(draws):
        problem = random_problem(rng, code)
        frequent[problem.kind, problem.answer] += 1
    items = evaluation_problems()
    return sum(
        max(options, key=lambda option: frequent[problem.kind, option]) == problem.answer for problem, options in items
    ) / len(items)


def _curves(model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]]) -> dict[str, Array]:
    """Return the mean divergence to English per layer, by language."""
    importance = {code: expert_importance(model, tokenizer, texts[code]) for code in texts}
    return {code: divergence(importance[code], importance["en"]).mean(0) for code in importance if code != "en"}


def _print_curves(title: str, curves: dict[str, Array]) -> None:
    layers = len(next(iter(curves.values())))
    print(f"\n### {title}\n\n| language | " + " | ".join(f"layer {layer}" for layer in range(layers)) + " |")
    print("|---|" + "---:|" * layers)
    rows = [*curves.items(), ("mean", np.mean(list(curves.values()), axis=0))]
    for code, curve in rows:
        print(f"| {code} | " + " | ".join(f"{value:.3f}" for value in curve) + " |")


def _accuracy(model_path: Path, tasks: Path) -> dict[str, dict[str, float]]:
    """Run the demo tasks through the harness; return the figures of each language."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model_path)},
        tasks=["demo_arith", "demo_arith_gen", "demo_text"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=32,
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    problems = {problem.item_id: problem for problem, _ in evaluation_problems()}
    figures = {}
    for code in LANGUAGES:
        samples = results["samples"][f"demo_arith_{code}"]
        groups: dict[str, list[float]] = {}
        for sample in samples:
            problem = problems[sample["doc"]["item_id"]]
            unseen = pair_missing(code, problem.kind, problem.n, problem.m)
            for group in ("acc", "unseen pair" if unseen else "seen pair", problem.kind):
                groups.setdefault(group, []).append(sample["acc"])
        row = {"unseen pair": float("nan")}  # English has seen all
        row |= {group: float(np.mean(values)) for group, values in groups.items()}
        row["generated"] = results["results"][f"demo_arith_gen_{code}"]["exact_match,number"]
        row["bits_per_byte"] = results["results"][f"demo_text_{code}"]["bits_per_byte,none"]
        figures[code] = row
    return figures


def _ranks(values: Sequence[float]) -> Array:
    """Return ranks, ties sharing the mean of theirs."""
    array = np.asarray(values)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array], dtype=float)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description="Measure the demo model.")
    parser.add_argument("--model", type=Path, default=demo_model_path(), help="folder of the trained model")
    parser.add_argument("--tasks", type=Path, required=True, help="folder of the demo tasks' YAML files")
    parser.add_argument("--control_seed", type=int, default=0, help="seed of the random-initialised control")
    # Forward passes this small are slower on several threads than on one.
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    figures = _accuracy(options.model, options.tasks)
    columns = ("acc", "seen pair", "unseen pair", "total", "left", "more", "generated", "bits_per_byte")
    tokens = json.loads((options.model / "training.json").read_text())["token_share"]
    print("| language | share of documents | share of tokens | prior-only | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * (3 + len(columns)))
    for code, row in figures.items():
        values = " | ".join("–" if np.isnan(row[column]) else f"{row[column]:.3f}" for column in columns)
        shares = f"{LANGUAGES[code].share:.3f} | {tokens[code]:.3f}"
        print(f"| {code} | {shares} | {prior_only_accuracy(code):.3f} | {values} |")

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    trained = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    torch.manual_seed(options.control_seed)
    control = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(options.model), dtype=torch.float32).eval()
    texts = {
        "problems": {code: [problem.prompt(code) for problem, _ in evaluation_problems()] for code in LANGUAGES},
        "plain sentences": {code: [item.text(code) for item in evaluation_sentences()] for code in LANGUAGES},
    }
    for name, by_language in texts.items():
        for label, model in (("trained", trained), ("random-initialised control", control)):
            curves = _curves(model, tokenizer, by_language)
            _print_curves(f"{name}, {label}".capitalize(), curves)
            accuracy = [figures[code]["acc"] for code in curves]
            stacked = np.stack(list(curves.values()))
            rank = [np.corrcoef(_ranks(list(stacked[:, i])), _ranks(accuracy))[0, 1] for i in range(stacked.shape[1])]
            print("| rank correlation with accuracy | " + " | ".join(f"{value:+.2f}" for value in rank) + " |")


if __name__ == "__main__":
    main()
