"""Numbers of released segments are used again, whatever has been summed of them before."""

from __future__ import annotations

import numpy as np
import torch

from lm_eval_moe.recording import Forest, Recorder

ROUTERS, EXPERTS = torch.tensor([True]), torch.tensor([[False, True, False, False]])


def test_a_number_is_used_again_that_steering_never_reached() -> None:
    """Sums of what steering reached grow with the segments at which it acts, not with all there are."""
    forest = Forest()
    recorder = Recorder(forest, 1, 4, arrays={"counts", "targeted", "hit"})

    def run(*segments: int, steered: bool) -> None:
        here = torch.full((len(segments),), steered)
        rows = forest.begin_pass(np.array(segments))
        recorder.start_pass(rows, lambda positions, seen: [(ROUTERS, EXPERTS, here)] if steered else [])
        recorder.selection(0, torch.tensor([[1, 2]] * len(segments)), torch.full((len(segments), 2), 0.5))
        recorder.end_pass()

    run(forest.add(), steered=True)
    others = [forest.add() for _ in range(4)]
    run(*others, steered=False)
    forest.release(others)
    again = forest.add()
    assert again in others
    run(again, again, steered=True)
    (sums,) = recorder.sums_of([[again]])
    assert sums.tokens.tolist() == [2]
    assert sums.counts is not None
    assert sums.hit is not None
    assert sums.counts[0, 0].tolist() == [0, 2, 2, 0]
    assert sums.hit[0].tolist() == [2]
