"""The items of several profiles in one file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.identity import MERGING, Identity, check_agreement
from lm_eval_moe.profiles.files import read_profile, write_profile
from lm_eval_moe.profiles.header import EXTRA_ARRAYS, PROFILE_ARRAYS, ProfileHeader, ProfileItem
from lm_eval_moe.profiles.profile import Profile

__all__ = ["merge_profiles"]

_FIX = "merge profiles of one model, captured alike"


def merge_profiles(out: Path, paths: Sequence[Path]) -> int:
    """Write the rows of all files, in their order, to a new one; return how many there are.

    Raises:
        UserError: ``out`` is there already, the files differ in model, shape, span, steering or arrays, or hold an
            item twice.
    """
    if out.exists():
        raise UserError("is there already", fix="name a new file first, then those to merge", where=str(out))
    first: ProfileHeader | None = None
    homes: dict[ProfileItem, Path] = {}
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in (*PROFILE_ARRAYS, "tokens")}
    extra: list[str] | None = None
    sources = []
    tasks: dict[str, Any] = {}
    all_known = True
    for path in paths:
        profile = read_profile(path)
        first = first or profile.header
        extra = _same_extra(extra, profile, paths[0])
        _refuse_other(first, profile.header, paths[0], path)
        all_known = all_known and profile.header.identity is not None
        tasks |= profile.header.identity.tasks if profile.header.identity else {}
        for item in profile.items:
            if item in homes:
                raise UserError(f"{_name(item)} is in {homes[item]}, too", fix="give every item once", where=str(path))
            homes[item] = path
        columns["tokens"].append(profile.tokens)
        for name in (*PROFILE_ARRAYS, *extra):
            columns.setdefault(name, []).append(profile.array(name))
        sources.append({"file": path.name, "sha256": profile.sha256, "provenance": profile.header.provenance})
    if first is None or not homes:
        raise UserError("there is nothing to merge", fix="give profiles with items", where="profile merge")
    identity = Identity(first.identity.parts, tasks) if first.identity and all_known else None
    header = ProfileHeader(first.model, first.shape, first.span, first.steering, {"merged": sources}, identity)
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    write_profile(out, header, list(homes), arrays)
    return len(homes)


def _refuse_other(first: ProfileHeader, header: ProfileHeader, its_path: Path, path: Path) -> None:
    known = first.identity is not None and header.identity is not None
    for what, one, other in (
        *([] if known else [("model", first.model, header.model)]),
        *((what, one, header.shape.parts()[what]) for what, one in first.shape.parts().items()),
        ("span", first.span, header.span),
        ("steering", first.steering, header.steering),
    ):
        if one != other:
            raise UserError(
                f"its {what} is {other}, that of {its_path} is {one}",
                fix=_FIX,
                where=str(path),
            )
    if first.identity is not None and header.identity is not None:
        check_agreement(first.identity, header.identity, MERGING, what=str(its_path), where=str(path), fix=_FIX)
    elif first.identity is not None or header.identity is not None:
        silent = its_path if first.identity is None else path
        warnings.warn(
            f"whether {its_path} and {path} are of the same weights and prompts could not be checked: {silent} does "
            "not say what it depends on, and so the merged profile will not either",
            RoutingWarning,
            stacklevel=2,
        )


def _same_extra(extra: list[str] | None, profile: Profile, first: Path) -> list[str]:
    own = [name for name in EXTRA_ARRAYS if name in profile.arrays]
    if extra is not None and own != extra:
        has = [", ".join(names) or "none" for names in (own, extra)]
        raise UserError(
            f"its further arrays are {has[0]}, those of {first} are {has[1]}",
            fix="merge profiles captured with the same --arrays",
            where=str(profile.path),
        )
    return own


def _name(item: ProfileItem) -> str:
    return f"the item {item.item!r} of {item.benchmark} in {item.language!r} ({item.task})"
