"""The same requests run by engines of every kind: how each lays rows out, as segments, is all that differs.

A made-up model routes a token by the sequence up to it alone, so that whatever is shared or cut gives the same logits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import torch

from lm_eval_moe import parse_spec, resolve
from lm_eval_moe.recording import NONE, Forest, Recorder, RoutingRecord, Steered
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering.apply import Steerer
from lm_eval_moe.steering.plan import SteeringPlan

LAYERS, EXPERTS, TOP_K = 3, 8, 2
SHAPE = RoutingShape(layers=(1, 2, 4), experts=EXPERTS, top_k=TOP_K, depth=6)
PLAN = resolve(
    parse_spec(
        {
            "version": 1,
            "seed": 5,
            "interventions": [
                {"layers": 2, "experts": {"ids": {2: [0, 3, 6]}}, "action": "activate"},
                {"layers": 4, "experts": {"ids": {4: [1, 2]}}, "action": {"soft": 0.75}, "tokens": "generated"},
                {"layers": 2, "experts": {"ids": {2: [7]}}, "action": "mask", "languages": ["sw"], "tokens": "prompt"},
            ],
        }
    ),
    SHAPE,
)

Tokens = tuple[int, ...]
Place = tuple[int, int]
"""A request, and a position in its sequence."""


@dataclass(frozen=True)
class Request:
    """A prompt and a continuation in some language."""

    language: str
    prompt: Tokens
    continuation: Tokens

    @property
    def tokens(self) -> Tokens:
        return self.prompt + self.continuation


def requests_of(seed: int) -> list[Request]:
    """Documents in two languages, each with a few-shot prefix of its language, a context, and several choices."""
    draw = random.Random(seed)

    def text(longest: int) -> Tokens:
        return tuple(draw.randrange(4) for _ in range(draw.randint(1, longest)))

    requests = []
    for language in ("en", "sw"):
        prefix = text(9)
        for _ in range(draw.randint(1, 3)):
            context = prefix + text(6)
            choices = {text(5) for _ in range(draw.randint(1, 4))}
            requests += [Request(language, context, choice) for choice in sorted(choices)]
    return requests


def model_logits(layer: int, sequence: Tokens) -> np.ndarray:
    """The router logits ``[E]`` of the last token of a sequence."""
    return np.random.default_rng([layer, len(sequence), *sequence]).normal(size=EXPERTS).astype(np.float32)


@dataclass
class Engine:
    """Runs passes over rows of a forest, and keeps what the routers went on with at every row."""

    plans: Sequence[SteeringPlan | None] = (PLAN,)
    forest: Forest = field(default_factory=Forest)
    sequences: dict[int, Tokens] = field(default_factory=dict)  # all tokens up to the end of a segment so far

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.forest, LAYERS, EXPERTS)
        self.steerer = Steerer(self.plans)

    def add(self, parent: int = NONE, language: str = "en", generated: bool = False, plan: int = 0) -> int:
        number = self.forest.add(parent, Steered(language, generated, plan))
        self.sequences.pop(number, None)
        return number

    def run(
        self, segment: np.ndarray, tokens: np.ndarray, layers: Iterable[int] = range(LAYERS)
    ) -> list[dict[tuple[int, Tokens], np.ndarray]]:
        """Run a pass; return, by layer, the steered logits of every row by its segment and sequence."""
        whole = [self._sequence(int(s), int(t)) for s, t in zip(segment.flat, tokens.flat, strict=True)]
        rows = self.forest.begin_pass(segment)
        self.steerer.start_pass(torch.from_numpy(tokens.reshape(-1)), rows)
        self.recorder.start_pass(rows, self.steerer.targets)
        seen = []
        for layer in layers:
            nothing = np.full(EXPERTS, np.nan, np.float32)
            plain = torch.from_numpy(np.stack([model_logits(layer, s) if s else nothing for s in whole]))
            logits = self.steerer.edit(layer, plain)
            # Of experts whose logits are the same number, as two noises can make them, the first; so do the formulas.
            indices = logits.nan_to_num(0.0).sort(stable=True, dim=-1, descending=True).indices[:, :TOP_K]
            weights = logits.softmax(-1).nan_to_num(0.0).gather(-1, indices)
            self.recorder.logits(layer, logits)
            if self.steerer.acts_on(layer):
                self.recorder.unchanged(layer, plain.nan_to_num(0.0).topk(TOP_K).indices)
            self.recorder.selection(layer, indices, weights)
            seen.append({(int(s), q): row for s, q, row in zip(segment.flat, whole, logits.numpy(), strict=True) if q})
        self.recorder.end_pass()
        return seen

    def _sequence(self, segment: int, token: int) -> Tokens:
        if segment == NONE:
            return ()
        if segment not in self.sequences:
            before = reversed(self.forest.path(segment))
            self.sequences[segment] = next((self.sequences[s] for s in before if s in self.sequences), ())
        self.sequences[segment] += (token,)
        return self.sequences[segment]


@dataclass
class Outcome:
    """What a schedule gives of each request: its steered logits ``[T, L, E]`` and its records by span."""

    logits: dict[int, np.ndarray]
    records: dict[int, dict[str, RoutingRecord]]


class Requests:
    """Collects what an engine's passes give, request by request."""

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self.engine, self.requests = engine, requests
        self.paths: list[list[int]] = [[] for _ in requests]
        self.seen: list[dict[tuple[int, Tokens], np.ndarray]] = [{} for _ in range(LAYERS)]
        self.logits: dict[int, np.ndarray] = {}
        self.records: dict[int, dict[str, RoutingRecord]] = {}

    def run(self, segment: Sequence[int] | np.ndarray, tokens: Sequence[int] | np.ndarray) -> None:
        for layer, rows in enumerate(self.engine.run(np.asarray(segment), np.asarray(tokens))):
            self.seen[layer] |= rows

    def take(self, index: int) -> None:
        """Take what is known of a request, whose path is computed by now."""
        path, forest = self.paths[index], self.engine.forest
        [sums] = self.engine.recorder.sums_of([path])
        generated = [place for place, segment in enumerate(path) if forest.steered(segment).generated]
        everything = list(range(len(path)))
        spans = {
            "prompt": [place for place in everything if place not in generated],
            "continuation": generated,
            "all": everything,
        }
        self.records[index] = {span: sums.take(places, everything, ARRAYS) for span, places in spans.items()}
        sequence, rows = self.requests[index].tokens, []
        for segment in path:
            for _ in range(forest.tokens(segment)):
                here = sequence[: len(rows) + 1]
                rows.append([self.seen[layer][segment, here] for layer in range(LAYERS)])
        self.logits[index] = np.array(rows)

    def outcome(self) -> Outcome:
        for index in range(len(self.requests)):
            if index not in self.records:
                self.take(index)
        return Outcome(self.logits, self.records)


