"""The books that a worker keeps of vLLM's requests: which segment each token of a step belongs to.

The scheduler says which request gets how many tokens, and where their keys and values lie; from that alone follows what
every row of a step is. Where the prefix cache is on, a request's segments are cut at the borders of its KV blocks, and
belong to the blocks: whoever finds a block in the cache takes over its segments as they are, and what is computed
again, after a preemption say, gets new ones. A path is thus always that of the blocks in which a request ends, so that
no token counts twice. Without the cache they belong to the request.

Tokens that the engine feeds before it knows that a request has ended (stop strings are found in another process) do not
belong to its answer. The last tokens of an answer are therefore segments of their own until as many more have come.

Nothing here knows vLLM or torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import NONE, AttributionError, Forest, Steered

__all__ = ["HELD_BACK", "Books", "EndedRequest", "RequestFacts", "Step"]

HELD_BACK = 8
"""Tokens that an engine may feed a request beyond its end."""


@dataclass(frozen=True)
class RequestFacts:
    """What is said about a request when it is added; comes with its sampling parameters.

    Attributes:
        row: Its number, by which its sums are asked for, if they are.
        cuts: Positions, ascending, at which its sums are told apart.
        boundary: Position of the first token that belongs to the continuation.
        language: Decides which interventions apply; None where it is not known.
        plan: Which plan steers it, by its place; `NONE`: no plan.
        wanted: Whether its sums will be asked for.
        held: Whether it may end before the last tokens that are fed.
        shared: Whether its blocks may be found in the prefix cache by others, and those of others by it.
        by_phase: Whether prompt and continuation are steered differently.
    """

    row: int
    cuts: tuple[int, ...] = ()
    boundary: int = 0
    language: str | None = None
    plan: int = NONE
    wanted: bool = True
    held: bool = False
    shared: bool = False
    by_phase: bool = False

    def sent(self) -> dict[str, Any]:
        """Return the facts as they travel: JSON-ready."""
        return {**asdict(self), "cuts": list(self.cuts)}

    @classmethod
    def received(cls, facts: Mapping[str, Any]) -> RequestFacts:
        """Return the facts that were sent."""
        return cls(**{**facts, "cuts": tuple(facts["cuts"])})


class Step(NamedTuple):
    """The rows of one step.

    Attributes:
        segment: ``[N]`` of each row.
        position: ``[N]`` in its sequence.
        token: ``[N]`` its id where it is of a prompt, -1 otherwise.
    """

    segment: NDArray[np.int64]
    position: NDArray[np.int64]
    token: NDArray[np.int64]


class EndedRequest(NamedTuple):
    """A request that has ended.

    Attributes:
        row: Its number.
        stretches: Its segments, those that need not be told apart together.
        ends: Where each stretch ends, ascending.
    """

    row: int
    stretches: list[list[int]]
    ends: list[int]


@dataclass(slots=True)
class _Piece:
    segment: int
    end: int
    alone: bool  # a token that may turn out not to count
    generated: bool


_Run = list[_Piece]
"""The pieces of a KV block; of all of a request where blocks are not shared."""


@dataclass(slots=True)
class _Request:
    facts: RequestFacts
    prompt: NDArray[np.int64]
    blocks: list[int]
    position: int = 0  # of the next token that is computed
    cached: int = 0  # how many the prefix cache had when it was added
    runs: list[_Run] = field(default_factory=list)
    borders: frozenset[int] = frozenset()
    alone: int = 0  # pieces of one token that are not folded yet
    joined: bool = True  # whether `runs` reach `position`

    def pieces(self) -> Iterable[_Piece]:
        return (piece for run in self.runs for piece in run)

    def last(self) -> _Piece | None:
        return next((run[-1] for run in reversed(self.runs) if run), None)


class Books:
    """The books of one worker.

    Args:
        forest: Where segments go.
        block_size: Tokens of a KV block; None: nothing is shared, whatever requests say.
        held_back: Tokens of an answer that are kept apart.
    """

    def __init__(self, forest: Forest, *, block_size: int | None = None, held_back: int = HELD_BACK) -> None:
        self._forest, self._size, self._held_back = forest, block_size, held_back
        self._requests: dict[str, _Request] = {}
        self._blocks: dict[int, _Run] = {}
        self.preempted = self.found = 0

    def __contains__(self, name: str) -> bool:
        return name in self._requests

    def __len__(self) -> int:
        """How many requests there are."""
        return len(self._requests)

    # ------------------------------------------------------------------ what the scheduler says

    def add(self, name: str, facts: RequestFacts, prompt: Sequence[int], computed: int, blocks: Sequence[int]) -> None:
        """Add a request.

        Args:
            name: The engine's name of it.
            facts: What its sampling parameters said.
            prompt: Its tokens.
            computed: How many of them are in the prefix cache.
            blocks: Its KV blocks.

        Raises:
            AttributionError: Its row runs already, or blocks were found in the cache that it must not share.
        """
        if facts.wanted and any(
            running.facts.wanted and running.facts.row == facts.row for running in self._requests.values()
        ):
            raise AttributionError(f"row {facts.row} runs twice")
        if computed and not self._shares(facts):
            raise AttributionError(f"{computed} tokens of row {facts.row} were found in the prefix cache unexpectedly")
        borders = frozenset({*facts.cuts, facts.boundary})
        request = _Request(facts, np.asarray(prompt, dtype=np.int64), list(blocks), borders=borders)
        self._requests[name] = request
        request.cached = computed
        self.found += computed
        self._place(request, computed)

    def go_on(self, name: str, computed: int, new_blocks: Sequence[int] | None, *, resumed: bool) -> None:
        """Go on with a request.

        Args:
            name: The engine's name of it.
            computed: How many of its tokens have been computed.
            new_blocks: KV blocks that it gets, after those that it has.
            resumed: Whether it was preempted; they are all of its blocks then.
        """
        request = self._requests[name]
        if new_blocks is not None:
            request.blocks = [*([] if resumed else request.blocks), *new_blocks]
        if resumed or computed != request.position:
            self._place(request, computed)

    def preempt(self, names: Iterable[str]) -> list[EndedRequest]:
        """Let requests lose their blocks; return those that are wanted, as far as they are, should they never continue.

        Their sums have to be read before the next step.
        """
        parked = [self._requests[name] for name in names if name in self._requests]
        self.preempted += len(parked)
        ended = [self._ended(request) for request in parked if request.facts.wanted and request.runs]
        for request in parked:
            self._let_go(request)
        return ended

    def end(self, names: Iterable[str]) -> list[EndedRequest]:
        """Return the requests of some names that are wanted; their sums have to be read before the next step."""
        ended_requests = [self._requests.pop(name) for name in names if name in self._requests]
        ended = [self._ended(request) for request in ended_requests if request.facts.wanted and request.runs]
        for request in ended_requests:
            self._let_go(request)
        return ended

    def end_all(self) -> list[EndedRequest]:
        """Return all requests that are left, none of which continues; the engine may not have said so yet."""
        return self.end(list(self._requests))

    # ------------------------------------------------------------------ one step

    def step(self, counts: Mapping[str, int], order: Sequence[str]) -> Step:
        """Return the rows of the next step.

        Args:
            counts: Tokens that each request computes.
            order: The requests in the order of their rows.

        Raises:
            AttributionError: Nobody computed what a request found in the cache.
            UserError: What it found in the cache was steered differently.
        """
        rows, total = [], 0
        for name in order:
            rows.append((self._requests[name], slice(total, total + counts[name])))
            total += counts[name]
        segment, position, token = np.empty(total, np.int64), np.empty(total, np.int64), np.full(total, -1)
        # Whoever computes a block in this very step comes before those that found it in the cache.
        for request, row_numbers in sorted(rows, key=lambda row: row[0].position):
            start, stop = request.position, request.position + row_numbers.stop - row_numbers.start
            self._lay_out(request, segment[row_numbers])
            position[row_numbers] = np.arange(start, stop)
            part = request.prompt[start:stop]
            token[row_numbers.start : row_numbers.start + len(part)] = part
        return Step(segment, position, token)

    def folded(self) -> list[list[int]]:
        """Return segments that need not be told apart any longer, and have to be folded before the next step.

        The recorder folds them first, then `fold` has to be called with the same.
        """
        stretches: list[list[int]] = []
        for request in self._requests.values():
            if request.alone >= 2 * self._held_back:
                stretches += self._foldable(request)
        return stretches

    def fold(self, stretches: Sequence[Sequence[int]]) -> None:
        """Fold in the forest what `folded` returned."""
        for stretch in stretches:
            self._forest.fold(stretch)

    # ------------------------------------------------------------------ inside

    def _shares(self, facts: RequestFacts) -> bool:
        return facts.shared and self._size is not None

    def _place(self, request: _Request, computed: int) -> None:
        """Let a request begin, or continue, behind tokens that have been computed."""
        if computed and not self._shares(request.facts):
            raise AttributionError(f"row {request.facts.row} resumes at {computed} without the prefix cache")
        self._let_go(request)
        request.position, request.joined = computed, not computed

    def _let_go(self, request: _Request) -> None:
        """Forget a request's segments; those of blocks that may be found in the cache stay."""
        if not self._shares(request.facts):
            self._give_up(request.runs)
        request.runs, request.alone = [], 0

    def _join(self, request: _Request) -> None:
        """Take over the segments of the blocks that the prefix cache had."""
        assert self._size is not None
        request.joined = True
        blocks, rest = divmod(request.position, self._size)
        request.runs = [self._blocks.get(block, []) for block in request.blocks[:blocks]]
        ends = [run[-1].end if run else None for run in request.runs]
        if rest or ends != [(number + 1) * self._size for number in range(blocks)]:
            raise AttributionError(
                f"row {request.facts.row} resumes at {request.position}, but some of its tokens before that were not "
                "seen"
            )
        of_another_phase = any(piece.generated and piece.end <= request.facts.boundary for piece in request.pieces())
        if request.facts.by_phase and of_another_phase:
            raise UserError(
                "a prompt begins with the answer to another prompt: the prefix cache holds those tokens as they were "
                "steered during generation, and prompts are steered differently",
                fix="add enable_prefix_caching=False",
                where="--model_args enable_prefix_caching",
            )

    def _lay_out(self, request: _Request, segment: NDArray[np.int64]) -> None:
        """Write the segments of a request's next tokens, and move on behind them."""
        if not request.joined:
            self._join(request)
        facts, shares, size = request.facts, self._shares(request.facts), self._size or 0
        position, stop = request.position, request.position + len(segment)
        borders = [border for border in request.borders if position < border < stop]
        if shares:
            borders += range(position - position % size + size, stop, size)
        if facts.held:
            borders += range(max(position + 1, facts.boundary), stop)
        start = position
        for end in [*sorted(set(borders)), stop]:
            segment[start - position : end - position] = self._piece(request, start, end)
            start = end
        request.position = stop

    def _piece(self, request: _Request, start: int, end: int) -> int:
        """Return the segment of tokens that are not cut, which continues or is new."""
        facts = request.facts
        alone = facts.held and start >= facts.boundary
        opens = self._shares(facts) and start % (self._size or 1) == 0
        last = request.last()
        if opens:
            block = request.blocks[start // (self._size or 1)]
            self._give_up([self._blocks.pop(block, [])])
            request.runs.append(self._blocks.setdefault(block, []))
        elif not request.runs:
            request.runs.append([])
        if last is not None and not (opens or alone or last.alone or start in request.borders):
            last.end = end
            return last.segment
        generated = start >= facts.boundary
        steered = Steered(facts.language, generated, facts.plan)
        segment = self._forest.add(NONE if last is None else last.segment, steered)
        request.runs[-1].append(_Piece(segment, end, alone, generated))
        request.alone += alone
        return segment

    def _give_up(self, runs: Iterable[_Run]) -> None:
        for run in runs:
            self._forest.release(piece.segment for piece in run)
            run.clear()

    def _ended(self, request: _Request) -> EndedRequest:
        stretches: list[list[int]] = []
        ends: list[int] = []
        is_open = False  # whether the stretch may continue
        for piece in request.pieces():
            before = ends[-1] if ends else 0
            if stretches and is_open and not piece.alone and before not in request.borders:
                stretches[-1].append(piece.segment)
                ends[-1] = piece.end
            else:
                stretches.append([piece.segment])
                ends.append(piece.end)
            is_open = not piece.alone
        return EndedRequest(request.facts.row, stretches, ends)

    def _foldable(self, request: _Request) -> Iterator[list[int]]:
        """Yield the pieces of one token that are old enough, run by run, and make one piece of them each."""
        oldest = request.position - self._held_back
        for run in request.runs:
            old = [piece for piece in run if piece.alone and piece.end <= oldest]
            if not old:
                continue
            first = run.index(old[0])
            begin = first
            if first and not run[first - 1].alone and run[first - 1].end > request.facts.boundary:
                begin -= 1  # what was folded before continues
            stretch = run[begin : first + len(old)]
            run[begin : first + len(old)] = [_Piece(stretch[0].segment, stretch[-1].end, False, True)]
            if len(stretch) > 1:
                yield [piece.segment for piece in stretch]
        request.alone = sum(piece.alone for piece in request.pieces())
