"""Refusing what was stored for something else, and saying what cannot be told or only last bits hang on."""

from __future__ import annotations

import logging
import warnings

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.identity.backends import BACKEND
from lm_eval_moe.identity.identity import Identity, PartDifference
from lm_eval_moe.identity.uses import Use

__all__ = ["check_agreement", "listed"]

logger = logging.getLogger(__name__)

_SHOWN = 6


def check_agreement(stored: Identity | None, now: Identity, use: Use, *, what: str, where: str, fix: str) -> None:
    """Refuse a stored thing that depends on something else than what it is used for.

    Warns of a part that cannot be compared, or that differs where that is allowed; where only last bits hang on it, the
    log says so.

    Args:
        stored: The identity that the stored thing carries; None: it was written before there were any.
        now: The identity of what it is used for.
        use: Which parts have to agree.
        what: What it is, for messages.
        where: The file or flag.
        fix: What to do about a difference.

    Raises:
        UserError: A part that has to agree differs; every difference is named, old and new.
    """
    if stored is None:
        _warn(f"{where}: {what} does not record what it depends on, so whether it fits could not be checked")
        return
    differences = stored.differences(now, use.needed())
    if differences:
        raise UserError(f"{what} was made with different settings: {listed(differences)}", fix=fix, where=where)
    backend = [BACKEND] if BACKEND in use.heeded() else []
    unknown = stored.unknown(now, [*use.needed(), *backend])
    if unknown:
        _warn(f"{where}: whether {what} is of the same {', '.join(unknown[:_SHOWN])} could not be checked")
    if backend and (mixed := stored.mixed(now)):
        _warn(f"{where}: {what} was made by a different backend: {mixed}")
    slight = [difference for difference in stored.differences(now, use.heeded()) if difference.part != BACKEND]
    rounding = [difference for difference in slight if difference.part.startswith("computation.")]
    if rounding:
        logger.info(
            "%s: %s may differ in the last digits from what would be computed now: %s", where, what, listed(rounding)
        )
    if len(rounding) < len(slight):
        rest = [difference for difference in slight if difference not in rounding]
        _warn(f"{where}: {what} is used anyway, although {listed(rest)}")


def listed(differences: list[PartDifference]) -> str:
    """Return the differences in one line, the first few in words."""
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return "; ".join(map(str, differences[:_SHOWN])) + more


def _warn(text: str) -> None:
    warnings.warn(text, RoutingWarning, stacklevel=4)
