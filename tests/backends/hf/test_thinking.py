"""What is recorded and steered of a generation is what lm-eval scores of it, and the thinking before that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.tasks import TaskManager
from support import demo_runs, oracle, steered_oracle
from support.chain_model import END, LAYERS, Chains
from support.hf_cases import PAIRS, build, build_plain, generated, rolled, scored
from support.oracle import check
from support.small_models import SENTENCES, make_model
from support.steered_oracle import Change, spec_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lm_eval_moe import HFMoE, parse_spec
from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.backends.stopping import RowReading, StopRule
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.evaluation.tallies import TaskTally
from lm_eval_moe.recording import SPANS, RequestKey, RoutingRecord

pytestmark = pytest.mark.long

MARK, CUT = "<|mark|>", "<|cut|>"
CHAINS = Chains(
    {
        "plain": ["th#1", "\n\n#1", "th#2", "</think>#1", "ans#1", "Q#1", ":#1", "more#1"],
        "blank before the answer": ["th#3", "</think>#2", "\n#1", "\n#2", "ans#2", "\n#3", "\n#4", "more#2"],
        "never ends": ["th#4", "th#5", "Q#2", ":#2", "th#6", "\n\n#3", "th#7"],
        "ends twice": ["th#8", "</think>#3", "ans#3", "Q#3", ":#3", "th#9", "</think>#4", "ans#4", "\n\n#4", "more#3"],
        "ends with the sequence": ["Q#4", ":#4", "</think>#5", "ans#5", "ans#6", END],
        "ends at once": ["</think>#6", "ans#7", "ans#8", "ans#9", "\n\n#5", "more#4"],
        "an end in pieces": ["th#10", "\n\n#6", "</#1", "think#1", ">#1", "ans#10", "Q: stop#1", "more#5"],
        "an end and more in one token": ["th#11", ">\n#1", "</think> so:#1", "ans#11", "ans#12", "\n\n#7", "more#6"],
        "a special stop": ["th#12", MARK, "th#13", "</think>#7", "ans#13", CUT, "ans#14", "ans#15", "\n\n#8", "x#1"],
        "ends too late": [f"th#{number}" for number in range(20, 35)] + ["</think>#8", "ans#16"],
        "one token for all": ["th#16", "Q#5", ":#5", "</think>", "ans#17", "ans#18", "\n\n#9", "more#7"],
        "one token for all, twice": ["th#17", "</think>"],
        "no thinking": ["ans#19", "ans#20", "\n\n#10", "more#8"],
    },
    special=[MARK, CUT],
)
PROMPTS = ["pad" * (number % 4) + prompt for number, prompt in enumerate(CHAINS.chains)]
UNTIL = [["\n\n"], ["Q:"], ["Q:", "\n\n", " so"], [MARK], [CUT, "\n\n"], [">"], [END], [], ["ans"]]
THINK_ENDS: list[str | int | None] = ["</think>", CHAINS.ids["</think>"], CHAINS.ids["</think>#1"], None]


@dataclass
class Answer:
    """What lm-eval's own model generated and scored for one prompt, in the batch that it was in."""

    prompt: list[int]
    tokens: list[int]
    text: str


def answers_of(lm: HFLM, requests: list[Any]) -> list[Answer]:
    """Generate with lm-eval's own model, and look at what `generate` returns."""
    seen: dict[tuple[int, ...], list[int]] = {}
    plain = type(lm)._model_generate

    def watched(context: Any, attention_mask: Any, **kwargs: Any) -> Any:
        output = plain(lm, context=context, attention_mask=attention_mask, **kwargs)
        for row, mask in zip(output.tolist(), attention_mask.bool().tolist(), strict=True):
            prompt = [token for token, valid in zip(row, mask, strict=False) if valid]
            seen[tuple(prompt)] = row[len(mask) :]
        return output

    lm._model_generate = watched  # type: ignore[method-assign]
    try:
        texts = lm.generate_until(requests, disable_tqdm=True)
    finally:
        del lm._model_generate
    encoded = [lm.tok_encode(request.args[0]) for request in requests]
    return [Answer(ids, seen[tuple(ids)], text) for ids, text in zip(encoded, texts, strict=True)]


