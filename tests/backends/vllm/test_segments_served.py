"""The books of a serving engine: whatever a scheduler does with KV blocks, a request's record is that of its tokens.

The scheduler here does what vLLM's does: chunks of prompts beside single tokens of answers, blocks found in the prefix
cache (also those that the same step computes), blocks used again, preemption when there are none left, and tokens that
are fed before the end of a request is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from support.schedules import ARRAYS, SHAPE, Engine, Request, Tokens, padded, requests_of

from lm_eval_moe import parse_spec, resolve
from lm_eval_moe.backends.vllm.books import HELD_BACK, Books, RequestFacts
from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import AttributionError, RoutingRecord
from lm_eval_moe.recording.packing import pack_sums, unpack_sums

SIZE = 3
ONE_PHASE = resolve(
    parse_spec(
        {
            "version": 1,
            "seed": 5,
            "interventions": [{"layers": 2, "experts": {"ids": {2: list(range(8))}}, "action": "activate"}],
        }
    ),
    SHAPE,
)
"""Noise decides everything in layer 2, and is that of the tokens before."""

SPANS = {"prompt": [0], "continuation": [1], "all": [0, 1]}


class Served(Engine):
    """An engine that is told the sequence of every row, so that it depends on nothing that is tested."""

    rows: Iterator[Tokens]

    def _sequence(self, segment: int, token: int) -> Tokens:
        return next(self.rows)


def run_step(
    engine: Served, books: Books, counts: dict[str, int], sequences: dict[str, Tokens], order: list[str] | None = None
) -> None:
    """Run the next step, of some tokens of each request; what is old enough is folded behind it."""
    order = order or list(counts)
    step = books.step(counts, order)
    names = np.repeat(order, [counts[name] for name in order])
    tokens = [sequences[name][place] for name, place in zip(names, step.position, strict=True)]
    known = step.token >= 0
    assert (step.token[known] == np.array(tokens)[known]).all()
    engine.rows = iter([sequences[name][: place + 1] for name, place in zip(names, step.position, strict=True)])
    engine.run(step.segment, np.array(tokens))
    stretches = books.folded()
    engine.recorder.fold(stretches)
    engine.steerer.fold(stretches)
    books.fold(stretches)


@dataclass
class Running:
    """A request in the scheduler's hands: what it is, and what it will be fed beyond its end."""

    number: int
    request: Request
    surplus: Tokens
    facts: RequestFacts
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    waiting: bool = True
    preempted: bool = False

    @property
    def tokens(self) -> Tokens:
        return self.request.tokens + self.surplus


