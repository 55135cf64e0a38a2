"""Something in an attribute's place for a while; a function of another package, changed for one thread alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

__all__ = ["Changeable", "replaced"]

_NOTHING = object()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put a value in an attribute's place inside the ``with`` block.

    What the owner itself had comes back; where it had nothing, its class's attribute (or a module's ``__getattr__``)
    shows again.
    """
    original = vars(owner).get(name, _NOTHING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if original is _NOTHING:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


class Changeable:
    """A function of another package that each thread may change for itself, for a while.

    While anybody changes it, what stands in its place is the function itself for everybody else: if threads took turns
    at replacing it, the last one would bring back what another had put there.

    Args:
        place: Where the function is: a module's names, or a table.
        name: Its name there.
    """

    def __init__(self, place: MutableMapping[str, Any], name: str) -> None:
        self._place, self._name = place, name
        self._change: ContextVar[Callable[[Any], Any] | None] = ContextVar(name, default=None)
        self._lock, self._users = Lock(), 0

    @contextmanager
    def changed(self, change: Callable[[Any], Any]) -> Iterator[None]:
        """Let the function be what ``change`` makes of it, for this thread inside the ``with`` block.

        Of blocks inside each other, the innermost counts.
        """
        with self._lock:
            if not self._users:
                self._original = self._place[self._name]
                self._place[self._name] = self._for_each_thread(self._original)
            self._users += 1
        before = self._change.set(change)
        try:
            yield
        finally:
            self._change.reset(before)
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._place[self._name] = self._original

    def _for_each_thread(self, original: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            change = self._change.get()
            return (original if change is None else change(original))(*args, **kwargs)

        return function
