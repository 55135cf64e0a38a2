"""Whether a model answers the same in rows that share contexts as in separate rows: shown on its first requests."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from lm_eval_moe.backends.hf.caches import going_on_from
from lm_eval_moe.backends.hf.contexts.attention import attention_by_place
from lm_eval_moe.backends.hf.contexts.cells import Copies, decoder_layers
from lm_eval_moe.backends.hf.contexts.forward import cache_of_prefixes, read_rows
from lm_eval_moe.backends.hf.contexts.planning import Group
from lm_eval_moe.backends.hf.contexts.prompts import SharedFront
from lm_eval_moe.backends.hf.contexts.tree import tokens_of_prefixes, tree_batch
from lm_eval_moe.errors import RoutingWarning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_moe.backends.hf.contexts.planning import BatchRow, Path
    from lm_eval_moe.backends.hf.listening import Listening
    from lm_eval_moe.recording.token_rows import Indices

__all__ = ["ALLOWED", "ReuseProof"]

logger = logging.getLogger(__name__)

_WORTH_A_PROOF = 4
"""How many times the tokens of a proof requests must have for it to be made."""

ALLOWED = {torch.float64: 1e-5, torch.float32: 3e-4, torch.float16: 0.05}
"""By dtype, how far a request's log-probabilities may be apart: the root mean square over the vocabulary, on average.

Where half precision is rounded otherwise, a token may be routed to other experts, all but equal ones. What is in
float64 has parts in float32.
"""

_ALLOWED_ELSE = 0.15  # bfloat16, and what is quantised

_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a model's own code may make of rows that it was not written for."""

_ATTENTION = ("eager", "sdpa")
"""Implementations of attention that take any mask."""


