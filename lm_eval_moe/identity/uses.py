"""What each stored thing needs of an identity: the parts that must agree, and those that only last bits hang on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lm_eval_moe.identity.parts import PARTS

__all__ = ["ANSWER", "ANSWERED_REFERENCE", "CONTINUATION", "DRIFT", "MERGING", "REFERENCE", "ROW", "SELECTION", "Use"]


@dataclass(frozen=True)
class Use:
    """The reuse of a stored thing.

    Attributes:
        what: What is reused, for messages.
        needs: Parts or groups of parts that must be the same.
        heeds: Parts or groups whose difference is said, and does not forbid the reuse: it is then equal up to rounding,
            or up to what versions changed.
    """

    what: str
    needs: tuple[str, ...]
    heeds: tuple[str, ...] = ()

    def needed(self) -> tuple[str, ...]:
        """Return the names of the parts that must be the same."""
        return tuple(_expanded(self.needs))

    def heeded(self) -> tuple[str, ...]:
        """Return the names of the parts whose difference is said."""
        return tuple(_expanded(self.heeds))


def _expanded(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        members = [part for part in PARTS if part == name or part.startswith(f"{name}.")]
        if not members:
            raise ValueError(f"there is no part or group {name!r} of an identity")
        yield from members


_READING = (
    "prompts.tokenizer",
    "prompts.special_tokens",
    "prompts.max_length",
    "prompts.truncation",
    "prompts.thinking",
)
_PROMPTING = (*_READING, "prompts.chat_template", "prompts.system_instruction", "prompts.multiturn")

ANSWER = Use(
    "an answer of the response cache",
    # The prompt itself is in the request's key; seeds are, where the answer is drawn at random.
    ("model", *_READING, "prompts.seeds", "steering", "capture", "computation", "versions"),
)
REFERENCE = Use(
    "the reference items of a profile",
    ("model", *_PROMPTING, "prompts.fewshot_seed", "task.fewshot", "capture.span"),
    ("computation", "versions"),
)
ANSWERED_REFERENCE = Use(
    "the reference items of a profile, if it holds what was generated",
    (*REFERENCE.needs, "prompts.generation", "prompts.seeds", "task.generation"),
    REFERENCE.heeds,
)
CONTINUATION = Use(
    "what an interrupted command left",
    ("model", "prompts", "task", "steering", "capture", "versions"),
    ("computation",),
)
MERGING = Use(
    "the items of several profiles",
    ("model", *_PROMPTING, "prompts.fewshot_seed", "steering", "capture.span"),
    ("task", "computation", "versions"),
)
DRIFT = Use(
    "the profile of a run",
    ("model", "prompts", "task", "steering", "capture.span"),
    ("computation", "versions"),
)
ROW = Use(
    "an older result of the same run",
    ("model", "prompts", "steering", "capture.span"),
)
SELECTION = Use(
    "experts that were selected on a profile",
    ("model.weights", "model.config", "model.peft", "model.delta"),
)
