"""Requests that are known to come again under other plans are answered for all of them at once, and never mixed up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.toy_engine import ToyEngine

from lm_eval_moe import parse_spec, resolve, simple_evaluate
from lm_eval_moe.backends import answering as answered_requests
from lm_eval_moe.backends.cache import ResponseCache
from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.backends.registry import BACKENDS, register_backend
from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.harness.requests import make_request
from lm_eval_moe.steering import SteeringPlan
from lm_eval_moe.sweep.store import RunStore

ARRAYS = ("counts", "gate_mass", "importance", "targeted", "hit")
LANGUAGES = {"one": "en", "two": "sw"}
HOW = {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}


class CountingEngine(ToyEngine):
    """Counts the rows that it runs by plan."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.ran: list[str] = []

    def _scored(self, rows: list[Any], dice: Any) -> Any:
        self.ran += [name_of(self._plans[row.plan]) for row in rows]
        return super()._scored(rows, dice)

    def _generated(self, row: Any, *given: Any) -> Any:
        self.ran.append(name_of(self._plans[row.plan]))
        return super()._generated(row, *given)


def name_of(plan: SteeringPlan | None) -> str:
    return plan.name if plan else "none"


@pytest.fixture(scope="module")
def lm() -> CountingEngine:
    return CountingEngine(capture="all", batch_size=2)


@pytest.fixture(scope="module")
def plans(lm: CountingEngine) -> list[SteeringPlan | None]:
    def plan(name: str, **limits: Any) -> SteeringPlan:
        acting = {"layers": "all", "experts": {"ids": {"all": [1, 5]}}, "action": {"soft": 0.9}, **limits}
        return resolve(parse_spec({"version": 1, "name": name, "interventions": [acting]}), lm.routing_shape)

    return [
        plan("everywhere"),
        plan("one language", languages=["sw"], experts={"ids": {"all": [2, 9]}}),
        plan("answers", tokens="generated", action="activate"),
    ]


def requests(kind: str = "loglikelihood") -> list[Any]:
    texts = [("one", "3 + 4 ="), ("two", "5 + 2 ="), ("one", "8 - 1 ="), ("two", "3 + 4 ="), ("one", "9 - 4 =")]
    given = (lambda text: (text, " 7")) if kind == "loglikelihood" else (lambda text: (text, HOW))
    return [make_request(kind, given(text), task, number) for number, (task, text) in enumerate(texts)]


def answered(lm: ToyEngine, plan: SteeringPlan | None, kind: str = "loglikelihood", **changes: Any) -> Any:
    """Return the answers of the requests under a plan, their records, and what was steered of them."""
    lm.set_steering(plan)
    with lm.capturing(CaptureRequest(**{"arrays": frozenset(ARRAYS), "languages": LANGUAGES, **changes})) as captured:
        answers = getattr(lm, kind)(requests(kind), disable_tqdm=True)
        return answers, {key: captured.record(key) for key in captured.records}, dict(captured.steered_pairs)


def assert_same(one: Any, other: Any) -> None:
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert mine == (theirs if isinstance(theirs, str) else (pytest.approx(theirs[0], abs=1e-5), theirs[1]))
    assert one[1].keys() == other[1].keys()
    for key, record in one[1].items():
        for array in ARRAYS:
            np.testing.assert_allclose(getattr(record, array), getattr(other[1][key], array), atol=1e-5, err_msg=array)
    assert one[2] == other[2]


@pytest.mark.parametrize("cached", [False, True], ids=["alone", "with the response cache"])
@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_what_is_answered_ahead_is_what_each_plan_gives_alone(
    kind: str, cached: bool, lm: CountingEngine, plans: list[Any], tmp_path: Path
) -> None:
    alone = [answered(lm, plan, kind) for plan in plans]
    assert alone[0][0] != alone[1][0]
    lm.set_response_cache(ResponseCache(tmp_path / "answers") if cached else None)
    with lm.ahead(plans):
        lm.ran = []
        together = [answered(lm, plans[0], kind)]
        assert set(lm.ran) == {"everywhere", "one language", "answers"}
        lm.ran = []
        together += [answered(lm, plan, kind) for plan in plans[1:]]
        assert not lm.ran
    lm.set_response_cache(None)
    for mine, theirs in zip(together, alone, strict=True):
        assert_same(mine, theirs)


