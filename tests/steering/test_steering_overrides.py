"""``--set KEY=VALUE``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_eval_moe.errors import UserError
from lm_eval_moe.steering import load_spec, parse_spec

STEER = """
version: 1
model: {layers: 48}
interventions:
  - layers: 8-35
    experts: {ids: &both {8: [3, 17], 9: [0]}}
    action: {soft: 0.5}
  - layers: all
    experts: {random: {like: {ids: *both}, seed: 1}}
    action: activate
"""


@pytest.fixture
def steer(tmp_path: Path) -> Path:
    """A steering file of two interventions, whose ids are one and the same YAML node."""
    path = tmp_path / "steer.yaml"
    path.write_text(STEER)
    return path


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("interventions.0.action.soft=0.25", (0, "action"), {"soft": 0.25}),
        ("interventions.0.action={bias: 1e-1}", (0, "action"), {"bias": 0.1}),
        ("interventions.0.action=mask", (0, "action"), "mask"),
        ("interventions.0.layers=[8, 9-12]", (0, "layers"), [8, "9-12"]),
        ("interventions.1.tokens=prompt", (1, "tokens"), "prompt"),
        ("interventions.1.languages=[no]", (1, "languages"), ["no"]),
        ("interventions.0.experts.ids.8=[5]", (0, "experts"), {"ids": {"8": [5], "9": [0]}}),
        ("interventions.0.experts.ids.10=[5]", (0, "experts"), {"ids": {"8": [3, 17], "9": [0], "10": [5]}}),
        (
            "interventions.1.experts.random.seed=2",
            (1, "experts"),
            {"random": {"like": {"ids": {"8": [3, 17], "9": [0]}}, "seed": 2}},
        ),
        (" seed = 3", ("seed",), 3),
        ("description=a = b", ("description",), "a = b"),
        ("model.top_k=8", ("model",), {"layers": 48, "top_k": 8}),
    ],
)
def test_an_override_changes_its_field_and_no_other(
    steer: Path, override: str, path: tuple[Any, ...], value: Any
) -> None:
    before, after = load_spec(steer).to_dict(), load_spec(steer, overrides=(override,)).to_dict()
    parent = after["interventions"][path[0]] if isinstance(path[0], int) else after
    assert parent[path[-1]] == value
    target = before["interventions"][path[0]] if isinstance(path[0], int) else before
    target[path[-1]] = value
    assert after == before


def test_overrides_are_put_in_one_after_the_other(steer: Path) -> None:
    spec = load_spec(steer, overrides=["interventions.0.action={bias: 1}", "interventions.0.action.bias=2"])
    assert spec.interventions[0].action.dump() == {"bias": 2.0}


def test_a_missing_block_is_created_and_the_model_block_can_be_removed(steer: Path) -> None:
    assert "model" not in load_spec(steer, overrides=["model="]).to_dict()
    assert load_spec(steer, overrides=["model=", "model.experts=8"]).to_dict()["model"] == {"experts": 8}


def test_the_given_mapping_is_left_as_it_is() -> None:
    given = {"version": 1, "interventions": [{"layers": 8, "experts": {"ids": {8: [3]}}, "action": {"soft": 0.5}}]}
    parse_spec(given, overrides=["interventions.0.action.soft=0.25"])
    assert given["interventions"][0]["action"] == {"soft": 0.5}  # type: ignore[index]


@pytest.mark.parametrize(
    ("override", "where", "problem", "fix"),
    [
        ("interventions.0.action", "--set", "'interventions.0.action' is not KEY=VALUE", "action.soft=0.25"),
        ("=3", "--set", "'=3' is not KEY=VALUE", "action.soft=0.25"),
        ("interventions..action=mask", "--set", "is not KEY=VALUE", "action.soft=0.25"),
        ("seed=[", "--set seed", "not valid YAML", "correct it there"),
        (
            "interventions.2.action=mask",
            "--set interventions.2.action",
            "2 entries, and '2' is not one of them",
            "0 to 1",
        ),
        ("interventions.-1.action=mask", "--set interventions.-1.action", "'-1' is not one of them", "0 to 1"),
        ("interventions.0000000001.action=mask", "--set interventions.0000000001.action", "a list of 2", "0 to 1"),
        ("interventions.x.action=mask", "--set interventions.x.action", "'x' is not one of them", "0 to 1"),
        (
            "interventions.1.action.soft=1",
            "--set interventions.1.action.soft",
            "interventions.1.action is 'activate' and has no entry 'soft'",
            "--set 'interventions.1.action={soft: …}'",
        ),
        ("sede=3", "--set sede (over {})", "unknown key 'sede' (did you mean 'seed'?)", "seed"),
        ("modle.top_k=3", "--set modle (over {})", "unknown key 'modle' (did you mean 'model'?)", "model"),
        (
            "interventions.0.action.soft=strong",
            "--set interventions.0.action.soft (over {})",
            "expected a number, got 'strong'",
            "a number",
        ),
        ("interventions.0.action.bias=1", "{}: interventions.0.action", "2 given (soft, bias)", "exactly one action"),
        ("interventions=[]", "--set interventions (over {})", "the list is empty", "at least one"),
        ("interventions.0=", "--set interventions.0 (over {})", "expected a mapping, got nothing", "layers"),
    ],
)
def test_a_mistaken_override_names_the_flag(steer: Path, override: str, where: str, problem: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        load_spec(steer, overrides=(override,))
    assert caught.value.where == where.format(steer)
    assert problem in caught.value.problem
    assert fix in str(caught.value.fix)
