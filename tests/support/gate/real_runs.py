"""Real evaluations of the demo model, written to disk by lm-eval's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.resources import tasks_dir
from lm_eval_moe.steering import parse_spec

# Bans the experts that the demo model selects most in its middle layers: accuracy falls.
HARMFUL = {
    "version": 1,
    "name": "harmful",
    "interventions": [{"layers": "all", "experts": {"ids": {"all": [0, 1, 2, 3, 4, 5, 6, 7]}}, "action": "mask"}],
}


class Evaluator:
    """The demo model, loaded once."""

    def __init__(self) -> None:
        self.model = HFMoE(pretrained="demo", batch_size=32)
        self.manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)

    def write(
        self, folder: Path, tasks: list[str], limit: int, *, spec: dict[str, Any] | None = None, profile: bool = True
    ) -> Path:
        """Evaluate, write results, samples and ``profile.safetensors`` into a folder, and return it."""
        self.model.set_steering(parse_spec(spec) if spec else None)
        results = simple_evaluate(
            self.model,
            tasks=tasks,
            task_manager=self.manager,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            routing_profile=folder / "profile.safetensors" if profile else None,
        )
        assert results is not None
        samples = results.pop("samples")
        tracker = EvaluationTracker(output_path=str(folder))
        tracker.general_config_tracker.model_name_sanitized = "demo"
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in samples:
            tracker.save_results_samples(task_name=task, samples=samples[task])
        return folder