def test_the_model_as_it_is_may_be_one_of_them(lm: CountingEngine, plans: list[Any]) -> None:
    alone = [answered(lm, plan) for plan in (plans[0], None)]
    with lm.ahead([plans[0], None, plans[0]]):
        together = [answered(lm, plan) for plan in (plans[0], None)]
    for mine, theirs in zip(together, alone, strict=True):
        assert_same(mine, theirs)


@pytest.mark.parametrize(
    "changes",
    [{"arrays": frozenset({"counts"})}, {"changes": True}, {"languages": {"one": "sw", "two": "sw"}}],
    ids=["arrays", "changes", "languages"],
)
def test_a_request_that_is_not_quite_the_same_is_computed(
    changes: dict[str, Any], lm: CountingEngine, plans: list[Any]
) -> None:
    asked = CaptureRequest(**{"arrays": frozenset(ARRAYS), "languages": LANGUAGES, **changes})
    lm.set_steering(plans[1])
    with lm.capturing(asked):
        alone = lm.loglikelihood(requests(), disable_tqdm=True)
    with lm.ahead(plans[:2]):
        answered(lm, plans[0])
        lm.ran = []
        lm.set_steering(plans[1])
        with lm.capturing(
            CaptureRequest(**{"arrays": frozenset(ARRAYS), "languages": LANGUAGES, **changes})
        ) as captured:
            answers = lm.loglikelihood(requests(), disable_tqdm=True)
            assert len(captured.records) == len(requests())
    assert lm.ran
    assert set(lm.ran) == {"one language"}
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in alone], abs=1e-5)


def test_another_span_is_computed(lm: CountingEngine, plans: list[Any]) -> None:
    with lm.ahead(plans[:2]):
        answered(lm, plans[0])
        lm.ran = []
        lm.set_capture("prompt")
        try:
            answered(lm, plans[1])
        finally:
            lm.set_capture("all")
    assert set(lm.ran) == {"one language"}


def test_nothing_is_kept_behind_the_block(lm: CountingEngine, plans: list[Any]) -> None:
    with lm.ahead(plans):
        answered(lm, plans[0])
    lm.ran = []
    answered(lm, plans[1])
    assert set(lm.ran) == {"one language"}


def test_a_plan_that_had_its_turn_is_not_run_again_for_another(lm: CountingEngine, plans: list[Any]) -> None:
    with lm.ahead(plans):
        answered(lm, plans[1])  # the one before it was passed over
        assert answered(lm, plans[0])
        lm.ran = []
        answered(lm, plans[2])
    assert not lm.ran


