"""What can be said of `vllm-moe` where there is no vLLM: what it refuses, its seeds, its bar, its batch sizes."""

from __future__ import annotations

import io
import re
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
from tqdm import tqdm

from lm_eval_moe import parse_spec, resolve
from lm_eval_moe.backends.cache import ResponseCache, StoredAnswer, answers_by_block
from lm_eval_moe.backends.registry import BACKENDS, register_backend, usual_batch_size
from lm_eval_moe.backends.vllm import refusals
from lm_eval_moe.backends.vllm.progress import as_part_of
from lm_eval_moe.backends.vllm.seeds import seed_of
from lm_eval_moe.backends.vllm.stages import Stages
from lm_eval_moe.cli import main
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.shape import RoutingShape

SHAPE = RoutingShape((0, 1, 2), 8, 2, 3)
ONE_RUN = ("run", "--model_args", "pretrained=demo", "--tasks", "demo_arith_en", "--limit", "1")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
@pytest.mark.parametrize("command", [ONE_RUN, ("doctor", *ONE_RUN[1:3])])
def test_without_vllm_one_message_says_how_to_install_it(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--model", "vllm-moe"]) == 2
    said = capsys.readouterr().err
    assert "vLLM is not installed\n  -> pip install 'lm-eval-moe[vllm]'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("data_parallel_size", 2, "use tensor_parallel_size"),
        ("speculative_config", {"model": "x"}, "speculative decoding"),
        ("enable_eplb", True, "renumbers experts"),
        ("enable_dbo", "True", "splits a pass in two"),
        ("enable_return_routed_experts", True, "own capture"),
        ("kv_transfer_config", {"kv_role": "kv_both"}, "computed elsewhere"),
        ("worker_cls", "my.Worker", "their own worker class"),
        ("enable_sleep_mode", True, "loses what it has recorded"),
    ],
)
def test_arguments_that_hide_the_routing_are_refused_by_name(argument: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"(?s)--model_args {argument}: .*{said}"):
        refusals.check_arguments({argument: value})


@pytest.mark.parametrize("value", [None, False, "False", 0, 1, ""])
def test_arguments_that_change_nothing_pass(value: Any) -> None:
    refusals.check_arguments({"data_parallel_size": value} if value in (0, 1, None) else {"enable_eplb": value})


def test_two_names_of_one_length_are_refused() -> None:
    refusals.check_arguments({"max_length": None, "max_model_len": 9})
    with pytest.raises(UserError, match="give only one of them"):
        refusals.check_arguments({"max_length": 9, "max_model_len": 9})


@pytest.mark.parametrize(("generated", "fits"), [(9, True), (10, False)])
def test_an_answer_has_to_leave_room_for_a_prompt(generated: int, fits: bool) -> None:
    if fits:
        refusals.check_room(generated, 10, None)
        return
    with pytest.raises(UserError, match=r"task gsm: .*room for 10\n  -> raise --model_args max_model_len"):
        refusals.check_room(generated, 10, RequestKey("gsm", 0, 0))


def _asking(**arguments: Any) -> Any:
    return SimpleNamespace(args=("text", arguments), task_name="gsm")


def test_several_answers_of_one_request_are_refused() -> None:
    refusals.check_generation([_asking(n=1)], "prompt", None)
    with pytest.raises(UserError, match=r"task gsm: generation_kwargs\.n"):
        refusals.check_generation([_asking(), _asking(n=2)], "prompt", None)


@pytest.mark.parametrize("span", ["thinking", "continuation", "all"])
def test_of_a_model_that_thinks_only_prompts_are_recorded(span: str) -> None:
    refusals.check_generation([_asking()], "prompt", "</think>")
    refusals.check_generation([_asking()], None, "</think>")
    refusals.check_generation([], span, "</think>")
    with pytest.raises(UserError, match=rf"capture={span} .*\n  -> use capture=prompt"):
        refusals.check_generation([_asking()], span, "</think>")


def _part(**changed: Any) -> dict[str, Any]:
    whole = {"layers": [0, 1, 2], "experts": [8], "top_k": [2], "monolithic": [], "after_logits": [], "failure": None}
    return whole | changed


