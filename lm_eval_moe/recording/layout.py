"""Right-padded batches of known texts as segments: what a row's requests tell apart, and where each token belongs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.recording.attribution import ExpectedRow, RowUse
from lm_eval_moe.recording.segments import Forest
from lm_eval_moe.recording.token_rows import NONE, Steered
from lm_eval_moe.routing_record import Span

__all__ = ["cut_points", "padded_batch", "places_of"]


def cut_points(row: ExpectedRow) -> list[int]:
    """Return where a row is cut so that every use of it is a run of whole segments, its ends included."""
    length = len(row.tokens or ())
    return sorted({0, length, *(cut for use in row.uses for cut in (use.boundary, use.first) if 0 < cut < length)})


def places_of(use: RowUse, bounds: Sequence[int], span: Span) -> list[int]:
    """Return the places, among the segments of a sequence, of those that make up one use's span, thinking not known of.

    Args:
        use: The use.
        bounds: Where segments begin and end, as `cut_points` returns them or finer.
        span: The span.
    """
    return [
        place
        for place, (start, end) in enumerate(pairwise(bounds))
        if start >= use.first and (use.whole or span in ("all", "prompt" if end <= use.boundary else "continuation"))
    ]


def padded_batch(forest: Forest, rows: Sequence[ExpectedRow], width: int) -> tuple[NDArray[np.int64], list[list[int]]]:
    """Plant the segments of a right-padded batch of whole sequences.

    Args:
        forest: Where they go.
        rows: B rows.
        width: Tokens of a row with its padding, T.

    Returns:
        ``[B, T]`` the segment of each token, and the path of each row.
    """
    segment = np.full((len(rows), width), NONE)
    paths: list[list[int]] = []
    for index, row in enumerate(rows):
        path: list[int] = []
        for start, end in pairwise(cut_points(row)):
            steered = Steered(row.language, start >= row.uses[0].boundary, row.plan)
            path.append(forest.add(path[-1] if path else NONE, steered))
            segment[index, start:end] = path[-1]
        paths.append(path)
    return segment, paths
