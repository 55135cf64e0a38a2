"""Run a sweep: the baseline, then every cell with its controls, each saved as it ends."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lm_eval_moe.backends.ahead import in_groups
from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.evaluation import simple_evaluate
from lm_eval_moe.evaluation.identity import run_identity
from lm_eval_moe.harness.task_index import task_manager
from lm_eval_moe.results import RoutingObject
from lm_eval_moe.sweep.cells import PlannedCell
from lm_eval_moe.sweep.store import BASELINE, RunStore

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel
    from lm_eval_moe.harness.task_index import TaskManager
    from lm_eval_moe.identity import Identity
    from lm_eval_moe.steering import SteeringPlan
    from lm_eval_moe.sweep.spec import SweepSpec

__all__ = ["identity_of", "run_sweep", "settings_of"]


def settings_of(sweep: SweepSpec, lm: RoutedModel, reference: str) -> dict[str, Any]:
    """Return what the sweep was asked for besides the steering; the rest that determines its runs is their identity."""
    evaluation = asdict(sweep.evaluation)
    evaluation.pop("batch_size")  # is a part of the identity, by what it changes
    return {
        "model": lm.model_id,
        "shape": lm.routing_shape.to_dict(),
        "capture": lm.capture,
        "reference": reference,
        "tasks": list(sweep.tasks),
        "evaluation": evaluation,
    }


def identity_of(sweep: SweepSpec, lm: RoutedModel, manager: TaskManager) -> Identity:
    """Return what the results of the sweep's runs depend on besides the steering."""
    with redirect_stderr(io.StringIO()):  # lm-eval's own bars
        tasks = manager.load(list(sweep.tasks))["tasks"]
    return run_identity(lm.identity(), lm, tasks, sweep.evaluation.arguments())


@contextmanager
def _without_notes() -> Iterator[None]:
    """Keep what a run of its own says of its answers out of the log of hundreds; warnings stay."""
    log = logging.getLogger("lm_eval_moe.evaluation")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def run_sweep(
    sweep: SweepSpec,
    cells: Sequence[PlannedCell],
    lm: RoutedModel,
    store: RunStore,
    *,
    reference: str = "en",
    allow_leak: bool = False,
    manager: TaskManager | None = None,
    progress: bool = True,
) -> None:
    """Evaluate the baseline, every cell and every control that the store does not hold yet.

    Args:
        sweep: The sweep.
        cells: Its cells, resolved for the model.
        lm: The loaded model; its steering is as before afterwards.
        store: Keeps the results.
        reference: The language that the others' routing is compared with.
        allow_leak: Evaluate also on items that experts were selected on.
        manager: Knows the tasks; by default one that knows ours and lm-eval's.
        progress: Whether to show a bar, with the time left.

    Raises:
        UserError: A task does not exist, evaluates items that experts were selected on, or results cannot be written.

    Warns of all that the runs lack, those of the store included.
    """
    plans: dict[str, tuple[str, SteeringPlan | None]] = {BASELINE: (BASELINE, None)}
    for cell in cells:
        for plan in (cell.plan, *cell.controls):
            # Equal steering is evaluated once, whatever cell it stands in.
            plans.setdefault(plan.hash, (plan.name, plan))
    waiting = {name: plan for name, plan in plans.items() if name not in store}
    for name in plans.keys() - waiting.keys():  # what was said of them still holds
        for text in RoutingObject.of(store.read(name)).warnings:
            warnings.warn(text, RoutingWarning, stacklevel=2)
    if not waiting:
        return
    manager = manager or task_manager(sweep.tasks)
    steering = lm.steering
    with tqdm(total=len(plans), initial=len(plans) - len(waiting), unit="run", disable=not progress) as bar:

        def evaluate(name: str, title: str, steered: SteeringPlan | None) -> None:
            bar.set_description(title)
            lm.set_steering(steered)
            with redirect_stderr(io.StringIO()), _without_notes():  # lm-eval's own bars, some for every run
                results = simple_evaluate(
                    lm,
                    tasks=list(sweep.tasks),
                    task_manager=manager,
                    routing_reference=reference,
                    allow_leak=allow_leak,
                    bootstrap_iters=0,
                    use_cache=str(store.answers),
                    **sweep.evaluation.arguments(),
                )
            if results is not None:
                store.write(name, results, lm.registry)
            bar.update()

        # Less is recorded of the model as it is than of a steered one: it runs by itself.
        steered = [(name, *run) for name, run in waiting.items() if name != BASELINE]
        alone = [(name, *run) for name, run in waiting.items() if name == BASELINE]
        try:
            for group in filter(None, (alone, *in_groups(steered, lm.plans_at_once))):
                with lm.ahead([plan for _, _, plan in group]):
                    for run in group:
                        evaluate(*run)
                store.forget_answers()
        finally:
            lm.set_steering(steering)
