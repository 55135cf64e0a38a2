"""Which documents of a task a run evaluated: two runs of as many documents need not be of the same ones."""

from __future__ import annotations

from lm_eval_moe.results.run import Run

__all__ = ["evaluated_documents", "unrecorded_choice"]


def evaluated_documents(run: Run, task: str) -> str | None:
    """Return the hash of the documents that a run evaluated; None where it recorded none.

    lm-eval 0.4.13 writes down nothing of ``--samples``: its own results say how many documents there were, and which
    only in a samples log.
    """
    return run.task_routing(task).document_hash or None


def unrecorded_choice(run: Run, task: str) -> bool:
    """Whether a run evaluated chosen documents (``--samples``) and nothing says which.

    Then fewer documents than the task has were evaluated, though there was no limit.
    """
    raw = run.part(task)
    counts = (raw.get("n-samples") or {}).get(task) or {}
    effective, original = counts.get("effective"), counts.get("original")
    if not effective or not original or effective >= original or (raw.get("config") or {}).get("limit") is not None:
        return False
    return evaluated_documents(run, task) is None and run.samples_of(task) is None
