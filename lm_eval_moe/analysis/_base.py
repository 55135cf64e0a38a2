"""What all analyses share: the registry, what they are computed from, and the forms that their results take."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lm_eval_moe.analysis._inputs import AnalysisInputs
from lm_eval_moe.discovery import Registry
from lm_eval_moe.tables import TableValue

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Analysis", "jsonable"]


class Analysis(ABC):
    """The result of an analysis. Subclasses are frozen dataclasses; having a ``name`` registers them.

    Attributes:
        name: What it is called in the output; its table is ``name.csv``.
        rank: Where it stands among the others in what is printed, ascending.
        columns: Those of its table.
    """

    name: ClassVar[str]
    rank: ClassVar[int] = 100
    columns: ClassVar[tuple[str, ...]]
    registry: ClassVar[Registry[type[Analysis]]] = Registry("analysis")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in cls.__dict__:
            Analysis.registry.add(cls.name, cls, cls)

    @classmethod
    def ordered(cls) -> list[type[Analysis]]:
        """Return the analyses in the order in which they are printed."""
        return sorted(Analysis.registry.values(), key=lambda analysis: (analysis.rank, analysis.name))

    @classmethod
    @abstractmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Compute it.

        Raises:
            NotPossible: Something is missing.
            UserError: A profile is damaged.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready values."""

    @abstractmethod
    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield the rows of its table, in the order of `columns`."""

    @abstractmethod
    def lines(self) -> list[str]:
        """Return what matters most in a few lines, for people; the first is a heading."""


def jsonable(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a mapping with NaN and infinities as None at any depth, since JSON has no word for them."""
    return {str(key): _finite_or_none(value) for key, value in content.items()}


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return jsonable(value)
    return [_finite_or_none(part) for part in value] if isinstance(value, list | tuple) else value
