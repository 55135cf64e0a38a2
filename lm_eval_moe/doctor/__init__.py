"""Prove on the user's own model that its routing is captured and steered as said."""

from __future__ import annotations

from lm_eval_moe.doctor.anatomy import Anatomy, anatomy_of
from lm_eval_moe.doctor.examination import Examination, examine, planned_runs
from lm_eval_moe.doctor.finding import Proof, ProofOutcome, proof
from lm_eval_moe.doctor.text import render_text

__all__ = [
    "Anatomy",
    "Examination",
    "Proof",
    "ProofOutcome",
    "anatomy_of",
    "examine",
    "planned_runs",
    "proof",
    "render_text",
]