def split(lm: HFLM, answer: Answer, until: Sequence[str]) -> tuple[int, int]:
    """Return how many generated tokens are thinking, and how many of them and the answer are counted.

    By lm-eval's own reading of ever longer beginnings of the text; nothing of the package is used.
    """
    think_end, tokens = lm.think_end_token, answer.tokens
    ends = lm.model.generation_config.eos_token_id
    if ends in tokens:
        tokens = tokens[: tokens.index(ends) + 1]
    thinking = 0
    if isinstance(think_end, int):
        thinking = max((number for number, token in enumerate(tokens, 1) if token == think_end), default=0)
    elif think_end:
        times = lm.tok_decode(tokens).count(think_end)
        while times and lm.tok_decode(tokens[:thinking]).count(think_end) < times:
            thinking += 1

    def read(count: int, stop: Sequence[str]) -> str:
        if isinstance(think_end, int):
            return str(postprocess_generated_text(lm.tok_decode(tokens[thinking:count]).lstrip(), list(stop), None))
        return str(postprocess_generated_text(lm.tok_decode(tokens[:count]), list(stop), think_end))

    end = thinking + 1
    while end < len(tokens) and read(end, until) == read(end, []):
        end += 1
    assert read(end, until) == answer.text, "what comes later does not matter to the answer"
    return min(thinking, len(answer.tokens) - 1), max(min(end, len(tokens)) - 1, min(thinking, len(answer.tokens) - 1))


def slices(prompt: int, thinking: int, end: int, think_end: Any) -> dict[str, slice]:
    parts = {
        "prompt": slice(prompt),
        "thinking": slice(prompt, prompt + thinking),
        "continuation": slice(prompt + thinking, prompt + end),
        "all": slice(prompt + end),
    }
    if think_end is None:
        del parts["thinking"]
    return parts


@pytest.fixture(scope="module")
def chain_lm() -> HFMoE:
    return HFMoE(pretrained=CHAINS.model(), tokenizer=CHAINS.tokenizer, batch_size=5, max_length=64)


@pytest.fixture(scope="module")
def plain_lm() -> HFLM:
    return HFLM(pretrained=CHAINS.model(), tokenizer=CHAINS.tokenizer, batch_size=5, max_length=64)


# ---------------------------------------------------------------------- records


@pytest.mark.parametrize(
    ("until", "think_end", "batch_size"),
    [
        *((until, think_end, 5) for until in UNTIL for think_end in THINK_ENDS),
        *((until, "</think>", 1) for until in (["Q:"], [MARK], [CUT, "\n\n"])),
    ],
    ids=str,
)
def test_spans_are_what_lm_eval_scores_and_the_thinking_before(
    until: list[str], think_end: str | int | None, batch_size: int, chain_lm: HFMoE, plain_lm: HFLM
) -> None:
    for lm in (chain_lm, plain_lm):
        lm.think_end_token, lm.batch_size_per_gpu = think_end, batch_size
    requests = generated(PROMPTS, until=until, max_gen_toks=14)
    answers = answers_of(plain_lm, requests)
    for answer in answers:  # a chain is known by hand, too
        piece = answer.prompt[-1]
        for token in answer.tokens:
            piece = CHAINS.next_of()[piece] if piece != 0 else 0
            assert token == piece
    for span in (span for span in SPANS if think_end is not None or span != "thinking"):
        chain_lm.captured.clear()
        chain_lm.set_capture(span)
        assert chain_lm.generate_until(requests, disable_tqdm=True) == [answer.text for answer in answers]
        for number, answer in enumerate(answers):
            thinking, end = split(plain_lm, answer, until)
            fed = answer.prompt + answer.tokens[:-1]
            part = slices(len(answer.prompt), thinking, end, think_end)[span]
            record = chain_lm.captured.record(RequestKey("task", number, 0))
            assert record is not None
            assert record.tokens == len(fed[part])
            assert np.array_equal(record.counts, CHAINS.counts(fed[part]))
            if record.tokens and batch_size == 5 and until == ["Q:", "\n\n", " so"]:
                check(record, oracle.run("qwen3_moe", plain_lm.model, fed), part)


