"""Every mixture-of-experts family of the installed transformers, as a tiny random model, against plain transformers."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from support.conformance.checks import CHECKS, Case
from support.conformance.families import CANNOT_BUILD, build, discover, families
from support.conformance.outcomes import FOLDER, PAGE, Outcomes, differences, read_all, render

from lm_eval_moe import HFMoE
from lm_eval_moe.errors import UserError

IN_BF16 = ("no-op", "capture", "reach")


@pytest.fixture(scope="module")
def cases() -> dict[Any, Case]:
    """The case in hand: pytest runs all checks of a family one after the other, so one model is kept at a time."""
    return {}


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    return Outcomes()


def case_of(cases: dict[Any, Case], model_type: str, tokenizer: Any, dtype: torch.dtype) -> Case:
    key = (model_type, dtype)
    if key not in cases:
        cases.clear()
        cases[key] = Case(families()[model_type], tokenizer, dtype)
    cases[key].reset()
    return cases[key]


# What no router of ours could do: a reason for each, which the package must give, too.
REFUSED = {
    "doge": "mixes the tokens of a batch, padding included: no token has its own routing",
    "inkling2_loop_text": "the model is looped: decoder layer 1 runs more than once in one forward pass",
}

STEERED = [name for name in families() if name not in REFUSED]
ALL = [
    (name, check, dtype)
    for name in STEERED
    for dtype, checks in (("float32", CHECKS), ("bfloat16", () if families()[name].no_bfloat16 else IN_BF16))
    for check in checks
]


@pytest.mark.parametrize(
    ("model_type", "check", "dtype"), sorted(ALL, key=lambda each: (each[0], each[2] != "float32"))
)
def test_a_family_conforms(
    model_type: str, check: str, dtype: str, cases: dict[Any, Case], outcomes: Outcomes, tokenizer: Any
) -> None:
    case = case_of(cases, model_type, tokenizer, getattr(torch, dtype))
    outcomes.add(case, check, dtype, CHECKS[check](case))


@pytest.mark.parametrize("model_type", [name for name in families() if name in REFUSED])
def test_a_family_that_cannot_be_steered_is_refused(model_type: str, outcomes: Outcomes, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=REFUSED[model_type]) as refusal:
        HFMoE(pretrained=build(model_type), tokenizer=tokenizer)
    outcomes.refused[model_type] = refusal.value.problem


def test_every_family_of_the_installed_transformers_is_built() -> None:
    """A family that a new version brings needs an entry in ``tiny_configs``."""
    assert set(discover().causal) == set(families()) | set(CANNOT_BUILD)


def test_the_page_says_what_was_found(outcomes: Outcomes) -> None:
    """``make families`` keeps what a run finds and makes the page anew; here it must be as it was kept."""
    ran = sum(len(checks) for entry in outcomes.families.values() for checks in entry["passed"].values())
    if ran < len(ALL) and not os.environ.get("UPDATE_FAMILIES"):
        pytest.skip("not every check ran and passed, so that there is no whole outcome to compare")
    assert ran == len(ALL)
    now, kept = outcomes.document(), read_all()
    version = now["transformers"]
    if os.environ.get("UPDATE_FAMILIES"):
        FOLDER.mkdir(exist_ok=True)
        text = json.dumps(now, indent=1, ensure_ascii=False) + "\n"
        (FOLDER / f"transformers-{version}.json").write_text(text, encoding="utf-8")
        PAGE.write_text(render(read_all()), encoding="utf-8")
    elif version not in kept:
        pytest.skip(f"nothing is kept for transformers {version}; `make families` keeps what it finds")
    else:
        assert differences(kept[version], now) == []
    assert PAGE.read_text(encoding="utf-8") == render(read_all())
