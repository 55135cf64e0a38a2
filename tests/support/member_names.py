"""What lm-eval calls the members of a group: ``demo_arith_sw`` in 0.4, ``demo_arith::demo_arith_sw`` from 0.5 on."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["NAMED_BY_GROUP", "member_of"]

NAMED_BY_GROUP = not version("lm_eval").startswith("0.4.")


def member_of(group: str, task: str) -> str:
    """Return the name in the results of a task that is run as a member of a group."""
    return f"{group}::{task}" if NAMED_BY_GROUP else task