@pytest.mark.parametrize(
    ("prompt", "thinking", "text"),
    [
        ("plain", 4, "ansQ:" + "more" * 7),
        ("blank before the answer", 2, "ans"),
        ("never ends", 0, "ththQ:th"),
        ("ends twice", 7, "ans"),
        ("ends with the sequence", 3, "ansans"),
        ("ends at once", 1, "ansansans"),
        ("an end in pieces", 5, "ansQ: stopmoremoremoremoremoremoremore"),
        ("an end and more in one token", 3, "so:ansans"),
        ("ends too late", 0, "th" * 14),
    ],
)
def test_where_the_thinking_ended_is_recorded(prompt: str, thinking: int, text: str, chain_lm: HFMoE) -> None:
    """Written by hand, in a batch with a row that never stops, so that every row runs to its full length."""
    chain_lm.think_end_token, chain_lm.batch_size_per_gpu = "</think>", 5
    chain_lm.set_capture("prompt")
    chain_lm.captured.clear()
    requests = generated([prompt, "ends too late"], until=["\n\n"], max_gen_toks=14)
    assert chain_lm.generate_until(requests, disable_tqdm=True)[0] == text
    assert chain_lm.captured.record(RequestKey("task", 0, 0)).thinking == thinking
    chain_lm.think_end_token = None
    chain_lm.captured.clear()
    chain_lm.generate_until(requests, disable_tqdm=True)
    assert chain_lm.captured.record(RequestKey("task", 0, 0)).thinking is None


def test_an_end_of_thinking_that_is_generated_last_leaves_no_answer(chain_lm: HFMoE) -> None:
    chain_lm.think_end_token = "</think>"
    requests = generated(["plain", "never ends"], until=[], max_gen_toks=4)
    counted = {}
    for span in SPANS:
        chain_lm.captured.clear()
        chain_lm.set_capture(span)
        assert chain_lm.generate_until(requests, disable_tqdm=True) == ["", "ththQ:"]
        counted[span] = [chain_lm.captured.record(RequestKey("task", number, 0)) for number in range(2)]
    assert [record.thinking for record in counted["all"]] == [4, 0]
    assert {span: [record.tokens for record in records] for span, records in counted.items()} == {
        "prompt": [1, 1],
        "thinking": [3, 0],
        "continuation": [0, 3],
        "all": [4, 4],
    }


def test_a_token_sequence_that_the_tokenizer_ends_but_generate_does_not_is_read_on(chain_lm: HFMoE) -> None:
    """The tokenizer's end of sequence is a stop string of lm-eval's, but special: it does not show in the text."""
    chain_lm.think_end_token = None
    chain_lm.set_capture("continuation")
    chain_lm.captured.clear()
    requests = generated(["ends with the sequence", "never ends"], until=[], max_gen_toks=9, eos_token_id=99)
    texts = chain_lm.generate_until(requests, disable_tqdm=True)
    assert texts[0] == "Q:</think>ansans"
    record = chain_lm.captured.record(RequestKey("task", 0, 0))
    assert record.tokens == 8
    assert np.array_equal(
        record.counts, CHAINS.counts([CHAINS.ids[p] for p in CHAINS.chains["ends with the sequence"]] + [0, 0])
    )


@pytest.mark.parametrize("think_end", ["e", "ow", 153])
@pytest.mark.parametrize("until", [["a"], ["t", "-"], ["\n\n\n"]], ids=str)
def test_a_random_models_thinking_is_recorded_as_a_rerun(until: list[str], think_end: Any, tokenizer: Any) -> None:
    lm, plain = (make("olmoe", tokenizer, think_end_token=think_end, batch_size=4) for make in (build, build_plain))
    requests = generated([context for context, _ in PAIRS], until=until, max_gen_toks=16)
    answers = answers_of(plain, requests)
    thought = [split(plain, answer, until) for answer in answers]
    assert any(thinking for thinking, _ in thought), "something must be thought for the test to mean anything"
    for span in SPANS:
        lm.captured.clear()
        lm.set_capture(span)
        assert lm.generate_until(requests, disable_tqdm=True) == [answer.text for answer in answers]
        for number, (answer, (thinking, end)) in enumerate(zip(answers, thought, strict=True)):
            fed = answer.prompt + answer.tokens[:-1]
            part = slices(len(answer.prompt), thinking, end, think_end)[span]
            record = lm.captured.record(RequestKey("task", number, 0))
            assert record.tokens == len(fed[part])
            if record.tokens:
                check(record, oracle.run("olmoe", plain.model, fed), part)


