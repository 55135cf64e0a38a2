"""What a rule compares, for every expert and not only the chosen ones: what a heat map shows."""

from __future__ import annotations

from dataclasses import replace

from lm_eval_moe.experts.selection import Found, said_already
from lm_eval_moe.steering.resolve import scope_of
from lm_eval_moe.steering.selectors import Compared

__all__ = ["Compared", "compared"]


def compared(found: Found, index: int) -> Compared | None:
    """Return what an intervention's rule compares, over all MoE layers; None where it compares nothing.

    For a random control it is the rule that the control matches.
    """
    scope = replace(scope_of(index, found.spec, found.store.reusing()), layers=found.plan.shape.layers)
    with said_already():
        return found.rules[index].rule.compare(scope)
