"""Every stored thing is refused or computed anew for every part that it needs, and used with a word for the others."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hf_cases import build

from lm_eval_moe import HFMoE
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.evaluation.profiles import ReferenceProfile
from lm_eval_moe.gate.drift import drift_between
from lm_eval_moe.gate.policy import DriftLimits
from lm_eval_moe.identity import (
    CONTINUATION,
    DRIFT,
    MERGING,
    PARTS,
    REFERENCE,
    ROW,
    SELECTION,
    Identity,
    PartDifference,
    Use,
)
from lm_eval_moe.pairing import TaskPairing
from lm_eval_moe.profiles import PROFILE_ARRAYS, ProfileHeader, ProfileItem, ProfileSource, read_profile, write_profile
from lm_eval_moe.profiles.merge import merge_profiles
from lm_eval_moe.profiling.capture import CaptureOptions, ProfileJob
from lm_eval_moe.profiling.fields import Fields
from lm_eval_moe.profiling.text_files import TextFile
from lm_eval_moe.results import LabelledRun, Run, latest, read_results
from lm_eval_moe.results.routing import identity_of
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.sweep.store import RunStore

SHAPE = RoutingShape((0, 1), 4, 2, 2)
TASK = "own_en"
ALL = Identity(
    {name: f"value of {name}" for name in PARTS if not name.startswith("task.")},
    {TASK: {name.removeprefix("task."): f"value of {name}" for name in PARTS if name.startswith("task.")}},
)


def altered(identity: Identity, part: str, value: Any = "another value") -> Identity:
    if not part.startswith("task."):
        return identity.with_parts({part: value})
    tasks = {task: {**parts, part.removeprefix("task."): value} for task, parts in identity.tasks.items()}
    return Identity(identity.parts, tasks)


def write(
    path: Path, identity: Identity | None, *, item: str = "1", shape: RoutingShape = SHAPE, model: str = "model"
) -> Path:
    size = (1, len(shape.layers), shape.experts)
    arrays: dict[str, Any] = {
        "counts": np.full(size, 2, dtype=np.int64),
        "gate_mass": np.full(size, 1.0, dtype=np.float32),
        "importance": np.full(size, 1 / shape.experts, dtype=np.float32),
    }
    assert arrays.keys() == set(PROFILE_ARRAYS)
    header = ProfileHeader(model, shape, "prompt", None, None, identity)
    write_profile(path, header, [ProfileItem("own", item, "en", TASK)], {**arrays, "tokens": np.array([4])})
    return path


@pytest.fixture(scope="module")
def lm(tokenizer: Any) -> HFMoE:
    return build("qwen3_moe", tokenizer)


# Each stores something with one identity and uses it under another; it fails, or says whether it was used.


def as_reference(stored: Identity | None, now: Identity, folder: Path, lm: HFMoE) -> None:
    path = write(folder / "p.safetensors", stored, shape=lm.routing_shape, model=lm.model_id)
    profile = ReferenceProfile.read(path, lm, now.only(name for name in PARTS if name[:5] != "task."), "en")
    here = Identity(now.parts, {"own_sw": now.tasks[TASK]})
    profile.check_tasks([TaskPairing("own_sw", "sw", "own", None)], here, "en")


def as_a_sweep(stored: Identity | None, now: Identity, folder: Path, lm: HFMoE) -> None:
    settings = {"tasks": [TASK], "reference": "en"}
    store = RunStore(folder / "sweep", settings, stored or Identity())
    if stored is None:  # as releases wrote it that knew no identity
        path = store.folder / "settings.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["identity"]
        path.write_text(json.dumps({**content, "versions": {"torch": "0"}}), encoding="utf-8")
    RunStore(folder / "sweep", settings, now)


def as_a_merged_profile(stored: Identity | None, now: Identity, folder: Path, lm: HFMoE) -> None:
    paths = [write(folder / "1.safetensors", stored), write(folder / "2.safetensors", now, item="2")]
    merge_profiles(folder / "out.safetensors", paths)
    merged = read_profile(folder / "out.safetensors")
    assert merged.header.identity is None if stored is None else merged.header.identity is not None


def as_the_profile_of_a_run(stored: Identity | None, now: Identity, folder: Path, lm: HFMoE) -> None:
    routing = {"model": "model", "capture": "prompt", "steering": None, "identity": now.to_dict()}
    run = Run(LabelledRun("run", {"results": {}, "routing": routing}))
    path = write(folder / "p.safetensors", stored)
    limits = DriftLimits({"middle": 0.1})
    for evidence in drift_between(limits, [], (path, run), (path, run)):
        raise UserError(evidence.problem or "")


def as_an_older_result(stored: Identity | None, now: Identity, folder: Path, lm: HFMoE) -> None:
    for date, identity in (("2026-01-01T00-00-00.000001", stored), ("2026-01-02T00-00-00.000001", now)):
        routing = {"identity": identity.to_dict()} if identity else {}
        content = {"results": {TASK: {"acc,none": 0.5}}, "config": {"model": "hf-moe"}, "routing": routing}
        (folder / f"results_{date}.json").write_text(json.dumps(content), encoding="utf-8")
    runs, superseded = latest(read_results([folder]))
    if len(runs) != 1:
        raise UserError("they are two rows")
    assert [entry.checked for entry in superseded] == [stored is not None]


def as_the_origin_of_experts(stored: Identity | None, now: Identity, folder: Path, lm: HFMoE) -> None:
    source = ProfileSource("p", folder / "p", "", "model", "prompt", None, 1, stored)
    problem = source.differs_from("model", now)
    if problem:
        raise UserError(problem)
    if mixed := source.mixed_with(now):
        warnings.warn(mixed, RoutingWarning, stacklevel=1)


USES: dict[str, tuple[Use, Callable[[Identity | None, Identity, Path, HFMoE], None]]] = {
    "reference": (REFERENCE, as_reference),
    "sweep": (CONTINUATION, as_a_sweep),
    "merged profile": (MERGING, as_a_merged_profile),
    "profile of a run": (DRIFT, as_the_profile_of_a_run),
    "older result": (ROW, as_an_older_result),
    "origin of experts": (SELECTION, as_the_origin_of_experts),
}
NEEDED = [(use, part) for use, (parts, _) in USES.items() for part in parts.needed()]
OTHERS = [(use, part) for use, (parts, _) in USES.items() for part in PARTS if part not in parts.needed()]


@pytest.mark.parametrize(("use", "part"), NEEDED)
def test_what_depends_on_another_part_is_not_used(use: str, part: str, tmp_path: Path, lm: HFMoE) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoutingWarning)
        with pytest.raises(UserError) as caught:
            USES[use][1](altered(ALL, part), ALL, tmp_path, lm)
    if use != "older result":
        assert part.removeprefix("task.") in str(caught.value)
        assert "another value" in str(caught.value)


@pytest.mark.parametrize(("use", "part"), OTHERS)
def test_what_differs_in_nothing_that_counts_is_used(
    use: str, part: str, tmp_path: Path, lm: HFMoE, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lm_eval_moe")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        USES[use][1](altered(ALL, part), ALL, tmp_path, lm)
    said = [str(warning.message) for warning in caught] + [record.getMessage() for record in caplog.records]
    heeded = part in USES[use][0].heeded() and use != "profile of a run"  # the gate judges two profiles, not this one
    assert any("another value" in line for line in said) == heeded


@pytest.mark.parametrize("use", USES)
def test_what_says_nothing_of_itself_is_used_as_before(use: str, tmp_path: Path, lm: HFMoE) -> None:
    said = {"reference": True, "sweep": True, "merged profile": True}.get(use, False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        USES[use][1](None, ALL, tmp_path, lm)
    assert any("could not be checked" in str(warning.message) for warning in caught) == said


def test_an_interrupted_profile_needs_every_part(tmp_path: Path, lm: HFMoE) -> None:
    file = tmp_path / "en.txt"
    file.write_text("A text.\nAnother.", encoding="utf-8")
    texts = TextFile(file, "en", "own", Fields(), limit=None)
    identity = lm.identity()
    path = tmp_path / "en.safetensors"
    ProfileJob(lm, texts, path, CaptureOptions(), identity).run()
    assert ProfileJob(lm, texts, path, CaptureOptions(), identity).finished
    own = ("prompts.chat", "prompts.system", "prompts.multiturn", "prompts.fewshot", "prompts.gen", "prompts.limit")
    decided_by_the_job = ("prompts.seeds", "capture.arrays", *own)
    for part in CONTINUATION.needed():
        if part in identity.parts and not part.startswith(decided_by_the_job):
            with pytest.raises(UserError, match=part):
                ProfileJob(lm, texts, path, CaptureOptions(), altered(identity, part))


def test_hashes_of_two_kinds_cannot_be_compared() -> None:
    files, parameters = (altered(ALL, "model.weights", {kind: "a"}) for kind in ("files", "parameters"))
    assert not files.differences(parameters, PARTS)
    assert files.unknown(parameters, PARTS) == ["model.weights"]
    other = altered(ALL, "model.weights", {"files": "b"})
    assert files.differences(other, PARTS) == [PartDifference("model.weights.files", "a", "b")]


def test_an_entry_of_a_part_is_named_with_old_and_new() -> None:
    one, other = (altered(ALL, "model.config", {"top_k": k, "layers": [1, 2]}) for k in (2, 4))
    assert [str(difference) for difference in one.differences(other, PARTS)] == ["model.config.top_k was 2, is 4"]


def test_an_identity_is_read_as_it_was_written() -> None:
    assert Identity.from_dict(json.loads(json.dumps(ALL.to_dict()))) == ALL
    assert ALL.hash == replace(ALL).hash
    assert {altered(ALL, part).hash for part in PARTS}.isdisjoint({ALL.hash})


@pytest.mark.parametrize("written", [None, {}, {**ALL.to_dict(), "schema_version": 9}])
def test_results_whose_identity_cannot_be_read_have_none(written: Any) -> None:
    assert identity_of({"routing": {"identity": written}}) is None
    assert identity_of({"routing": {"identity": ALL.to_dict()}}) == ALL


def test_an_identity_has_known_parts_only() -> None:
    with pytest.raises(ValueError, match="no part 'model_colour'"):
        Identity({"model_colour": "red"})
