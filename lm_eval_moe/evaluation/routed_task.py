"""What a session learns of the tasks of its evaluation: their languages, their documents and how these pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from lm_eval_moe.capture import RequestKey
from lm_eval_moe.evaluation.leak import document_texts, main_fields
from lm_eval_moe.evaluation.paired_items import gold_answer
from lm_eval_moe.evaluation.session import RoutingSession
from lm_eval_moe.harness.documents import TaskDocument, watched_task
from lm_eval_moe.harness.requests import prompt_of

__all__ = ["routed"]


@contextmanager
def routed(tasks: Mapping[str, Any], session: RoutingSession) -> Iterator[None]:
    """Let a session learn of tasks as lm-eval makes their requests.

    Args:
        tasks: The loaded tasks, by the names that they have in the results.
        session: The evaluation's routing.
    """
    with ExitStack() as stack:
        for name, task in tasks.items():
            session.add_task(name, task.get_config("metadata"))
            stack.enter_context(watched_task(task, name, partial(_learn, session, name, task)))
        yield


def _learn(session: RoutingSession, name: str, task: Any, documents: Sequence[TaskDocument]) -> None:
    session.check_span(name, {instance.request_type for instance in task.instances})
    fields = main_fields(task.eval_docs)
    for document in documents:
        doc, request = document.doc, document.request
        keys = [RequestKey(name, document.doc_id, request.idx, repeat) for repeat in range(request.repeats or 1)]
        answer = partial(gold_answer, task, doc)
        texts = partial(document_texts, task, doc, prompt_of(request), fields)
        session.add_item(name, document.doc_id, doc, document.row, keys, answer, texts)
    session.check_pairing(name)
    session.check_leak(name)
    session.built(name)
