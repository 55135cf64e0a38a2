"""Several plans in one continuous batch give what each gives alone; so do sweeps and controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.on_vllm.engines import EAGER, assert_alike, closing, engine
from support.on_vllm.workload import Workload, outcome, plans_for

from lm_eval_moe import parse_spec, simple_evaluate
from lm_eval_moe.harness.task_index import task_manager
from lm_eval_moe.sweep.cells import cells_of
from lm_eval_moe.sweep.runner import identity_of, run_sweep, settings_of
from lm_eval_moe.sweep.spec import load_sweep
from lm_eval_moe.sweep.store import RunStore

TASKS = ["demo_arith_en", "demo_arith_sw"]
STEERING = {
    "version": 1,
    "name": "base",
    "interventions": [
        {"layers": "middle", "experts": {"ids": {"all": [1, 5]}}, "action": "mask", "languages": ["sw"]},
        {"layers": "early", "experts": {"ids": {"all": [2]}}, "action": "activate", "tokens": "prompt"},
    ],
}


class Watched:
    """Notes under how many plans each batch of an engine runs."""

    def __init__(self, lm: Any) -> None:
        self.lm, self.plans = lm, list[int]()
        self._run = lm._run
        lm._run = self.run

    def run(self, prompts: Any, parameters: Any, facts: Any, requests: int) -> Any:
        self.plans.append(len({each.plan for each in facts}))
        return self._run(prompts, parameters, facts, requests)


@pytest.mark.parametrize("settings", [{}, {"enable_prefix_caching": False, "max_num_batched_tokens": 48}])
def test_many_plans_in_one_batch_give_what_each_gives_alone(
    settings: dict[str, Any], model_of: Callable[[str], str]
) -> None:
    work = Workload(shared=20)  # all prompts of answers begin alike: only the salt keeps the plans apart
    with closing(engine(model_of("qwen3_moe"), **EAGER, **settings)) as lm:
        plans = plans_for(lm.routing_shape)
        alone = {name: outcome(lm, work, plan) for name, plan in plans.items()}
        assert alone["soft"].answers != alone["mask"].answers
        watched = Watched(lm)
        with lm.ahead(list(plans.values())):
            together = {"none": outcome(lm, work, plans["none"])}
            assert set(watched.plans) == {len(plans)}
            watched.plans.clear()
            together |= {name: outcome(lm, work, plan) for name, plan in plans.items() if name != "none"}
            assert not watched.plans
    for name, mine in together.items():
        assert_alike(mine, alone[name], work)


@pytest.fixture(scope="module")
def lm() -> Iterator[Any]:
    with closing(engine("demo", **EAGER, capture="prompt")) as lm:
        yield lm


def assert_same_numbers(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name, value in one.items():
            assert_same_numbers(value, other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same_numbers(mine, theirs, f"{where}.{number}")
    else:
        assert one == (pytest.approx(other, abs=1e-6) if isinstance(one, float) else other), where


def test_a_sweep_gives_what_it_gives_plan_by_plan(lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "version": 1,
        "steering": STEERING,
        "grid": {"interventions.0.action": ["mask", {"soft": 0.5}]},
        "tasks": TASKS,
        "controls": 2,
        "evaluation": {"limit": 6},
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    spec, manager = load_sweep(file), task_manager(TASKS)
    cells, _ = cells_of(spec, lm.routing_shape)
    watched = Watched(lm)

    def results(name: str) -> dict[str, Any]:
        watched.plans.clear()
        store = RunStore(tmp_path / name, settings_of(spec, lm, "en"), identity_of(spec, lm, manager))
        run_sweep(spec, cells, lm, store, manager=manager, progress=False)
        files = sorted((tmp_path / name / "runs").iterdir())
        assert len(files) == 1 + 2 * 3
        found = [json.loads(each.read_text(encoding="utf-8")) for each in files]
        return {each.name: [own["results"], own["routing"]] for each, own in zip(files, found, strict=True)}

    together = results("together")
    assert set(watched.plans) == {1, 6}  # the baseline is by itself
    monkeypatch.setattr(type(lm), "plans_at_once", 1)
    apart = results("apart")
    assert set(watched.plans) == {1}
    assert_same_numbers(together, apart)


def test_controls_give_what_they_give_one_by_one(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def results() -> Any:
        steering: Any = parse_spec(STEERING)
        found = simple_evaluate(lm, tasks=TASKS, steering=steering, control="random:3", limit=6)
        assert found is not None
        return found["results"]

    watched = Watched(lm)
    together = results()
    assert set(watched.plans) == {4}
    monkeypatch.setattr(type(lm), "plans_at_once", 1)
    assert_same_numbers(together, results())