def test_records_that_do_not_fit_into_memory_together_come_plan_by_plan(
    lm: CountingEngine, plans: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    plain = CountingEngine._scored

    def counted(engine: CountingEngine, rows: list[Any], dice: Any) -> Any:
        runs.append(len({row.plan for row in rows}))
        return plain(engine, rows, dice)

    monkeypatch.setattr(CountingEngine, "_scored", counted)
    alone = [answered(lm, plan) for plan in plans]
    monkeypatch.setattr(answered_requests, "_AHEAD_BYTES", 1)
    runs.clear()
    with lm.ahead(plans):
        together = [answered(lm, plan) for plan in plans]
    assert runs == [1, 1, 1]
    for mine, theirs in zip(together, alone, strict=True):
        assert_same(mine, theirs)


def test_answers_that_are_drawn_are_not_drawn_ahead(
    lm: CountingEngine, plans: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        CountingEngine, "_answer", lambda *given, **named: ToyEngine._answer(*given, **{**named, "sampled": True})
    )
    for cache in (None, ResponseCache(tmp_path / "answers")):
        lm.set_response_cache(cache)
        with lm.ahead(plans):
            lm.ran = []
            answered(lm, plans[0])
        lm.set_response_cache(None)
        assert set(lm.ran) == {"everywhere"}


def test_a_plan_that_cannot_be_followed_is_refused_before_anything_runs(lm: CountingEngine, plans: list[Any]) -> None:
    lm.ran = []
    far = {"layers": "99", "experts": {"ids": {"all": [1]}}, "action": "mask"}
    spec: Any = parse_spec({"version": 1, "name": "far", "interventions": [far]})
    with pytest.raises(UserError, match="99"), lm.ahead([plans[0], spec]):
        pass
    with lm.ahead(plans), pytest.raises(UserError, match="'one language' is limited to some languages"):
        answered(lm, plans[0], languages={"one": "en", "two": None})
    assert not lm.ran


# ---------------------------------------------------------------------- sweeps and controls


def steered(action: Any = "mask") -> dict[str, Any]:
    one = {"layers": "early", "experts": {"ids": {"all": [1, 7]}}, "action": action}
    return {"version": 1, "name": "base", "interventions": [one]}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Register the engine; the list tells how many plans each of its runs had."""
    for inside in ("_entries", "_homes"):
        monkeypatch.setattr(BACKENDS, inside, dict(getattr(BACKENDS, inside)))
    register_backend("toy", "support.toy_engine:ToyEngine")
    runs: list[int] = []
    plain = ToyEngine._scored

    def scored(engine: ToyEngine, rows: list[Any], dice: Any) -> Any:
        runs.append(len({row.plan for row in rows}))
        return plain(engine, rows, dice)

    monkeypatch.setattr(ToyEngine, "_scored", scored)
    return runs


def sweep(folder: Path, out: str) -> dict[str, Any]:
    file = folder / "sweep.yaml"
    content = {
        "version": 1,
        "steering": steered(),
        "grid": {"interventions.0.layers": ["early", "middle"]},
        "tasks": ["demo_arith_en", "demo_arith_sw"],
        "controls": 1,
        "evaluation": {"limit": 2, "batch_size": 4},
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    given = ["sweep", str(file), "--model", "toy", "--model_args", "pretrained=demo", "--output", str(folder / out)]
    assert main(given) == 0
    assert not list((folder / out / "unfinished").iterdir())
    results: dict[str, Any] = json.loads((folder / out / "table.json").read_text(encoding="utf-8"))
    results["runs"] = {
        path.name: {name: json.loads(path.read_text(encoding="utf-8"))[name] for name in ("results", "routing")}
        for path in sorted((folder / out / "runs").iterdir())
    }
    return results


def assert_alike(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name, value in one.items():
            assert_alike(value, other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_alike(mine, theirs, f"{where}.{number}")
    else:
        assert one == (pytest.approx(other, abs=1e-6) if isinstance(one, float) else other), where


def test_a_sweep_gives_what_it_gives_plan_by_plan(
    counted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = sweep(tmp_path, "together")
    assert set(counted) == {1, 3}  # the model as it is, and the fourth plan, are by themselves
    monkeypatch.setattr(ToyEngine, "plans_at_once", 1)
    assert_alike(together, sweep(tmp_path, "apart"))


def test_a_sweep_that_was_cut_off_goes_on_with_what_is_missing(
    counted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep(tmp_path, "whole")
    written, plain = list[str](), RunStore.write

    def interrupted(store: RunStore, name: str, *given: Any) -> None:
        if len(written) == 2:  # the baseline and one of three that were answered together
            raise KeyboardInterrupt
        written.append(name)
        plain(store, name, *given)

    with monkeypatch.context() as context:
        context.setattr(RunStore, "write", interrupted)
        given = ["sweep", str(tmp_path / "sweep.yaml"), "--model", "toy", "--model_args", "pretrained=demo"]
        assert main([*given, "--output", str(tmp_path / "cut")]) == 130
    assert list((tmp_path / "cut" / "unfinished").iterdir())
    counted.clear()
    assert_alike(sweep(tmp_path, "cut"), whole)
    assert set(counted) == {1}  # two of the three that were missing had been answered


def test_controls_give_what_they_give_one_by_one(
    counted: list[int], manager: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gains(**given: Any) -> dict[str, Any]:
        lm: Any = ToyEngine(batch_size=4)
        spec: Any = parse_spec(steered())
        tasks: Sequence[str] = ["demo_arith_en", "demo_arith_sw"]
        found = simple_evaluate(
            lm, tasks=list(tasks), steering=spec, control="random:3", task_manager=manager, limit=2, **given
        )
        assert found is not None
        assert lm.steering.name == "base"
        return {name: found[name] for name in ("results", "routing")}

    together = gains()
    assert set(counted) == {3, 1}
    counted.clear()
    profiled = gains(routing_profile=tmp_path / "reference.safetensors")
    assert set(counted) == {1, 3}
    monkeypatch.setattr(ToyEngine, "plans_at_once", 1)
    assert_alike(together["results"], gains()["results"])
    assert_alike(profiled["results"], together["results"])
