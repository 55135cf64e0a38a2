"""Which requests share what: rows of requests with a common beginning, and prefixes that many rows have in front.

Sequences are told apart by their tokens alone, wherever lm-eval draws the line between context and continuation:
choices of one document, few-shot examples, contexts that differ in one word, and windows of one text share what they
have in common. Sorted, sequences that begin with the same tokens lie together, and the lengths of what neighbours have
in common span a tree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from lm_eval_moe.recording.token_rows import Indices

__all__ = ["BatchRow", "Group", "Path", "common_length", "forked", "grouped"]

_Rows = Literal["trees", "lines", "single"]

_GENERATED = 1 << 31
"""Marks a token that is steered as part of a continuation: it is another one than the same token of a prompt."""

_WORTH_A_ROW = 0.2
"""The part of their tokens that requests save at least by running in one row: attention pays for what it masks."""

_LONG_ROW = 2.0
"""How many times as long as the longest sequence in it a row may be."""

_SMALL_ROW = 512
"""Tokens up to which a row may be longer than that."""

_WORTH_A_PREFIX = 256
"""Tokens that a prefix has to save: it is a separate forward pass."""

_WORTH_A_FORK = 32
"""The same where prefixes of one length run side by side."""


@dataclass(frozen=True, slots=True)
class Path:
    """A request's sequence of tokens, as far as the model reads it.

    Attributes:
        key: What steers it, but for the phase; only requests of the same key share anything.
        encoded: Its tokens as big-endian numbers of four bytes, which sort like the tokens.
        scored: After how many of its last tokens the next one is scored.
        cuts: Places, ascending, at which a segment has to end for its records to be whole segments.
    """

    key: Hashable
    encoded: bytes
    scored: int
    cuts: tuple[int, ...]

    @classmethod
    def of(
        cls, key: Hashable, tokens: Sequence[int], scored: int, cuts: Sequence[int], generated: int | None = None
    ) -> Path:
        """Return the path of some tokens.

        Args:
            key: See the attribute.
            tokens: What the model reads.
            scored: See the attribute.
            cuts: In any order; those outside of the sequence are of no consequence.
            generated: From which token on it is steered as a continuation, where that matters.
        """
        numbers = np.array(tokens, dtype=">u4")
        if generated is not None:
            numbers[generated:] |= _GENERATED
            cuts = [*cuts, generated]
        inner = tuple(sorted({cut for cut in cuts if 0 < cut < len(numbers)}))
        return cls(key, numbers.tobytes(), scored, inner)

    def __len__(self) -> int:
        return len(self.encoded) // 4

    @property
    def first_scored(self) -> int:
        """The place of the first token after which the next one is scored."""
        return len(self) - self.scored

    @property
    def tokens(self) -> Indices:
        """Its token ids."""
        return (np.frombuffer(self.encoded, dtype=">u4") & (_GENERATED - 1)).astype(np.int64)

    def is_generated(self, place: int) -> bool:
        """Whether the token at a place is steered as part of a continuation."""
        return self.encoded[4 * place] >= 0x80


@dataclass(frozen=True, slots=True)
class BatchRow:
    """Requests that run side by side in one row of a batch.

    Attributes:
        requests: Their numbers, in the order of their sequences.
        tokens: How many the row has, behind what is in front of it.
        front: Which of its group's prefixes that is.
    """

    requests: tuple[int, ...]
    tokens: int
    front: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that have a prefix in front, which they share, or several prefixes of the same length.

    Attributes:
        rows: The rows, the longest first.
        prefix: Tokens of a prefix, with which the sequence of every request begins; 0: none.
        fronts: A request that begins with it, of each prefix.
    """

    rows: tuple[BatchRow, ...]
    prefix: int = 0
    fronts: tuple[int, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[BatchRow], prefix: int) -> Group:
        """Return rows in any order as a group; a row's ``front`` may be any number that tells prefixes apart."""
        ordered = sorted(rows, key=lambda row: (-row.tokens, row.requests))
        first = {row.front: row.requests[0] for row in reversed(ordered)}
        number = {front: place for place, front in enumerate(sorted(first))}
        numbered = tuple(replace(row, front=number[row.front]) for row in ordered)
        return cls(numbered, prefix, tuple(first[front] for front in sorted(first)) if prefix else ())

    @property
    def tokens(self) -> int:
        """How many are computed, padding left aside."""
        return len(self.fronts) * self.prefix + sum(row.tokens for row in self.rows)

    def parts(self, budget: int) -> Iterator[Group]:
        """Yield the group cut into some whose prefixes have up to so many tokens altogether, one prefix at least."""
        most = max(1, budget // max(self.prefix, 1))
        by_part: dict[int, list[BatchRow]] = defaultdict(list)
        for row in self.rows:
            by_part[row.front // most].append(row)
        for part in sorted(by_part):
            yield Group.of(by_part[part], self.prefix)


@dataclass(slots=True)
class _Node:
    """Sequences that begin with the same tokens.

    Attributes:
        depth: How far they do.
        first: Place of the first of them among the sorted ones.
        children: Those that have more in common among each other.
        tokens: How many distinct ones there are behind ``depth``.
        rows: Its rows, with the tokens of each behind ``depth``.
        longest: The length of its longest sequence.
        unscored: Tokens before the first of any of its sequences after which the next one is scored.
    """

    depth: int
    first: int
    children: list[_Node] = field(default_factory=list)
    tokens: int = 0
    rows: list[BatchRow] = field(default_factory=list)
    longest: int = 0
    unscored: int = 0


def common_length(one: bytes, other: bytes) -> int:
    """Return how many tokens two encoded sequences have in common from the start."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size // 4
    differs = np.frombuffer(one[:size], np.uint32) != np.frombuffer(other[:size], np.uint32)
    return int(differs.argmax())


def forked(paths: Sequence[Path]) -> list[Group]:
    """Return which requests run together where no row branches: prefixes of one length side by side.

    A prefix is cut to one of few lengths, which takes up to an eighth of what it saves.

    Args:
        paths: Of all requests.
    """
    by_length: dict[int, list[BatchRow]] = defaultdict(list)
    for front, group in enumerate(grouped(paths, rows="lines", worth=_WORTH_A_FORK)):
        cut = group.prefix % (1 << max(0, group.prefix.bit_length() - 4))
        rows = [replace(row, tokens=row.tokens + cut, front=front) for row in group.rows]
        by_length[group.prefix - cut] += rows
    return [Group.of(rows, prefix) for prefix, rows in by_length.items()]


def grouped(paths: Sequence[Path], *, rows: _Rows = "trees", worth: int | None = None) -> list[Group]:
    """Return which requests run together, so that few tokens are computed twice.

    Args:
        paths: Of all requests.
        rows: Which requests may share a row besides prefixes: any, those that are the beginning of one another, none.
        worth: Tokens that a prefix has to save.

    Returns:
        Groups that have every request in one row of one group; rows without prefix, whatever steers them, are one.
    """
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    for number, path in enumerate(paths):
        by_key[path.key].append(number)
    groups: list[Group] = []
    single: list[BatchRow] = []
    for numbers in by_key.values():
        numbers.sort(key=lambda number: paths[number].encoded)
        leaves = _leaves(numbers, paths, lines=rows == "lines")
        root = _tree(leaves, paths)
        for node in _postorder(root):
            _take_rows(node, leaves, paths, shared=rows == "trees")
        prefixed, rest = _prefixed(root, _WORTH_A_PREFIX if worth is None else worth)
        groups += prefixed
        single += rest
    if single:
        groups.append(Group.of(single, 0))
    return groups


def _leaves(numbers: Sequence[int], paths: Sequence[Path], *, lines: bool) -> list[tuple[int, ...]]:
    """Return sorted sequences, those that are the beginning of the next one together with it, if they may be."""
    leaves: list[tuple[int, ...]] = []
    for number in numbers:
        if lines and leaves and paths[number].encoded.startswith(paths[leaves[-1][-1]].encoded):
            leaves[-1] = (*leaves[-1], number)
        else:
            leaves.append((number,))
    return leaves


def _tree(leaves: Sequence[tuple[int, ...]], paths: Sequence[Path]) -> _Node:
    """Return the tree of sorted sequences; its leaves are the sequences themselves."""
    leaf_paths = [paths[leaf[-1]] for leaf in leaves]

    def leaf(place: int) -> _Node:
        return _Node(len(leaf_paths[place]), place)

    opened: list[_Node] = []
    node = leaf(0)
    for place in range(1, len(leaf_paths) + 1):
        more = place < len(leaf_paths)
        shared = common_length(leaf_paths[place - 1].encoded, leaf_paths[place].encoded) if more else 0
        while opened and (opened[-1].depth > shared or not more):
            parent = opened.pop()
            parent.children.append(node)
            node = parent
        if more:
            if opened and opened[-1].depth == shared:
                opened[-1].children.append(node)
            else:
                opened.append(_Node(shared, node.first, [node]))
            node = leaf(place)
    return _Node(0, 0, [node]) if node.depth else node


def _postorder(root: _Node) -> Iterator[_Node]:
    """Yield all nodes, each after its children."""
    waiting = [(root, False)]
    while waiting:
        node, visited = waiting.pop()
        if visited:
            yield node
        else:
            waiting.append((node, True))
            waiting += [(child, False) for child in node.children]


def _take_rows(node: _Node, leaves: Sequence[tuple[int, ...]], paths: Sequence[Path], *, shared: bool) -> None:
    """Give a node its rows, and what else is known once its children's are."""
    if not node.children:
        leaf_range = leaves[node.first]
        node.rows, node.longest = [BatchRow(leaf_range, 0)], len(paths[leaf_range[-1]])
        node.unscored = min(paths[number].first_scored for number in leaf_range)
        return
    node.longest = max(child.longest for child in node.children)
    node.unscored = min(child.unscored for child in node.children)
    node.rows = [
        BatchRow(row.requests, row.tokens + child.depth - node.depth) for child in node.children for row in child.rows
    ]
    node.tokens = sum(child.depth - node.depth + child.tokens for child in node.children)
    together = node.depth + node.tokens
    separate_tokens = sum(node.depth + row.tokens for row in node.rows)
    fits = together <= max(_SMALL_ROW, _LONG_ROW * node.longest)
    if shared and len(node.rows) > 1 and fits and separate_tokens - together >= _WORTH_A_ROW * separate_tokens:
        node.rows = [BatchRow(tuple(number for row in node.rows for number in row.requests), node.tokens)]


def _prefixed(root: _Node, worth: int) -> tuple[list[Group], list[BatchRow]]:
    """Return the groups whose prefixes save the most tokens altogether, and the rows that are in none."""
    best: dict[int, tuple[int, int]] = {}  # by node: what prefixes save in it; the one in front of all of it, if any
    for node in _postorder(root):
        prefix = min(node.depth, node.unscored)
        saved = prefix * (len(node.rows) - 1)
        below = sum(best[id(child)][0] for child in node.children) if len(node.rows) > 1 else 0
        best[id(node)] = (saved, prefix) if saved >= max(worth, below) else (below, 0)
    groups: list[Group] = []
    single: list[BatchRow] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        saved, prefix = best[id(node)]
        if saved and not prefix:
            waiting += node.children
            continue
        rows = [BatchRow(row.requests, row.tokens + node.depth - prefix) for row in node.rows]
        if prefix:
            groups.append(Group.of(rows, prefix))
        else:
            single += rows
    return groups, single
