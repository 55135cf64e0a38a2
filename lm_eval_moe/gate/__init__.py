"""The regression gate: a candidate's scores and routing against a stored baseline's, as a policy says. No torch."""

from __future__ import annotations

from lm_eval_moe.gate.check import SideFiles, check
from lm_eval_moe.gate.judge import judge
from lm_eval_moe.gate.policy import Policy, load_policy, parse_policy
from lm_eval_moe.gate.verdict import Verdict, VerdictLine

__all__ = ["Policy", "SideFiles", "Verdict", "VerdictLine", "check", "judge", "load_policy", "parse_policy"]
