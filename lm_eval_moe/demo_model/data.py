"""Parallel arithmetic problems and plain sentences in eight languages, made by code and split by hash.

An item is a tuple of indices into the word lists, so it exists in every language with the same ``item_id``, the same
numbers and the same answer. The split of an item depends on its id alone and is therefore the same in every language.
What the model was trained on is drawn from the same items, by ``tools/demo_model`` in the repository.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

from lm_eval_moe.demo_model.words import LANGUAGES, SMALLEST_NUMBER, Language

__all__ = [
    "KINDS",
    "NUMBERS",
    "SENTENCE_KINDS",
    "Problem",
    "Sentence",
    "Split",
    "choices",
    "draw_problem",
    "draw_sentence",
    "evaluation_problems",
    "evaluation_sentences",
    "fraction",
    "number_pairs",
]

Split = Literal["train", "development", "evaluation"]

KINDS = ("total", "left", "more")
SENTENCE_KINDS = ("does", "both", "colour", "weather", "where")
NUMBERS = range(SMALLEST_NUMBER, SMALLEST_NUMBER + 11)

_NAMES, _THINGS, _PLACES, _DAYS, _ACTIVITIES, _COLOURS, _WEATHER = 10, 8, 8, 7, 8, 6, 4
_OPTIONS = 4


def fraction(key: str) -> float:
    """Return a number in [0, 1) that depends on ``key`` alone, on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def _split_of(key: str) -> Split:
    position = fraction(f"held out/{key}")
    if position < 0.04:
        return "evaluation"
    return "development" if position < 0.08 else "train"


def _counted(language: Language, thing: int, number: int) -> str:
    """Return a numeral with its noun: ``five bananas``, ``две ручки``, ``三根香蕉``."""
    forms = language.things[thing]
    word = forms["two"] if number == 2 and "two" in forms else language.numbers[number - SMALLEST_NUMBER]
    noun = forms["few"] if number <= 4 and "few" in forms else forms["many"]
    return language.counted.format(number=word, noun=noun, measure=forms.get("measure", ""))


def _name_fields(language: Language, **people: int) -> dict[str, str]:
    """Return ``a``, ``a_gen``, ... for each person and case."""
    fields = {}
    for role, index in people.items():
        for case, forms in language.names.items():
            fields[role if case == "nom" else f"{role}_{case}"] = forms[index]
    return fields


@dataclass(frozen=True)
class Problem:
    """An arithmetic problem in no language: who, what, how many.

    Attributes:
        kind: ``total`` (n + m), ``left`` (n gives m away) or ``more`` (n compared with m).
        a: The first person, an index.
        b: The second person, an index.
        thing: The countable noun, an index.
        n: The first number.
        m: The second number.
    """

    kind: str
    a: int
    b: int
    thing: int
    n: int
    m: int

    @property
    def item_id(self) -> str:
        """The parallel key, the same in every language."""
        return f"{self.kind}-{self.a}{self.b}{self.thing}-{self.n}-{self.m}"

    @property
    def answer(self) -> int:
        """The number asked for."""
        return self.n + self.m if self.kind == "total" else self.n - self.m

    @property
    def split(self) -> Split:
        """The split this item belongs to in every language."""
        return _split_of(self.item_id)

    def text(self, code: str) -> str:
        """Return the problem in a language, without the answer."""
        language = LANGUAGES[code]
        fields = _name_fields(language, a=self.a, b=self.b) | language.things[self.thing]
        fields |= {"n": _counted(language, self.thing, self.n), "m": _counted(language, self.thing, self.m)}
        return language.problems[self.kind].format(**fields)

    def prompt(self, code: str) -> str:
        """Return the problem with the line that the answer completes."""
        return f"{self.text(code)}\n{LANGUAGES[code].answer}"


@dataclass(frozen=True)
class Sentence:
    """A plain sentence in no language.

    Attributes:
        kind: One of ``SENTENCE_KINDS``, or ``has`` (a number of things, in training only).
        values: Indices into the word lists, in the order of the kind.
    """

    kind: str
    values: tuple[int, ...]

    @property
    def item_id(self) -> str:
        """The parallel key, the same in every language."""
        return "-".join([self.kind, *map(str, self.values)])

    @property
    def split(self) -> Split:
        """The split this sentence belongs to in every language."""
        return _split_of(self.item_id)

    def text(self, code: str) -> str:
        """Return the sentence in a language."""
        language = LANGUAGES[code]
        v = self.values
        fields: dict[str, str] = {}
        if self.kind == "has":
            fields = _name_fields(language, a=v[0]) | {"n": _counted(language, v[1], v[2])}
        elif self.kind == "does":
            activity = {form: words[v[2]] for form, words in language.activities.items()}
            if "f" in activity and language.female[v[0]]:
                activity["verb"] = activity["f"]
            fields = _name_fields(language, a=v[0]) | activity
            fields |= {"on": language.days["on"][v[1]], "at": language.places["at"][v[3]]}
        elif self.kind == "both":
            fields = _name_fields(language, a=v[0], b=v[1]) | {"at": language.places["at"][v[2]]}
            # Spanish "y" becomes "e" before the sound of i.
            fields["and_"] = "e" if fields["b"].startswith("I") else "y"
        elif self.kind == "colour":
            fields = _name_fields(language, a=v[0]) | {"colour": language.colours[v[1]]}
        elif self.kind == "weather":
            fields = {"day": language.days["noun"][v[0]], "weather": language.weather[v[1]]}
        else:
            fields = _name_fields(language, a=v[0], b=v[1]) | {"is_": language.places["is"][v[2]]}
            fields["asks"] = "पूछ रही है" if language.female[v[0]] else "पूछ रहा है"
        return language.sentences[self.kind].format(**fields)


