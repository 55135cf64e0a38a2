"""Score continuations in rows that share contexts, under one plan or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lm_eval_moe.backends.ahead import in_groups
from lm_eval_moe.backends.hf.contexts.cells import Copies, first_steered
from lm_eval_moe.backends.hf.contexts.forward import cache_of_prefixes, read_rows
from lm_eval_moe.backends.hf.contexts.listening import LayerSegments, ModelSegments
from lm_eval_moe.backends.hf.contexts.planning import BatchRow, Group, Path, forked, grouped
from lm_eval_moe.backends.hf.contexts.tree import Branch, branches_in_front, tokens_of_prefixes, tree_batch
from lm_eval_moe.recording import ExpectedRow, Forest
from lm_eval_moe.recording.layout import places_of
from lm_eval_moe.recording.token_rows import Steered

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import Cache

    from lm_eval_moe.backends.hf.contexts.tree import TreeBatch
    from lm_eval_moe.backends.hf.listening import Listening
    from lm_eval_moe.backends.requests import TokenRequests
    from lm_eval_moe.recording import RequestKey, RowUse, Span
    from lm_eval_moe.recording.token_rows import Indices

__all__ = ["SharedRows", "filled"]

_KEYS_PER_TOKEN = 4
"""Keys and values in front of rows, of which a layer makes copies, for each token that the budget has."""

_MUCH_SHORTER = 0.85
"""The part of a pass's longest row that others shall have: what is missing is padding."""

_ENOUGH = {"cpu": 1 << 9}
"""Tokens that make a pass worth its while, by kind of device."""

_ENOUGH_ELSE = 1 << 13

_SUMS = 1 << 28
"""Bytes of sums of the segments of a pass under several plans, roughly."""

_LOGITS = 1 << 26
"""Logits of which the logarithm is taken at once."""