ARRAYS = ("counts", "gate_mass", "importance", "importance_dense", "overlap")


def padded(requests: Sequence[Request], draw: random.Random) -> Outcome:
    """One batch ``[B, T]``, padded on the right: a row for each request."""
    run = Requests(Engine(), requests)
    width = max(len(request.tokens) for request in requests) + draw.randint(0, 3)
    segment, tokens = np.full((len(requests), width), NONE), np.zeros((len(requests), width), np.int64)
    for row, request in enumerate(requests):
        prompt = run.engine.add(NONE, request.language)
        run.paths[row] = [prompt, run.engine.add(prompt, request.language, generated=True)]
        segment[row, : len(request.tokens)] = np.repeat(
            run.paths[row], [len(request.prompt), len(request.continuation)]
        )
        tokens[row, : len(request.tokens)] = request.tokens
    run.run(segment, tokens)
    return run.outcome()


def token_by_token(requests: Sequence[Request], draw: random.Random) -> Outcome:
    """Prompts padded on the left, in one or two passes; then a token of each request a pass, finished rows idle."""
    run = Requests(Engine(), requests)
    width = max(len(request.prompt) for request in requests)
    segment, tokens = np.full((len(requests), width), NONE), np.zeros((len(requests), width), np.int64)
    for row, request in enumerate(requests):
        run.paths[row] = [run.engine.add(NONE, request.language)]
        segment[row, width - len(request.prompt) :] = run.paths[row][0]
        tokens[row, width - len(request.prompt) :] = request.prompt
    cut = draw.randint(0, width - 1)
    for part in (slice(0, cut), slice(cut, width)):
        if segment[:, part].size:
            run.run(segment[:, part], tokens[:, part])
    for row, request in enumerate(requests):
        run.paths[row].append(run.engine.add(run.paths[row][0], request.language, generated=True))
    for step in range(max(len(request.continuation) for request in requests)):
        alive = [step < len(request.continuation) for request in requests]
        column = [path[1] if here else NONE for path, here in zip(run.paths, alive, strict=True)]
        fed = [r.continuation[step] if here else 0 for r, here in zip(requests, alive, strict=True)]
        run.run(np.array(column)[:, None], np.array(fed)[:, None])
    return run.outcome()


