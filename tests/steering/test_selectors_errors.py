"""What selecting from profiles refuses, in which words, and where it says the mistake is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.written_profiles import SMALL, Row, explained, selected, spec_of, write, write_dump

from lm_eval_moe.errors import UserError
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import parse_spec, resolve

COUNTS = [[5, 5, 5, 5], [10, 10, 0, 0]]
OTHER = [[6, 4, 4, 6], [0, 10, 10, 0]]
ROWS: list[Row] = [("q1", 10, COUNTS), ("q2", 10, COUNTS)]
TASK = {"task": {"profile": "task.safetensors", "baseline": "base.safetensors", "threshold": 0.05}}
SHARED = {"shared": {"profiles": {"en": "en.safetensors", "sw": "sw.safetensors"}}}
DUMPS = {"shared": {"profiles": {"en": "en.json", "sw": "sw.json"}}}
RISK = {"risk_difference": {"profile_a": "en.safetensors", "profile_b": "sw.safetensors", "top": 2}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Profiles with which every rule above works."""
    write(tmp_path / "task.safetensors", ROWS, benchmark="maths")
    write(tmp_path / "base.safetensors", [("s1", 10, OTHER), ("s2", 10, OTHER)], benchmark="news")
    write(tmp_path / "en.safetensors", ROWS)
    write(tmp_path / "sw.safetensors", [("q1", 10, OTHER), ("q2", 10, OTHER)], language="sw")
    write_dump(tmp_path / "en.json", 10, COUNTS)
    write_dump(tmp_path / "sw.json", 10, OTHER)
    return tmp_path


def test_the_rules_below_work_before_anything_is_wrong(folder: Path) -> None:
    for rule in (TASK, SHARED, DUMPS, RISK):
        assert explained(rule, folder)


def changed(path: str, **change: Any) -> Callable[[Path], Any]:
    """Write a profile anew with something else."""
    fields = {"rows": ROWS, "benchmark": "bench", **change}
    return lambda folder: write(folder / path, fields.pop("rows"), **fields)