# ---------------------------------------------------------------------- the reading


PIECES = ["</", "think", ">", "</think>", "Q", ":", "\n", " ", "x", "é", "ы", "Q:", "> y"]


@pytest.mark.parametrize("think_end", ["</think>", "number", None])
def test_every_beginning_of_a_text_is_read_as_lm_eval_reads_it(think_end: str | None, tokenizer: Any) -> None:
    """Random texts of pieces that make up, or nearly make up, the ends of thinking and of answers; special tokens."""
    rng = np.random.default_rng(1)
    until = ["Q:", "\n\n", "é", ": x"]
    ids = [tokenizer.encode(piece, add_special_tokens=False) for piece in PIECES] + [[tokenizer.eos_token_id]]
    number = 7 if think_end == "number" else None
    ids += [[7]] if number else []
    for _ in range(150):
        rule = StopRule(tokenizer, until, [], number or think_end)
        reading = RowReading(rule)
        chosen = [int(choice) for choice in rng.integers(0, len(ids), rng.integers(1, 40))]
        tokens = [token for choice in chosen for token in ids[choice]]
        ended = thinking = 0
        for count in range(1, len(tokens) + 1):
            reading.add(tokens[count - 1])
            read = tokenizer.decode(tokens[:count], skip_special_tokens=True)
            if number:
                ended = max((place for place, token in enumerate(tokens[:count], 1) if token == number), default=0)
                text = tokenizer.decode(tokens[ended:count], skip_special_tokens=True).lstrip()
            elif think_end:
                if read.count(think_end) > thinking:
                    thinking, ended = read.count(think_end), count
                text = read.split(think_end)[-1].lstrip()
            else:
                text = read
            assert reading.thinking == ended
            assert reading.stopped == any(stop in text for stop in until), repr(read)
            assert reading.ended == (reading.stopped and think_end is None)


def sentence_piece() -> Any:
    """A tokenizer whose decoder leaves out the space that a text begins with, and that falls back to bytes."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "</s>", *every_byte], show_progress=False)
    core.train_from_iterator([" ".join(map(" ".join, SENTENCES.values())) + " Q: x"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")


def word_piece() -> Any:
    """A tokenizer whose decoder puts spaces between words."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    core.train_from_iterator([" ".join(map(" ".join, SENTENCES.values())) + " Q: x"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[SEP]", unk_token="[UNK]")


@pytest.mark.parametrize("make_tokenizer", [sentence_piece, word_piece])
@pytest.mark.parametrize("until", [["Q:"], ["t "], [" "], ["at s", "?"], ["\N{CYRILLIC SMALL LETTER KA} "]], ids=str)
def test_a_stop_string_is_seen_with_every_kind_of_decoder(make_tokenizer: Any, until: list[str]) -> None:
    """Ends in spaces among them, which a decoder may leave out where a text begins."""
    tokenizer, rng, seen = make_tokenizer(), np.random.default_rng(2), 0
    text = " ".join(map(" ".join, SENTENCES.values()))
    known = tokenizer.encode(text, add_special_tokens=False)
    for _ in range(80):
        start = int(rng.integers(0, len(known) - 12))
        tokens = [*known[start : start + 6], *(int(token) for token in rng.choice(known, 8))]
        reading = RowReading(StopRule(tokenizer, until, []))
        stopped = False
        for count in range(1, len(tokens) + 1):
            reading.add(tokens[count - 1])
            read = tokenizer.decode(tokens[:count], skip_special_tokens=True)
            stopped = stopped or any(stop in read for stop in until)
            assert reading.stopped == stopped, repr(read)
        seen += stopped
    assert seen or until == ["Q:"]