def filled(
    rows: Sequence[BatchRow], prefix: int, copies: int, budget: int, enough: int
) -> Iterator[Sequence[BatchRow]]:
    """Yield the rows of one pass after another.

    Args:
        rows: All rows, the longest first.
        prefix: Tokens in front of each.
        copies: As how many each row continues.
        budget: Tokens of a pass, padding included; a single row may have more.
        enough: Tokens that make a pass worth its while: from there on, it takes no row that is much shorter.
    """
    start = 0
    while start < len(rows):
        width = rows[start].tokens
        most = min(budget // (width * copies), _KEYS_PER_TOKEN * budget // ((width + prefix) * copies))
        end = start + 1
        while end < min(start + most, len(rows)):
            if rows[end].tokens < _MUCH_SHORTER * width and (end - start) * width * copies >= enough:
                break
            end += 1
        yield rows[start:end]
        start = end


@dataclass(frozen=True)
class _Front:
    """What is in front of the rows of a group, once it has been computed, and what listens behind it."""

    group: Group
    plans: tuple[int, ...]
    copies: Copies
    ends: Sequence[int]  # where the branches of each prefix end
    cache: Cache | None
    hearings: ModelSegments | None


class SharedRows:
    """The requests of one call, planned; they run in any order, as often as need be.

    Args:
        lm: The model.
        known: The requests.
        forks: Whether each row continues from its own cache, as the model does when it generates; otherwise rows
            are trees behind the same keys and values.

    Attributes:
        paths: Their sequences.
        groups: Which of them run together.
        layers: The model's decoder layers, if those below the first steered one may run once for several plans.
    """

    def __init__(self, lm: Listening, token_requests: TokenRequests, *, forks: bool = False) -> None:
        self._lm, self._known, self.forks = lm, token_requests, forks
        self.paths = [self._path(number) for number in range(len(token_requests.requests))]
        self.groups = forked(self.paths) if forks else grouped(self.paths)
        self.layers: Sequence[nn.Module] | None = None
        self._fronts: dict[tuple[int, ...], _Front] = {}  # of one group, by plans

    @property
    def longest(self) -> int:
        """The number of a request with the longest sequence."""
        return max(range(len(self.paths)), key=lambda number: len(self.paths[number]))

    @property
    def tokens(self) -> tuple[int, int]:
        """How many tokens the requests have, one by one, and how many are computed."""
        return sum(map(len, self.paths)), sum(group.tokens for group in self.groups)

    def fill(self, budget: int) -> None:
        """Say how many tokens a pass may have, padding included: which rows run together is then known."""
        self._budget = budget
        self._enough = _ENOUGH.get(self._lm.device.type, _ENOUGH_ELSE)
        self._passes = [
            (part, rows)
            for group in self.groups
            for part in group.parts(budget)
            for rows in filled(part.rows, part.prefix, 1, budget, self._enough)
        ]
        self._pass_of = {row.requests[0]: number for number, (_, rows) in enumerate(self._passes) for row in rows}

    def blocks(self, rows: int) -> list[list[int]]:
        """Return the numbers of all requests, block by block: of whole passes, which have so many rows or more."""
        blocks: list[list[int]] = []
        count = rows
        for _, members in self._passes:
            if count >= rows:
                blocks.append([])
                count = 0
            blocks[-1] += [number for row in members for number in row.requests]
            count += len(members)
        return blocks

    def run(self, numbers: Sequence[int], plans: Sequence[int], bar: Any) -> list[list[tuple[float, bool]]]:
        """Return the scores of some requests under each of some plans; their records are kept.

        Args:
            numbers: The requests; of a pass, all.
            plans: Places of the plans among the model's.
            bar: Counts requests.
        """
        scores: dict[int, dict[int, tuple[float, bool]]] = {plan: {} for plan in plans}
        with self._lm.running():
            for number in sorted({self._pass_of[number] for number in numbers if number in self._pass_of}):
                group, rows = self._passes[number]
                for some in in_groups(plans, self._plans_at_once(rows)):
                    front = self._in_front(group, tuple(some))
                    for batch in filled(rows, group.prefix, len(some), self._budget, self._enough):
                        self._score(front, tree_batch(batch, self.paths, group.prefix), scores)
                bar.update(sum(len(row.requests) for row in rows))
        return [[scores[plan][number] for number in numbers] for plan in plans]

    def close(self) -> None:
        """Give up what is in front of rows, and what was summed of them: it may be the memory of a device."""
        self._fronts.clear()

    def _plans_at_once(self, rows: Sequence[BatchRow]) -> int:
        """Return under how many plans a pass over some rows may run, for its tokens and what is summed of them."""
        shape, arrays = self._lm.routing_shape, len(self._lm.captured.request.arrays)
        segments = sum(2 * len(row.requests) + 1 for row in rows)
        sums = 8 * len(shape.layers) * shape.experts * arrays * segments
        return max(1, min(self._budget // rows[0].tokens, _SUMS // max(sums, 1)))

    def _path(self, number: int) -> Path:
        token_requests, use = self._known, self._known.use(number)
        steered = self._lm._steered_as(token_requests.languages[number], use)
        by_phase = any(steering is not None and steering[1] is not None for steering in steered)
        return Path.of(
            tuple(steering and steering[0] for steering in steered),
            token_requests.tokens(number),
            len(token_requests.requests[number][2]),
            (use.boundary, use.first) if self._is_wanted(number) else (),
            use.boundary if by_phase else None,
        )

    # ------------------------------------------------------------------ one prefix, one batch

    def _in_front(self, group: Group, plans: tuple[int, ...]) -> _Front:
        if any(front.group is not group for front in self._fronts.values()):
            self._fronts.clear()
        if plans not in self._fronts:
            self._fronts[plans] = self._compute_front(group, plans)
        return self._fronts[plans]

    def _compute_front(self, group: Group, plans: tuple[int, ...]) -> _Front:
        lm, first, layers = self._lm, 0, None
        if len(plans) > 1 and self.layers is not None:
            first = first_steered([lm._plans[plan] for plan in plans], lm._sites)
            layers = self.layers[lm._sites[first].layer :]
        copies = Copies(len(plans), layers)
        hearings = self._hearings(group, plans, first) if lm._listens else None
        ends: list[int] = []
        cache = None
        if group.prefix:
            branches, branch, ends = branches_in_front(group, self.paths)
            tokens = tokens_of_prefixes(group, self.paths)
            with self._heard(hearings, tokens, branches, branch):
                cache = cache_of_prefixes(lm.model, tokens, copies, lm.device, forks=self.forks)
            if hearings is not None:
                hearings.keep_in_front(len(ends))
        return _Front(group, plans, copies, ends, cache, hearings)

    def _hearings(self, group: Group, plans: tuple[int, ...], first: int) -> ModelSegments:
        """Return what hears the layers from the first router on once for each plan, and those below it once."""
        lm, token_requests, paths = self._lm, self._known, self.paths
        is_wanted = any(self._is_wanted(number) for row in group.rows for number in row.requests)

        def as_planned(branch: Branch) -> list[Steered]:
            generated = paths[branch.request].is_generated(branch.start)
            return [Steered(token_requests.languages[branch.request], generated, plan) for plan in plans]

        def hearing(steered: Callable[[Branch], Sequence[Steered]] | None) -> LayerSegments:
            forest = Forest()
            requests: dict[int, RequestKey] = {}
            passes, recorder = lm.listening(forest, is_wanted, requests, steered=steered is not None)
            kinds = steered or (lambda branch: [Steered()])
            return LayerSegments(
                forest, passes, recorder, requests, kinds, lambda number: token_requests.use(number).key
            )

        return ModelSegments(
            lm._sites, lm.routing_shape.top_k, hearing(as_planned), hearing(None) if first else None, first
        )

    def _heard(
        self, hearings: ModelSegments | None, tokens: Indices, branches: Sequence[Branch], branch: Indices
    ) -> AbstractContextManager[None]:
        """Let a pass be heard inside the ``with`` block, if anything is recorded or steered."""
        if hearings is None:
            return nullcontext()
        return hearings.passing(torch.from_numpy(tokens).to(self._lm.device), branches, branch)

    def _score(self, front: _Front, batch: TreeBatch, scores: dict[int, dict[int, tuple[float, bool]]]) -> None:
        lm = self._lm
        with self._heard(front.hearings, batch.tokens, batch.branches, batch.branch):
            logits = read_rows(lm.model, batch, front.group, front.cache, front.copies, lm.device, forks=self.forks)
        for plan, log_probabilities in zip(front.plans, self._read(batch, logits), strict=True):
            scores[plan].update(zip(batch.requests, log_probabilities, strict=True))
        if front.hearings is not None:
            if front.hearings.records:
                self._collect(front, front.hearings, batch)
            front.hearings.release()

    def _read(self, batch: TreeBatch, logits: Tensor) -> list[list[tuple[float, bool]]]:
        """Return the scores of the batch's requests, copy by copy, from logits ``[C, S, V]``."""
        at = np.concatenate(batch.scored)
        targets = np.concatenate([self._known.requests[number][2] for number in batch.requests])
        starts = np.cumsum([0, *map(len, batch.scored[:-1])])
        scores = []
        for row_logits in logits:
            value, greedy = self._log_probabilities(row_logits, at, targets)
            values, best = np.add.reduceat(value, starts), np.logical_and.reduceat(greedy, starts)
            scores.append([(float(value), bool(greedy)) for value, greedy in zip(values, best, strict=True)])
        return scores

    def _log_probabilities(self, logits: Tensor, at: Any, targets: Any) -> tuple[Any, Any]:
        """Return the log-probability of each target after a place of logits ``[S, V]``, and whether it is the best."""
        device = logits.device
        place, target = torch.from_numpy(at).to(device), torch.from_numpy(targets).to(device)
        best = logits.argmax(-1)[place] == target
        result = torch.empty(len(at), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        size = max(1, _LOGITS // logits.shape[-1])
        for start in range(0, len(logits), size):
            inside = (place >= start) & (place < start + size)
            some = logits[start : start + size].log_softmax(-1, dtype=self._lm.softmax_dtype)
            result[inside] = some[place[inside] - start, target[inside]].to(result.dtype)
        return result.cpu().numpy(), best.cpu().numpy()

    # ------------------------------------------------------------------ records

    def _is_wanted(self, number: int) -> bool:
        return self._lm.captured.request.wants(self._known.use(number).key)

    def _collect(self, front: _Front, hearings: ModelSegments, batch: TreeBatch) -> None:
        """Keep the records of the batch's requests."""
        lm, token_requests = self._lm, self._known
        places_to_record = [place for place, number in enumerate(batch.requests) if self._is_wanted(number)]
        if not places_to_record:
            return
        lines = [batch.lines[place] for place in places_to_record]
        uses = [
            (token_requests.use(batch.requests[place]), token_requests.languages[batch.requests[place]])
            for place in places_to_record
        ]
        rows = [ExpectedRow((use,), language, plan=plan) for plan in front.plans for use, language in uses]
        bounds = [[0, *front.ends, *(batch.branches[number].end for number in line)] for line in lines]
        sums = [record_sums for copy in hearings.sums(lines) for record_sums in copy]

        def places(row: int, use: RowUse, span: Span) -> Sequence[int]:
            return places_of(use, bounds[row % len(bounds)], span)

        lm.captured.collect(lm._span, rows, lambda kept_rows: (sums[row] for row in kept_rows), places)
