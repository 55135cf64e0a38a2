"""Which task is in which language, and which item of one language is which item of another.

The knowledge lies in ``tasks.yaml`` beside this file; users add files of the same schema (``--parallel FILE``), and a
task can say it of itself in its own YAML (``metadata: {routing: {language, benchmark, item}}``).
"""

from __future__ import annotations

from lm_eval_moe.pairing.entries import TaskEntry, load_entries
from lm_eval_moe.pairing.registry import BUNDLED_FILE, PairingRegistry
from lm_eval_moe.pairing.task_pairing import TaskPairing

__all__ = ["BUNDLED_FILE", "PairingRegistry", "TaskEntry", "TaskPairing", "load_entries"]