def test_special_tokens_in_between_do_not_hide_a_stop_string(tokenizer: Any) -> None:
    before, after = (tokenizer.encode(piece, add_special_tokens=False) for piece in ("</thi", "nk> Q"))
    between = [tokenizer.eos_token_id] * 40
    reading = RowReading(StopRule(tokenizer, ["Q:"], [], "</think>"))
    for token in before + between + after + between:
        reading.add(token)
    assert (reading.thinking, reading.stopped) == (len(before + between + after) - 2, False)
    (colon,) = tokenizer.encode(":", add_special_tokens=False)
    reading.add(colon)
    assert reading.stopped


# ---------------------------------------------------------------------- steering


@pytest.mark.parametrize("think_end", ["</think>", None])
@pytest.mark.parametrize("limit", [{"tokens": "generated"}, {"languages": ["sw"]}], ids=str)
def test_steering_holds_to_the_end_of_the_answer(limit: dict[str, Any], think_end: str | None) -> None:
    """Seen from outside, in the selections that the experts receive: no token that counts has a masked expert."""
    lm = HFMoE(
        pretrained=CHAINS.model(), tokenizer=CHAINS.tokenizer, batch_size=4, max_length=64, think_end_token=think_end,
        capture="all", steering=parse_spec(spec_of([Change("mask", {0: {1: 1, 4: 1}, 1: {0: 1, 6: 1}})], **limit)),
    )  # fmt: skip
    lm.captured = Captured(CaptureRequest(languages={"task": "sw", "other": "en"}))
    masked, until = {0: {1, 4}, 1: {0, 6}}, ["\n\n"]
    plain = HFLM(
        pretrained=CHAINS.model(), tokenizer=CHAINS.tokenizer, batch_size=4, max_length=64, think_end_token=think_end
    )
    prompts = ["plain", "ends twice", "an end in pieces", "never ends"]
    requests = generated(prompts, ["task", "task", "other", "task"], until=until, max_gen_toks=14)
    answers = answers_of(plain, requests)
    order = [prompts.index(prompt) for prompt in sorted(prompts)]  # as lm-eval batches prompts of one length
    selected: dict[int, list[Any]] = {layer: [] for layer in range(LAYERS)}
    hooks = [
        layer.mlp.experts.register_forward_pre_hook(
            lambda _, args, at=number: selected[at].append(args[1].reshape(len(prompts), -1, 2).clone())
        )
        for number, layer in enumerate(lm.model.model.layers)
    ]
    lm.generate_until(requests, disable_tqdm=True)
    for hook in hooks:
        hook.remove()
    for number, answer in enumerate(answers):
        in_force = requests[number].task_name == "task" or "tokens" in limit
        _, end = split(plain, answer, until)
        assert len(answer.prompt) == 1
        record = lm.captured.record(RequestKey(requests[number].task_name, number, 0))
        generated_only = "tokens" in limit
        due = (end if generated_only else end + 1) if in_force else 0
        assert record.targeted.tolist() == [due] * LAYERS
        for layer in range(LAYERS):
            chosen = torch.cat(selected[layer], 1)[order.index(number)]
            for place in range(end + 1):
                steered = in_force and not (generated_only and place == 0)
                token = [*answer.prompt, *answer.tokens][place]
                if steered:
                    assert not masked[layer] & set(chosen[place].tolist())
                else:
                    assert chosen[place].tolist() == CHAINS.experts_of(token, layer)
    assert any(split(plain, answer, until)[1] > 6 for answer in answers)


@pytest.mark.parametrize("kind", ["text", "token"])
def test_steered_thinking_is_a_rerun_of_the_whole_sequence(kind: str, tokenizer: Any) -> None:
    """What is scored comes from tokens that were all steered, also after a stop string within the thinking."""
    family, until = "qwen3_moe", ["a", "t", " "]
    change = Change("mask", {1: {1: 1, 6: 1, 3: 1}, 2: {0: 1, 5: 1, 7: 1}}, tokens="generated")
    plain = make_model(family)
    first = steered_oracle.generate(family, plain, [change], tokenizer.encode(PAIRS[0][0]), 6)
    think_end = first[-1] if kind == "token" else "e"
    lm = build(family, tokenizer, think_end_token=think_end, steering=parse_spec(spec_of([change])), capture="off")
    requests = generated([context for context, _ in PAIRS], until=until, max_gen_toks=20)
    answers = answers_of(lm, requests)
    assert any(split(lm, answer, until)[0] for answer in answers)
    for answer in answers:
        alone = steered_oracle.generate(family, plain, [change], answer.prompt, len(answer.tokens))
        assert answer.tokens[: len(alone)] == alone


