"""Were experts selected on the very items that they are evaluated on? Then a gain says nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.evaluation.items import ItemKey
from lm_eval_moe.pairing.data_sets import data_item
from lm_eval_moe.steering.selected_on import SelectedOn, selected_on
from lm_eval_moe.text_hash import text_hash

if TYPE_CHECKING:
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["document_texts", "leak_error", "main_fields", "selected_by", "selection_of"]

_SHOWN = 3
_LOOKED_AT = 64


def selection_of(plan: SteeringPlan | None) -> SelectedOn:
    """Return the items that a plan's experts were selected on, by data set and key there.

    Warns of profiles that do not say which items they counted.

    Raises:
        UserError: A profile cannot be read.
    """
    if plan is None:
        return SelectedOn({}, {}, ())
    selection = selected_on(plan)
    for source in selection.unknown:
        warnings.warn(
            f"{source} does not say which items were counted, so it cannot be checked whether experts were selected on "
            "items of this run",
            RoutingWarning,
            stacklevel=2,
        )
    return replace(selection, items={data_item(*item): source for item, source in selection.items.items()})


def selected_by(selection: SelectedOn, key: ItemKey | None, texts: Iterable[str]) -> str | None:
    """Return what says that a document is one of the items; None where nothing does.

    A translation of an item is the same item, and so is the item in another benchmark of the same data set.

    Args:
        selection: The items, as `selection_of` returns them.
        key: The document's; None where its benchmark is unknown.
        texts: The hashes of its texts.
    """
    by_key = selection.items.get(data_item(*key)) if key is not None else None
    return by_key or next((selection.texts[text] for text in texts if text in selection.texts), None)


def main_fields(documents: Any) -> tuple[str, ...]:
    """Return the fields of a task's documents that hold a text of each document's own: no instruction, no subject.

    Args:
        documents: All of the task's; the first of them are looked at.
    """
    head = [documents[row] for row in range(min(len(documents), _LOOKED_AT))]
    if len(head) < 2 or not all(isinstance(doc, Mapping) for doc in head):
        return ()  # one document shows nothing
    texts = {name: {doc[name] for doc in head if isinstance(doc.get(name), str)} for name in head[0]}
    return tuple(name for name, values in texts.items() if 2 * len(values) >= len(head))


def document_texts(task: Any, doc: Any, prompt: str, fields: Iterable[str]) -> tuple[str, ...]:
    """Return the hashes of a document's texts: its prompt as the model gets it, its question alone, its main fields."""
    question = task.doc_to_text(doc) if task.OUTPUT_TYPE != "loglikelihood_rolling" else None
    texts = [prompt, question, *(doc.get(name) for name in fields)]
    hashes = (text_hash(text) for text in texts if isinstance(text, str))
    return tuple(dict.fromkeys(value for value in hashes if value))


def leak_error(task: str, documents: int, leaked: Sequence[tuple[str, str]]) -> UserError:
    """Return the error that refuses a task whose documents experts were selected on.

    Args:
        task: Its name.
        documents: How many it has.
        leaked: The names of those, with what says so.
    """
    files = sorted({source for _, source in leaked})
    examples = ", ".join(repr(name) for name, _ in leaked[:_SHOWN]) + (", ..." if len(leaked) > _SHOWN else "")
    return UserError(
        f"{len(leaked)} of its {documents} documents are items that experts were selected on "
        f"({', '.join(files)}: {examples}): a gain on them would mean nothing",
        fix="select experts on other items, or evaluate on others (--limit, --samples); --allow_leak runs anyway "
        "and marks the results",
        where=f"task {task}",
    )
