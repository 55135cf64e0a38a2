"""How texts and tasks are put to the model: as they stand, or as the turns of a chat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lm_eval_moe.evaluation.identity import chat_template
from lm_eval_moe.profiling.documents import Document, Source
from lm_eval_moe.text_hash import text_hash

__all__ = ["InTurns", "Prompting"]


@dataclass(frozen=True)
class Prompting:
    """What lm-eval's options of the same names say.

    Attributes:
        apply_chat_template: Whether to apply the tokenizer's chat template, or which one of several.
        system_instruction: What stands before everything.
    """

    apply_chat_template: bool | str = False
    system_instruction: str | None = None

    def of_tasks(self, lm: Any) -> dict[str, Any]:
        """Return the arguments of ``build_all_requests``, as an evaluation gives them.

        Raises:
            UserError: The tokenizer has no such chat template.
        """
        chats = bool(self.apply_chat_template)
        if chats:
            chat_template(lm, self.apply_chat_template)
        return {
            "system_instruction": self.system_instruction,
            "apply_chat_template": chats,
            "fewshot_as_multiturn": chats,
            "chat_template": lm.apply_chat_template if chats else None,
            "tokenizer_name": lm.tokenizer_name if chats else "",
        }

    def of_text(self, lm: Any, text: str) -> str:
        """Return a text as a chat's user says it, behind the system instruction; without a template, behind that."""
        system = self.system_instruction
        if not self.apply_chat_template:
            return f"{system}\n\n{text}" if system else text
        turns = [{"role": "system", "content": system}] if system else []
        chat: str = lm.apply_chat_template([*turns, {"role": "user", "content": text}])
        return chat


class InTurns:
    """The texts of a source as they are put to a chat model; they stay known by what they are themselves."""

    def __init__(self, source: Source, lm: Any, prompting: Prompting) -> None:
        self._source, self._lm, self._prompting = source, lm, prompting
        self.language, self.benchmarks = source.language, source.benchmarks
        self.tasks, self.parts = source.tasks, source.parts

    def __len__(self) -> int:
        return len(self._source)

    def documents(self) -> Iterator[Document]:
        """Yield the documents, every time in the same order."""
        for document in self._source.documents():
            text = self._prompting.of_text(self._lm, document.text)
            yield replace(document, text=text, hashes=document.hashes or (text_hash(document.text),))

    def describe(self) -> dict[str, Any]:
        """Return where the texts come from."""
        return self._source.describe()
