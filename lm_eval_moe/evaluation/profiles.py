"""A run's items as a profile on disk, and a profile's items as the reference of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.errors import UserError
from lm_eval_moe.evaluation.items import ItemKey
from lm_eval_moe.evaluation.paired_items import check_unique
from lm_eval_moe.evaluation.session import RoutingSession
from lm_eval_moe.identity import ANSWERED_REFERENCE, REFERENCE, Identity, check_agreement
from lm_eval_moe.profiles import ProfileHeader, ProfileItem, read_profile, write_profile
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.recording.profile_rows import ItemRows, records_of
from lm_eval_moe.results.routing import ReferenceSource

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel
    from lm_eval_moe.pairing import TaskPairing

__all__ = ["ReferenceProfile", "save_profile"]

logger = logging.getLogger(__name__)

_FIX = (
    "give a profile captured with this model and the same prompting, or a path where there is no file yet: the items "
    "of this run are then written there"
)


def _header(lm: RoutedModel, identity: Identity | None = None) -> ProfileHeader:
    return ProfileHeader(
        model=lm.model_id,
        shape=lm.routing_shape,
        span=lm.capture,
        steering=lm.steering.hash if lm.steering else None,
        identity=identity,
    )


@dataclass(frozen=True)
class ReferenceProfile:
    """The reference items that a profile holds.

    Attributes:
        path: The file.
        header: What it says of itself.
        items: The reference items by key.
        tasks: The tasks that they are of, by benchmark.
        sha256: Of the file.
    """

    path: Path
    header: ProfileHeader
    items: dict[ItemKey, RoutingRecord]
    tasks: Mapping[str, frozenset[str]]
    sha256: str

    @classmethod
    def read(cls, path: Path, lm: RoutedModel, identity: Identity, reference: str) -> ReferenceProfile:
        """Read a profile's items in the reference language.

        Args:
            path: The file.
            lm: The model of the run.
            identity: Of the model and its prompting; tasks are checked later, by `check_tasks`.
            reference: The language.

        Raises:
            UserError: The profile is of another model, prompting or span, or has no item in that language.
        """
        profile = read_profile(path)
        header, items, records = profile.header, profile.items, records_of(profile)
        run_header, where = _header(lm), f"--routing_profile {path}"
        for what, there, required in (
            ("routing shape", header.shape, run_header.shape),
            ("captured span", header.span, run_header.span),
            *([("model", header.model, run_header.model)] if header.identity is None else []),
        ):
            if there != required:
                raise UserError(f"the profile's {what} is {there}, but this run's is {required}", fix=_FIX, where=where)
        use = REFERENCE if header.span == "prompt" else ANSWERED_REFERENCE
        check_agreement(header.identity, identity, use, what="the profile", where=where, fix=_FIX)
        records_by_key, tasks = {}, dict[str, set[str]]()
        for item, record in zip(items, records, strict=True):
            if item.language == reference:
                records_by_key[ItemKey(item.benchmark, item.item)] = record
                tasks.setdefault(item.benchmark, set()).add(item.task)
        if not records_by_key:
            raise UserError(
                f"the profile has no item in {reference!r}, only in {sorted({item.language for item in items})}",
                fix="give a profile of a run that included the reference language, or another --routing_reference",
                where=where,
            )
        for task in {item.task for item in items}:  # tasks may hold the same items: any of them will do
            check_unique(
                where,
                [
                    (f"{item.benchmark} {item.item}", row)
                    for row, item in enumerate(items)
                    if item.item and item.task == task and item.language == reference
                ],
                "write it again, from tasks in which each item has its own key",
            )
        steered = f", steered by #{header.steering[:8]}" if header.steering else ", unsteered"
        logger.info("%s: read as reference, %d items in %r%s", path, len(records_by_key), reference, steered)
        by_benchmark = {benchmark: frozenset(names) for benchmark, names in tasks.items()}
        return cls(path, header, records_by_key, by_benchmark, profile.sha256)

    def check_tasks(self, pairings: Sequence[TaskPairing], identity: Identity, reference: str) -> None:
        """Refuse tasks that are prompted with another number of examples, or answered otherwise, than the reference.

        Templates differ from language to language: they are not compared. A benchmark whose reference the run holds
        itself does not look here.

        Args:
            pairings: The tasks of the run whose language is known.
            identity: Of the run, with its tasks.
            reference: The reference language.

        Raises:
            UserError: They differ.
        """
        if self.header.identity is None:
            return
        names = ("fewshot",) if self.header.span == "prompt" else ("fewshot", "generation")
        benchmarks = {pairing.benchmark for pairing in pairings if pairing.language == reference}
        for pairing in pairings:
            for task in sorted(self.tasks.get(pairing.benchmark, ())) if pairing.benchmark not in benchmarks else ():
                there, here = (
                    task_identity.tasks.get(name, {})
                    for task_identity, name in ((self.header.identity, task), (identity, pairing.task))
                )
                for name in names:
                    if name in there and name in here and there[name] != here[name]:
                        raise UserError(
                            f"{name} of the profile's {task} is {there[name]}, but that of {pairing.task} is "
                            f"{here[name]}",
                            fix=_FIX,
                            where=f"--routing_profile {self.path}",
                        )

    def source(self) -> ReferenceSource:
        """Return where the reference comes from, for the results."""
        head = self.header
        identity = head.identity.hash if head.identity else None
        return ReferenceSource("profile", str(self.path), self.sha256, head.model, head.steering, identity)


def save_profile(path: Path, session: RoutingSession, identity: Identity) -> None:
    """Write the items of all processes; only the first process writes."""
    profile_items = [
        (ProfileItem(item.key.benchmark, item.key.item, pairing.language, task, " ".join(item.texts)), record)
        for task, pairing in session.pairings.items()
        for item in session.items[task].values()
        if pairing and item.key and (record := session.record(item)) is not None
    ]
    parts = [entry for part in session.gather(profile_items) for entry in part]
    if session.model.rank != 0:
        return
    if not parts:
        raise UserError(
            "there is nothing to write: none of the tasks has a known language",
            fix="add `routing: {language: .., benchmark: .., item: ..}` to the tasks' metadata, or use --parallel",
            where=f"--routing_profile {path}",
        )
    rows = ItemRows()
    for item, record in sorted(parts, key=lambda part: (part[0].task, part[0].item)):
        rows.add(item, record)
    write_profile(path, _header(session.model, identity), *rows.profile())
    logger.info("%s: written, the routing of %d items of this run", path, len(parts))