def continuous(requests: Sequence[Request], draw: random.Random, waves: int = 1) -> Outcome:
    """Rows of some requests a pass, each with a part of its own length; their order in the pass is any.

    A part goes on with its segment or begins a new one. Requests come in waves; the segments of one wave are released
    before the next.
    """
    run = Requests(Engine(), requests)
    engine = run.engine
    order = draw.sample(range(len(requests)), len(requests))
    for wave in range(waves):
        members = order[wave::waves]
        done = dict.fromkeys(members, 0)
        while any(done[index] < len(requests[index].tokens) for index in members):
            rows: list[list[tuple[int, int]]] = []
            for index in members:
                request, path = requests[index], run.paths[index]
                part = min(draw.randint(0, 4), len(request.tokens) - done[index])
                mine = []
                for position in range(done[index], done[index] + part):
                    generated = position >= len(request.prompt)
                    fresh = not path or generated != engine.forest.steered(path[-1]).generated
                    if fresh or (position == done[index] and draw.random() < 0.5):
                        path.append(engine.add(path[-1] if path else NONE, request.language, generated))
                    mine.append((path[-1], request.tokens[position]))
                done[index] += part
                rows.append(mine)
            mixed = []
            while any(rows):  # interleaved, each request's own rows in their order
                mine = draw.choice([row for row in rows if row])
                mixed.append(mine.pop(0))
            mixed += [(NONE, 0)] * draw.randint(0, 2)
            if any(segment != NONE for segment, _ in mixed):
                run.run(*map(list, zip(*mixed, strict=True)))
        for index in members:
            run.take(index)
        engine.forest.release(segment for index in members for segment in run.paths[index])
    return run.outcome()


def in_waves(requests: Sequence[Request], draw: random.Random) -> Outcome:
    """Continuous batching in which the numbers of segments are used again."""
    return continuous(requests, draw, waves=3)


def side_by_side(requests: Sequence[Request], draw: random.Random) -> Outcome:
    """A row for each context, followed by all its choices."""
    return _shared(requests, lambda request: [request.prompt], passes=1)


def common_prefix(requests: Sequence[Request], draw: random.Random) -> Outcome:
    """The few-shot prefix of a language once, in a pass of its own; then contexts with their choices side by side."""

    def cuts(request: Request) -> list[Tokens]:
        same = [other.prompt for other in requests if other.language == request.language]
        alike = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*same, strict=False)))
        shared = request.prompt[:alike]
        return [shared, request.prompt] if 0 < len(shared) < len(request.prompt) else [request.prompt]

    return _shared(requests, cuts, passes=2)


def blocks(requests: Sequence[Request], draw: random.Random) -> Outcome:
    """KV blocks of three tokens, shared by all that begin alike, whether computed before or in the same pass."""
    size = 3

    def cuts(request: Request) -> list[Tokens]:
        full = [request.prompt[:end] for end in range(size, len(request.prompt) + 1, size)]
        return full if full and full[-1] == request.prompt else [*full, request.prompt]

    return _shared(requests, cuts, passes=draw.randint(1, 3))


def _shared(requests: Sequence[Request], cuts: Callable[[Request], list[Tokens]], passes: int) -> Outcome:
    """Share every part of a prompt that begins alike in one language; run the parts in some passes, parents first."""
    run = Requests(Engine(), requests)
    known: dict[tuple[str, Tokens], int] = {}
    parts: list[list[tuple[int, int]]] = []
    for index, request in enumerate(requests):
        path, done = run.paths[index], 0
        for whole in cuts(request):
            key = (request.language, whole)
            if key not in known:
                known[key] = run.engine.add(path[-1] if path else NONE, request.language)
                parts.append([(known[key], token) for token in whole[done:]])
            path.append(known[key])
            done = len(whole)
        path.append(run.engine.add(path[-1], request.language, generated=True))
        parts.append([(path[-1], token) for token in request.continuation])
    depth = {segment: len(run.engine.forest.path(segment)) for (segment, _), *_ in parts}
    for number in range(1, passes + 1):
        chosen = [row for part in parts if min(depth[part[0][0]], passes) == number for row in part]
        if chosen:
            run.run(*map(list, zip(*chosen, strict=True)))
    return run.outcome()


SCHEDULES = (padded, token_by_token, continuous, in_waves, side_by_side, common_prefix, blocks)
