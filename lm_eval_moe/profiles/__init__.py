"""Routing profiles: the one type, its file, the JSON counts of arXiv 2601.14050, and what is done with them.

Needs neither torch nor lm-eval.
"""

from __future__ import annotations

from lm_eval_moe.profiles.files import is_profile, read_profile, write_profile
from lm_eval_moe.profiles.header import EXTRA_ARRAYS, PROFILE_ARRAYS, ProfileHeader, ProfileItem
from lm_eval_moe.profiles.profile import Activity, Profile, check_alike, common_shape
from lm_eval_moe.profiles.store import ProfilePath, ProfileSource, ProfileStore

__all__ = [
    "EXTRA_ARRAYS",
    "PROFILE_ARRAYS",
    "Activity",
    "Profile",
    "ProfileHeader",
    "ProfileItem",
    "ProfilePath",
    "ProfileSource",
    "ProfileStore",
    "check_alike",
    "common_shape",
    "is_profile",
    "read_profile",
    "write_profile",
]