@dataclass
class ReuseProof:
    """What has been shown of one loaded model.

    Attributes:
        forks: Whether requests share what is in front of them as a cache, of which each continues from a copy of its
            own; otherwise rows are trees. It is what is tried where trees are not answered the same.
        length: Tokens of the longest sequence for which contexts were shared and the answers were the same.
        apart: Whether requests went on from the same token side by side then, or from different prefixes.
        prefixed: Whether a prefix was in front then.
        refused: Why contexts are not shared; None: they are, as far as is known.
        fronts: Tokens of the longest prompt that was generated from behind what others begin with, too.
        fronts_refused: Why none is; None: they are, as far as is known.
        layers: The decoder layers, if those below the first steered one can run once for several plans.
    """

    forks: bool = False
    length: int = 0
    apart: bool = False
    prefixed: bool = False
    refused: str | None = None
    fronts: int = 0
    fronts_refused: str | None = None
    layers: Sequence[nn.Module] | None = None
    _fanned: bool = field(default=False, repr=False)
    _no_trees: str = field(default="", repr=False)

    def lacks(self, groups: Sequence[Group], paths: Sequence[Path], *, plans: int) -> Group | None:
        """Return the rows, of one group, on which more has to be shown before requests run so; None: nothing has to.

        Args:
            groups: How the requests run.
            paths: Of all requests.
            plans: Under how many plans they run.
        """
        longest_first = sorted(groups, key=lambda group: -_longest(group.rows, paths))
        if self.forks:  # by which nothing is shared but prefixes
            longest_first = [group for group in longest_first if group.prefix]
        if self.refused is not None or not longest_first:
            return None
        prefixed = [group for group in longest_first if group.prefix]
        branching = [group for group in longest_first if _apart(group, paths)]
        if self.length < _longest(longest_first[0].rows, paths) / 2:
            return _first_rows(longest_first[0], paths)
        if prefixed and not self.prefixed:
            return _first_rows(prefixed[0], paths)
        if branching and not self.apart:
            return _first_rows(branching[0], paths)
        if plans > 1 and not self._fanned and not self.forks:
            return _first_rows((prefixed or longest_first)[0], paths)
        return None

    @staticmethod
    def is_worth_it(group: Group, paths: Sequence[Path]) -> bool:
        """Return whether requests are many enough for a few of them to be run twice."""
        ends = {number for row in group.rows for number in (row.requests[0], row.requests[-1])}
        return sum(map(len, paths)) >= _WORTH_A_PROOF * sum(len(paths[number]) for number in ends)

    def extend(self, lm: Listening, group: Group, paths: Sequence[Path], *, plans: int) -> None:
        """Run some rows both ways, and compare; say so in one warning if the answers differ.

        Args:
            lm: The model.
            group: The rows.
            paths: Of all requests.
            plans: Under how many plans they run.
        """
        rows = group.rows

        def difference() -> str | None:
            plain = self._plain(lm, rows, paths)
            # Of a cache, there are copies then that are not as many as its rows.
            copies = Copies(2 if self.forks else 1)
            reason = _difference(plain, self._score_shared(lm, group, paths, copies), lm.model.dtype)
            if reason is None and plans > 1 and not self._fanned and not self.forks:
                self._fan_out(lm, group, paths, plain)
            return reason

        why = _difference_or_error(difference) if self.forks else _masked_difference(lm, difference)
        if why is not None and not self.forks:
            self.forks, self._no_trees, self.fronts_refused = True, why, why
            self.length, self.apart, self.prefixed, self.layers = 0, False, False, None
            logger.info("requests cannot share rows in %s: %s", type(lm.model).__name__, why)
            return
        if why is not None:
            self.refused = f"side by side: {self._no_trees}; from copies of a cache: {why}"
            warnings.warn(
                f"contexts are not shared between requests: {type(lm.model).__name__} gives different answers when "
                f"they are ({self.refused}); every request is computed separately, as with reuse=off",
                RoutingWarning,
                stacklevel=2,
            )
            return
        self.length = max(self.length, _longest(rows, paths))
        self.apart |= _apart(group, paths)
        self.prefixed |= group.prefix > 0

    def allows_fronts(
        self, lm: Listening, groups: Sequence[tuple[Indices, Sequence[int]]], prompts: Sequence[Sequence[int]]
    ) -> bool:
        """Return whether prompts may continue from what they begin with; where it is not known, see first.

        Args:
            lm: The model.
            groups: What prompts begin with, and their numbers.
            prompts: Their tokens.

        Warns where the answers differ.
        """
        fronted = [(front, sorted(numbers, key=lambda n: len(prompts[n]))) for front, numbers in groups if len(front)]
        if self.fronts_refused is not None or not fronted:
            return self.fronts_refused is None
        front, numbers = max(fronted, key=lambda group: len(prompts[group[1][-1]]))
        ends = [prompts[numbers[0]], prompts[numbers[-1]]]  # of different lengths, if there are any
        if self.fronts >= len(ends[1]) / 2:
            return True
        if sum(len(prompts[number]) for _, numbers in fronted for number in numbers) < _WORTH_A_PROOF * sum(
            map(len, ends)
        ):
            return False
        self.fronts_refused = _masked_difference(lm, lambda: _behind_front(lm, front, ends))
        if self.fronts_refused is None:
            self.fronts = len(ends[1])
            return True
        warnings.warn(
            f"a beginning that prompts share is computed for each of them: {type(lm.model).__name__} does not continue "
            f"identically from its keys and values ({self.fronts_refused})",
            RoutingWarning,
            stacklevel=2,
        )
        return False

    def _fan_out(self, lm: Listening, group: Group, paths: Sequence[Path], plain: dict[int, Tensor]) -> None:
        """See whether the upper half of the layers may continue with copies of the rows."""
        self._fanned = True
        layers = decoder_layers(lm.model, lm._sites)
        why: str | None = "they are not found"
        if layers is not None:
            copies = Copies(2, layers[len(layers) // 2 :])
            why = _difference_or_error(
                lambda: _difference(plain, self._score_shared(lm, group, paths, copies), lm.model.dtype)
            )
        if why is None:
            self.layers = layers
        else:
            logger.info("several plans cannot share layers of %s: %s", type(lm.model).__name__, why)

    @staticmethod
    def _plain(lm: Listening, rows: Sequence[BatchRow], paths: Sequence[Path]) -> dict[int, Tensor]:
        """Return the log-probabilities ``[n, V]`` that are asked for by each row's first and last request."""
        results = {}
        with lm.running():
            for number in {number for row in rows for number in (row.requests[0], row.requests[-1])}:
                tokens = torch.from_numpy(paths[number].tokens[None]).to(lm.device)
                results[number] = _log_probabilities(lm.model(tokens).logits[0, paths[number].first_scored :])
        return results

    def _score_shared(
        self, lm: Listening, group: Group, paths: Sequence[Path], copies: Copies
    ) -> dict[int, list[Tensor]]:
        """Return the log-probabilities ``[n, V]`` that each request asks for, from every copy."""
        batch = tree_batch(group.rows, paths, group.prefix)
        cache = None
        with lm.running():
            if group.prefix:
                tokens = tokens_of_prefixes(group, paths)
                cache = cache_of_prefixes(lm.model, tokens, copies, lm.device, forks=self.forks)
            logits = read_rows(lm.model, batch, group, cache, copies, lm.device, forks=self.forks)
        log_probabilities = _log_probabilities(logits)
        return {
            number: [values[torch.from_numpy(places).to(values.device)] for values in log_probabilities]
            for number, places in zip(batch.requests, batch.scored, strict=True)
        }


def _masked_difference(lm: Listening, difference: Callable[[], str | None]) -> str | None:
    """Return what `_difference_or_error` does, of answers that stand on masks of ours."""
    if lm.model.config._attn_implementation not in _ATTENTION:
        return f"its attention, {lm.model.config._attn_implementation}, accepts no masks but its own"
    return _difference_or_error(difference)


def _difference_or_error(difference: Callable[[], str | None]) -> str | None:
    """Return how answers differ, in words, or why there are none; None if they are the same."""
    try:
        return difference()
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        return f"{type(error).__name__}: {error}"


def _behind_front(lm: Listening, tokens: Indices, prompts: Sequence[Sequence[int]]) -> str | None:
    """Return how the next two tokens differ behind a front, in words; None if they do not."""
    width, device = max(map(len, prompts)), lm.device
    context, mask = torch.zeros((2, len(prompts), width), dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        context[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    with lm.running():
        behind = SharedFront.of(lm.model, tokens, device).before(context, mask)
        tokens_behind, attention_mask, place = (
            behind.tokens[:, len(tokens) :],
            behind.mask,
            behind.position[:, len(tokens) :],
        )
        plain: dict[int, Tensor] = {}
        shared: dict[int, list[Tensor]] = {}
        for step in range(2):
            with attention_by_place(behind.position):
                more = going_on_from(lm.model, behind.cache)
                logits = lm.model(
                    tokens_behind, attention_mask=attention_mask, position_ids=place, use_cache=True, **more
                ).logits[:, -1:]
            for row, prompt in enumerate(prompts):
                shared[2 * row + step] = [_log_probabilities(logits[row])]
                repeated_prompt = torch.tensor([[*prompt, *prompt[:step]]], device=device)
                plain[2 * row + step] = _log_probabilities(lm.model(repeated_prompt).logits[0, -1:])
            tokens_behind = torch.tensor([[prompt[0]] for prompt in prompts], device=device)
            attention_mask, place = torch.nn.functional.pad(attention_mask, (0, 1), value=1), place[:, -1:] + 1
    return _difference(plain, shared, lm.model.dtype)


def _first_rows(group: Group, paths: Sequence[Path]) -> Group:
    """Return a few rows of a group: one with its longest sequence, one behind the same prefix, one behind another.

    By one, no neighbour row would show; by one behind each prefix, no cache whose rows are left as they were.
    """
    first, *rest = sorted(group.rows, key=lambda row: -_longest([row], paths))
    nearby = sorted((row for row in rest if row.front == first.front), key=lambda row: not _branches(row, group, paths))
    elsewhere = [row for row in rest if row.front != first.front]
    return Group.of([first, *nearby[:1], *elsewhere[:1]], group.prefix)


def _apart(group: Group, paths: Sequence[Path]) -> bool:
    return len(group.fronts) > 1 or any(_branches(row, group, paths) for row in group.rows)


def _branches(row: BatchRow, group: Group, paths: Sequence[Path]) -> bool:
    """Whether the last request of a row continues from another token than the one in the column before."""
    return group.prefix + row.tokens > _longest([row], paths)


def _longest(rows: Sequence[BatchRow], paths: Sequence[Path]) -> int:
    return max(len(paths[number]) for row in rows for number in row.requests)


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _difference(plain: dict[int, Tensor], shared: dict[int, list[Tensor]], dtype: torch.dtype) -> str | None:
    """Return in words how far log-probabilities are apart, None if it is no further than rounding explains."""
    distances = [
        (shared_values - plain[n]).square().mean(-1).sqrt().mean().item() for n in plain for shared_values in shared[n]
    ]
    allowed = ALLOWED.get(dtype, _ALLOWED_ELSE)
    if all(distance <= allowed for distance in distances):  # NaN is not
        return None
    return f"log-probabilities differ by up to {max(distances):.2g}; rounding explains {allowed:.2g}"
