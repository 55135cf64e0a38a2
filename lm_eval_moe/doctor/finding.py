"""What a proof finds, and the table of all proofs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["Finding", "Outcome", "Proof", "all_proofs", "proof"]

Outcome = Literal["pass", "fail", "not proven", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one proof on one model.

    Attributes:
        outcome: Whether what was to be shown holds; "not proven" where nothing could be observed that would tell.
        summary: One line that says what was seen.
        advice: What to do where it does not hold.
        layers: By decoder layer, what was seen there; JSON-ready.
        details: What was seen beside that; JSON-ready.
        notes: What a user of a model that passes should still know.
    """

    outcome: Outcome
    summary: str
    advice: str | None = None
    layers: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """Something to be shown of a model.

    Attributes:
        name: Its name in JSON.
        title: What is to be shown, in a few words.
        observes: What it observes that neither the adapter nor the record says.
        order: Where it stands among the others.
        of_selection: Whether it takes the adapter's word for the selection, which another proof holds against the
            experts: without that proof, it proves nothing.
        examine: Shows it, or not.
    """

    name: str
    title: str
    observes: str
    order: int
    of_selection: bool
    examine: Callable[[Runs], Finding]


_PROOFS: dict[str, Proof] = {}


def proof(
    name: str, title: str, *, observes: str, order: int, of_selection: bool = False
) -> Callable[[Callable[[Runs], Finding]], Callable[[Runs], Finding]]:
    """Enter a function into the table of proofs; see `Proof`."""

    def register(examine: Callable[[Runs], Finding]) -> Callable[[Runs], Finding]:
        _PROOFS[name] = Proof(name, title, observes, order, of_selection, examine)
        return examine

    return register


def all_proofs() -> tuple[Proof, ...]:
    """Return every proof, in order."""
    from lm_eval_moe.doctor import proofs as proofs  # its modules enter themselves

    return tuple(sorted(_PROOFS.values(), key=lambda entry: entry.order))
