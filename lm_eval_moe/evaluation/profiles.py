"""A run's items as a profile on disk, and a profile's items as the reference of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.capture import RoutingRecord
from lm_eval_moe.capture.profile import ProfileHeader, ProfileItem, read_profile, write_profile
from lm_eval_moe.errors import UserError
from lm_eval_moe.evaluation.paired_items import check_unique
from lm_eval_moe.evaluation.session import ItemKey, RoutingSession

if TYPE_CHECKING:
    from lm_eval_moe.models.hf_moe import HFMoE

__all__ = ["reference_records", "save_profile"]

logger = logging.getLogger(__name__)


def _header(lm: HFMoE) -> ProfileHeader:
    return ProfileHeader(
        model=lm.model_id,
        shape=lm.routing_shape,
        span=lm.capture,
        steering=lm.steering.hash if lm.steering else None,
    )


def reference_records(path: Path, lm: HFMoE, reference: str) -> dict[ItemKey, RoutingRecord]:
    """Return a profile's items in the reference language.

    Raises:
        UserError: The profile is of another model or span, or has no item in that language.
    """
    header, items, records = read_profile(path)
    own = _header(lm)
    for what, given, needed in (
        ("model", header.model, own.model),
        ("routing shape", header.shape, own.shape),
        ("captured span", header.span, own.span),
    ):
        if given != needed:
            raise UserError(
                f"the profile's {what} is {given}, this run's is {needed}",
                fix="give a profile of the same model and span, or a path where none is to write this run's",
                where=f"--routing_profile {path}",
            )
    keys = [(f"{item.benchmark} {item.item}", row) for row, item in enumerate(items) if item.language == reference]
    for task in {item.task for item in items}:  # tasks may hold the same items: any of them will do
        check_unique(
            f"--routing_profile {path}",
            [(key, row) for key, row in keys if items[row].task == task and items[row].item],
            "write it anew, from tasks whose items have one key each",
        )
    found = {
        ItemKey(item.benchmark, item.item): record
        for item, record in zip(items, records, strict=True)
        if item.language == reference
    }
    if not found:
        raise UserError(
            f"the profile has no item in {reference!r}, it has {sorted({item.language for item in items})}",
            fix="give a profile of a run that included the reference language, or another --routing_reference",
            where=f"--routing_profile {path}",
        )
    logger.info("%s: %d reference items in %r", path, len(found), reference)
    return found


def save_profile(path: Path, session: RoutingSession, gather: Callable[[Any], list[Any]]) -> None:
    """Write the items of all processes; only the first process writes."""
    own = [
        (ProfileItem(item.key.benchmark, item.key.item, pairing.language, task, " ".join(item.texts)), record)
        for task, pairing in session.pairings.items()
        for item in session.items[task].values()
        if pairing and item.key and (record := session.record(item)) is not None
    ]
    parts = [entry for part in gather(own) for entry in part]
    if session.model.rank != 0:
        return
    if not parts:
        raise UserError(
            "there is nothing to write: the language of none of the tasks is known",
            fix="add `routing: {language: .., benchmark: .., item: ..}` to the tasks' metadata, or use --parallel",
            where=f"--routing_profile {path}",
        )
    items, records = zip(*sorted(parts, key=lambda part: (part[0].task, part[0].item)), strict=True)
    write_profile(path, _header(session.model), items, records)
    logger.info("wrote the routing of %d items to %s", len(items), path)
