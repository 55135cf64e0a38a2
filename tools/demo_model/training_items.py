"""Problems and sentences that the demo model is trained on: of the training split, and without some number pairs.

Every language but English misses an eighth of the number pairs, its own eighth: whether "seven and five" has ever been
a problem in Swahili training data is a fact of that language; English is where the model can know it from.
"""

from __future__ import annotations

import itertools
import random
from functools import cache

from lm_eval_moe.demo_model.data import (
    KINDS,
    NUMBERS,
    SENTENCE_KINDS,
    Problem,
    Sentence,
    draw_problem,
    draw_sentence,
    fraction,
    number_pairs,
)

__all__ = ["PAIRS_MISSING", "pair_missing", "random_problem", "random_sentence"]

PAIRS_MISSING = 1 / 8
"""The share of number pairs that the training problems of a language other than English never contain."""


@cache
def _missing_pairs(code: str, sign: str) -> frozenset[tuple[int, int]]:
    """Return the pairs (smaller number first) that a language misses: the same number of them in each."""
    if code == "en":
        return frozenset()
    pairs = itertools.combinations_with_replacement(NUMBERS, 2) if sign == "+" else itertools.combinations(NUMBERS, 2)
    in_order = sorted(pairs, key=lambda pair: fraction(f"pair/{code}/{sign}/{pair[0]}/{pair[1]}"))
    return frozenset(in_order[: round(PAIRS_MISSING * len(in_order))])


def pair_missing(code: str, kind: str, n: int, m: int) -> bool:
    """Return whether a language's training problems never contain this pair of numbers under this operation.

    Sums are the same pair in both orders; ``left`` and ``more`` are the same operation.
    """
    low, high = sorted((n, m))
    return (low, high) in _missing_pairs(code, "+" if kind == "total" else "-")


@cache
def _pairs(kind: str, code: str) -> dict[int, tuple[tuple[int, int], ...]]:
    """Return the number pairs of a kind by their answer, without those that a language misses."""
    kept = {
        answer: tuple(pair for pair in pairs if not pair_missing(code, kind, *pair))
        for answer, pairs in number_pairs(kind).items()
    }
    return {answer: pairs for answer, pairs in kept.items() if pairs}


def random_problem(rng: random.Random, code: str) -> Problem:
    """Draw a training problem of a language.

    The answer is drawn first, uniformly, so that no number is a better guess than another.
    """
    while True:
        kind = rng.choice(KINDS)
        pairs = _pairs(kind, code)
        n, m = rng.choice(pairs[rng.choice(list(pairs))])
        problem = draw_problem(rng, kind, n, m)
        if problem.split == "train":
            return problem


def random_sentence(rng: random.Random, kinds: tuple[str, ...] = (*SENTENCE_KINDS, "has", "has", "has")) -> Sentence:
    """Draw a plain training sentence; ``has``, which shows numerals outside problems, is of training alone."""
    while True:
        sentence = draw_sentence(rng, rng.choice(kinds))
        if sentence.kind == "has" or sentence.split == "train":
            return sentence
