"""What a proof finds, and the table of all proofs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lm_eval_moe.discovery import Registry
from lm_eval_moe.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["Outcome", "Proof", "ProofOutcome", "all_proofs", "proof"]

Outcome = Literal["pass", "fail", "not proven", "not applicable"]


@dataclass(frozen=True)
class ProofOutcome:
    """The outcome of one proof on one model.

    Attributes:
        outcome: Whether what was to be shown holds; "not proven" where nothing could be observed that would tell.
        summary: One line that says what was seen.
        advice: What to do where it does not hold.
        layers: By decoder layer, what was seen there; JSON-ready.
        details: What was seen besides that; JSON-ready.
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
        examine: Shows it, or not.
        looks_at: What it needs to see: the model's torch modules, or only what every `RoutedModel` answers and records.
        needs: Proofs, by name, without which it proves nothing: what it takes for granted, they hold against the model.
        if_missing: What a proof that needs this one does where this one does not hold.
        shares: Entries of a layer in `ProofOutcome.layers` that are shares of tokens, with their headings.
        table: The title of the table that shows them.
        runs: How many runs of the model it makes besides those that several share, for the bar of progress.
        runs_per_layer: The same for every layer that routes.
    """

    name: str
    title: str
    observes: str
    order: int
    examine: Callable[[Runs], ProofOutcome]
    looks_at: Literal["modules", "model"] = "model"
    needs: tuple[str, ...] = ()
    if_missing: str = "depends on another proof, which does not hold"
    shares: Mapping[str, str] = field(default_factory=dict)
    table: str = ""
    runs: int = 0
    runs_per_layer: int = 0


_PROOFS: Registry[Proof] = Registry("proof")


def proof(
    name: str, title: str, *, observes: str, order: int, **declared: Any
) -> Callable[[Callable[[Runs], ProofOutcome]], Callable[[Runs], ProofOutcome]]:
    """Enter a function into the table of proofs; see `Proof` for what is ``declared``."""

    def register(examine: Callable[[Runs], ProofOutcome]) -> Callable[[Runs], ProofOutcome]:
        _PROOFS.add(name, Proof(name, title, observes, order, examine, **declared), examine)
        return examine

    return register


def all_proofs() -> tuple[Proof, ...]:
    """Return every proof, in order.

    Raises:
        UserError: A proof needs one that there is not.
    """
    for entry in _PROOFS.values():
        for needed in entry.needs:
            if needed not in _PROOFS:
                raise UserError(
                    f"the proof {entry.name!r} needs {needed!r}, which does not exist{did_you_mean(needed, _PROOFS)}",
                    fix=f"the proofs are {', '.join(_PROOFS)}",
                )
    return tuple(sorted(_PROOFS.values(), key=lambda entry: entry.order))
