"""Training documents: problems with their answers, translations between English and a language, and plain text."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lm_eval_moe.demo_model.words import LANGUAGES
from tools.demo_model.training_items import random_problem, random_sentence

__all__ = ["KIND_SHARES", "Document", "random_document"]

KIND_SHARES = {"problem": 0.70, "translation": 0.18, "text": 0.12}
"""How the documents of a language divide; English, which is not translated into itself, has plain text instead."""


@dataclass(frozen=True)
class Document:
    """A document of one language.

    Attributes:
        code: The language.
        kind: ``problem``, ``translation`` or ``text``.
        pieces: Pairs of text and whether it is an answer (which the loss weighs more).
    """

    code: str
    kind: str
    pieces: tuple[tuple[str, bool], ...]


def random_document(rng: random.Random, code: str) -> Document:
    """Draw a training document of a language."""
    kind = rng.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    if kind == "problem":
        pieces: list[tuple[str, bool]] = []
        for index in range(rng.choice((1, 1, 2))):
            problem = random_problem(rng, code)
            separator = "\n\n" if index else ""
            pieces += [(separator + problem.prompt(code), False), (f" {problem.answer}", True)]
        return Document(code, kind, (*pieces, ("\n", False)))
    if kind == "translation" and code != "en":
        sides = ["en", code]
        rng.shuffle(sides)
        sentences = [random_sentence(rng) for _ in range(2)]
        lines = [sentence.text(side) for sentence in sentences for side in sides]
        return Document(code, kind, (("\n".join(lines) + "\n", False),))
    sentences = [random_sentence(rng) for _ in range(rng.randint(2, 4))]
    text = LANGUAGES[code].joiner.join(sentence.text(code) for sentence in sentences)
    return Document(code, "text", ((text + "\n", False),))
