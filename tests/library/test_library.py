"""`capture` and `steer` around models that somebody holds, against hooks on the experts that are written here."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import jensenshannon
from support.small_models import make_model
from transformers import StoppingCriteria

import lm_eval_moe
from lm_eval_moe.backends.hf.caches import generating_from, going_on_from, kept_in
from lm_eval_moe.errors import UserError
from lm_eval_moe.library.session import session_of

FAMILIES = ("qwen3_moe", "olmoe", "mixtral", "gpt_oss", "deepseek_v3")
SOFT = {"layers": "all", "experts": {"ids": {1: [0, 3], 2: [5]}}, "action": {"soft": 0.9}}


def steering(*interventions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": 1, "name": "test", "interventions": list(interventions or (SOFT,)), **more}


def prompts(rows: int = 3, width: int = 9, seed: int = 1) -> dict[str, torch.Tensor]:
    """Rows of different lengths, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 300, (rows, width), generator=generator)
    mask = torch.ones_like(tokens)
    for row in range(rows):
        mask[row, : 2 * row] = 0
    return {"input_ids": tokens.where(mask.bool(), 1), "attention_mask": mask}


@contextmanager
def hooked(model: Any) -> Iterator[list[list[tuple[np.ndarray, np.ndarray]]]]:
    """What the experts of each layer receive, call by call: indices and weights ``[B * T, K]``."""
    layers = [layer.mlp.experts for layer in model.model.layers if hasattr(layer.mlp, "experts")]
    calls: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in layers]

    def hook(place: int) -> Any:
        def seen(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [*args, *kwargs.values()]
            indices = next(value for value in given if not value.is_floating_point())
            weights = next(value for value in given if value.is_floating_point() and value.shape == indices.shape)
            calls[place].append((indices.numpy(), weights.float().numpy()))

        return seen

    handles = [experts.register_forward_pre_hook(hook(n), with_kwargs=True) for n, experts in enumerate(layers)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def sums(calls: list[Any], counts: np.ndarray, experts: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Counts and importance ``[B, L, E]`` of calls of ``[B * T, K]``, where ``counts`` ``[calls][B, T]`` is True."""
    rows = counts[0].shape[0]
    found, importance = np.zeros((2, rows, len(calls), experts))
    for layer, of_layer in enumerate(calls):
        for (indices, weights), own in zip(of_layer, counts, strict=True):
            shares = weights / weights.sum(1, keepdims=True)
            for place in np.flatnonzero(own.ravel()):
                row = place // own.shape[1]
                np.add.at(found[row, layer], indices[place], 1)
                np.add.at(importance[row, layer], indices[place], shares[place])
    total = np.array([own.sum(1) for own in counts]).sum(0)
    return found, importance / total[:, None, None]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return make_model(request.param)


def left_as_it_was(model: Any) -> bool:
    own = [name for module in model.modules() for name in ("forward", "generate") if name in vars(module)]
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    return not own and not hooks and "_get_stopping_criteria" not in vars(model)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_is_captured_as_the_experts_receive_it(model: Any, dtype: torch.dtype) -> None:
    model, given = model.to(dtype), prompts()
    plain = model(**given).logits
    with lm_eval_moe.capture(model) as routing, hooked(model) as calls:
        captured = model(**given).logits
    counts, importance = sums(calls, [given["attention_mask"].numpy().astype(bool)])
    assert torch.equal(captured, plain)
    assert np.array_equal(routing.counts, counts)
    assert np.allclose(routing.importance, importance, atol=1e-6 if dtype == torch.float32 else 2e-3)
    assert routing.tokens.tolist() == given["attention_mask"].sum(1).tolist()
    assert routing.over("continuation").tokens.tolist() == [0, 0, 0]
    assert np.isnan(routing.over("continuation").importance).all()
    assert left_as_it_was(model)


@torch.no_grad()
def test_generate_is_captured_with_its_cache(model: Any) -> None:
    given = prompts()
    plain = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=None)
    with lm_eval_moe.capture(model) as routing, hooked(model) as calls:
        answers = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=None)
    steps = [np.ones((3, 1), dtype=bool)] * 5  # the last token is never fed
    prompt = given["attention_mask"].numpy().astype(bool)
    assert torch.equal(answers, plain)
    assert routing.over("continuation").tokens.tolist() == [5, 5, 5]
    nothing = np.zeros_like(prompt)
    for span, wanted in {
        "all": [prompt, *steps],
        "prompt": [prompt, *([~step for step in steps])],
        "continuation": [nothing, *steps],
    }.items():
        counts, importance = sums(calls, wanted)
        assert np.array_equal(routing.over(span).counts, counts)
        assert np.allclose(routing.over(span).importance, importance, atol=1e-6)


@torch.no_grad()
def test_what_a_row_is_fed_after_its_end_does_not_count() -> None:
    model, given = make_model("qwen3_moe"), prompts()
    free = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=None)
    end = int(free[0, given["input_ids"].shape[1] + 2])
    new = free[:, given["input_ids"].shape[1] :].tolist()
    fed = [row.index(end) if end in row else 5 for row in new]
    assert len(set(fed)) > 1
    with lm_eval_moe.capture(model) as routing:
        model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=end, pad_token_id=7)
    assert routing.over("continuation").tokens.tolist() == [min(own, max(fed)) for own in fed]

    class Stop(StoppingCriteria):  # a string, say: what has stopped so is padded, too
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return input_ids[:, -1] == end

    with lm_eval_moe.capture(model) as stopped:
        model.generate(
            **given, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=7, stopping_criteria=[Stop()]
        )
    assert np.array_equal(stopped.tokens, routing.tokens)
    assert np.array_equal(stopped.counts, routing.counts)


@torch.no_grad()
def test_a_loop_of_ones_own_goes_on_with_its_rows() -> None:
    model, given = make_model("olmoe"), prompts()
    tokens, mask = given["input_ids"], given["attention_mask"]
    with lm_eval_moe.capture(model) as whole:
        model(**given)
    with lm_eval_moe.capture(model) as parts:
        out = model(input_ids=tokens[:, :6], attention_mask=mask[:, :6])
        for at in range(6, 9):
            out = model(
                input_ids=tokens[:, at : at + 1],
                attention_mask=mask[:, : at + 1],
                **going_on_from(model, kept_in(out)),
                position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, at : at + 1],
            )
    assert len(parts) == 3
    assert parts.over("continuation").tokens.tolist() == [3, 3, 3]
    assert parts.tokens.tolist() == whole.tokens.tolist()
    assert np.allclose(parts.overlap[0], whole.overlap[0], atol=1e-6)


@torch.no_grad()
def test_a_second_turn_belongs_to_the_same_row() -> None:
    model = make_model("qwen3_moe")
    given = torch.randint(2, 300, (1, 7), generator=torch.Generator().manual_seed(3))
    with lm_eval_moe.capture(model) as routing:
        first = model.generate(
            given, max_new_tokens=4, do_sample=False, eos_token_id=None, return_dict_in_generate=True
        )
        more = torch.cat([first.sequences, torch.tensor([[5, 6, 8]])], 1)
        model.generate(more, **generating_from(kept_in(first)), max_new_tokens=3, do_sample=False, eos_token_id=None)
    # Of four generated tokens the last is fed with the three of the second prompt.
    assert (len(routing), routing.tokens.tolist()) == (1, [7 + 3 + 4 + 2])
    assert routing.over("prompt").tokens.tolist() == [11]
    assert routing.over("continuation").tokens.tolist() == [5]


@torch.no_grad()
def test_a_cache_that_was_cut_begins_rows_of_its_own() -> None:
    model = make_model("olmoe")
    tokens = torch.randint(2, 300, (2, 6), generator=torch.Generator().manual_seed(3))
    with lm_eval_moe.capture(model) as routing:
        cache = kept_in(model(tokens))
        cache.crop(-2)
        model(tokens[:, :1], **going_on_from(model, cache))
    assert routing.tokens.tolist() == [6, 6, 1, 1]


@torch.no_grad()
def test_embeddings_are_steered_where_no_noise_hangs_on_tokens() -> None:
    model, given = make_model("olmoe"), prompts()
    embedded = {
        "inputs_embeds": model.get_input_embeddings()(given["input_ids"]),
        "attention_mask": given["attention_mask"],
    }
    with lm_eval_moe.steer(model, steering()), lm_eval_moe.capture(model) as by_tokens:
        model(**given)
    with lm_eval_moe.steer(model, steering()), lm_eval_moe.capture(model) as by_embeddings:
        model(**embedded)
    assert np.array_equal(by_tokens.counts, by_embeddings.counts)
    with (
        pytest.raises(UserError, match="input_ids"),
        lm_eval_moe.steer(model, steering({**SOFT, "action": "activate"})),
    ):
        model(**embedded)


@torch.no_grad()
def test_steering_moves_the_logits_as_the_file_says(model: Any) -> None:
    """By an independent hook: the router of layer 1 is given other logits, for tokens that count."""
    given, plan = prompts(), steering({**SOFT, "experts": {"ids": {1: [0, 3]}}})
    plain = model(**given).logits
    with lm_eval_moe.steer(model, steering({**SOFT, "action": {"soft": 0.0}})):
        assert torch.equal(model(**given).logits, plain)
    with lm_eval_moe.capture(model) as before:
        model(**given)
    with lm_eval_moe.steer(model, plan) as planned, lm_eval_moe.capture(model) as after, hooked(model) as calls:
        steered = model(**given).logits
    assert planned.experts_by_layer() == {1: [0, 3]}
    assert not torch.equal(steered, plain)
    counts, _ = sums(calls, [given["attention_mask"].numpy().astype(bool)])
    assert np.array_equal(after.counts, counts)
    place = after.shape.layers.index(1)
    assert np.array_equal(after.counts[:, :place], before.counts[:, :place])  # nothing below is touched
    assert after.counts[:, place, [0, 3]].sum() > before.counts[:, place, [0, 3]].sum()
    assert after.steered[:, place].tolist() == given["attention_mask"].sum(1).tolist()
    assert not np.delete(after.steered, place, axis=1).any()
    assert torch.equal(model(**given).logits, plain)
    assert left_as_it_was(model)


@torch.no_grad()
def test_blocks_inside_each_other_steer_one_after_the_other() -> None:
    model, given = make_model("olmoe"), prompts()
    one, two = steering(), steering({**SOFT, "action": "activate"})
    both = steering(*one["interventions"], *two["interventions"])
    with lm_eval_moe.steer(model, both):
        wanted = model(**given).logits
    with lm_eval_moe.steer(model, one), lm_eval_moe.capture(model) as outer:
        alone = model(**given).logits
        with lm_eval_moe.steer(model, two), lm_eval_moe.capture(model) as inner:
            assert torch.equal(model(**given).logits, wanted)
        assert torch.equal(model(**given).logits, alone)
    assert (len(outer), len(inner)) == (9, 3)
    assert np.array_equal(outer.counts[3:6], inner.counts)
    assert np.array_equal(outer.counts[:3], outer.counts[6:])
    assert not np.array_equal(outer.counts[:3], inner.counts)


@torch.no_grad()
def test_phases_and_languages_are_steered_as_by_the_file() -> None:
    model, given = make_model("qwen3_moe"), prompts()
    how = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    with lm_eval_moe.steer(model, steering({**SOFT, "tokens": "generated"})), lm_eval_moe.capture(model) as routing:
        model.generate(**given, **how)
    assert not routing.over("prompt").steered.any()
    assert routing.over("continuation").steered[:, 1:].tolist() == [[3, 3]] * 3
    swahili = steering({**SOFT, "languages": ["sw"]})
    for language, reached in {"sw": True, "en": False}.items():
        with lm_eval_moe.steer(model, swahili, language=language), lm_eval_moe.capture(model) as routing:
            model(**given)
        assert routing.steered.any() == reached


@torch.no_grad()
def test_an_error_inside_leaves_nothing_behind_and_keeps_what_was_whole() -> None:
    model, given = make_model("mixtral"), prompts()
    plain = model(**given).logits

    def fail(*_: Any) -> None:
        raise RuntimeError("from outside")

    with (  # noqa: PT012
        pytest.raises(RuntimeError, match="from outside"),
        lm_eval_moe.steer(model, steering()),
        lm_eval_moe.capture(model) as routing,
    ):
        model(**given)
        handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
        try:
            model(**given)
        finally:
            handle.remove()
    assert len(routing) == 3
    assert left_as_it_was(model)
    assert torch.equal(model(**given).logits, plain)
    # Caught inside the block, it costs its own rows alone.
    with lm_eval_moe.capture(model) as routing:
        model(**given)
        handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="from outside"):
            model(**given)
        handle.remove()
        model(**given)
    assert len(routing) == 6
    assert np.array_equal(routing.counts[:3], routing.counts[3:])


@torch.no_grad()
def test_many_passes_are_read_as_they_go() -> None:
    model = make_model("qwen3_moe")
    batches = [prompts(rows=2, width=6, seed=seed) for seed in range(80)]
    with lm_eval_moe.capture(model) as routing:
        for given in batches:
            model(**given)
    assert len(routing) == 160
    with lm_eval_moe.capture(model) as last:
        model(**batches[-1])
    assert np.array_equal(routing[-2:].counts, last.counts)


@torch.no_grad()
def test_a_model_that_is_altered_between_two_blocks_is_looked_at_anew() -> None:
    model, given = make_model("qwen3_moe"), prompts()
    with pytest.raises(UserError, match="layer"), lm_eval_moe.steer(model, steering({**SOFT, "layers": [99]})):
        pass
    donor = make_model("qwen3_moe", seed=1)
    model.model.layers[1].mlp = donor.model.layers[1].mlp
    with lm_eval_moe.capture(model) as routing, hooked(model) as calls:
        model(**given)
    counts, _ = sums(calls, [given["attention_mask"].numpy().astype(bool)])
    assert np.array_equal(routing.counts, counts)
    held = weakref.ref(model)
    del model, calls
    gc.collect()
    assert held() is None  # nothing of ours keeps it


@torch.no_grad()
def test_a_server_that_only_steers_holds_no_rows() -> None:
    model = make_model("qwen3_moe")
    with lm_eval_moe.steer(model, steering()):
        for seed in range(80):
            model(**prompts(rows=2, width=6, seed=seed))
        listening = session_of(model)._listening
        assert listening is not None
        assert len(listening._rows._rows) < 80
        assert len(listening._rows.forest) < 80


@torch.no_grad()
def test_numbers_made_of_the_arrays() -> None:
    model = make_model("deepseek_v3")
    with lm_eval_moe.capture(model) as routing:
        model(**prompts(seed=4))
        model(**prompts(seed=5))
    one, other = routing[:3], routing[3:]
    by_scipy = jensenshannon(one.importance.astype(float), other.importance.astype(float), axis=-1) ** 2
    assert np.allclose(one.divergence(other), by_scipy, atol=1e-6)
    assert one.divergence(other[0]).shape == (3, len(routing.shape.layers))
    p, q = (each.importance.astype(float) for each in (one, other))
    entropies = (scipy.stats.entropy(p, axis=-1) + scipy.stats.entropy(q, axis=-1)) / 2
    assert np.allclose(one.divergence(other, normalized=True), by_scipy / (np.log(8) - entropies), atol=1e-6)
    frame = routing.frame()
    whole = frame[(frame["span"] == "all") & (frame["row"] == 4) & (frame["layer"] == 2)]
    expected = routing.counts[4, routing.shape.layers.index(2)]
    assert dict(zip(whole["expert"], whole["count"], strict=True)) == {
        expert: count for expert, count in enumerate(expected.tolist()) if count
    }


@torch.no_grad()
def test_what_cannot_be_told_apart_is_refused() -> None:
    model, given = make_model("qwen3_moe"), prompts()
    with pytest.raises(UserError, match="beam search"), lm_eval_moe.capture(model):
        model.generate(**given, num_beams=2, max_new_tokens=3, do_sample=False)
    with pytest.raises(UserError, match="one more token"), lm_eval_moe.capture(model):
        model.generate(**given, use_cache=False, max_new_tokens=3, do_sample=False, eos_token_id=None)
    with pytest.raises(UserError, match="attention mask"), lm_eval_moe.capture(model):
        model(input_ids=given["input_ids"], attention_mask=torch.ones(3, 1, 9, 9))
    with pytest.raises(UserError, match="seeds"), lm_eval_moe.steer(model, steering()):  # noqa: SIM117
        with lm_eval_moe.steer(model, steering(seed=7)):
            pass
    with pytest.raises(UserError, match="layer"), lm_eval_moe.steer(model, steering({**SOFT, "layers": [99]})):
        pass
    with lm_eval_moe.capture(model) as routing:
        model(**given)
    with pytest.raises(UserError, match="no span"):
        routing.over("thinking")
    with pytest.raises(UserError, match="rows"):
        routing.divergence(routing[:2])
    assert left_as_it_was(model)


def test_a_model_in_hand_needs_no_lm_eval() -> None:
    seen = "import sys; from lm_eval_moe import capture, steer; print('lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("wrong", [None, "path", torch.nn.Linear(2, 2), 3])
def test_what_is_not_a_model_is_refused_in_one_message(wrong: Any) -> None:
    with pytest.raises(UserError, match="expected a model of transformers"), lm_eval_moe.capture(wrong):
        pass


@pytest.mark.parametrize(
    ("steering", "language", "message"),
    [
        (None, None, "expected a steering file, got NoneType"),
        ([1], None, "expected a steering file, got list"),
        ("limited", "swahili", "language='swahili' is not a language code"),
        ("limited", ["en", "sw"], "is not a language code"),
        ("limited", None, "nothing would be steered"),
    ],
)
def test_a_mistake_in_steering_is_one_message(steering: Any, language: Any, message: str) -> None:
    model = make_model("qwen3_moe")
    if steering == "limited":
        acting = {"layers": "all", "experts": {"ids": {"all": [1]}}, "action": "activate", "languages": ["sw"]}
        steering = {"version": 1, "interventions": [acting]}
    with (
        pytest.raises(UserError, match=message),
        lm_eval_moe.steer(model, steering, language=language),
    ):
        pass
    with lm_eval_moe.capture(model) as routing:  # nothing is left of the attempt
        model(input_ids=torch.tensor([[1, 2, 3]]))
    assert repr(routing).startswith("Routing(1 rows, ")