def test_kernels_that_select_experts_themselves_are_refused() -> None:
    refusals.check_parts(Stages([_part()], SHAPE))
    with pytest.raises(RoutingBypassedError, match=r"layers 0-1 select(?s:.*)moe_backend=triton"):
        refusals.check_parts(Stages([_part(monolithic=[0, 1])], SHAPE))


@pytest.mark.parametrize("changed", [{"layers": [0, 1]}, {"layers": []}, {"experts": [9]}, {"top_k": [1, 2]}])
def test_routers_that_are_not_those_of_the_config_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(RoutingBypassedError, match="vLLM's model has routers in layers"):
        Stages([_part(**changed)], SHAPE)


def test_a_guard_that_cannot_be_kept_is_refused() -> None:
    def plan(guard: bool) -> Any:
        mask = {"layers": "all", "experts": {"ids": {"all": [1]}}, "action": "mask", "guard": guard}
        return resolve(parse_spec({"version": 1, "name": "forbid", "interventions": [mask]}), SHAPE)

    biased = Stages([_part(after_logits=["a bias"])], SHAPE)
    refusals.check_plan(plan(guard=True), Stages([_part()], SHAPE))
    refusals.check_plan(plan(guard=False), biased)
    with pytest.raises(UserError, match=r"forbid: interventions.0.guard: .*a bias"):
        refusals.check_plan(plan(guard=True), biased)


def test_a_seed_is_of_a_run_a_request_and_a_repeat() -> None:
    given = [(1, "text", {"temperature": 1.0}, 0)]
    given += [(2, *given[0][1:]), (1, "other", *given[0][2:]), (1, "text", {"temperature": 0.5}, 0), (*given[0][:3], 1)]
    seeds = [seed_of(*each) for each in given]
    assert len(set(seeds)) == len(given)
    assert seeds == [seed_of(*each) for each in given]
    assert all(0 <= seed < 2**56 for seed in seeds)


def test_the_bars_of_an_engine_are_parts_of_one() -> None:
    shown = io.StringIO()
    with tqdm(total=7, file=shown, desc="requests", mininterval=0) as bar:
        for rows, requests in ((2, 4), (3, 3)):
            make = as_part_of(bar, requests)
            prompts = ["prompt"] * rows
            assert make(prompts, desc="Rendering prompts") is prompts
            part = make(total=rows, desc="Processed prompts", dynamic_ncols=True, postfix="0 tokens")
            for _ in range(rows):
                assert part.format_dict["elapsed"] > 0
                part.postfix = "many tokens"
                part.update(1)
            part.refresh()
            part.close()
        assert bar.n == 7
    assert set(re.findall(r"([a-zA-Z ]+): ", shown.getvalue())) == {"requests"}


@pytest.mark.parametrize(("size", "blocks"), [(2, [3, 2, 2]), (3, [4, 3]), (9, [7])])
def test_the_response_cache_has_blocks_of_so_many_rows(size: int, blocks: list[int], tmp_path: Any) -> None:
    rows, computed = [[3, 4], [0], [1], [2], [5, 6]], []
    cache = ResponseCache(tmp_path / "answers")

    def compute(numbers: list[int]) -> list[StoredAnswer]:
        computed.append(len(numbers))
        return [StoredAnswer(number, None) for number in numbers]

    with tqdm(total=9, disable=True) as bar:
        keys = [bytes([number]) * 32 for number in range(7)]
        answers = [answers_by_block(cache, rows, keys, size, compute, lambda *_: None, bar) for _ in range(2)]
    cache.close()
    assert answers == [list(range(7))] * 2
    assert computed == blocks


def test_an_engine_that_fills_its_batches_gets_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from support.toy_engine import ToyEngine

    for inside in ("_entries", "_homes"):
        monkeypatch.setattr(BACKENDS, inside, dict(getattr(BACKENDS, inside)))
    register_backend("toy", "support.toy_engine:ToyEngine")
    assert usual_batch_size("toy", 8) == 8
    monkeypatch.setattr(ToyEngine, "fills_batches", True)
    assert usual_batch_size("toy", 8) == "auto"
