"""How often the intervals cover what they are of, and how often a test raises a false alarm.

Runs are simulated of which the truth is known, and judged by the functions that the product uses. An item and its
translations depend on each other: half of the items do the same in all languages. Rates outside of 93.5 to 96.5 %
(coverage), or above 6.5 % (false alarms), are printed in bold.

    python benchmarks/coverage.py                    # 1000 simulated comparisons a rate
    python benchmarks/coverage.py --quick            # 40, in seconds, of a few cases
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lm_eval_moe.analysis._curves import LanguageCurve, mean_of_languages
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.statistics import (
    ALPHA,
    ClusteredValues,
    Estimate,
    corrected_new_draws,
    correlation,
    gain_over_controls,
    independent_mean,
    judge,
    judge_unpaired,
    max_sign_flip,
    mean_gain,
    score_interval,
    unpaired,
)
from lm_eval_moe.statistics.judgement import paired_drop

Values = NDArray[np.float64]
Interval = tuple[float | None, float | None] | None

COVERED, ALARMS = (0.935, 0.965), 0.065


class Rate:
    """How often something happened, among the times that it could have."""

    def __init__(self, *, coverage: bool) -> None:
        self.coverage, self.hits, self.of = coverage, 0, 0

    def add(self, happened: bool | None) -> None:
        """Count one simulation; None: there was nothing to count."""
        if happened is not None:
            self.hits, self.of = self.hits + bool(happened), self.of + 1

    def covers(self, interval: Interval, truth: float) -> None:
        """Count an interval, if there is one."""
        if interval is not None and interval[0] is not None and interval[1] is not None:
            self.add(interval[0] - 1e-12 <= truth <= interval[1] + 1e-12)

    def __str__(self) -> str:
        if self.of < 20:  # mostly there is no interval, as nothing changed
            return "–"
        share = self.hits / self.of
        outside = not COVERED[0] <= share <= COVERED[1] if self.coverage else share > ALARMS
        return f"**{100 * share:.1f}**" if outside else f"{100 * share:.1f}"


def turned(rng: np.random.Generator, items: int, languages: int) -> Values:
    """Return uniform numbers ``[items, languages]`` of which half of the items have the same in all languages."""
    own, shared = rng.random((items, languages)), rng.random((items, 1))
    return np.where(rng.random((items, 1)) < 0.5, shared, own)


def changes(
    rng: np.random.Generator, items: int, languages: int, changed: float, better: float, graded: bool
) -> ClusteredValues:
    """Return differences of which a share is not 0, and of these a share is positive; graded ones have four sizes."""
    u = turned(rng, items, languages)
    values = np.where(u < changed * better, 1.0, np.where(u < changed, -1.0, 0.0))
    if graded:
        values = values * rng.choice([0.25, 0.5, 0.75, 1.0], values.shape)
    cluster, group = (index.ravel() for index in np.indices(values.T.shape)[::-1])
    return ClusteredValues(values.T.ravel(), group, cluster)


def differences(repeats: int, quick: bool) -> Iterator[list[str]]:
    """Two runs on the same items: intervals and tests of `judge`, and the bound of `paired_drop`."""
    shares = (0.03, 0.3) if quick else (0.01, 0.03, 0.1, 0.3, 0.6)
    yield ["values", "languages", "items", "rate", *(f"{100 * share:.0f} % changed" for share in shares)]
    cases = [("right or wrong", languages, items) for languages in (1, 3, 11) for items in (15, 30, 100, 1000)]
    cases += [("graded", languages, items) for languages in (1, 11) for items in (15, 100)]
    for number, (kind, languages, items) in enumerate([cases[0], cases[6]] if quick else cases):
        rows: dict[str, list[Rate]] = {"covers, no effect": [], "covers, 3 of 4 better": [], "bound of a drop": []}
        rows["false alarms"] = []
        for share in shares:
            rng = np.random.default_rng([number, int(1000 * share)])
            rates = {name: Rate(coverage=name != "false alarms") for name in rows}
            for _ in range(repeats):
                null = changes(rng, items, languages, share, 0.5, kind == "graded")
                judged = judge(null)
                rates["covers, no effect"].covers(judged.interval, 0.0)
                rates["false alarms"].add(judged.beyond)
                real = changes(rng, items, languages, share, 0.75, kind == "graded")
                truth = share * 0.5 * (0.625 if kind == "graded" else 1.0)
                rates["covers, 3 of 4 better"].covers(judge(real).interval, truth)
                losses = [
                    [
                        (int(c), -float(v))
                        for c, v, g in zip(real.cluster, real.values, real.group, strict=True)
                        if g == at
                    ]
                    for at in range(languages)
                ]
                upper = paired_drop(losses, alpha=ALPHA).upper if len(real.values) <= 1000 else None
                rates["bound of a drop"].add(None if upper is None else -truth <= upper + 1e-12)
            for name, rate in rates.items():
                rows[name].append(rate)
        for name, of in rows.items():
            yield [kind, str(languages), str(items), name, *map(str, of)]


def runs_of(
    rng: np.random.Generator, effects: Sequence[float], items: int, languages: int
) -> list[list[dict[int, Any]]]:
    """Return right-or-wrong answers of runs; each answers three items in ten anew, right by a half and its effect."""
    base = turned(rng, items, languages) < 0.5
    answers = []
    for effect in effects:
        anew = turned(rng, items, languages)
        right = np.where(anew < 0.3, anew < 0.15 + effect, base)
        answers.append([dict(enumerate(column.tolist())) for column in right.T.astype(float)])
    return answers


def controls(repeats: int, quick: bool) -> Iterator[list[str]]:
    """Chosen experts against N random draws."""
    names = (
        "mean of sets covers",
        "new draw covers",
        "mean of sets leaves out 0",
        "new draw leaves out 0",
        "rank p 5 %",
    )
    yield [
        *("draws", "languages", "items", "draws differ by", *names[:2]),
        *(f"chosen is random: {n}" for n in names[2:]),
        *(f"without a group: {n}" for n in names[:2]),
    ]
    cases = [
        (draws, languages, items, spread)
        for draws in (2, 3, 5, 10, 19, 30)
        for languages, items in ((1, 100), (11, 30), (1, 15))
        for spread in (0.0, 0.02, 0.05)
    ]
    for number, (draws, languages, items, spread) in enumerate(cases[4:14:9] if quick else cases):
        rng = np.random.default_rng([1, number])
        rates = [Rate(coverage=place not in (2, 3, 4)) for place in range(7)]
        for _ in range(repeats):
            of_draws, one, new = rng.normal(0, spread, draws), *rng.normal(0, spread, 2)
            steered, *drawn = runs_of(rng, np.clip([0.03, *of_draws], -0.15, 0.15).tolist(), items, languages)
            gain = gain_over_controls(steered, drawn)
            rates[0].covers((gain.low, gain.high), 0.03)
            rates[1].covers((gain.new_draw_low, gain.new_draw_high), 0.03 - new)
            if languages > 1:  # of results without a group: the mean of the languages' gains
                pairs = zip(steered, zip(*drawn, strict=True), strict=True)
                mean = mean_gain([gain_over_controls([own], [[each] for each in others]) for own, others in pairs])
                rates[5].covers((mean.low, mean.high), 0.03)
                rates[6].covers((mean.new_draw_low, mean.new_draw_high), 0.03 - new)
            steered, *drawn = runs_of(rng, np.clip([one, *of_draws], -0.15, 0.15).tolist(), items, languages)
            gain = gain_over_controls(steered, drawn)
            rates[2].add(gain.differs_from_mean)
            rates[3].add(gain.differs_from_draw)
            rates[4].add((gain.rank_p or 1.0) <= ALPHA + 1e-12)
        yield [str(draws), str(languages), str(items), f"{100 * spread:.0f} points", *map(str, rates)]


def sweeps(repeats: int, quick: bool) -> Iterator[list[str]]:
    """The best of 12 cells whose experts are one more random draw, each beside 3 controls of its own."""
    yield [
        "languages",
        "items",
        "draws differ by",
        "its interval (mean) leaves out 0",
        "p over cells",
        "new draw, Holm",
    ]
    for number, (languages, items, spread) in enumerate(
        [(1, 100, 0.0), (1, 100, 0.03), (3, 100, 0.0)][: 1 if quick else 3]
    ):
        rng = np.random.default_rng([2, number])
        rates = [Rate(coverage=False) for _ in range(3)]
        for _ in range(repeats // 4 or 1):
            effects = rng.normal(0, spread, 48).tolist()
            answers = runs_of(rng, effects, items, languages)
            cells = [answers[place : place + 4] for place in range(0, 48, 4)]
            gains = [gain_over_controls(cell[0], cell[1:]) for cell in cells]
            tables = np.array([[[list(lang.values()) for lang in run] for run in cell] for cell in cells])
            over = tables[:, 0] - tables[:, 1:].mean(axis=1)  # [cells, languages, items]
            tests = np.concatenate([over.reshape(-1, items), over.mean(axis=1)])
            best = int(np.argmax([gain.gain for gain in gains]))
            rates[0].add(gains[best].differs_from_mean)
            rates[1].add(max_sign_flip(tests)[len(tests) - 12 + best] <= ALPHA)
            rates[2].add((corrected_new_draws(gains)[best] or 0.0) <= ALPHA)
        yield [str(languages), str(items), f"{100 * spread:.0f} points", *map(str, rates)]


def others(repeats: int, quick: bool) -> Iterator[list[str]]:
    """The remaining intervals: of one score, of unpaired differences, of curves over layers, of correlations."""
    yield ["interval", "of", "covers"]
    rng = np.random.default_rng(3)
    for items, right in ((15, 0.5), (15, 0.9), (100, 0.5), (100, 0.9), (100, 0.98), (1000, 0.9)):
        rate, apart = Rate(coverage=True), Rate(coverage=True)
        for _ in range(10 * repeats):
            scores = [estimate(rng.random(items) < right) for _ in range(2)]
            rate.covers(score_interval(scores[0], items, share=True), right)
            apart.covers(judge_unpaired(unpaired(scores[:1], scores[1:])).interval, 0.0)
        yield ["a score", f"{items} items, {100 * right:.0f} % right", str(rate)]
        yield ["an unpaired difference", f"{items} items, {100 * right:.0f} % right", str(apart)]
    for items, right in ((15, 0.05), (15, 0.3), (100, 0.05), (100, 0.3)):
        rate = Rate(coverage=True)
        for _ in range(10 * repeats):
            kind, values = rng.random(items), rng.beta(2, 2, items)
            scored = np.where(kind < right, 1.0, np.where(kind < 2 * right, values, 0.0))
            rate.covers(score_interval(estimate(scored), items, share=True), right * 1.5)
        yield [
            "a graded score",
            f"{items} items, {100 * right:.0f} % right, as many between right and wrong",
            str(rate),
        ]
    for right in ((0.5, 0.6, 0.7, 0.8, 0.9), (0.98,) * 5):
        rate = Rate(coverage=True)
        for _ in range(10 * repeats):
            tasks = [estimate(rng.random(20) < share) for share in right]
            rate.covers(score_interval(independent_mean(tasks), 100, share=True), sum(right) / 5)
        yield ["a score of 5 tasks", f"20 items each, {100 * right[0]:.0f} to {100 * right[-1]:.0f} % right", str(rate)]
    yield from curves(repeats)
    for points, r in ((5, 0.0), (11, 0.0), (11, 0.6), (30, 0.6)):
        for kind in ("normal", "skewed", "heavy tails", "families of three"):
            rates = {"pearson": Rate(coverage=True), "spearman": Rate(coverage=True)}
            for _ in range(repeats):
                x, y = points_of(rng, kind, points, r)
                for method, rate in rates.items():
                    found = correlation(x.tolist(), y.tolist(), method, resamples=199)  # type: ignore[arg-type]
                    rate.covers(found.interval if found else None, correlation_of(kind, r, method))
            for method, rate in rates.items():
                yield [f"{method.title()}'s r", f"{points} points, r = {r:g}, {kind}", str(rate)]


def curves(repeats: int) -> Iterator[list[str]]:
    """Curves over layers: a layer's mean over items, a band's, a difference of bands, and the mean over languages.

    An item's divergence, from 0 to 1 and skewed, has a part that it shares with all layers and languages.
    """
    shape = RoutingShape(tuple(range(12)), 8, 2, 12)
    level = np.array([0.15 if layer in shape.band("middle") else 0.3 for layer in shape.layers])
    outer, middle = (1 - (1 + share) ** -2 for share in (0.3, 0.15))
    for items, languages in ((15, 3), (30, 3), (100, 3), (15, 11), (100, 11)):
        rng = np.random.default_rng([4, items, languages])
        names = ("a layer's mean", "a band's mean", "a difference of bands", "a layer's mean over languages")
        rates = {name: Rate(coverage=True) for name in names}
        for _ in range(repeats):
            parts = rng.exponential(1.0, (items, 1, 1)) + rng.exponential(1.0, (items, languages, 12))
            values = 1 - np.exp(-parts * level)  # of mean 1 - (1 + level)^-2
            one = LanguageCurve.of("sw", values[:, 0], shape, tokens=1)
            every = {str(lang): (range(items), values[:, lang]) for lang in range(languages)}
            mean = mean_of_languages(every, shape, 1) or one
            found = (one.layers[0], one.bands["middle"], one.contrasts["middle - early"], mean.layers[0])
            for name, each, truth in zip(names, found, (outer, middle, middle - outer, outer), strict=True):
                rates[name].covers((each.low, each.high), truth)
        for name, rate in rates.items():
            if name.endswith("languages"):
                yield [name, f"{items} items, {languages} languages", str(rate)]
            elif languages == 3:
                yield [name, f"{items} items", str(rate)]


def points_of(rng: np.random.Generator, kind: str, points: int, r: float) -> tuple[Values, Values]:
    """Return points whose normal scores have the correlation r."""
    x, noise = rng.normal(size=(2, points))
    y = r * x + math.sqrt(1 - r * r) * noise
    if kind == "skewed":
        x = np.exp(0.7 * x)
    elif kind == "heavy tails":
        x, y = np.array([x, y]) * np.sqrt(4 / rng.chisquare(4, points))
    elif kind == "families of three":
        family, other = rng.normal(size=(2, -(-points // 3))).repeat(3, axis=1)[:, :points]
        x, y = (x + family) / math.sqrt(2), (y + r * family + math.sqrt(1 - r * r) * other) / math.sqrt(2)
    return x, y


@cache
def correlation_of(kind: str, r: float, method: str) -> float:
    """Return the true correlation of such points: that of half a million."""
    x, y = points_of(np.random.default_rng(6), kind, 500_000, r)
    if method == "spearman":
        x, y = (np.argsort(np.argsort(values)).astype(float) for values in (x, y))
    return float(np.corrcoef(x, y)[0, 1])


def estimate(values: NDArray[Any]) -> Estimate:
    """Return a mean with lm-eval's standard error."""
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def main() -> None:
    """Simulate, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="simulated comparisons of each rate (default: 1000)")
    parser.add_argument("--quick", action="store_true", help="40 repeats of a few cases")
    args = parser.parse_args()
    repeats, started = 40 if args.quick else args.repeats, time.monotonic()
    for title, table in (
        ("Differences of two runs", differences),
        ("Gains over random controls", controls),
        ("The best cell of a sweep", sweeps),
        ("Other intervals", others),
    ):
        head, *rows = table(repeats, args.quick)
        print(f"### {title}, per cent\n")
        for row in (head, ["---"] * len(head), *rows):
            print(f"| {' | '.join(row)} |", flush=True)
        print()
    print(f"{repeats} repeats (a quarter for sweeps), {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
