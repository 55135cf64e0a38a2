"""The sentences that the proofs run on: several scripts, and lengths that differ so that batches are padded."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SENTENCES", "Sentence"]


class Sentence(NamedTuple):
    """A sentence, split into what a task would ask and what it would score."""

    language: str
    context: str
    continuation: str


SENTENCES = (
    Sentence("en", "The ferry to the island leaves", " twice a day, once at dawn."),
    Sentence("sw", "Mwalimu aliwaambia wanafunzi", " wasome kitabu kizima kabla ya mtihani wa mwisho."),
    Sentence("ru", "Если поезд опоздает,", " мы поедем на автобусе."),
    Sentence("zh", "这家书店", "每天营业到晚上九点。"),
    Sentence("hi", "बारिश रुकते ही", " बच्चे खेलने निकले।"),
    Sentence("ar", "كم كتابا بقي", " على الرف؟"),
    Sentence("de", "Wer zu spät kommt, muss vor der verschlossenen Tür warten,", " bis jemand aufmacht."),
    Sentence("ko", "열두 개", " 중 세 개."),
)
