"""What stored things depend on: answers, sweeps, profiles and results carry it, and are reused only where it agrees.

Needs neither torch nor lm-eval: who has a model or tasks describes them (`backends`, `evaluation.identity`).
"""

from __future__ import annotations

from lm_eval_moe.identity.agreement import check_agreement
from lm_eval_moe.identity.identity import Identity, PartDifference
from lm_eval_moe.identity.parts import PARTS
from lm_eval_moe.identity.settings import setting_differences
from lm_eval_moe.identity.uses import (
    ANSWER,
    ANSWERED_REFERENCE,
    CONTINUATION,
    DRIFT,
    MERGING,
    REFERENCE,
    ROW,
    SELECTION,
    Use,
)

__all__ = [
    "ANSWER",
    "ANSWERED_REFERENCE",
    "CONTINUATION",
    "DRIFT",
    "MERGING",
    "PARTS",
    "REFERENCE",
    "ROW",
    "SELECTION",
    "Identity",
    "PartDifference",
    "Use",
    "check_agreement",
    "setting_differences",
]
