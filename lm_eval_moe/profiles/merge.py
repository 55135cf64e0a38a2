"""The items of several profiles in one file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.identity import MERGING, Identity, check_agreement
from lm_eval_moe.profiles.files import read_profile, write_profile
from lm_eval_moe.profiles.header import EXTRA_ARRAYS, PROFILE_ARRAYS, ProfileHeader, ProfileItem
from lm_eval_moe.profiles.profile import Profile, check_alike

__all__ = ["merge_profiles"]

_FIX = "merge profiles of one model that were captured in the same way"


def merge_profiles(out: Path, paths: Sequence[Path]) -> int:
    """Write the rows of all files, in their order, to a new one; return how many there are.

    Raises:
        UserError: ``out`` already exists, the files differ in model, shape, span, steering or arrays, or hold an
            item twice.
    """
    if out.exists():
        raise UserError("already exists", fix="name a new file first, then those to merge", where=str(out))
    profiles = [read_profile(path) for path in paths]
    if not any(profile.items for profile in profiles):
        raise UserError("there is nothing to merge", fix="give profiles with items", where="profile merge")
    homes: dict[ProfileItem, Path] = {}
    for profile in profiles:
        _refuse_other(profiles[0], profile)
        for item in profile.items:
            if item in homes:
                raise UserError(
                    f"the item {item.item!r} of {item.benchmark} in {item.language!r} ({item.task}) is "
                    f"also in {homes[item]}",
                    fix="give every item only once",
                    where=str(profile.path),
                )
            homes[item] = profile.path
    names = (*PROFILE_ARRAYS, *_extra(profiles[0]))
    arrays = {name: np.concatenate([profile.array(name) for profile in profiles]) for name in names}
    arrays["tokens"] = np.concatenate([profile.tokens for profile in profiles])
    identities = [profile.header.identity for profile in profiles if profile.header.identity is not None]
    identity = None
    if len(identities) == len(profiles):
        identity = Identity(
            identities[0].parts, {task: parts for source in identities for task, parts in source.tasks.items()}
        )
    sources = [
        {"file": profile.path.name, "sha256": profile.sha256, "provenance": profile.header.provenance}
        for profile in profiles
    ]
    first = profiles[0].header
    header = ProfileHeader(first.model, first.shape, first.span, first.steering, {"merged": sources}, identity)
    write_profile(out, header, list(homes), arrays)
    return len(homes)


def _extra(profile: Profile) -> list[str]:
    return [name for name in EXTRA_ARRAYS if name in profile.arrays]


def _refuse_other(first: Profile, profile: Profile) -> None:
    before, now = first.header.identity, profile.header.identity
    models = () if before is not None and now is not None else ("model",)  # the identity says more than a name
    check_alike(first, profile, (*models, *first.shape.parts(), "span", "steering"), _FIX)
    extras = [", ".join(_extra(side)) or "none" for side in (profile, first)]
    if extras[0] != extras[1]:
        raise UserError(
            f"its additional arrays are {extras[0]}, those of {first.path} are {extras[1]}",
            fix="merge profiles captured with the same --arrays",
            where=str(profile.path),
        )
    if before is not None and now is not None:
        check_agreement(before, now, MERGING, what=str(first.path), where=str(profile.path), fix=_FIX)
    elif before is not None or now is not None:
        silent = first.path if before is None else profile.path
        warnings.warn(
            f"whether {first.path} and {profile.path} are of the same weights and prompts could not be checked: "
            f"{silent} does not record what it depends on, so the merged profile will not either",
            RoutingWarning,
            stacklevel=3,
        )
