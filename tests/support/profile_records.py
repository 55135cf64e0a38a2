"""Profiles as lists of records, the form in which tests make and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_eval_moe.profiles import ProfileHeader, ProfileItem, read_profile, write_profile
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.recording.profile_rows import ItemRows, records_of

__all__ = ["read_records", "write_records"]


def read_records(path: Path) -> tuple[ProfileHeader, list[ProfileItem], list[RoutingRecord]]:
    """Return all that a profile holds."""
    profile = read_profile(path)
    return profile.header, list(profile.items), records_of(profile)


def write_records(
    path: Path, header: ProfileHeader, items: Sequence[ProfileItem], records: Sequence[RoutingRecord]
) -> None:
    """Write a profile of some records."""
    rows = ItemRows()
    for item, record in zip(items, records, strict=True):
        rows.add(item, record)
    write_profile(path, header, *rows.profile())
