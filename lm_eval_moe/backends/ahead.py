"""Plans under which the requests that run now will come again, and the answers that are kept for them until then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from lm_eval_moe.backends.cache import ResponseCache

if TYPE_CHECKING:
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["Ahead", "in_groups"]

T = TypeVar("T")


class Ahead:
    """The plans of one group, each once.

    Args:
        plans: In the order in which they will be in force; None is the model as it is.

    Attributes:
        plans: The same.
    """

    def __init__(self, plans: Sequence[SteeringPlan | None] = ()) -> None:
        self.plans = tuple({_name(plan): plan for plan in plans}.values())
        self._cache: ResponseCache | None = None
        self._opened = ExitStack()

    def after(self, plan: SteeringPlan | None) -> tuple[SteeringPlan | None, ...]:
        """Return the plans whose turn is after a plan's; all of them if it is not one of them."""
        names = [_name(plan) for plan in self.plans]
        return self.plans[names.index(_name(plan)) + 1 :] if _name(plan) in names else self.plans

    @property
    def cache(self) -> ResponseCache | None:
        """What keeps the answers where the model has no response cache: a temporary file; None if there are no plans.

        Raises:
            UserError: The temporary folder cannot be written to.
        """
        if self.plans and self._cache is None:
            folder = self._opened.enter_context(TemporaryDirectory(prefix="lm-eval-moe-"))
            self._cache = ResponseCache(Path(folder) / "ahead")
            self._opened.callback(self._cache.close)
        return self._cache

    def close(self) -> None:
        """Forget the answers."""
        self._opened.close()


def in_groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield items in groups of at most a size, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _name(plan: SteeringPlan | None) -> str | None:
    return plan.hash if plan else None
