"""Which requests share what, and how rows that branch are laid out, against plain sets of sequences."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.token_trees import drawn_requests

from lm_eval_moe.backends.hf.contexts.planning import BatchRow, Group, Path, forked, grouped
from lm_eval_moe.backends.hf.contexts.scoring import filled
from lm_eval_moe.backends.hf.contexts.tree import branches_in_front, tokens_of_prefixes, tree_batch
from lm_eval_moe.recording.token_rows import NONE

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


@given(SEEDS, st.integers(1, 300))
def test_prefixes_of_one_length_run_side_by_side_within_a_budget(seed: int, budget: int) -> None:
    paths = paths_of(seed)
    groups = forked(paths)
    assert len({group.prefix for group in groups}) == len(groups)
    parts = [part for group in groups for part in group.parts(budget)]
    assert sorted(n for part in parts for row in part.rows for n in row.requests) == list(range(len(paths)))
    ends = {(paths[row.requests[-1]].key, paths[row.requests[-1]].encoded) for part in parts for row in part.rows}
    assert len(ends) == sum(len(part.rows) for part in parts)
    for part in parts:
        assert len(part.fronts) <= 1 or len(part.fronts) * part.prefix <= budget
        assert [row.tokens for row in part.rows] == sorted((row.tokens for row in part.rows), reverse=True)
        for row in part.rows:
            path = paths[row.requests[-1]]
            assert part.prefix + row.tokens == len(path)
            assert all(path.encoded.startswith(paths[number].encoded) for number in row.requests)
            assert part.prefix <= min(paths[number].first_scored for number in row.requests)
            if part.prefix:
                assert path.tokens[: part.prefix].tolist() == tokens_of_prefixes(part, paths)[row.front].tolist()
    alone = sum(map(len, paths))
    assert sum(group.tokens for group in groups) <= alone
    assert sum(part.tokens for part in parts) == sum(group.tokens for group in groups)


def test_a_fork_takes_up_to_an_eighth_of_a_prefix_less() -> None:
    def lengths(*contexts: int) -> list[tuple[int, int]]:
        paths = [
            Path.of(None, [number, *range(100, 99 + length), choice], 1, ())
            for number, length in enumerate(contexts)
            for choice in range(4)
        ]
        return sorted((group.prefix, len(group.fronts)) for group in forked(paths))

    assert lengths(112, 116, 119) == [(112, 3)]
    assert lengths(112, 120) == [(112, 1), (120, 1)]
    assert lengths(15, 16, 17) == [(15, 1), (16, 2)]
    assert lengths(10) == [(0, 0)]  # which saves too little


@given(SEEDS)
def test_sharing_never_computes_more_than_each_request_by_itself(seed: int) -> None:
    paths = paths_of(seed)
    alone = sum(len(paths[n]) for n in range(len(paths)))
    assert sum(group.tokens for group in grouped(paths)) <= alone


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
    [group] = grouped(paths, rows="single")
    assert (group.prefix, len(group.rows)) == (301, 160)


def test_a_few_documents_behind_the_same_examples_are_one_row() -> None:
    paths = [Path.of(None, [*range(100, 400), document, document + 1], 1, ()) for document in range(3)]
    [group] = grouped(paths)
    assert group == Group((BatchRow((0, 1, 2), 306),))


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
    for group in [*grouped(paths), *forked(paths)]:
        if not group.prefix:
            continue
        branches, branch, ends = branches_in_front(group, paths)
        cuts = {0, group.prefix, *(c for row in group.rows for n in row.requests for c in paths[n].cuts)}
        bounds = list(pairwise(cut for cut in sorted(cuts) if cut <= group.prefix))
        assert ends == [end for _, end in bounds]
        for front in range(len(group.fronts)):
            line = range(front * len(ends), (front + 1) * len(ends))
            numbers = [n for row in group.rows for n in row.requests if row.front == front]
            assert [(branches[n].start, branches[n].end) for n in line] == bounds
            assert [branches[n].before for n in line] == [NONE, *line[:-1]]
            assert all(branches[n].start <= place < branches[n].end for place, n in enumerate(branch[front]))
            assert all(paths[n].key == paths[branches[line[0]].request].key for n in numbers)


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
    rows = [BatchRow((n,), tokens) for n, tokens in enumerate((30, 30, 30, 20, 20))]
    passes = list(filled(rows, 0, copies, budget, enough))
    assert [len(each) for each in passes] == expected
    assert [row for each in passes for row in each] == rows


def test_keys_and_values_in_front_of_rows_count_too() -> None:
    rows = [BatchRow((n,), 10) for n in range(20)]
    assert [len(each) for each in filled(rows, 390, 1, 1000, 10**6)] == [10, 10]
