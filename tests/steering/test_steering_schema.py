"""The steering file, version 1: what is accepted, what is refused and in which words."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import ROOT

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import LanguageFilter, SteeringSpec, load_spec, parse_spec, resolve
from lm_eval_moe.steering.actions import Action, ActionTargets
from lm_eval_moe.steering.actions._base import SwitchAction
from lm_eval_moe.strict_yaml import yaml_text, yaml_value

EXAMPLES = ROOT / "steering_configs"
CONTRACT = """
version: 1
name: mgsm-task-experts-soft
description: Promote English maths experts in the middle layers.
source: "arXiv:2510.04694, eq. 4"          # free text
model: {layers: 48, experts: 128, top_k: 8} # optional: refuse any other shape
seed: 0                                     # for ties and random controls
interventions:                              # applied in order
  - layers: 8-35
    experts:
      task: {profile: gsm8k_en.safetensors, baseline: flores_en.safetensors, threshold: 0.4}
    action: {soft: 0.5}
    guard: false
    tokens: all
    languages: all
"""
RULES: dict[str, Any] = {
    "task": {"profile": "gsm8k_en.safetensors", "baseline": "flores_en.safetensors", "threshold": 0.4},
    "multilingual": {
        "profiles": {"en": "en.safetensors", "sw": "sw.safetensors"},
        "reference": "en",
        "threshold": 0.3,
    },
    "shared": {
        "profiles": {"en": "en.safetensors", "zh": "zh.json"},
        "top_m": 20,
        "threshold": 0.7,
        "source": "en",
    },
    "exclusive": {
        "profiles": {"en": "en.safetensors", "zh": "zh.json", "sw": "sw.safetensors"},
        "languages": ["sw"],
        "top_m": 15,
        "threshold": 0.4,
    },
    "risk_difference": {
        "profile_a": "gsm8k_en.safetensors",
        "profile_b": "flores_en.safetensors",
        "top": 20,
        "direction": "both",
    },
    "ids": {"8": [3, 17], "9": {"0": 0.41}},
    "random": {"like": {"ids": {"8": [3, 17]}}, "seed": 1},
}


def document(**fields: Any) -> dict[str, Any]:
    """A valid spec of one intervention, with some of its fields changed (``...`` removes one)."""
    intervention: dict[str, Any] = {
        "layers": "8-35",
        "experts": {"ids": {8: [3, 17]}},
        "action": {"soft": 0.5},
        **fields,
    }
    return {"version": 1, "interventions": [{key: value for key, value in intervention.items() if value is not ...}]}


def test_the_example_of_the_contract_is_read(profiles: Path) -> None:
    path = profiles / "steer.yaml"
    path.write_text(CONTRACT)
    spec = load_spec(path)
    assert spec.name == "mgsm-task-experts-soft"
    assert spec.source == "arXiv:2510.04694, eq. 4"
    assert spec.to_dict() == yaml.safe_load(CONTRACT)


@pytest.mark.parametrize("name", RULES)
def test_every_selection_rule_is_read_and_dumped_as_given(name: str, profiles: Path) -> None:
    spec = parse_spec(document(experts={name: RULES[name]}, action={"proportional": 0.02}), base_dir=profiles)
    dumped = spec.to_dict()
    assert dumped["interventions"][0]["experts"] == {name: RULES[name]}
    assert parse_spec(json.loads(json.dumps(dumped)), base_dir=profiles) == spec


@pytest.mark.parametrize(
    "action", ["activate", "deactivate", "mask", {"soft": -0.5}, {"bias": 1.0}, {"proportional": 0.022}]
)
def test_every_action_is_read_and_dumped_as_given(action: Any) -> None:
    assert parse_spec(document(action=action)).to_dict()["interventions"][0]["action"] == action


UNWEIGHTED = sorted(name for name, action in Action.registry.items() if not action.weighs)


@pytest.mark.parametrize("name", UNWEIGHTED)
@pytest.mark.parametrize(
    ("experts", "place"),
    [
        ({"ids": {8: [3], "9-11": {1: 1.0, 0: 0.41}}}, "ids.9-11.0"),
        ({"random": {"like": {"ids": {8: {3: -1}}}}}, "random.like.ids.8.3"),
    ],
)
def test_coefficients_that_an_action_does_not_use_are_refused(name: str, experts: Any, place: str) -> None:
    bare = issubclass(Action.registry[name], SwitchAction)
    with pytest.raises(
        UserError, match=rf"interventions.0.experts.{place}: the action '{name}' does not use coeff"
    ) as e:
        parse_spec(document(experts=experts, action=name if bare else {name: 0.5}))
    assert "or choose the action proportional" in str(e.value)


def test_an_action_that_says_it_heeds_coefficients_does() -> None:
    """And the others are equal in every bit whatever they are."""
    assert [
        *("activate", "activate_log_prob", "bias", "deactivate", "deactivate_log_prob", "mask", "soft")
    ] == UNWEIGHTED
    logits, experts = torch.randn(5, 8), torch.tensor([2, 6])
    for name, action in Action.registry.items():
        made = action() if issubclass(action, SwitchAction) else action(0.5)
        noise = torch.full((5, 2), 0.001)
        one, other = (
            made.apply(logits, ActionTargets(experts, torch.tensor(weights), noise))
            for weights in ([1.0, 1.0], [0.25, -2.0])
        )
        assert torch.equal(one, other) is (not action.weighs), name


def test_defaults_are_written_out() -> None:
    assert parse_spec(document(), source="configs/soft.yaml").to_dict() == {
        "version": 1,
        "name": "soft",
        "description": "",
        "source": "",
        "seed": 0,
        "interventions": [
            {
                "layers": "8-35",
                "experts": {"ids": {"8": [3, 17]}},
                "action": {"soft": 0.5},
                "guard": False,
                "tokens": "all",
                "languages": "all",
            }
        ],
    }


def test_numbers_of_numpy_are_numbers() -> None:
    ids = {np.int64(8): {np.int64(3): np.float64(1), 17: 1}}
    given = document(action={"soft": np.float32(0.5)}, experts={"ids": ids})
    assert parse_spec(given) == parse_spec(document())


def test_a_relative_profile_path_starts_from_the_files_folder(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (profiles / "steer.yaml").write_text(CONTRACT)
    monkeypatch.chdir(profiles.parent)
    spec = load_spec(profiles / "steer.yaml")
    assert spec.interventions[0].experts.profile.path == profiles / "gsm8k_en.safetensors"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "admitted", "refused"),
    [
        ("all", ["en", "sw", None], []),
        (["swh_Latn", "no"], ["sw", "swa", "no"], ["en", "nl", None]),
        ({"all_but": ["en"]}, ["sw", "zh-Hans"], ["en", "eng_Latn", None]),
    ],
)
def test_a_language_filter_admits_every_spelling(
    given: Any, admitted: list[str | None], refused: list[str | None]
) -> None:
    found = parse_spec(document(languages=given)).interventions[0].languages
    assert [found.admits(language) for language in admitted + refused] == [True] * len(admitted) + [False] * len(
        refused
    )
    assert found.is_all == (given == "all")
    assert parse_spec(document(languages=found.dump())).interventions[0].languages == found


def test_a_language_filter_stands_for_canonical_languages() -> None:
    found = parse_spec(document(languages=["swh_Latn", "arb"])).interventions[0].languages
    assert found == LanguageFilter(only=frozenset({"sw", "ar"}))


@pytest.mark.parametrize("strength", [1.5, -2])
def test_a_soft_strength_beyond_one_warns(strength: float) -> None:
    with pytest.warns(RoutingWarning, match=rf"<api>: interventions.0.action.soft: .*{strength:g}.*-1 to 1"):
        parse_spec(document(action={"soft": strength}))


def test_a_guard_is_read_where_it_has_a_meaning() -> None:
    for action in ("activate", "deactivate", "mask"):
        assert parse_spec(document(action=action, guard=True)).interventions[0].guard


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("example_*.yaml")), ids=lambda path: path.name)
def test_the_shipped_examples_resolve_for_the_model_they_name(path: Path, qwen3: RoutingShape) -> None:
    assert resolve(load_spec(path), qwen3).experts_by_layer()


BAD: list[tuple[dict[str, Any], str, str, str]] = [  # document, key path, problem, fix
    ({"interventions": []}, "", "'version' is missing", "add `version: …`"),
    ({"version": 1}, "", "'interventions' is missing", "add `interventions: …`"),
    ({**document(), "version": 2}, "version", "unknown version: 2", "version: 1"),
    ({**document(), "version": "1"}, "version", "expected an integer, got '1'", "an integer"),
    ({**document(), "version": True}, "version", "expected an integer, got true", "an integer"),
    ({**document(), "interventions": []}, "interventions", "the list is empty", "at least one"),
    (
        {**document(), "interventions": {"a": 1}},
        "interventions",
        "expected a list, got a mapping of one key",
        "layers:",
    ),
    ({**document(), "interventions": "x"}, "interventions", "expected a list, got 'x'", "write it like"),
    ({**document(), "interventions": ["x"]}, "interventions.0", "expected a mapping, got 'x'", "layers"),
    ({**document(), "nmae": "x"}, "nmae", "unknown key 'nmae' (did you mean 'name'?)", "version, interventions, name"),
    ({**document(), 3: "x"}, "3", "unknown key 3", "the keys allowed here are"),
    ({**document(), "name": 7}, "name", "expected text, got 7", "in quotes"),
    ({**document(), "name": " "}, "name", "is blank", "some text"),
    ({**document(), "name": "a\nb"}, "name", "not one line", "short name"),
    ({**document(), "description": "\ud800"}, "description", "lone surrogates", "remove them"),
    ({**document(), "source": ["a"]}, "source", "expected text, got a list of 1", "a string"),
    ({**document(), "seed": -1}, "seed", "expected an integer, got -1", "from 0 to"),
    ({**document(), "seed": 1.0}, "seed", "expected an integer, got 1.0", "from 0 to"),
    ({**document(), "model": {"layer": 48}}, "model.layer", "did you mean 'layers'?", "layers, experts, top_k"),
    ({**document(), "model": {"experts": 0}}, "model.experts", "expected an integer, got 0", "from 1 to"),
    ({**document(), "model": 48}, "model", "expected a mapping, got 48", "{layers: …}"),
    (document(layers=...), "interventions.0", "'layers' is missing", "layers, experts, action"),
    (document(experts=...), "interventions.0", "'experts' is missing", "layers, experts, action"),
    (document(action=...), "interventions.0", "'action' is missing", "layers, experts, action"),
    (document(layer=3), "interventions.0.layer", "unknown key 'layer' (did you mean 'layers'?)", "layers"),
    (document(layers="8–35"), "interventions.0.layers", "'8–35' does not name layers", "8-35"),
    (document(layers="35-8"), "interventions.0.layers", "'35-8' runs backwards", "write 8-35"),
    (document(layers="midle"), "interventions.0.layers", "did you mean 'middle'?", "early, middle, late"),
    (document(layers=-1), "interventions.0.layers", "-1 does not name layers", "12"),
    (document(layers=8.0), "interventions.0.layers", "8.0 does not name layers", "12"),
    (document(layers=True), "interventions.0.layers", "true does not name layers", "12"),
    (document(layers=None), "interventions.0.layers", "nothing does not name layers", "12"),
    (document(layers=[]), "interventions.0.layers", "the list of layers is empty", "8-35"),
    (document(layers=[8, [9]]), "interventions.0.layers.1", "a list of 1 does not name layers", "8-35"),
    (document(experts={}), "interventions.0.experts", "expected one selection rule, none given", "ids"),
    (document(experts="ids"), "interventions.0.experts", "expected one selection rule, got 'ids'", "exactly one"),
    (
        document(experts={"ids": {8: [3]}, "random": {}}),
        "interventions.0.experts",
        "2 given (ids, random)",
        "exactly one selection rule",
    ),
    (document(experts={"id": {}}), "interventions.0.experts.id", "'id' (did you mean 'ids'?)", "exactly one"),
    (document(experts={"ids": [3]}), "interventions.0.experts.ids", "expected a mapping, got a list", "{8: [3, 17]}"),
    (document(experts={"ids": {}}), "interventions.0.experts.ids", "no experts are given", "{8: [3, 17]}"),
    (document(experts={"ids": {8: []}}), "interventions.0.experts.ids", "no experts are given", "{8: [3, 17]}"),
    (document(experts={"ids": {8: 3}}), "interventions.0.experts.ids.8", "expected a list, got 3", "{8: [3, 17]}"),
    (document(experts={"ids": {8: ["3"]}}), "interventions.0.experts.ids.8.0", "an integer, got '3'", "an integer"),
    (document(experts={"ids": {8: [True]}}), "interventions.0.experts.ids.8.0", "an integer, got true", "an integer"),
    (document(experts={"ids": {8: [-1]}}), "interventions.0.experts.ids.8.0", "an integer, got -1", "from 0"),
    (document(experts={"ids": {8: [3, 3]}}), "interventions.0.experts.ids.8.1", "expert 3 is given twice", "once"),
    (document(experts={"ids": {8: [3], "8": [4]}}), "interventions.0.experts.ids.8", "8 are given twice", "once"),
    (document(experts={"ids": {"x": [3]}}), "interventions.0.experts.ids.x", "'x' does not name layers", "12"),
    (document(experts={"ids": {True: [3]}}), "interventions.0.experts.ids.true", "true does not name layers", "12"),
    (document(experts={"ids": {8: {3: "a"}}}), "interventions.0.experts.ids.8.3", "a number, got 'a'", "a number"),
    (document(experts={"ids": {8: {"a": 1}}}), "interventions.0.experts.ids.8.a", "an integer, got 'a'", "from 0"),
    (
        document(experts={"ids": {8: {3: float("nan")}}}),
        "interventions.0.experts.ids.8.3",
        "expected a number, got nan",
        "a number",
    ),
    (document(experts={"random": {"seed": 1}}), "interventions.0.experts.random", "'like' is missing", "like, seed"),
    (
        document(experts={"random": {"count": 3, "seed": 1}}),
        "interventions.0.experts.random.count",
        "unknown key 'count'",
        "like, seed",
    ),
    (
        document(experts={"random": {"like": {"random": {"like": {}}}}}),
        "interventions.0.experts.random.like.random",
        "unknown selection rule 'random'",
        "ids",
    ),
    (
        document(experts={"random": {"like": {"ids": {8: [3]}}, "seed": "1"}}),
        "interventions.0.experts.random.seed",
        "expected an integer, got '1'",
        "an integer",
    ),
    (document(action="soft"), "interventions.0.action", "'soft' needs a strength", "{soft: 0.5}"),
    (document(action="actvate"), "interventions.0.action", "(did you mean 'activate'?)", "deactivate"),
    (document(action={"sotf": 1}), "interventions.0.action.sotf", "(did you mean 'soft'?)", "exactly one action"),
    (document(action={"activate": 1}), "interventions.0.action.activate", "takes no value, got 1", "action: activate"),
    (document(action={"soft": 1, "bias": 1}), "interventions.0.action", "2 given (soft, bias)", "exactly one action"),
    (document(action=0.5), "interventions.0.action", "expected one action, got 0.5", "exactly one action"),
    (document(action={"soft": "0.5"}), "interventions.0.action.soft", "expected a number, got '0.5'", "a number"),
    (document(action={"soft": True}), "interventions.0.action.soft", "expected a number, got true", "a number"),
    (document(action={"soft": float("inf")}), "interventions.0.action.soft", "a number, got inf", "a number"),
    (document(action={"bias": float("nan")}), "interventions.0.action.bias", "a number, got nan", "a number"),
    (document(action={"bias": 10**5000}), "interventions.0.action.bias", "got a huge integer", "a number"),
    (document(guard="yes"), "interventions.0.guard", "expected true or false, got 'yes'", "write true or false"),
    (document(guard=1), "interventions.0.guard", "expected true or false, got 1", "write true or false"),
    (
        document(guard=True),
        "interventions.0.guard",
        "the action 'soft' neither forces nor bans",
        "activate, deactivate",
    ),
    (
        document(tokens="promt"),
        "interventions.0.tokens",
        "unknown value: 'promt' (did you mean 'prompt'?)",
        "generated",
    ),
    (document(tokens=None), "interventions.0.tokens", "unknown value: nothing", "all, prompt or generated"),
    (document(languages="sw"), "interventions.0.languages", "a list of languages, got 'sw'", "[sw, bn]"),
    (document(languages=[]), "interventions.0.languages", "the list of languages is empty", "[sw, bn]"),
    (document(languages=["swahili"]), "interventions.0.languages.0", "'swahili' is not a language code", "sw"),
    (document(languages=[False]), "interventions.0.languages.0", "expected text, got false", "in quotes"),
    (document(languages={"but": ["en"]}), "interventions.0.languages.but", "unknown key 'but'", "all_but"),
    (document(languages={"all_but": "en"}), "interventions.0.languages.all_but", "a list of languages", "[sw, bn]"),
]


@pytest.mark.parametrize(("given", "path", "problem", "fix"), BAD)
def test_a_mistake_names_file_key_problem_and_remedy(
    given: dict[str, Any], path: str, problem: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        parse_spec(given, source="steer.yaml", base_dir=tmp_path)
    assert caught.value.where == (f"steer.yaml: {path}" if path else "steer.yaml")
    assert problem in caught.value.problem
    assert fix in str(caught.value.fix)


@pytest.mark.parametrize(
    ("rule", "change", "path", "problem"),
    [
        ("task", {"threshold": ...}, "task", "'threshold' is missing"),
        ("task", {"threshold": 1.5}, "task.threshold", "expected a number, got 1.5"),
        ("task", {"treshold": 0.4}, "task.treshold", "(did you mean 'threshold'?)"),
        ("task", {"profile": "gone.safetensors"}, "task.profile", "there is no file 'gone.safetensors'"),
        ("task", {"profile": "weights.pt"}, "task.profile", "'weights.pt' is not a profile"),
        ("task", {"profile": "x" * 300 + ".json"}, "task.profile", "cannot be read"),
        ("task", {"baseline": 3}, "task.baseline", "expected text, got 3"),
        ("multilingual", {"profiles": {"en": "en.safetensors"}}, "multilingual.profiles", "1 given"),
        ("multilingual", {"reference": "zh"}, "multilingual.reference", "there is no profile of zh"),
        (
            "multilingual",
            {"profiles": {"sw": "sw.safetensors", "swh": "sw.safetensors"}},
            "multilingual.profiles.swh",
            "the language sw is given twice",
        ),
        (
            "multilingual",
            {"profiles": {"xyzzy": "sw.safetensors", "en": "en.safetensors"}},
            "multilingual.profiles.xyzzy",
            "'xyzzy' is not a language code",
        ),
        ("shared", {"top_m": 0}, "shared.top_m", "expected an integer, got 0"),
        ("shared", {"threshold": -0.1}, "shared.threshold", "expected a number, got -0.1"),
        ("shared", {"source": "sw"}, "shared.source", "there is no profile of sw"),
        ("exclusive", {"languages": ["fr"]}, "exclusive.languages.0", "there is no profile of fr"),
        ("exclusive", {"languages": ["en", "zh", "sw"]}, "exclusive.languages", "3 of the 3 languages"),
        ("exclusive", {"languages": []}, "exclusive.languages", "0 of the 3 languages"),
    ],
)
def test_the_fields_of_a_profile_rule_are_checked(
    rule: str, change: dict[str, Any], path: str, problem: str, profiles: Path
) -> None:
    fields = {key: value for key, value in {**RULES[rule], **change}.items() if value is not ...}
    with pytest.raises(UserError) as caught:
        parse_spec(document(experts={rule: fields}), source="steer.yaml", base_dir=profiles)
    assert caught.value.where == f"steer.yaml: interventions.0.experts.{path}"
    assert problem in caught.value.problem


LANGUAGES = st.lists(st.sampled_from(["en", "sw", "zh-Hant", "no"]), min_size=1, unique=True)
LAYER_PARTS = (
    st.integers(0, 47)
    | st.tuples(st.integers(0, 20), st.integers(20, 47)).map(lambda ends: f"{ends[0]}-{ends[1]}")
    | st.sampled_from(["all", "early", "middle", "late"])
)
IDS = st.dictionaries(
    st.integers(0, 47),
    st.lists(st.integers(0, 127), min_size=1, unique=True)
    | st.dictionaries(st.integers(0, 127), st.floats(-10, 10), min_size=1),
    min_size=1,
)


def without_idle_coefficients(entry: dict[str, Any]) -> dict[str, Any]:
    """List the experts where the action does not heed their coefficients."""
    if "proportional" not in entry["action"]:
        rule = entry["experts"].get("random", {}).get("like", entry["experts"])
        rule["ids"] = {layers: list(experts) for layers, experts in rule["ids"].items()}
    return entry


INTERVENTIONS = st.fixed_dictionaries(
    {
        "layers": LAYER_PARTS | st.lists(LAYER_PARTS, min_size=1),
        "experts": IDS.map(lambda ids: {"ids": ids})
        | IDS.map(lambda ids: {"random": {"like": {"ids": ids}, "seed": 7}}),
        "action": st.sampled_from(["activate", "deactivate", "mask"])
        | st.tuples(st.sampled_from(["soft", "bias", "proportional"]), st.floats(-1, 1)).map(lambda pair: dict([pair])),
    },
    optional={
        "guard": st.just(False),
        "tokens": st.sampled_from(["all", "prompt", "generated"]),
        "languages": st.just("all") | LANGUAGES | LANGUAGES.map(lambda codes: {"all_but": codes}),
    },
).map(without_idle_coefficients)
SPECS = st.fixed_dictionaries(
    {"version": st.just(1), "interventions": st.lists(INTERVENTIONS, min_size=1, max_size=3)},
    optional={
        "name": st.just("a name"),
        "description": st.text(st.characters(exclude_categories=["Cs"])),
        "model": st.just({"experts": 128}),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@settings(deadline=None)
@given(SPECS)
def test_a_spec_survives_dumping_and_parsing(given: dict[str, Any]) -> None:
    spec = parse_spec(given)
    as_json, as_yaml = json.dumps(spec.to_dict()), yaml_text(spec.to_dict())
    for read in (json.loads(as_json), yaml_value(as_yaml, where="f")):
        again = parse_spec(read)
        assert again == spec
        assert again.to_dict() == spec.to_dict()


GARBAGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.sampled_from(["all", "ids", "random", "soft", 10**400, "0-999999", "a\0b", "~", object(), {1}, 1j]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.none() | st.booleans() | st.integers() | st.text(max_size=8), inner, max_size=3)
        | st.dictionaries(st.sampled_from(["version", "interventions", "ids", "random", "like", "soft", "8"]), inner)
    ),
    max_leaves=8,
)


def paths(node: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths to the values within ``node``."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, value in entries for found in paths(value, (*path, key)))]


def replaced(node: Any, path: tuple[Any, ...], value: object) -> Any:
    """A copy of ``node`` with ``value`` at ``path``."""
    if not path:
        return value
    node = copy.copy(node)
    node[path[0]] = replaced(node[path[0]], path[1:], value)
    return node


@settings(deadline=None)
@given(st.data())
def test_garbage_ends_in_a_user_error_or_a_spec(data: st.DataObject) -> None:
    sound = {
        **document(experts={"random": {"like": {"ids": {8: [3], 9: {0: 0.5}}}}}, action={"proportional": 0.1}),
        "name": "x",
        "model": {"layers": 48},
    }
    path = data.draw(st.sampled_from(paths(sound)))
    broken = replaced(sound, path, data.draw(GARBAGE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoutingWarning)
        try:
            spec = parse_spec(broken, source="f")
            resolve(spec, RoutingShape(layers=tuple(range(48)), experts=16, top_k=2, depth=48))
        except UserError as error:
            assert error.fix  # noqa: PT017  (either outcome is right, no other error is)
            assert str(error.where).startswith("f")  # noqa: PT017
        else:
            assert isinstance(spec, SteeringSpec)


def test_reading_a_file_loads_neither_torch_nor_the_harness(tmp_path: Path) -> None:
    path = tmp_path / "steer.yaml"
    path.write_text(json.dumps(document(languages=["sw"])))
    code = (
        "import sys; from lm_eval_moe.shape import RoutingShape; from lm_eval_moe.steering import load_spec, resolve;"
        f"resolve(load_spec({str(path)!r}), RoutingShape(tuple(range(48)), 128, 8, 48));"
        "print(sorted({'torch', 'transformers', 'lm_eval'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