class Scheduler:
    """Feeds requests to an engine through the books."""

    def __init__(self, requests: list[Request], draw: random.Random, *, pool: int, shared: bool = True) -> None:
        self.draw, self.shared = draw, shared
        self.engine = Served()
        self.books = Books(self.engine.forest, block_size=SIZE if shared else None)
        self.pool, self.free, self.known = pool, list(range(1, pool + 1)), {}
        self.users: dict[int, int] = dict.fromkeys(range(1, pool + 1), 0)
        self.hash_of: dict[int, tuple[str, Tokens, int]] = {}
        self.sums: dict[int, bytes] = {}
        self.all = [
            Running(
                number,
                request,
                tuple(draw.randrange(4) for _ in range(draw.randint(0, HELD_BACK))),
                RequestFacts(
                    number,
                    (len(request.prompt),),
                    len(request.prompt),
                    request.language,
                    plan=0,
                    held=True,
                    shared=shared,
                    by_phase=True,
                ),
            )
            for number, request in enumerate(requests)
        ]

    def run(self) -> dict[int, dict[str, RoutingRecord]]:
        left = list(self.all)
        ended: list[str] = []
        self.steps = self.preempted = self.found = 0
        while left or ended:
            self._read(ended)
            ended = []
            counts: dict[str, int] = {}
            preempted: list[str] = []
            fed: list[tuple[Running, int]] = []
            for running in self.draw.sample(left, len(left)):
                if running.preempted and self.draw.random() < 0.3:
                    continue
                count = self._schedule(running, left, counts, preempted)
                if count:
                    fed.append((running, count))
            self._preempt(preempted)
            fed = [(running, count) for running, count in fed if str(running.number) in counts]
            for running, _ in fed:
                self._tell(running)
            if not counts:
                continue
            order = self.draw.sample(list(counts), len(counts))
            sequences = {str(running.number): running.tokens for running, _ in fed}
            run_step(self.engine, self.books, counts, sequences, order)
            self.steps += 1
            for running in [running for running, _ in fed if running.computed == len(running.tokens)]:
                left.remove(running)
                self._release(running)
                ended.append(str(running.number))
        return self._records()

    def _schedule(self, running: Running, left: list[Running], counts: dict[str, int], preempted: list[str]) -> int:
        """Give a request some tokens and the blocks for them; the number of tokens."""
        if running.waiting or running.preempted:
            whole = running.tokens if running.preempted else running.request.prompt
            running.blocks = self._hit(running, whole) if self.shared else []
            running.computed = len(running.blocks) * SIZE
        prompt = len(running.request.prompt)
        most = max(prompt - running.computed, 1)
        count = self.draw.randint(1, min(most, 5)) if running.computed < prompt else 1
        needed = -(-(running.computed + count) // SIZE) - len(running.blocks)
        while needed > len(self.free):
            others = [r for r in left if r is not running and not r.waiting and not r.preempted]
            others = [r for r in others if str(r.number) not in counts]
            if not others:  # it has to wait
                if running.waiting or running.preempted:
                    self._release(running)
                return 0
            victim = self.draw.choice(others)
            self._release(victim)
            victim.preempted = True
            preempted.append(str(victim.number))
            self.preempted += 1
        new = [self.free.pop(0) for _ in range(max(needed, 0))]
        for block in new:
            self.users[block] = 1
            if (key := self.hash_of.pop(block, None)) is not None and self.known.get(key) == block:
                del self.known[key]
        running.new = new  # type: ignore[attr-defined]
        running.begin = running.computed  # type: ignore[attr-defined]
        running.blocks = [*running.blocks, *new]
        running.computed += count
        counts[str(running.number)] = count
        for number in range(running.computed // SIZE):  # a block is in the cache as soon as it is scheduled
            key = self._key(running, (number + 1) * SIZE, len(running.request.prompt))
            if self.shared and key not in self.known:
                self.known[key], self.hash_of[running.blocks[number]] = running.blocks[number], key
        return count

    def _hit(self, running: Running, whole: Tokens) -> list[int]:
        blocks, prompt = [], len(running.request.prompt)
        for end in range(SIZE, len(whole), SIZE):
            block = self.known.get(self._key(running, end, len(whole) if not running.preempted else prompt))
            if block is None:
                break
            blocks.append(block)
        for block in blocks:
            self.users[block] += 1
            if block in self.free:
                self.free.remove(block)
        self.found += len(blocks)
        return blocks

    @staticmethod
    def _key(running: Running, end: int, prompt: int) -> tuple[str, Tokens, int]:
        """What a block is found by; how much of it is generated, too, since that is steered by itself here."""
        return running.request.language, running.tokens[:end], max(end - prompt, 0)

    def _release(self, running: Running) -> None:
        for block in reversed(running.blocks):
            self.users[block] -= 1
            if not self.users[block]:
                self.free.append(block)
        running.blocks = []

    def _tell(self, running: Running) -> None:
        name, begin, new = str(running.number), running.begin, running.new  # type: ignore[attr-defined]
        if running.waiting:
            self.books.add(name, running.facts, running.request.prompt, begin, running.blocks)
        elif running.preempted:
            self.books.go_on(name, begin, running.blocks, resumed=True)
        else:
            self.books.go_on(name, begin, new or None, resumed=False)
        running.waiting = running.preempted = False

    def _preempt(self, names: list[str]) -> None:
        self._keep(self.books.preempt(names))

    def _read(self, names: list[str]) -> None:
        self._keep(self.books.end(names))

    def _keep(self, ended: list) -> None:  # type: ignore[type-arg]
        if ended:
            sums = self.engine.recorder.sums_of([each.stretches for each in ended])
            for each, own in zip(ended, sums, strict=True):
                prompt, end = len(self.all[each.row].request.prompt), len(self.all[each.row].request.tokens)
                if each.ends[-1] < end:
                    continue  # preempted before its end
                first, second = (each.ends.index(cut) + 1 for cut in (prompt, end))
                self.sums[each.row] = pack_sums(own.merged([range(first), range(first, second)]))

    def _records(self) -> dict[int, dict[str, RoutingRecord]]:
        return {
            row: {span: unpack_sums(data).take(places, [0, 1], ARRAYS) for span, places in SPANS.items()}
            for row, data in self.sums.items()
        }


def assert_same(mine: RoutingRecord, expected: RoutingRecord) -> None:
    assert mine.tokens == expected.tokens
    for name in ("counts", "targeted", "hit", "changed"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(expected, name), err_msg=name)
    for name in ("gate_mass", "importance", "importance_dense", "overlap"):
        np.testing.assert_allclose(getattr(mine, name), getattr(expected, name), atol=1e-6, err_msg=name)


def requests(seed: int) -> list[Request]:
    """Requests of different lengths, several of which begin alike; some answers are long."""
    draw = random.Random(seed)
    found = requests_of(seed)
    longer = [
        Request(each.language, each.prompt, each.continuation + tuple(draw.randrange(4) for _ in range(30)))
        for each in draw.sample(found, 2)
    ]
    return found + longer


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_a_record_is_that_of_its_tokens(seed: int, shared: bool) -> None:
    given = requests(seed)
    expected = padded(given, random.Random(seed)).records
    longest = max(len(request.tokens) for request in given) + HELD_BACK
    scheduler = Scheduler(given, random.Random(seed), pool=longest // SIZE + 12, shared=shared)
    records = scheduler.run()
    assert records.keys() == expected.keys()
    for number, spans in records.items():
        for span, record in spans.items():
            assert_same(record, expected[number][span])


def test_a_request_that_ends_while_it_is_preempted() -> None:
    """Its blocks are somebody else's by then: the record is that of the moment at which it lost them."""
    request = Request("en", PROMPT, (3, 2, 1))
    scheduler = Scheduler([request], random.Random(0), pool=9, shared=False)
    books, engine = scheduler.books, scheduler.engine
    books.add("0", scheduler.all[0].facts, PROMPT, 0, [])
    for count in (len(PROMPT), 1, 1, 1):
        run_step(engine, books, {"0": count}, {"0": request.tokens})
    scheduler._preempt(["0"])
    books.add("1", facts(1, shared=False), (1, 1), 0, [])
    run_step(engine, books, {"1": 2}, {"1": (1, 1)})
    scheduler._read(["0"])
    expected = padded([request], random.Random(0)).records[0]
    for span, record in scheduler._records()[0].items():
        assert_same(record, expected[span])


def test_a_prompt_that_begins_with_an_answer_whose_tokens_were_folded() -> None:
    """The next turn of a conversation: pairs and noise go on where the last token of the answer was."""
    turn = PROMPT + tuple(random.Random(7).randrange(4) for _ in range(3 * HELD_BACK))
    whole = (*turn, 1, 2, 3, 1)
    engine = Served((ONE_PHASE,))
    own = Books(engine.forest, block_size=SIZE)
    blocks = list(range(1, -(-len(whole) // SIZE) + 1))
    own.add("a", facts(plan=0, held=True, boundary=len(PROMPT)), PROMPT, 0, blocks)
    for count in (len(PROMPT), *[1] * (len(turn) - len(PROMPT))):
        run_step(engine, own, {"a": count}, {"a": turn})
    found = (len(turn) - 2 * HELD_BACK) // SIZE * SIZE  # of blocks all of whose tokens are folded
    own.add("b", facts(1, plan=0, boundary=len(whole)), whole, found, [*blocks[: found // SIZE], *range(50, 70)])
    run_step(engine, own, {"b": len(whole) - found}, {"b": whole})
    [ended] = own.end(["b"])
    [shared] = engine.recorder.sums_of([[[segment for stretch in ended.stretches for segment in stretch]]])
    alone = Engine((ONE_PHASE,))
    only = alone.add()
    alone.run(np.full(len(whole), only), np.array(whole))
    [expected] = alone.recorder.sums_of([[only]])
    assert_same(shared.take([0], [0], ARRAYS), expected.take([0], [0], ARRAYS))


def test_the_schedules_are_eventful() -> None:
    """What the test above claims to cover does happen in it."""
    events = {"preempted": 0, "found": 0}
    for seed in range(12):
        given = requests(seed)
        longest = max(len(request.tokens) for request in given) + HELD_BACK
        scheduler = Scheduler(given, random.Random(seed), pool=longest // SIZE + 12)
        scheduler.run()
        for name in events:
            events[name] += getattr(scheduler, name)
    assert all(number > 10 for number in events.values()), events


def test_numbers_of_segments_do_not_grow_with_requests() -> None:
    """A server runs for weeks: what blocks that were used again, or requests that have ended, had is given back."""
    sizes = []
    for times in (2, 6):
        scheduler = Scheduler(requests(3) * times, random.Random(1), pool=40)
        scheduler.run()
        sizes.append(len(scheduler.engine.forest))
    assert sizes[1] < 2 * sizes[0]


# ---------------------------------------------------------------------- what must not go unnoticed


def books(**settings: object) -> Books:
    return Books(Served().forest, **{"block_size": SIZE, **settings})  # type: ignore[arg-type]


def facts(row: int = 0, **settings: object) -> RequestFacts:
    return RequestFacts(row, **{"boundary": 6, "shared": True, **settings})  # type: ignore[arg-type]


PROMPT = (1, 2, 3, 1, 2, 3)


def test_blocks_that_nobody_computed_here_are_an_error() -> None:
    own = books()
    own.add("a", facts(), PROMPT, 3, [7, 8])
    with pytest.raises(AttributionError, match="some of its tokens before that were not seen"):
        own.step({"a": 3}, ["a"])


def test_a_hit_of_a_request_that_shares_nothing_is_an_error() -> None:
    with pytest.raises(AttributionError, match="found in the prefix cache unexpectedly"):
        books().add("a", facts(shared=False), PROMPT, 3, [7, 8])


def test_a_row_that_runs_twice_is_an_error() -> None:
    own = books()
    own.add("a", facts(), PROMPT, 0, [1, 2])
    with pytest.raises(AttributionError, match="row 0 runs twice"):
        own.add("b", facts(), PROMPT, 0, [3, 4])


@pytest.mark.parametrize(("by_phase", "expectation"), [(True, "begins with the answer"), (False, None)])
def test_generated_tokens_that_become_a_prompt(by_phase: bool, expectation: str | None) -> None:
    own = books()
    own.add("a", facts(boundary=1), PROMPT[:1], 0, [1, 2])
    own.step({"a": 1}, ["a"])
    for position in range(1, 6):
        own.go_on("a", position, None, resumed=False)
        own.step({"a": 1}, ["a"])
    own.add("b", facts(1, by_phase=by_phase), PROMPT, 3, [1, 3])

    def go_on() -> None:
        own.step({"b": 3}, ["b"])

    check(go_on, expectation)


def check(do: Callable[[], None], expectation: str | None) -> None:
    if expectation is None:
        do()
        return
    with pytest.raises(UserError, match=expectation):
        do()