def dumped(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Edit a JSON dump."""

    def change(folder: Path) -> None:
        dump = json.loads((folder / "sw.json").read_text())
        (folder / "sw.json").write_text(json.dumps(edit(dump) or dump))

    return change


def text(path: str, content: bytes) -> Callable[[Path], Any]:
    """Replace a file's bytes."""
    return lambda folder: (folder / path).write_bytes(content)


def arrays(path: str, **replaced: Any) -> Callable[[Path], Any]:
    """Replace or (None) remove arrays of a profile."""

    def change(folder: Path) -> None:
        from safetensors import safe_open
        from safetensors.numpy import save_file

        with safe_open(folder / path, framework="numpy") as file:
            metadata = file.metadata()
            held = {name: file.get_tensor(name) for name in file.keys()} | replaced  # noqa: SIM118
        save_file({name: array for name, array in held.items() if array is not None}, folder / path, metadata)

    return change


def metadata(path: str, **replaced: str) -> Callable[[Path], Any]:
    """Replace metadata of a profile."""

    def change(folder: Path) -> None:
        from safetensors import safe_open
        from safetensors.numpy import save_file

        with safe_open(folder / path, framework="numpy") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            save_file(held, folder / path, {**file.metadata(), **replaced})

    return change


WIDE = RoutingShape(layers=(1, 2), experts=6, top_k=2, depth=3)
DEEP = RoutingShape(layers=(0, 1, 2), experts=4, top_k=1, depth=3)
SIX: list[Row] = [("q1", 10, [[5, 5, 5, 5, 0, 0]] * 2)]
THREE: list[Row] = [("q1", 10, [[5, 5, 0, 0]] * 3)]

BAD: list[tuple[Any, dict[str, Any], str, str, str]] = [  # change, rule, key path, problem, fix
    (
        changed("task.safetensors", rows=SIX, shape=WIDE),
        TASK,
        "task.profile",
        "'task.safetensors' is a profile of a model of another shape, a/model: experts 6; this model has experts 4",
        "a profile of the model to steer",
    ),
    (
        changed("sw.safetensors", rows=THREE, shape=DEEP, language="sw"),
        SHARED,
        "shared.profiles.sw",
        "MoE layers 0-2, top-k 1; this model has MoE layers 1-2, top-k 2",
        "a profile of the model to steer",
    ),
    (
        changed("base.safetensors", rows=[("s1", 10, OTHER)], model="another/model"),
        TASK,
        "task.baseline",
        "is a profile of a different model from 'task.safetensors': another/model, not a/model",
        "profiles of one model",
    ),
    (
        changed("base.safetensors", rows=[("s1", 10, OTHER)], span="all"),
        TASK,
        "task.baseline",
        "counts the tokens of the span 'all', but 'task.safetensors' those of 'prompt'",
        "the same span",
    ),
    (
        changed("base.safetensors", rows=[("s1", 10, OTHER)], steering="0123456789abcdef01"),
        TASK,
        "task.baseline",
        "is of a model steered by 0123456789abcdef, but 'task.safetensors' of one without steering",
        "without steering",
    ),
    (
        changed("base.safetensors", rows=[("s1", 10, OTHER)], language="de"),
        TASK,
        "task.baseline",
        "is in de, but the task's profile in en",
        "a baseline in the task's language",
    ),
    (
        changed("base.safetensors", rows=[("q2", 10, OTHER), ("q1", 10, OTHER)], benchmark="maths"),
        TASK,
        "task.baseline",
        "holds 2 of the items of 'task.safetensors': maths q1, maths q2",
        "a baseline of other text",
    ),
    (
        lambda folder: shutil.copy(folder / "task.safetensors", folder / "base.safetensors"),
        TASK,
        "task.baseline",
        "'base.safetensors' is the same file as 'task.safetensors', byte for byte",
        "two different profiles",
    ),
    (
        None,
        {"task": {**TASK["task"], "baseline": "task.safetensors"}},
        "task.baseline",
        "'task.safetensors' is the same file as 'task.safetensors'",
        "two different profiles",
    ),
    (
        changed("task.safetensors", language=["en", "sw"]),
        TASK,
        "task.profile",
        "holds items in several languages: en (1), sw (1)",
        "`language: en`",
    ),
    (
        None,
        {"task": {**TASK["task"], "language": "fr"}},
        "task.profile",
        "holds no items in fr, it has en (2)",
        "fr task",
    ),
    (
        changed("sw.safetensors", language="de"),
        SHARED,
        "shared.profiles.sw",
        "'sw.safetensors' holds no items in sw, it has de (2)",
        "the sw task",
    ),
    (
        changed("sw.safetensors", language=["en", ""]),
        SHARED,
        "shared.profiles.sw",
        "holds no items in sw, it has unknown (1), en (1)",
        "the sw task",
    ),
    (
        None,
        {"shared": {"profiles": {"en": "en.json", "sw": "en.json"}}},
        "shared.profiles.sw",
        "'en.json' is the same file as 'en.json'",
        "two different profiles",
    ),
    (arrays("task.safetensors", counts=None), TASK, "task.profile", "holds no activation counts", "--routing_profile"),
    (arrays("task.safetensors", tokens=None), TASK, "task.profile", "no array 'tokens'", "--routing_profile"),
    (
        arrays("task.safetensors", counts=np.zeros((2, 2, 5), np.int32)),
        TASK,
        "task.profile",
        "'counts' has the shape [2, 2, 5], expected [2, 2, 4]",
        "write it again",
    ),
    (
        arrays("task.safetensors", counts=np.full((2, 2, 4), 11, np.int32)),
        TASK,
        "task.profile",
        "activation counts outside 0 to its 10 tokens",
        "write it again",
    ),
    (
        arrays("task.safetensors", counts=np.full((2, 2, 4), -1, np.int32)),
        TASK,
        "task.profile",
        "activation counts outside 0 to its 10 tokens",
        "write it again",
    ),
    (
        arrays("task.safetensors", counts=np.full((2, 2, 4), np.nan, np.float32)),
        TASK,
        "task.profile",
        "activation counts outside",
        "write it again",
    ),
    (
        arrays("task.safetensors", tokens=np.array([10, -10])),
        TASK,
        "task.profile",
        "its tokens are not counts",
        "write it again",
    ),
    (
        changed("task.safetensors", rows=[("q1", 0, [[0] * 4] * 2)]),
        TASK,
        "task.profile",
        "'task.safetensors' holds no tokens",
        "at least one token",
    ),
    (metadata("task.safetensors", items="[]"), TASK, "task.profile", "holds no items", "at least one item"),
    (
        metadata("task.safetensors", items="[1]"),
        TASK,
        "task.profile",
        "is a damaged profile (TypeError",
        "write it again",
    ),
    (
        metadata("task.safetensors", items=json.dumps([dict.fromkeys(("benchmark", "item", "language", "task"), 1)])),
        TASK,
        "task.profile",
        "is a damaged profile (its header or items are of the wrong type)",
        "write it again",
    ),
    (
        metadata("task.safetensors", header="{"),
        TASK,
        "task.profile",
        "is a damaged profile (JSONDecodeError",
        "write it again",
    ),
    (metadata("task.safetensors", schema_version="2"), TASK, "task.profile", "version '2'", "--routing_profile"),
    (
        metadata("task.safetensors", format="x"),
        TASK,
        "task.profile",
        "is not a profile of schema version 1",
        "write it again",
    ),
    (text("task.safetensors", b""), TASK, "task.profile", "'task.safetensors' cannot be read as a profile", "give"),
    (text("task.safetensors", b'{"0": {}}'), TASK, "task.profile", "cannot be read as a profile", "a safetensors file"),
    (
        lambda folder: (folder / "task.safetensors").unlink(),
        TASK,
        "task.profile",
        "cannot be read as a profile: No such file",
        "give",
    ),
    (text("sw.json", b"\x80\x04K."), DUMPS, "shared.profiles.sw", "'sw.json' is not valid JSON", "of the form {layer:"),
    (text("sw.json", b'{"1": {'), DUMPS, "shared.profiles.sw", "is not valid JSON", "of the form {layer:"),
    (text("sw.json", b"[" * 100_000), DUMPS, "shared.profiles.sw", "is not valid JSON", "of the form {layer:"),
    (text("sw.json", b"[]"), DUMPS, "shared.profiles.sw", "no activation counts: the file is a list of 0", "{layer:"),
    (text("sw.json", b"{}"), DUMPS, "shared.profiles.sw", "the file is a mapping of 0 keys", "{layer:"),
    (text("sw.json", b'{"results": {}}'), DUMPS, "shared.profiles.sw", "the file has the key 'results'", "{layer:"),
    (text("sw.json", b'{"1": NaN}'), DUMPS, "shared.profiles.sw", "is damaged: it holds NaN", "{layer:"),
    (text("sw.json", b'{"1": 1, "1": 2}'), DUMPS, "shared.profiles.sw", "the key '1' is given twice", "{layer:"),
    (
        dumped(lambda dump: {"0": dump["1"], **dump}),
        DUMPS,
        "shared.profiles.sw",
        "counts layers 0-2, but this model's MoE layers are 1-2",
        "counts of this model",
    ),
    (
        dumped(lambda dump: {"1": dump["1"]}),
        DUMPS,
        "shared.profiles.sw",
        "counts layers 1, but this model's MoE layers are 1-2",
        "counts of this model",
    ),
    (
        dumped(lambda dump: dump["2"].update({"4": {"activation_tokens": 1}})),
        DUMPS,
        "shared.profiles.sw",
        "counts expert 4 in layer 2, but this model's layers have 4 experts",
        "counts of this model",
    ),
    (
        None,
        {"shared": {"profiles": {"en": "en.json", "sw": "sw.json"}, "threshold": 0.0}},
        "shared.threshold",
        "threshold 0 selects no expert in layers 1-2: the smallest share",
        "raise `threshold`",
    ),
    (
        dumped(lambda dump: {"1": {**dump["1"], "total_tokens": 40}, "2": {**dump["2"], "total_tokens": 40}}),
        DUMPS,
        "shared.profiles.sw",
        "counts 0.50 experts per token, but this model selects 2",
        "counts of this model",
    ),
    (
        dumped(lambda dump: {**dump, "2": {"0": {"activation_tokens": 1}}}),
        DUMPS,
        "shared.profiles.sw",
        "'total_tokens' is missing from layer 2",
        "{layer:",
    ),
    (
        dumped(lambda dump: {**dump, "2": {**dump["2"], "total_tokens": 0}}),
        DUMPS,
        "shared.profiles.sw",
        "holds no tokens in layer 2",
        "at least one token",
    ),
    (
        dumped(lambda dump: {**dump, "2": {**dump["2"], "1": {"gate_values_sum": 1.0}}}),
        DUMPS,
        "shared.profiles.sw",
        "'activation_tokens' is missing from layer 2, expert 1",
        "{layer:",
    ),
    (
        dumped(lambda dump: {**dump, "2": {**dump["2"], "1": {"activation_tokens": 11}}}),
        DUMPS,
        "shared.profiles.sw",
        "'activation_tokens' of layer 2, expert 1 is 11, expected a count of at most 10",
        "{layer:",
    ),
    (
        dumped(lambda dump: {**dump, "2": {**dump["2"], "1": {"activation_tokens": True}}}),
        DUMPS,
        "shared.profiles.sw",
        "is true, expected a count",
        "{layer:",
    ),
    (
        dumped(lambda dump: {**dump, "2": {**dump["2"], "1": {"activation_tokens": 0.5}}}),
        DUMPS,
        "shared.profiles.sw",
        "is 0.5, expected a count",
        "{layer:",
    ),
    (
        dumped(lambda dump: {**dump, "2": {**dump["2"], "expert_1": {"activation_tokens": 1}}}),
        DUMPS,
        "shared.profiles.sw",
        "layer 2 has the key 'expert_1'",
        "{layer:",
    ),
    (
        changed("sw.safetensors", rows=[("q3", 10, OTHER)], language="sw"),
        RISK,
        "risk_difference.profile_b",
        "has no item in common with 'en.safetensors': 1 items like 'bench q3' against 2 items like 'bench q1'",
        "the same items",
    ),
    (
        changed("sw.safetensors", rows=[("q1", 10, OTHER), ("q1", 10, OTHER)], language="sw"),
        RISK,
        "risk_difference.profile_b",
        "holds the item bench q1 twice (tasks bench_sw)",
        "one task",
    ),
    (
        None,
        {"risk_difference": {**RISK["risk_difference"], "profile_a": "en.json"}},
        "risk_difference.profile_a",
        "'en.json' pools its items, but 'sw.safetensors' does not",
        "two of pooled counts",
    ),
    (
        None,
        {"risk_difference": {**RISK["risk_difference"], "profile_b": "en.safetensors"}},
        "risk_difference.profile_b",
        "is the same file as 'en.safetensors'",
        "two different profiles",
    ),
    (
        None,
        {"risk_difference": {**RISK["risk_difference"], "top": 7}},
        "risk_difference.top",
        "`top` is 7, but only 3 experts have an RD above 0",
        "lower `top`",
    ),
]


@pytest.mark.parametrize(("change", "rule", "path", "problem", "fix"), BAD)
def test_a_mistake_names_file_key_problem_and_remedy(
    change: Any, rule: dict[str, Any], path: str, problem: str, fix: str, folder: Path
) -> None:
    spec = spec_of(rule, folder)  # parsing finds nothing wrong: the file is opened when the model's shape is known
    if change is not None:
        change(folder)
    with pytest.raises(UserError) as caught:
        resolve(spec, SMALL)
    assert caught.value.where == f"steer.yaml: interventions.0.experts.{path}"
    assert problem in caught.value.problem
    assert fix in str(caught.value.fix)
    assert str(folder) not in caught.value.problem, "files are named as the steering file names them"


@pytest.mark.parametrize(
    ("fields", "path", "problem", "fix"),
    [
        ({}, "", "neither `top` nor `threshold`", "give one"),
        ({"top": 2, "threshold": 0.1}, "", "both `top` and `threshold` are given", "give one"),
        ({"top": 0}, ".top", "expected an integer, got 0", "from 1"),
        ({"threshold": 2}, ".threshold", "expected a number, got 2", "from 0 to 1"),
        ({"top": 2, "direction": "up"}, ".direction", "unknown value: 'up'", "positive, negative or both"),
        ({"top": 2, "profile_bb": "x"}, ".profile_bb", "(did you mean 'profile_b'?)", "profile_a, profile_b, top"),
    ],
)
def test_the_fields_of_risk_difference_are_checked(
    fields: dict[str, Any], path: str, problem: str, fix: str, folder: Path
) -> None:
    pair = {"profile_a": "en.safetensors", "profile_b": "sw.safetensors"}
    with pytest.raises(UserError) as caught:
        spec_of({"risk_difference": {**pair, **fields}}, folder)
    assert caught.value.where == f"steer.yaml: interventions.0.experts.risk_difference{path}"
    assert problem in caught.value.problem
    assert fix in str(caught.value.fix)


def test_profiles_of_several_models_in_one_file_are_refused(folder: Path) -> None:
    write(folder / "sw.safetensors", ROWS, language="sw", model="b/model")
    write(folder / "en.safetensors", ROWS, model="b/model")
    entries = [{"layers": "all", "experts": rule, "action": "activate"} for rule in (TASK, SHARED)]
    spec = parse_spec({"version": 1, "interventions": entries}, source="steer.yaml", base_dir=folder)
    with pytest.raises(UserError, match=r"'en\.safetensors' is a profile .*: b/model, not a/model"):
        resolve(spec, SMALL)


TEN = RoutingShape(layers=(1, 2), experts=10, top_k=5, depth=3)


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    """Differences from 0.05 to 0.45 in layer 2, and their opposites; none in layer 1."""
    steps = [9, 7, 5, 3, 1, -1, -3, -5, -7, -9]
    write(tmp_path / "task.safetensors", [("t", 20, [[10] * 10, [10 + step for step in steps]])], shape=TEN)
    write(tmp_path / "base.safetensors", [("b", 20, [[10] * 10, [10] * 10])], shape=TEN)
    return tmp_path


def test_an_empty_selection_says_how_far_off_the_threshold_is(graded: Path) -> None:
    # The differences are 0.45 0.35 0.25 0.15 0.05 …: over 0.4 lies one, over 0.3 two, over 0.2 three.
    with pytest.raises(UserError) as caught:
        selected({"task": {**TASK["task"], "threshold": 0.5}}, graded, TEN)
    assert caught.value.where == "steer.yaml: interventions.0.experts.task.threshold"
    assert caught.value.problem == (
        "threshold 0.5 selects no expert in layers 1-2: the largest difference of activation frequency "
        "(task - baseline) is 0.45 (layer 2, expert 0)"
    )
    assert caught.value.fix == (
        "lower `threshold` (threshold: experts selected, 0.4: 1, 0.3: 2, 0.2: 3), or widen `layers`"
    )
    for threshold, count in ((0.4, 1), (0.3, 2), (0.2, 3)):
        found = selected({"task": {**TASK["task"], "threshold": threshold}}, graded, TEN)
        assert sum(map(len, found.values())) == count


def test_an_empty_selection_that_no_threshold_mends_says_so(graded: Path) -> None:
    with pytest.raises(UserError) as caught:
        selected({"task": {**TASK["task"], "threshold": 0.1}}, graded, TEN, layers=1)
    assert "the largest difference of activation frequency (task - baseline) is 0 (layer 1" in caught.value.problem
    assert caught.value.fix == "give other profiles, or widen `layers`"


def test_an_empty_selection_below_a_control_names_the_rule(graded: Path) -> None:
    with pytest.raises(UserError) as caught:
        selected({"random": {"like": {"task": {**TASK["task"], "threshold": 0.9}}}}, graded, TEN)
    assert caught.value.where == "steer.yaml: interventions.0.experts.random.like.task.threshold"


def test_empty_selections_of_the_other_rules(folder: Path) -> None:
    both = {"profiles": {"en": "en.safetensors", "sw": "sw.safetensors"}}
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"shared": {**both, "threshold": 0.3}}, "the smallest share of an expert's dominant language is 0.5", "raise"),
        (
            {"exclusive": {**both, "languages": ["sw"], "threshold": 1}},
            "the largest share of sw is 0.9999999999",
            "lower `threshold` (threshold: experts selected, 0.99: 1",
        ),
        ({"multilingual": {**both, "threshold": 1}}, "(a language - en) is 1 (layer 2, expert 2)", "lower"),
        (
            {"risk_difference": {"profile_a": "en.safetensors", "profile_b": "sw.safetensors", "threshold": 1}},
            "the largest RD is 1",
            "lower",
        ),
    ]
    for rule, problem, fix in cases:
        with pytest.raises(UserError) as caught:
            selected(rule, folder)
        assert problem in caught.value.problem
        assert fix in str(caught.value.fix)
