"""Rows of a batch whose requests branch: every token once, in the order in which a walk through the tree meets it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from lm_eval_moe.backends.hf.contexts.planning import BatchRow, Group, Path, common_length
from lm_eval_moe.recording.token_rows import NONE, Indices

__all__ = ["Branch", "TreeBatch", "branches_in_front", "branches_of", "tokens_of_prefixes", "tree_batch"]


@dataclass(frozen=True, slots=True)
class Branch:
    """A run of tokens that belong to the same requests, and that no record has to tell apart.

    Attributes:
        request: The first request whose sequence goes through it.
        start: Place of its first token in the sequence.
        end: Place behind its last one.
        before: The branch of the row that comes before it; `NONE`: what is in front of the row, or nothing.
        front: Which of the group's prefixes is in front of the row.
    """

    request: int
    start: int
    end: int
    before: int
    front: int = 0


def branches_of(row: BatchRow, paths: Sequence[Path], prefix: int) -> tuple[list[Branch], list[list[int]]]:
    """Return the branches of a row, each behind the one before it, and those that each of its requests goes through.

    Args:
        row: The row.
        paths: Of all requests.
        prefix: Tokens in front of the row.
    """
    row_paths = [paths[number] for number in row.requests]
    shared = [0, *(common_length(one.encoded, following.encoded) for one, following in pairwise(row_paths)), 0]
    cuts = [{*path.cuts, len(path), shared[place], shared[place + 1]} for place, path in enumerate(row_paths)]
    for places in (
        range(1, len(row_paths)),
        range(len(row_paths) - 1, 0, -1),
    ):  # a cut is one of all that go through it
        for place in places:
            here, there = (place - 1, place) if places.step > 0 else (place, place - 1)
            cuts[there] |= {cut for cut in cuts[here] if cut <= shared[place]}
    branches: list[Branch] = []
    lines: list[list[int]] = []
    for place, path in enumerate(row_paths):
        ends = sorted(cut for cut in cuts[place] if prefix < cut <= len(path))
        # What a sequence has in common with the one before it ends at a branch of both.
        line = lines[-1][: bisect_left(ends, shared[place] + 1)] if lines else []
        for start, end in pairwise([branches[line[-1]].end if line else prefix, *ends[len(line) :]]):
            branches.append(Branch(row.requests[place], start, end, line[-1] if line else NONE, row.front))
            line.append(len(branches) - 1)
        lines.append(line)
        assert len(path) == (branches[line[-1]].end if line else prefix)
    return branches, lines


@dataclass(frozen=True)
class TreeBatch:
    """B rows of T tokens, padded on the right.

    Attributes:
        tokens: ``[B, T]`` token ids.
        position: ``[B, T]`` the place of each token in its sequence.
        until: ``[B, T]`` the column up to which (exclusive) tokens see it: the end of all that follows it.
        branch: ``[B, T]`` the branch of each token, by number; `NONE` for padding.
        branches: All branches; ``before`` is the number of one of them.
        requests: All requests, in the order of rows.
        lines: The branches that each request goes through behind the prefix, by number.
        places: ``[S]`` where the tokens after which the next one is scored are, in the flat batch; each once.
        scored: Of each request, which of the S they are, in the order of its sequence.
        fronts: Which of the group's prefixes is in front of each row.
    """

    tokens: Indices
    position: Indices
    until: Indices
    branch: Indices
    branches: Sequence[Branch]
    requests: Sequence[int]
    lines: Sequence[Sequence[int]]
    places: Indices
    scored: Sequence[Indices]
    fronts: Sequence[int]


def tree_batch(rows: Sequence[BatchRow], paths: Sequence[Path], prefix: int) -> TreeBatch:
    """Lay out rows one below the other.

    Args:
        rows: The rows.
        paths: Of all requests.
        prefix: Tokens in front of every row.
    """
    branches_by_row = [branches_of(row, paths, prefix) for row in rows]
    shape = len(rows), max(sum(branch.end - branch.start for branch in branches) for branches, _ in branches_by_row)
    tokens, position, until = np.zeros((3, *shape), np.int64)
    branch = np.full(shape, NONE)
    branches: list[Branch] = []
    lines: list[list[int]] = []
    places: list[Indices] = []  # of each request: where its tokens behind the prefix are
    for index, (row_branches, own_lines) in enumerate(branches_by_row):
        first, column = len(branches), 0
        starts: list[int] = []
        for number, node in enumerate(row_branches, first):
            starts.append(column)
            column += node.end - node.start
            at = slice(starts[-1], column)
            tokens[index, at] = paths[node.request].tokens[node.start : node.end]
            position[index, at] = np.arange(node.start, node.end)
            branch[index, at] = number
            branches.append(replace(node, before=node.before + first) if node.before != NONE else node)
        ends = [*starts[1:], column]
        reached = list(ends)
        for number in range(len(row_branches) - 1, -1, -1):  # what follows a branch comes behind it
            before = row_branches[number].before
            if before != NONE:
                reached[before] = max(reached[before], reached[number])
        for start, end, last in zip(starts, ends, reached, strict=True):
            until[index, start:end] = last
        for line in own_lines:
            lines.append([first + number for number in line])
            places.append(index * shape[1] + np.concatenate([np.arange(starts[n], ends[n]) for n in line]))
    requests = [number for row in rows for number in row.requests]
    scored_places = [
        branches[paths[number].first_scored - prefix :] for number, branches in zip(requests, places, strict=True)
    ]
    each_once, which = np.unique(np.concatenate(scored_places), return_inverse=True)
    scored = np.split(which, np.cumsum([len(branches) for branches in scored_places])[:-1])
    fronts = [row.front for row in rows]
    return TreeBatch(tokens, position, until, branch, branches, requests, lines, each_once, scored, fronts)


def tokens_of_prefixes(group: Group, paths: Sequence[Path]) -> Indices:
    """Return the tokens of a group's prefixes ``[G, P]``."""
    return np.stack([paths[number].tokens[: group.prefix] for number in group.fronts])


def branches_in_front(group: Group, paths: Sequence[Path]) -> tuple[list[Branch], Indices, list[int]]:
    """Return the branches of a group's prefixes, those of each token ``[G, P]``, and where those of each prefix end.

    All prefixes are cut where any record needs it; their branches follow each other, prefix by prefix.

    Args:
        group: The group, with G prefixes of P tokens.
        paths: Of all requests.
    """
    cuts = (cut for row in group.rows for number in row.requests for cut in paths[number].cuts)
    bounds = sorted({0, group.prefix, *(cut for cut in cuts if cut < group.prefix)})
    branches: list[Branch] = []
    for request in group.fronts:
        for start, end in pairwise(bounds):
            branches.append(Branch(request, start, end, len(branches) - 1 if start else NONE))
    branch = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    return branches, branch + (len(bounds) - 1) * np.arange(len(group.fronts))[:, None], bounds[1:]