@cache
def number_pairs(kind: str) -> dict[int, tuple[tuple[int, int], ...]]:
    """Return the number pairs of a kind of problem by their answer."""
    pairs: dict[int, list[tuple[int, int]]] = {}
    for n, m in itertools.product(NUMBERS, NUMBERS):
        answer = n + m if kind == "total" else n - m
        if answer > 0:
            pairs.setdefault(answer, []).append((n, m))
    return {answer: tuple(pairs[answer]) for answer in sorted(pairs)}


def _draw_two_names(rng: random.Random) -> tuple[int, int]:
    a, b = rng.sample(range(_NAMES), 2)
    return a, b


def draw_problem(rng: random.Random, kind: str, n: int, m: int) -> Problem:
    """Draw the people and the thing of a problem, of whichever split."""
    return Problem(kind, *_draw_two_names(rng), rng.randrange(_THINGS), n, m)


def draw_sentence(rng: random.Random, kind: str) -> Sentence:
    """Draw a plain sentence of a kind, of whichever split."""
    if kind == "has":
        return Sentence(kind, (rng.randrange(_NAMES), rng.randrange(_THINGS), rng.choice(NUMBERS)))
    if kind == "does":
        return Sentence(kind, tuple(map(rng.randrange, (_NAMES, _DAYS, _ACTIVITIES, _PLACES))))
    if kind in ("both", "where"):
        return Sentence(kind, (*_draw_two_names(rng), rng.randrange(_PLACES)))
    if kind == "colour":
        return Sentence(kind, (rng.randrange(_NAMES), rng.randrange(_COLOURS)))
    return Sentence(kind, (rng.randrange(_DAYS), rng.randrange(_WEATHER)))


def choices(problem: Problem, rank: int) -> tuple[int, ...]:
    """Return four consecutive numbers of which the answer is the ``rank``-th (from 0)."""
    start = problem.answer - rank
    return tuple(range(start, start + _OPTIONS))


def evaluation_problems(split: Split = "evaluation", per_kind: int = 60) -> tuple[tuple[Problem, tuple[int, ...]], ...]:
    """Return the problems of a split, each with its four options.

    The window of options is drawn first and the answer's rank in it runs through 0..3, so that neither the options nor
    the frequency of a number says which option is right: a guess that does not read the problem gets a quarter.

    Args:
        split: ``evaluation`` (never looked at while the recipe was made) or ``development``.
        per_kind: Problems of each of the three kinds.
    """
    by_kind: list[list[tuple[Problem, tuple[int, ...]]]] = []
    for kind in KINDS:
        rng = random.Random(f"{split}/{kind}")
        pairs = number_pairs(kind)
        items: dict[str, tuple[Problem, tuple[int, ...]]] = {}
        while len(items) < per_kind:
            rank = len(items) % _OPTIONS
            start = rng.randint(min(pairs), max(pairs) - _OPTIONS + 1)
            n, m = rng.choice(pairs[start + rank])
            # Few pairs make some answers: names and things are drawn again until the item is new and lies in the split.
            while True:
                problem = draw_problem(rng, kind, n, m)
                if problem.split == split and problem.item_id not in items:
                    break
            items[problem.item_id] = (problem, choices(problem, rank))
        by_kind.append(list(items.values()))
    # The kinds take turns, so that the first few items are of all kinds.
    return tuple(item for turn in zip(*by_kind, strict=True) for item in turn)


def evaluation_sentences(split: Split = "evaluation", count: int = 100) -> tuple[Sentence, ...]:
    """Return distinct plain sentences of a split, of the kinds that have enough of them to hold some out."""
    rng = random.Random(f"{split}/sentences")
    sentences: dict[str, Sentence] = {}
    while len(sentences) < count:
        sentence = draw_sentence(rng, rng.choice(("does", "does", "both", "where")))
        if sentence.split == split:
            sentences[sentence.item_id] = sentence
    return tuple(sentences.values())