# ---------------------------------------------------------------------- evaluation


GENERATIVE = ["demo_arith_gen_en", "demo_arith_gen_sw"]


def evaluate(lm: HFMoE, manager: TaskManager, tasks: list[str] = GENERATIVE, **kwargs: Any) -> dict[str, Any]:
    return demo_runs.evaluate(lm, manager, tasks, limit=12, **kwargs)


def thought_in(results: dict[str, Any], task: str, **arguments: Any) -> list[int]:
    """Return the thinking of every document of a task, from lm-eval's own model on the same prompts."""
    plain = HFLM(pretrained=str(demo_model_path()), batch_size=4, device="cpu", **arguments)
    prompts = [sample["arguments"][0][0] for sample in results["samples"][task]]
    requests = generated(prompts, until=["\n"], max_gen_toks=4, do_sample=False)
    lengths = []
    for answer in answers_of(plain, requests):
        times, thinking = plain.tok_decode(answer.tokens).count(" 1"), 0
        while times and plain.tok_decode(answer.tokens[:thinking]).count(" 1") < times:
            thinking += 1
        lengths.append(thinking)
    return lengths


def test_results_say_how_long_the_thinking_was(
    manager: TaskManager, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    lm = HFMoE(pretrained="demo", batch_size=4, think_end_token=" 1", device="cpu")
    with caplog.at_level(logging.WARNING):
        results = evaluate(lm, manager, use_cache=str(tmp_path / "cache"))
    for task in GENERATIVE:
        lengths = thought_in(results, task, think_end_token=" 1")
        ended = [length for length in lengths if length]
        assert 0 < len(ended) < len(lengths), "some must end and some not for the test to mean anything"
        assert results["routing"]["tasks"][task]["thinking"] == {
            "generations": len(lengths),
            "never_ended": len(lengths) - len(ended),
            "mean_tokens": pytest.approx(sum(ended) / len(ended)),
        }
        assert (
            f"{task}: in {len(lengths) - len(ended)} of {len(lengths)} answers the thinking never ended" in caplog.text
        )
    again = evaluate(lm, manager, use_cache=str(tmp_path / "cache"))
    assert again["routing"] == results["routing"], "read from the response cache"
    assert "thinking" not in evaluate(lm, manager, ["demo_arith_en"])["routing"]["tasks"]["demo_arith_en"]


def test_thinking_that_ends_in_no_answer_is_a_warning(manager: TaskManager) -> None:
    lm = HFMoE(pretrained="demo", batch_size=4, think_end_token="</think>", device="cpu")
    with pytest.warns(RoutingWarning, match="demo_arith_gen_en: in 12 of 12 answers the thinking never ended"):
        results = evaluate(lm, manager, ["demo_arith_gen_en"])
    assert results["routing"]["tasks"]["demo_arith_gen_en"]["thinking"] == {
        "generations": 12,
        "never_ended": 12,
        "mean_tokens": None,
    }
    lm.think_end_token = None
    assert "thinking" not in evaluate(lm, manager, ["demo_arith_gen_en"])["routing"]["tasks"]["demo_arith_gen_en"]


@pytest.mark.filterwarnings("ignore:demo_arith_gen_")  # where no thinking ended
def test_the_response_cache_tells_spans_and_ends_of_thinking_apart(manager: TaskManager, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    for think_end in (" 1", " 7"):
        lm = HFMoE(pretrained="demo", batch_size=4, think_end_token=think_end, device="cpu")
        tokens = set()
        for span in SPANS:
            lm.set_capture(span)
            fresh, cached = (evaluate(lm, manager, use_cache=path)["routing"] for path in (None, cache))
            assert fresh == cached
            tokens.add(cached["tasks"]["demo_arith_gen_en"]["tokens"])
        assert len(tokens) > 2, "the spans must differ for the test to mean anything"


# ---------------------------------------------------------------------- what cannot be


def test_capturing_thinking_needs_its_end(tokenizer: Any) -> None:
    for think_end in ({}, {"think_end_token": None}, {"think_end_token": ""}):
        with pytest.raises(UserError, match=r"(?s)capture=thinking needs to know where .* ends.*think_end_token"):
            HFMoE(pretrained="demo", capture="thinking", **think_end)
    with pytest.raises(UserError, match=r"--model_args enable_thinking: .* needs to know where the thinking ends"):
        HFMoE(pretrained="demo", enable_thinking=True)
    lm = build("olmoe", tokenizer)
    with pytest.raises(UserError, match="needs to know where the thinking ends"):
        lm.set_capture("thinking")
    with pytest.raises(UserError, match="use capture=prompt, thinking, continuation, all or off"):
        lm.set_capture("thougts")
    assert build("olmoe", tokenizer, capture="thinking", think_end_token=7).capture == "thinking"


def test_scored_texts_have_no_thinking(tokenizer: Any, manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = build("olmoe", tokenizer, capture="thinking", think_end_token=7)
    for kind, requests in ((lm.loglikelihood, scored(PAIRS)), (lm.loglikelihood_rolling, rolled(["The cat"]))):
        with pytest.raises(UserError, match=r"the task 'task' scores existing texts: .* there is no thinking"):
            kind(requests, disable_tqdm=True)
        lm.set_capture("all")
        assert kind(requests, disable_tqdm=True)
        assert all(record.thinking is None for records in lm.captured.records.values() for record in records)
        lm.set_capture("thinking")
    demo = HFMoE(pretrained="demo", think_end_token=" 1", capture="thinking", device="cpu")
    monkeypatch.setattr(demo, "generate_until", None)  # a refusal comes before anything is generated
    with pytest.raises(UserError, match="the task 'demo_arith_en' scores existing texts"):
        evaluate(demo, manager, ["demo_arith_gen_en", "demo_arith_en"])


def test_profile_generates_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from lm_eval_moe.cli.main import main

    arguments = ["profile", "--texts", "en=x.txt", "--output", str(tmp_path), "--span", "thinking"]
    assert main([*arguments, "--model_args", "pretrained=demo"]) == 2
    assert "profile generates nothing, so there is no thinking" in capsys.readouterr().err


def test_an_end_of_thinking_that_lm_eval_leaves_out_is_a_warning() -> None:
    arguments = {"pretrained": CHAINS.model(), "tokenizer": CHAINS.tokenizer, "max_length": 64, "batch_size": 2}
    with pytest.warns(RoutingWarning, match=rf"think_end_token=.*special.*think_end_token={CHAINS.ids[MARK]}$"):
        lm = HFMoE(**arguments, think_end_token=MARK)
    (text,) = lm.generate_until(generated(["a special stop"], until=["\n\n"]), disable_tqdm=True)
    assert text.startswith("thth</think>")
    lm = HFMoE(**arguments, think_end_token=CHAINS.ids[MARK])
    (text,) = lm.generate_until(generated(["a special stop"], until=["\n\n"]), disable_tqdm=True)
    assert text.startswith("th</think>")


def test_tallies_of_processes_add_up() -> None:
    one, other = TaskTally(), TaskTally()
    for tally, lengths in ((one, (3, 0, None)), (other, (9,))):
        for length in lengths:
            tally.thinking.add(length)
    assert (one + other).thinking.to_dict() == {"generations": 3, "never_ended": 1, "mean_tokens": 6.0}


def test_pools_of_several_records_have_no_one_end_of_thinking() -> None:
    array, none = np.ones((1, 4), dtype=np.int32), np.zeros(1, dtype=np.int64)
    mass = array.astype(np.float32)
    one, other = (
        RoutingRecord(3, array, mass, mass / 4, None, None, none, none, none, thinking=number) for number in (5, 7)
    )
    assert RoutingRecord.pooled([one]).thinking == 5
    assert RoutingRecord.pooled([one, other]).thinking is None
