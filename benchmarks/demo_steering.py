"""What steering does to the demo model: the tables of its model card. ``python benchmarks/demo_steering.py``

Every setting is compared with the baseline item by item: the difference of accuracies over all items of all languages,
with a standard error that takes the eight languages of an item together.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from lm_eval.tasks import TaskManager

from lm_eval_moe import HFMoE, load_spec, simple_evaluate
from lm_eval_moe.resources import steering_configs_dir, tasks_dir

TASK_EXPERTS = "demo_task_experts.yaml"
RANDOM = "demo_random_control.yaml"
LANGUAGES = ("en", "de", "es", "ru", "zh", "tr", "hi", "sw")
FIELDS = "routing_divergence,routing_divergence_early,routing_divergence_late,steered_selection"


def settings(seeds: int) -> dict[str, Any]:
    """Return label and spec of every setting."""
    action = "interventions.0.action"

    def spec(file: str, *overrides: str) -> Any:
        return load_spec(steering_configs_dir() / file, overrides=overrides)

    return {
        "baseline": None,
        "task experts, soft 0.5": spec(TASK_EXPERTS),
        "task experts, soft 1.0": spec(TASK_EXPERTS, f"{action}.soft=1.0"),
        "task experts, soft -0.5": spec(TASK_EXPERTS, f"{action}.soft=-0.5"),
        "task experts, activate": spec(TASK_EXPERTS, f"{action}=activate"),
        "task experts, deactivate": spec(TASK_EXPERTS, f"{action}=deactivate"),
        **{
            f"random {seed}, {label}": spec(RANDOM, f"interventions.0.experts.random.seed={seed}", f"{action}={value}")
            for label, value in (("soft 0.5", "{soft: 0.5}"), ("activate", "activate"))
            for seed in range(1, seeds + 1)
        },
    }


def by_item(results: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return, by item, whether each language's answer was right."""
    right: dict[str, list[float]] = defaultdict(list)
    for language in LANGUAGES:
        for sample in results["samples"][f"demo_arith_{language}"]:
            right[sample["doc"]["item_id"]].append(sample["acc"])
    return {item: np.array(answers) for item, answers in right.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="random controls for each action")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lm = HFMoE(pretrained="demo", batch_size=32)
    manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)
    print("| setting | " + " | ".join(LANGUAGES) + " | mean | gain ± SE | early | middle | late | reached |")
    print("|---|" + "---:|" * (len(LANGUAGES) + 6))
    baseline: dict[str, np.ndarray] = {}
    for label, spec in settings(args.seeds).items():
        lm.set_steering(spec)
        print(label, file=sys.stderr)
        results = simple_evaluate(
            lm, tasks=["demo_arith"], task_manager=manager, limit=args.limit, bootstrap_iters=0, routing_fields=FIELDS
        )
        scores = results["results"]
        items = by_item(results)
        baseline = baseline or items
        gains = np.array([(items[item] - baseline[item]).mean() for item in baseline])
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        accuracy = [scores[f"demo_arith_{language}"]["acc,none"] for language in LANGUAGES]
        group = scores["demo_arith"]
        cells = [*accuracy, float(np.mean(accuracy))]
        bands = [group[f"routing_divergence{band},none"] for band in ("_early", "", "_late")]
        reached = group.get("steered_selection,none")
        gain = "" if spec is None else f"{100 * gains.mean():+.2f} ± {100 * error:.2f}"
        print(
            f"| {label} | "
            + " | ".join(f"{cell:.3f}" for cell in cells)
            + f" | {gain} | "
            + " | ".join(f"{band:.3f}" for band in bands)
            + f" | {'' if reached is None else f'{reached:.2f}'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
