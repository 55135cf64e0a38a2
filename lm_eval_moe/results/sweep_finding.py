"""What a sweep's best cell shows, in sentences: it was chosen, and its numbers have to say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lm_eval_moe.number_text import Scale, p_text
from lm_eval_moe.results.sweeps import SweepBenchmark
from lm_eval_moe.statistics import ALPHA, ControlGain, corrected_new_draws, draws_needed, is_beyond_chance

__all__ = ["GAIN_HEADS", "sweep_finding"]

GAIN_HEADS = ("95 % (mean of sets)", "95 % (new draw)", "rank p", "p over cells")
"""Above the columns of a cell's gain over its random controls: two intervals by their question, and two p-values."""


def sweep_finding(benchmark: SweepBenchmark, scale: Scale, *, written: Callable[[str], str] = str) -> str:
    """Say which cell does best against its random controls, and how many differ beyond noise, corrected over cells.

    Args:
        benchmark: Has the cells.
        scale: Of its scores.
        written: Makes what a cell is called fit to stand where the sentences do.
    """
    over = [
        (cell, effect.over_control, effect.corrected_p)
        for cell in benchmark.cells
        if (effect := cell.effects.get(benchmark.whole)) is not None and effect.over_control is not None
    ]
    if not over:
        return "The cells have no random controls, so nothing can be said about the choice of experts."
    sign = 1.0 if benchmark.higher_is_better else -1.0
    holm = corrected_new_draws([gain for _, gain, _ in over])
    best = max(range(len(over)), key=lambda number: sign * over[number][1].gain)
    cell, gain, corrected = over[best]
    sentences = _best(written(cell.title), gain, corrected, holm[best], len(over), scale)
    return " ".join([*sentences, _count([gain for _, gain, _ in over], holm, sign)])


def _best(
    title: str, gain: ControlGain, corrected: float | None, new_draw: float | None, cells: int, scale: Scale
) -> Iterator[str]:
    text = f"Largest gain over random controls: {title}, {scale.change(gain.gain)}{scale.points}"
    if gain.identical:
        yield f"{text}, since no item differs."
        return
    ends = [
        f"{scale.change(low)} to {scale.change(high)} {name}"
        for low, high, name in (
            (gain.low, gain.high, "against the mean of random sets"),
            (gain.new_draw_low, gain.new_draw_high, "against a new random draw"),
        )
        if low is not None and high is not None
    ]
    intervals = f"95 % intervals {', '.join(ends)}" if ends else "without an interval"
    caveat = f", which do not allow for its being the best of {cells} cells" if ends and cells > 1 else ""
    yield f"{text} ({intervals}{caveat})."
    if corrected is not None:
        yield f"Corrected over cells and languages, it differs from the mean of its controls with {p_text(corrected)}."
    elif cells > 1:
        yield (
            "The table has no p of that difference corrected over the cells (`lm-eval-moe sweep` with the same folder "
            "adds it)."
        )
    draws = len(gain.per_control)
    if new_draw is None:
        yield f"Whether it is better than a random set cannot be told from {draws} draw{'s' * (draws != 1)}."
        return
    rank = "" if gain.rank_p is None else f"; its rank p = {gain.rank_p:.2g}"
    few = "" if draws >= draws_needed() else f", which can reach {ALPHA:g} only with {draws_needed()} draws or more"
    yield f"Against a new random draw it has {p_text(new_draw)} after Holm's correction over the cells{rank}{few}."


def _count(gains: list[ControlGain], holm: list[float | None], sign: float) -> str:
    """Say how many cells are better or worse than a random set."""
    beyond = [sign * gain.gain > 0 for gain, p in zip(gains, holm, strict=True) if is_beyond_chance(p, ALPHA)]
    cells = f"{len(gains)} cell{'s' * (len(gains) != 1)}"
    if not beyond:
        return f"Of {cells}, none differs from a random set beyond noise."
    better, worse = sum(beyond), len(beyond) - sum(beyond)
    verb = "is" if better == 1 else "are"
    return f"Of {cells}, {better} {verb} better and {worse} worse than a random set beyond noise."
