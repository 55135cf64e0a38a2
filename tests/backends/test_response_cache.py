"""The response cache: a run that reads it, or was cut off and went on, gives the very results of one that was not."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.tasks import TaskManager
from support import demo_runs

from lm_eval_moe import HFMoE, parse_spec
from lm_eval_moe.backends.cache import ResponseCache, StoredAnswer
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.identity import PARTS
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.recording.packing import pack, unpack
from lm_eval_moe.resources import steering_configs_dir

pytestmark = pytest.mark.long

TASKS = ["demo_arith_en", "demo_arith_sw", "demo_arith_gen_sw", "demo_text_sw"]
STEERING = steering_configs_dir() / "demo_task_experts.yaml"


@pytest.fixture(scope="module")
def lm() -> HFMoE:
    return HFMoE(pretrained="demo", batch_size=4)


@pytest.fixture(autouse=True)
def _as_it_was(lm: HFMoE) -> Iterator[None]:
    yield
    lm.set_steering(None)
    lm.set_capture("prompt")


def evaluate(lm: HFMoE, manager: TaskManager, cache: Path | None, tasks: Any = TASKS, **kwargs: Any) -> dict[str, Any]:
    given = {"use_cache": str(cache)} if cache else {}
    return demo_runs.evaluate(lm, manager, tasks, limit=10, routing_fields="all", **given, **kwargs)


def lasting(results: dict[str, Any]) -> str:
    """Everything but dates and timings; the texts of floats are exact."""
    kept = {key: results[key] for key in ("results", "groups", "samples", "routing", "n-samples") if key in results}
    return json.dumps(kept, sort_keys=True, default=str)


@contextmanager
def counted_passes(lm: HFMoE) -> Iterator[list[int]]:
    passes: list[int] = []
    handle = lm.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        handle.remove()


@contextmanager
def cut_off_after(lm: HFMoE, passes: int) -> Iterator[None]:
    seen: list[int] = []

    def count(*_: Any) -> None:
        seen.append(1)
        if len(seen) > passes:
            raise KeyboardInterrupt

    handle = lm.model.register_forward_pre_hook(count)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        handle.remove()


@pytest.mark.parametrize(("span", "steering"), [("prompt", None), ("all", STEERING)], ids=["plain", "steered"])
def test_a_run_that_writes_or_reads_the_cache_gives_what_one_without_gives(
    lm: HFMoE, manager: TaskManager, tmp_path: Path, span: str, steering: Path | None
) -> None:
    lm.set_capture(span)
    lm.set_steering(steering)
    without = lasting(evaluate(lm, manager, None))
    assert lasting(evaluate(lm, manager, tmp_path / "cache")) == without
    with counted_passes(lm) as passes:
        assert lasting(evaluate(lm, manager, tmp_path / "cache")) == without
    assert not passes


@pytest.mark.parametrize("passes", [1, 6, 10])
def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(
    lm: HFMoE, manager: TaskManager, tmp_path: Path, passes: int
) -> None:
    lm.set_steering(STEERING)
    whole = lasting(evaluate(lm, manager, None))
    with counted_passes(lm) as all_passes:
        evaluate(lm, manager, None)
    with cut_off_after(lm, passes):
        evaluate(lm, manager, tmp_path / "cache")
    with counted_passes(lm) as rest:
        assert lasting(evaluate(lm, manager, tmp_path / "cache")) == whole
    assert len(rest) <= len(all_passes)
    if passes > 4:  # some blocks had been finished
        assert len(rest) < len(all_passes)


def test_other_steering_spans_fields_and_weights_have_answers_of_their_own(
    manager: TaskManager, tmp_path: Path
) -> None:
    import torch

    lm, tasks = HFMoE(pretrained="demo", batch_size=4), ["demo_arith_sw"]
    evaluate(lm, manager, tmp_path / "cache", tasks)

    def computes() -> bool:
        with counted_passes(lm) as passes:
            found = lasting(evaluate(lm, manager, tmp_path / "cache", tasks))
        assert found == lasting(evaluate(lm, manager, None, tasks))
        return bool(passes)

    assert not computes()
    lm.set_steering(STEERING)
    assert computes()
    weaker = json.loads(json.dumps(lm.steering.spec if lm.steering else None))
    weaker["interventions"][0]["action"] = {"soft": 0.4999}
    lm.set_steering(parse_spec(weaker, base_dir=tmp_path))
    assert computes()
    lm.set_steering(None)
    lm.set_capture("all")
    assert computes()
    lm.set_capture("prompt")
    assert not computes()
    with torch.no_grad():
        next(iter(lm.model.parameters())).mul_(1.01)
    assert computes()


@pytest.mark.filterwarnings("ignore:.*acts on none of its tokens:lm_eval_moe.errors.RoutingWarning")
def test_rows_of_steered_and_unsteered_languages_are_told_apart(
    lm: HFMoE, manager: TaskManager, tmp_path: Path
) -> None:
    spec = {
        "version": 1,
        "interventions": [
            {"layers": "middle", "experts": {"ids": {"all": [1, 5]}}, "action": "mask", "languages": ["sw"]},
        ],
    }
    lm.set_steering(parse_spec(spec, base_dir=tmp_path))
    without = lasting(evaluate(lm, manager, None))
    for _ in range(2):
        assert lasting(evaluate(lm, manager, tmp_path / "cache")) == without


def test_damaged_entries_are_computed_anew(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    tasks = ["demo_arith_sw"]
    whole = lasting(evaluate(lm, manager, tmp_path / "cache", tasks))
    with sqlite3.connect(tmp_path / "cache.moe.sqlite") as database:
        keys = [key for (key,) in database.execute("SELECT key FROM entries ORDER BY key LIMIT 3")]
        database.execute("UPDATE entries SET answer = '[0.0, true]' WHERE key = ?", [keys[0]])
        database.execute("UPDATE entries SET record = x'00ff' WHERE key = ?", [keys[1]])
        database.execute("UPDATE entries SET digest = x'00' WHERE key = ?", [keys[2]])
    with pytest.warns(RoutingWarning, match="damaged entries"), counted_passes(lm) as passes:
        assert lasting(evaluate(lm, manager, tmp_path / "cache", tasks)) == whole
    assert passes
    with counted_passes(lm) as passes:
        assert lasting(evaluate(lm, manager, tmp_path / "cache", tasks)) == whole
    assert not passes


@pytest.mark.parametrize("passes", [0, 2], ids=["before", "in the middle"])
def test_a_run_whose_cache_is_damaged_ends_as_if_it_were_not(
    lm: HFMoE, manager: TaskManager, tmp_path: Path, passes: int
) -> None:
    file, tasks = tmp_path / "cache.moe.sqlite", ["demo_arith_sw", "demo_arith_gen_sw"]
    evaluate(lm, manager, tmp_path / "cache", tasks[1:])  # the other one runs first
    whole = lasting(evaluate(lm, manager, None, tasks))
    seen: list[int] = []

    def damage(*_: Any) -> None:
        seen.append(1)
        if len(seen) == max(passes, 1):
            data = file.read_bytes()
            file.write_bytes(data[:4096] + bytes(len(data) - 4096))

    if not passes:
        damage()
    handle = lm.model.register_forward_pre_hook(damage)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", RoutingWarning)
        assert lasting(evaluate(lm, manager, tmp_path / "cache", tasks)) == whole
    handle.remove()
    assert len(seen) > passes
    if not passes:  # later, what is damaged may lie in memory
        assert any(f"{file} is damaged" in text and f"{file.name}.damaged" in text for text in map(str, raised))


def test_a_damaged_file_is_set_aside_and_a_foreign_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "cache.moe.sqlite"
    file.write_bytes(b"no database at all " * 100)
    with pytest.warns(RoutingWarning, match="is damaged"):
        cache = ResponseCache(tmp_path / "cache")
    cache.put({b"k": StoredAnswer([1.5, True], None)})
    cache.close()
    assert ResponseCache(file).get([b"k"]) == {b"k": StoredAnswer([1.5, True], None)}
    assert file.with_name("cache.moe.sqlite.damaged").read_bytes().startswith(b"no database")
    with sqlite3.connect(tmp_path / "other.moe.sqlite") as other:
        other.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")
    with pytest.raises(UserError, match="not a response cache"):
        ResponseCache(tmp_path / "other")
    (tmp_path / "folder.moe.sqlite").mkdir()
    with pytest.raises(UserError, match="cannot be used"):
        ResponseCache(tmp_path / "folder")


def test_a_record_comes_back_exactly() -> None:
    rng = np.random.default_rng(0)
    record = RoutingRecord(
        tokens=7,
        counts=rng.integers(0, 7, (3, 5)).astype(np.int32),
        gate_mass=None,
        importance=rng.random((3, 5)).astype(np.float32),
        importance_dense=None,
        overlap=np.array([0.1, np.nan, 1.0], dtype=np.float32),
        targeted=np.array([1, 2, 3]),
        hit=np.array([0, 2, 1]),
        changed=np.zeros(3, dtype=np.int64),
        pairs=6,
    )
    back = unpack(pack(record))
    assert back is not None
    for name, value in ((field.name, getattr(record, field.name)) for field in fields(record)):
        found = getattr(back, name)
        if isinstance(value, np.ndarray):
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
        else:
            assert found == value
    assert unpack(pack(None)) is None
    for broken in (b"x", pack(record)[:-5], pack(record)[3:]):
        with pytest.raises(ValueError, match="not a RoutingRecord"):
            unpack(broken)


def _hammer(path: str, start: int) -> None:
    cache = ResponseCache(path)
    for number in range(start, start + 60):
        cache.put({f"{number}-{i}".encode(): StoredAnswer([number, i], None) for i in range(20)})
        assert len(cache.get([f"{number}-{i}".encode() for i in range(20)])) == 20


def test_several_processes_write_to_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_hammer, args=(str(tmp_path / "cache"), start)) for start in (0, 40, 1000)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    cache = ResponseCache(tmp_path / "cache")
    keys = [f"{number}-{i}".encode() for number in (*range(100), *range(1000, 1060)) for i in range(20)]
    assert len(cache.get(keys)) == len(keys)


def test_sampled_answers_are_those_of_the_first_time(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    tasks = ["demo_arith_gen_sw"]
    given = {"gen_kwargs": {"do_sample": True, "temperature": 1.5}}
    first = lasting(evaluate(lm, manager, tmp_path / "cache", tasks, **given))
    with cut_off_after(lm, 2):
        evaluate(lm, manager, tmp_path / "second", tasks, **given)
    assert lasting(evaluate(lm, manager, tmp_path / "second", tasks, **given)) == first
    assert lasting(evaluate(lm, manager, tmp_path / "cache", tasks, **given)) == first


def test_a_killed_command_goes_on_and_writes_the_same_file(tmp_path: Path) -> None:
    def command(out: str, cache: str | None) -> list[str]:
        arguments = [sys.executable, "-m", "lm_eval_moe", "run", "--model", "hf-moe", "--model_args", "pretrained=demo"]
        arguments += [
            "--tasks",
            "demo_arith_en,demo_arith_sw,demo_arith_hi",
            "--limit",
            "40",
            "--batch_size",
            "4",
            "--steering",
            str(STEERING),
        ]
        arguments += ["--output_path", str(tmp_path / out), "--log_samples"]
        return [*arguments, *(["--use_cache", str(tmp_path / cache)] if cache else [])]

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command("killed", "cache"), **quiet)  # type: ignore[call-overload]
    deadline = time.monotonic() + 120
    wanted = 100
    while time.monotonic() < deadline and process.poll() is None and _entries(tmp_path / "cache.moe.sqlite") < wanted:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert wanted <= _entries(tmp_path / "cache.moe.sqlite") < 3 * 40 * 4
    subprocess.run(command("killed", "cache"), check=True, **quiet)  # type: ignore[call-overload]
    subprocess.run(command("whole", None), check=True, **quiet)  # type: ignore[call-overload]
    [killed], [whole] = (list((tmp_path / out).rglob("results_*.json")) for out in ("killed", "whole"))
    assert lasting(json.loads(killed.read_text())) == lasting(json.loads(whole.read_text()))
    for one, other in zip(*(sorted((tmp_path / out).rglob("samples_*")) for out in ("killed", "whole")), strict=True):
        assert one.read_text() == other.read_text()


def _entries(file: Path) -> int:
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM entries").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_the_model_may_lie_anywhere(tmp_path: Path) -> None:
    """A copy of the model under another name is another model: its entries are not found."""
    here = HFMoE(pretrained="demo")
    there = HFMoE(pretrained=str(demo_model_path()))
    before, now = here.identity(), there.identity()
    assert before.parts["model.weights"] == now.parts["model.weights"]
    assert [difference.part for difference in before.differences(now, PARTS)] == ["model.source"]
