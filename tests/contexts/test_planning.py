"""Which requests share what, and how rows that branch are laid out, against plain sets of sequences."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_trees import drawn_requests

from lm_eval_moe.backends.hf.contexts.planning import Group, Path, Row, grouped
from lm_eval_moe.backends.hf.contexts.scoring import filled
from lm_eval_moe.backends.hf.contexts.tree import branch_in_front, tree_batch
from lm_eval_moe.capture.token_rows import NONE

SEEDS = st.integers(0, 10**6)


def paths_of(seed: int, *, longest: int = 40) -> list[Path]:
    paths = []
    for number, drawn in enumerate(drawn_requests(seed, range(1, 5 if seed % 2 else 500), longest=longest)):
        tokens = [*drawn.context, *drawn.continuation][:-1]
        boundary = len(drawn.context)
        generated = boundary if seed % 3 == 0 else None
        key = drawn.document % 2 if seed % 5 == 0 else None
        cuts = (boundary, 0) if number % 2 else ()
        paths.append(Path.of(key, tokens, len(drawn.continuation), cuts, generated))
    return paths


def prefixes(paths: list[Path], numbers: tuple[int, ...], start: int) -> set[bytes]:
    """Every distinct beginning of the sequences, longer than ``start``: what has to be computed at least."""
    return {paths[n].encoded[: 4 * end] for n in numbers for end in range(start + 1, len(paths[n]) + 1)}


@given(SEEDS)
def test_every_request_runs_once_and_computes_nothing_twice_in_its_row(seed: int) -> None:
    paths = paths_of(seed)
    groups = grouped(paths)
    assert sorted(n for group in groups for row in group.rows for n in row.requests) == list(range(len(paths)))
    for group in groups:
        for row in group.rows:
            assert row.tokens == len(prefixes(paths, row.requests, group.prefix))
            assert len({paths[n].key for n in row.requests}) == 1
        assert [row.tokens for row in group.rows] == sorted((row.tokens for row in group.rows), reverse=True)


@given(SEEDS)
def test_a_prefix_is_that_of_all_and_before_all_that_is_scored(seed: int) -> None:
    paths = paths_of(seed)
    for group in grouped(paths):
        numbers = [n for row in group.rows for n in row.requests]
        assert len({(paths[n].key, paths[n].encoded[: 4 * group.prefix]) for n in numbers}) == 1 or not group.prefix
        assert group.prefix <= min(paths[n].first_scored for n in numbers)


@given(SEEDS)
def test_sharing_never_computes_more_than_each_request_by_itself(seed: int) -> None:
    paths = paths_of(seed)
    alone = sum(len(paths[n]) for n in range(len(paths)))
    assert sum(group.prefix + sum(row.tokens for row in group.rows) for group in grouped(paths)) <= alone


def test_the_same_examples_before_every_document_are_a_prefix() -> None:
    examples = list(range(100, 400))
    paths = [
        Path.of(None, [*examples, 7, document, 8, *range(choice, choice + 2)], 2, (303,))
        for document in range(20, 60)
        for choice in range(50, 54)
    ]
    [group] = grouped(paths)
    assert (group.prefix, len(group.rows)) == (301, 40)
    assert all(row.tokens == 2 + 4 * 2 for row in group.rows)
    [group] = grouped(paths, rows=False)
    assert (group.prefix, len(group.rows)) == (301, 160)


def test_a_few_documents_behind_the_same_examples_are_one_row() -> None:
    paths = [Path.of(None, [*range(100, 400), document, document + 1], 1, ()) for document in range(3)]
    [group] = grouped(paths)
    assert group == Group((Row((0, 1, 2), 306),))


def test_tokens_of_a_prompt_and_of_a_continuation_are_not_the_same_where_steering_tells_them_apart() -> None:
    prompt, answered = ([1, 2, 3, 4, 5, 6, 7, 8, generated] for generated in (9, 10))
    apart = [Path.of(None, prompt, 1, (), 2), Path.of(None, answered, 1, (), 8)]
    together = [Path.of(None, prompt, 1, ()), Path.of(None, answered, 1, ())]
    assert [len(group.rows) for group in grouped(together)] == [1]
    assert [len(group.rows) for group in grouped(apart)] == [2]


@given(SEEDS)
def test_a_token_of_a_tree_row_sees_its_sequence_and_nothing_else(seed: int) -> None:
    paths = paths_of(seed, longest=20)
    for group in grouped(paths):
        batch = tree_batch(group.rows, paths, group.prefix)
        rows, width = batch.tokens.shape
        line_of = dict(zip(batch.requests, batch.lines, strict=True))
        for row in range(rows):
            columns = np.arange(width)
            sees = (columns[None] <= columns[:, None]) & (columns[:, None] < batch.until[row][None])
            for column in np.flatnonzero(batch.branch[row] != NONE):
                branch = batch.branches[batch.branch[row, column]]
                path = paths[branch.request]
                seen = np.flatnonzero(sees[column])
                place = batch.position[row, column]
                assert batch.tokens[row, seen].tolist() == path.tokens[group.prefix : place + 1].tolist()
                assert batch.position[row, seen].tolist() == list(range(group.prefix, place + 1))
            assert not (batch.until[row][batch.branch[row] == NONE]).any()
        for number, scored in zip(batch.requests, batch.scored, strict=True):
            path, line = paths[number], [batch.branches[n] for n in line_of[number]]
            assert [branch.end for branch in line[:-1]] == [branch.start for branch in line[1:]]
            ends = {branch.end for branch in line} | {group.prefix}
            assert {cut for cut in path.cuts if cut > group.prefix} <= ends
            places = batch.places[scored]
            assert batch.tokens.ravel()[places].tolist() == path.tokens[path.first_scored :].tolist()
            assert batch.position.ravel()[places].tolist() == list(range(path.first_scored, len(path)))
            for branch in line:  # a branch lies on one side of where a steered continuation begins
                assert len({path.is_generated(place) for place in range(branch.start, branch.end)}) == 1


@given(SEEDS)
def test_a_prefix_is_cut_where_records_need_it(seed: int) -> None:
    paths = paths_of(seed)
    for group in grouped(paths):
        if group.prefix:
            numbers = [n for row in group.rows for n in row.requests]
            branches, branch = branch_in_front(numbers, paths, group.prefix)
            assert [(each.start, each.end) for each in branches] == list(
                pairwise(sorted({0, group.prefix, *(c for n in numbers for c in paths[n].cuts if c < group.prefix)}))
            )
            assert [branches[n].start <= place < branches[n].end for place, n in enumerate(branch)] == [True] * len(
                branch
            )


@pytest.mark.parametrize(
    ("budget", "copies", "enough", "expected"),
    [
        (100, 1, 1000, [3, 2]),  # 3 rows of 30, then 2 of 20
        (100, 3, 1000, [1, 1, 1, 1, 1]),
        (1, 1, 1, [1, 1, 1, 1, 1]),  # a row at least, whatever the budget
        (1000, 1, 1000, [5]),
        (1000, 1, 60, [3, 2]),  # enough: rows of 20 have too much padding beside those of 30
    ],
)
def test_passes_are_filled_up_to_a_budget(budget: int, copies: int, enough: int, expected: list[int]) -> None:
    rows = [Row((n,), tokens) for n, tokens in enumerate((30, 30, 30, 20, 20))]
    passes = list(filled(rows, 0, copies, budget, enough))
    assert [len(each) for each in passes] == expected
    assert [row for each in passes for row in each] == rows


def test_keys_and_values_in_front_of_rows_count_too() -> None:
    rows = [Row((n,), 10) for n in range(20)]
    assert [len(each) for each in filled(rows, 390, 1, 1000, 10**6)] == [10, 10]
