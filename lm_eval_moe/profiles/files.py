"""Profiles on disk: opened without reading their arrays, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lm_eval_moe.errors import UserError
from lm_eval_moe.profiles.columns import ArrayColumn, write_safetensors
from lm_eval_moe.profiles.count_dump import read_count_dump
from lm_eval_moe.profiles.header import FORMAT, ProfileHeader, ProfileItem, parse_metadata, profile_metadata
from lm_eval_moe.profiles.profile import Profile

__all__ = ["is_profile", "read_profile", "write_profile"]


def read_profile(path: Path, *, counts: bool = False) -> Profile:
    """Read what a profile says of itself; its arrays are read when they are asked for.

    Args:
        path: The file.
        counts: Whether the JSON counts of arXiv 2601.14050 will do as well.

    Raises:
        UserError: The file cannot be read, is not a profile of this version, or is damaged.
    """
    if counts and path.suffix == ".json":
        return read_count_dump(path)
    try:
        file = safe_open(str(path), framework="numpy")  # stays open: a file that is replaced meanwhile does not matter
        metadata = file.metadata() or {}  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot be read as a profile: {str(error).removesuffix(f': {path}')[:300]}",
            fix="give a safetensors file that `lm-eval-moe profile` or --routing_profile wrote",
            where=str(path),
        ) from error
    return Profile(path, *parse_metadata(path, metadata), file)


def is_profile(path: Path) -> bool:
    """Whether a safetensors file is a profile: weights of models are often beside results."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def write_profile(
    path: Path, header: ProfileHeader, items: Sequence[ProfileItem], arrays: Mapping[str, NDArray[Any] | ArrayColumn]
) -> None:
    """Write a profile; it appears whole or not at all.

    Args:
        path: Where to write.
        header: What the items have in common.
        items: One a row of the arrays.
        arrays: ``tokens``, and those of `PROFILE_ARRAYS` and `EXTRA_ARRAYS`, by name.

    Raises:
        UserError: The file cannot be written.
    """
    write_safetensors(path, arrays, profile_metadata(header, items))
