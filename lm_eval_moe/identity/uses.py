"""What each stored thing needs of an identity: the parts that must agree, and those that only last bits hang on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lm_eval_moe.identity.backends import BACKEND
from lm_eval_moe.identity.parts import PARTS

__all__ = ["ANSWER", "ANSWERED_REFERENCE", "CONTINUATION", "DRIFT", "MERGING", "REFERENCE", "ROW", "SELECTION", "Use"]


@dataclass(frozen=True)
class Use:
    """The reuse of a stored thing.

    Attributes:
        needs: Parts or groups of parts that must be the same.
        heeds: Parts or groups whose difference is said, and does not forbid the reuse: it is then equal up to rounding,
            or up to what versions changed.
    """

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


_READING = tuple(f"prompts.{name}" for name in ("tokenizer", "special_tokens", "max_length", "truncation", "thinking"))
_PROMPTING = (*_READING, "prompts.chat_template", "prompts.system_instruction", "prompts.multiturn")

_MODEL = tuple(part for part in PARTS if part.startswith("model.") and part != BACKEND)

# An answer of the response cache. The prompt itself is in the request's key; seeds are, where the answer is random.
ANSWER = Use(("model", *_READING, "prompts.seeds", "steering", "capture", "computation", "versions"))
# The reference items of a profile.
REFERENCE = Use(
    (*_MODEL, *_PROMPTING, "prompts.fewshot_seed", "task.fewshot", "capture.span"), (BACKEND, "computation", "versions")
)
# The reference items of a profile, if it holds what was generated.
ANSWERED_REFERENCE = Use((*REFERENCE.needs, "prompts.generation", "prompts.seeds", "task.generation"), REFERENCE.heeds)
# What an interrupted command left.
CONTINUATION = Use(("model", "prompts", "task", "steering", "capture", "versions"), ("computation",))
# The items of several profiles.
MERGING = Use(
    ("model", *_PROMPTING, "prompts.fewshot_seed", "steering", "capture.span"), ("task", "computation", "versions")
)
# The profile of a run.
DRIFT = Use(("model", "prompts", "task", "steering", "capture.span"), ("computation", "versions"))
# An older result of the same run.
ROW = Use(("model", "prompts", "steering", "capture.span"))
# Experts that were selected on a profile.
SELECTION = Use(("model.weights", "model.config", "model.peft", "model.delta"), (BACKEND,))
