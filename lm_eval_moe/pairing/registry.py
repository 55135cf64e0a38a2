"""Looking up a task's language and pairing, and the task that provides its reference."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import langcodes

from lm_eval_moe.errors import UserError
from lm_eval_moe.pairing.entries import TaskEntry, checked_item, checked_language, load_entries
from lm_eval_moe.pairing.task_pairing import TaskPairing
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

__all__ = ["BUNDLED_FILE", "PairingRegistry"]

BUNDLED_FILE = Path(__file__).with_name("tasks.yaml")
"""What is known about lm-eval's own tasks."""


class PairingRegistry:
    """Rules from files, in the order in which they are tried: the first match of a task's name wins.

    Args:
        entries: The rules.
    """

    def __init__(self, entries: Iterable[TaskEntry]) -> None:
        self.entries: tuple[TaskEntry, ...] = tuple(entries)

    @classmethod
    def default(cls, extra: Sequence[Path] = ()) -> PairingRegistry:
        """Return the users' files in the order given, then the bundled file.

        Raises:
            UserError: A file cannot be read or breaks the schema.
        """
        return cls(entry for path in [*extra, BUNDLED_FILE] for entry in load_entries(Path(path)))

    def matching_entries(self, task_name: str) -> tuple[TaskEntry, ...]:
        """Return every rule that matches a task's name, the winning one first."""
        return tuple(entry for entry in self.entries if entry.pattern.fullmatch(task_name))

    def pairing(self, task_name: str, metadata: object = None) -> TaskPairing | None:
        """Return what is known of a task, or None where nothing is.

        Args:
            task_name: The task's name in lm-eval.
            metadata: The ``metadata`` of the task's configuration. Its ``routing`` wins over every file:
                ``{language: sw, benchmark: my_arithmetic, item: row}``, with an optional ``note``.

        Raises:
            UserError: ``metadata.routing`` breaks the schema, or the name matches a rule but its language is not one.
        """
        if isinstance(metadata, Mapping) and "routing" in metadata:
            return _pairing_of_metadata(task_name, metadata["routing"])
        matched = self._first_match(task_name)
        if matched is None:
            return None
        entry, match = matched
        return TaskPairing(
            task=task_name,
            language=entry.language_of(match),
            benchmark=entry.benchmark_of(match),
            item=entry.item,
            note=entry.note,
        )

    @staticmethod
    def reference_tasks(
        pairing: TaskPairing, reference: str, candidates: Iterable[TaskPairing]
    ) -> tuple[TaskPairing, ...]:
        """Return the candidates that hold a task's items in the reference language, in the candidates' order.

        More than one is possible (``mgsm_direct_es`` and ``mgsm_direct_es_spanish_bench`` hold the same items): any of
        them will do. A task that is itself in the reference language has none.

        Args:
            pairing: The task that needs a reference.
            reference: The reference language, in any spelling.
            candidates: The tasks of the run.

        Raises:
            UserError: ``reference`` is not a language.
        """
        tag = checked_language(YamlValue(YamlPlace("routing_reference", Path()), reference))
        if pairing.language == tag:
            return ()
        return tuple(c for c in candidates if c.language == tag and c.benchmark == pairing.benchmark)

    def explain_missing(self, pairing: TaskPairing, reference: str, available: Iterable[str] | None = None) -> str:
        """Say in one sentence what would provide a task's items in the reference language.

        Args:
            pairing: The task whose reference is not in the run.
            reference: The reference language, in any spelling.
            available: Names of all tasks that could be run (lm-eval's ``TaskManager.all_subtasks``). Without them the
                name is inferred from the task's own.

        Raises:
            UserError: ``reference`` is not a language.
        """
        tag = checked_language(YamlValue(YamlPlace("routing_reference", Path()), reference))
        if pairing.language == tag:
            return f"{pairing.task} is itself in {tag!r}, the reference language"
        start = (
            f"{pairing.task} has nothing to be compared with, since the run has no {tag!r} task of {pairing.benchmark}"
        )
        profile = f"give a --routing_profile that holds these items in {tag!r}"
        matched = self._first_match(pairing.task)
        if matched is None or self.pairing(pairing.task) != pairing:  # it comes from the task's own metadata
            return (
                f"{start}: add the task whose metadata.routing has benchmark {pairing.benchmark!r} "
                f"and language {tag!r}, or {profile}"
            )
        entry, match = matched
        if tag in entry.lacks:
            return f"{start}: {(entry.note or '').rstrip('.')}; {profile}, or choose another --routing_reference"
        names = _inferred_names(entry, match, tag) if available is None else available
        provider = next((name for name in names if self._provides(name, entry.benchmark, pairing.benchmark, tag)), None)
        if provider is None:
            return f"{start} and none is known: {profile}, or name the task that holds them in a --parallel file"
        task = provider if available is not None else f"{provider}, if there is one,"
        return f"{start}: add the task {task} to the run, or {profile}"

    def _first_match(self, task_name: str) -> tuple[TaskEntry, re.Match[str]] | None:
        own_name = task_name.rpartition("::")[2]  # lm-eval 0.5 calls a member of a group group::task
        for entry in self.entries:
            match = entry.pattern.fullmatch(own_name)
            if match:
                return entry, match
        return None

    def _provides(self, task_name: str, family: str, benchmark: str, language: str) -> bool:
        """Whether a task holds the benchmark, variants included, in the language."""
        # Only the rules of the same family are tried first: there are thousands of names and few of them match.
        if not any(e.benchmark == family and e.pattern.fullmatch(task_name) for e in self.entries):
            return False
        try:
            pairing = self.pairing(task_name)
        except UserError:  # a name whose language is unknown provides none
            return False
        return pairing is not None and (pairing.benchmark, pairing.language) == (benchmark, language)


def _inferred_names(entry: TaskEntry, match: re.Match[str], tag: str) -> list[str]:
    """Spell the language in the forms that benchmarks use, in the place where the matched name has its own."""
    if entry.language is not None:
        return []
    language = langcodes.Language.get(tag)
    three = language.to_alpha3()
    aliases = [spelling for spelling, alias in entry.languages.items() if alias == tag]
    start, end = match.span("lang")
    forms = [*aliases, tag, three, f"{three}_{language.maximize().script}"]
    return [match.string[:start] + form + match.string[end:] for form in forms]


def _pairing_of_metadata(task_name: str, routing: object) -> TaskPairing:
    field = YamlValue(YamlPlace(f"task {task_name}", Path(), ("metadata", "routing")), routing)
    if isinstance(routing, Mapping) and "language_column" in routing:
        raise (field / "language_column").error("a task is in one language", _SPLIT)
    fields = field.keys(["language", "benchmark", "item"], ["note"])
    try:
        language = checked_language(fields["language"])
    except UserError as error:
        raise fields["language"].error(error.problem, f"{error.fix}; {_SPLIT}") from error
    return TaskPairing(
        task=task_name,
        language=language,
        benchmark=fields["benchmark"].words(),
        item=checked_item(fields["item"]),
        note=fields["note"].words() if "note" in fields else None,
    )


_SPLIT = (
    "where a field of the documents says the language, write one task per language, whose process_docs keeps its "
    "documents (docs/files.md has an example)"
)
