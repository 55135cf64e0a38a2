"""What a request of vLLM's server may say of steering, and where it stands in the prefix cache."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm_eval_moe.backends.vllm.books import RequestFacts
from lm_eval_moe.backends.vllm.routing import KEY
from lm_eval_moe.backends.vllm.serving import ServedSteering, SteeringReader
from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import NONE

FILE = """
version: 1
name: served
interventions:
  - {{layers: all, experts: {{ids: {{all: [1]}}}}, action: {{soft: 0.5}}{limits}}}
"""


@pytest.fixture
def front(tmp_path: Path) -> Any:
    def build(limits: str = "", language: str | None = None) -> SteeringReader:
        file = tmp_path / "steer.yaml"
        file.write_text(FILE.format(limits=limits), encoding="utf-8")
        return SteeringReader(ServedSteering(str(file), language))

    return build


def asked(salt: str | None = None, **extra: Any) -> SimpleNamespace:
    parameters = SimpleNamespace(extra_args=extra or None)
    return SimpleNamespace(
        sampling_params=parameters, prompt_token_ids=[5, 6, 7], cache_salt=salt, request_id="same", resumable=False
    )


def admitted(front: SteeringReader, salt: str | None = None, **extra: Any) -> tuple[RequestFacts, str]:
    request = asked(salt, **extra)
    front.admit(request)
    return RequestFacts.received(request.sampling_params.extra_args[KEY]), request.cache_salt


def test_a_request_that_says_nothing_is_steered(front: Any) -> None:
    facts, _ = admitted(front())
    assert facts == RequestFacts(row=0, boundary=3, plan=0, wanted=False, shared=True)


def test_a_request_may_be_left_unsteered_and_keeps_its_other_extra_arguments(front: Any) -> None:
    request = asked(lm_eval_moe_steering="off", other=3)
    front().admit(request)
    extra = request.sampling_params.extra_args
    assert extra.keys() == {"other", KEY}
    assert RequestFacts.received(extra[KEY]).plan == NONE


def test_a_request_cannot_write_down_its_own_facts(front: Any) -> None:
    facts, _ = admitted(front(), **{KEY: "nothing"})
    assert facts.plan == 0


def test_languages_are_canonical_and_the_servers_is_that_of_requests_that_name_none(front: Any) -> None:
    limited = front(", languages: [sw]", "en")
    assert admitted(limited)[0].language == "en"
    assert admitted(limited, lm_eval_moe_language="swh_Latn")[0].language == "sw"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"lm_eval_moe_steering": "of"}, "lm_eval_moe_steering='of' is neither on nor off"),
        ({"lm_eval_moe_steering": 1}, "=1 is neither"),
        ({"lm_eval_moe_stering": "off"}, "did you mean 'lm_eval_moe_steering'"),
        ({"lm_eval_moe_language": "Swahili!"}, "is not a language code"),
        ({}, "give it as lm_eval_moe_language"),
    ],
)
def test_what_a_request_cannot_mean_is_refused(front: Any, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        admitted(front(", languages: [sw]"), **extra)


def test_an_unsteered_request_needs_no_language(front: Any) -> None:
    assert admitted(front(", languages: [sw]"), lm_eval_moe_steering="off")[0].language is None


@pytest.mark.parametrize("field", ["sampling_params", "prompt_token_ids"])
def test_what_does_not_generate_from_tokens_is_refused(front: Any, field: str) -> None:
    request = asked()
    setattr(request, field, None)
    with pytest.raises(UserError, match="complete prompts of tokens"):
        front().admit(request)


def test_prompts_that_go_on_later_are_refused(front: Any) -> None:
    request = asked()
    request.resumable = True
    with pytest.raises(UserError, match="complete prompts of tokens"):
        front().admit(request)


def test_only_what_is_steered_alike_may_share_keys_and_values(front: Any) -> None:
    build = front()
    ways: list[dict[str, Any]] = [
        {},
        {"lm_eval_moe_steering": "off"},
        {"lm_eval_moe_language": "sw"},
        {"lm_eval_moe_language": "en"},
        {"salt": "theirs"},
        {"salt": "theirs", "lm_eval_moe_steering": "off"},
    ]
    salts = [admitted(build, **way)[1] for way in ways]
    assert len(set(salts)) == len(ways)
    assert salts == [admitted(build, **way)[1] for way in ways]


def test_unsteered_requests_share_whatever_their_language(front: Any) -> None:
    build = front(", languages: [sw]")
    sw, en = (admitted(build, lm_eval_moe_steering="off", lm_eval_moe_language=code)[1] for code in ("sw", "en"))
    assert sw == en


def test_where_prompt_and_answer_are_steered_differently_nobody_shares_but_the_unsteered(front: Any) -> None:
    build = front(", tokens: generated")
    facts, salt = admitted(build)
    assert facts.by_phase
    assert salt != admitted(build)[1]
    unsteered, salt = admitted(build, lm_eval_moe_steering="off")
    assert not unsteered.by_phase
    assert salt == admitted(build, lm_eval_moe_steering="off")[1]


@pytest.mark.parametrize("told", [None, {}, {KEY: {"version": "1"}}, object()])
def test_engines_that_are_told_nothing_of_steering_are_no_servers_of_it(told: Any) -> None:
    assert ServedSteering.of(told) is None


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("steer.yaml", "--additional-config: lm_eval_moe"),
        ({"stering": "steer.yaml"}, r"unknown key 'stering' \(did you mean 'steering'"),
        ({"steering": ["steer.yaml"]}, "--additional-config: lm_eval_moe.steering"),
        ({"steering": "steer.yaml", "language": "Swahili!"}, "is not a language code"),
    ],
)
def test_what_a_server_cannot_be_told_is_refused(told: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServedSteering.of({KEY: told})
