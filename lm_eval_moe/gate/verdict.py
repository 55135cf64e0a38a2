"""What the gate found: a line for every score and drift, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lm_eval_moe.gate.evidence import NamedSide

if TYPE_CHECKING:
    from lm_eval_moe.gate.flips import Flips

__all__ = ["Effect", "Status", "Verdict", "VerdictLine"]

Status = Literal["held", "inconclusive", "regression", "drifted", "allowed", "unjudged"]
Effect = Literal["pass", "warn", "fail", "unjudged"]
Kind = Literal["language", "task", "macro", "drift"]

SCHEMA_VERSION = 1
_OUTCOMES = {0: "passed", 1: "regression", 2: "cannot be judged"}


@dataclass(frozen=True)
class VerdictLine:
    """One score or drift.

    Attributes:
        kind: What it is about.
        benchmark: The benchmark.
        language: The language; None for an average and for a task without one.
        status: What was found.
        effect: What that does to the gate.
        sentence: The same in words.
        items: How many items it rests on; for an average all languages' together.
        before: The baseline's score.
        after: The candidate's.
        drop: How much worse the candidate is; negative where it is better.
        upper: The upper confidence bound of the drop.
        margin: How much it may fall.
        p: One-sided, of this test alone.
        adjusted_p: The same, corrected for all tests of the gate.
        beyond_chance: Whether the drop is beyond chance by ``adjusted_p``, whatever the margin is.
        method: How p was found.
        is_share: Whether the score is a share of items.
        drift: Mean divergence by band.
        limits: The largest allowed, by band.
    """

    kind: Kind
    benchmark: str
    language: str | None
    status: Status
    effect: Effect
    sentence: str
    items: int = 0
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    upper: float | None = None
    margin: float | None = None
    p: float | None = None
    adjusted_p: float | None = None
    beyond_chance: bool = False
    method: str | None = None
    is_share: bool = False
    drift: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the line is called within its benchmark."""
        if self.kind == "macro":
            return "macro"
        if self.kind == "drift":
            return f"routing drift {self.language}" if self.language else "drift"
        return self.language or "score"

    @property
    def result(self) -> str:
        """Its status in words."""
        return "cannot judge" if self.status == "unjudged" else self.status

    @property
    def is_tolerated(self) -> bool:
        """Whether the score fell beyond chance and passes all the same, since its margin allows it."""
        return self.beyond_chance and self.effect == "pass" and self.status != "allowed"

    def to_dict(self) -> dict[str, Any]:
        """Return the line, JSON-ready."""
        fields = {name: value for name, value in vars(self).items() if name not in ("drift", "limits", "is_share")}
        return fields | ({"drift": dict(self.drift), "limits": dict(self.limits)} if self.kind == "drift" else {})


@dataclass(frozen=True)
class Verdict:
    """All lines.

    Attributes:
        policy: The policy's name.
        baseline: The baseline.
        candidate: The candidate.
        alpha: The family-wise level.
        correction: How it is kept.
        tests: How many tests there are in the family.
        lines: One for every score and drift.
        notes: What else to know: expired allowances, tasks that nothing was compared with.
        flips: The items whose score changed, where they were asked for.
    """

    policy: str
    baseline: NamedSide
    candidate: NamedSide
    alpha: float
    correction: str
    tests: int
    lines: tuple[VerdictLine, ...]
    notes: tuple[str, ...] = ()
    flips: tuple[Flips, ...] = ()

    def having(self, effect: Effect) -> tuple[VerdictLine, ...]:
        """Return the lines of one effect."""
        return tuple(line for line in self.lines if line.effect == effect)

    @property
    def exit_code(self) -> int:
        """0: passed; 1: a regression or drift; 2: something cannot be judged, and nothing regressed."""
        if self.having("fail"):
            return 1
        return 2 if self.having("unjudged") or not self.lines else 0

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        return _OUTCOMES[self.exit_code]

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        failed, warned, unjudged = (self.having(effect) for effect in ("fail", "warn", "unjudged"))
        tolerated = sum(line.is_tolerated for line in self.lines)
        counts = [
            f"{len(failed)} failed" if failed else "",
            f"{len(unjudged)} cannot be judged" if unjudged else "",
            f"{len(warned)} to look at" if warned else "",
            f"{tolerated} fell beyond chance, by no more than the margin" if tolerated else "",
        ]
        rest = ", ".join(count for count in counts if count)
        checks = f"{len(self.lines)} check{'' if len(self.lines) == 1 else 's'}"
        return f"Gate: {self.outcome}. {checks}{': ' + rest if rest else ', none failed'}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        return {
            "schema_version": SCHEMA_VERSION,
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            **vars(self),
            "baseline": self.baseline.label,
            "candidate": self.candidate.label,
            "runs": {name: asdict(side) for name, side in (("baseline", self.baseline), ("candidate", self.candidate))},
            "lines": [line.to_dict() for line in self.lines],
            "notes": list(self.notes),
            "flips": [flips.to_dict() for flips in self.flips],
        }
