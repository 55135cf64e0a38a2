"""What a leaderboard is asked to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lm_eval_moe.errors import UserError, did_you_mean

__all__ = ["COLUMNS", "BoardSettings", "ColumnsBy"]

ColumnsBy = Literal["languages", "tiers", "families", "scripts", "benchmarks"]
COLUMNS: tuple[str, ...] = get_args(ColumnsBy)


@dataclass(frozen=True)
class BoardSettings:
    """What a leaderboard is asked to show.

    Attributes:
        columns: What the columns are.
        baseline: Label of the run that the others are compared with; None: each steered run with the unsteered run of
            its model where there is exactly one, the others with the first run.
        alpha: Level of the tests; intervals have the level ``1 - alpha``.
        metric: The metric to show; None: each benchmark's main one.
        reference: The language that is left out of the second average; None: as the runs say, else English.
        sort: Title of the column to sort by, best first; ``given`` keeps the order.
        allow_mismatch: Compare runs that were set up differently.

    Raises:
        UserError: A value is not allowed.
    """

    columns: ColumnsBy = "languages"
    baseline: str | None = None
    alpha: float = 0.05
    metric: str | None = None
    reference: str | None = None
    sort: str = "average"
    allow_mismatch: bool = False

    def __post_init__(self) -> None:
        if self.columns not in COLUMNS:
            raise UserError(
                f"{self.columns!r} is not a choice of columns{did_you_mean(self.columns, COLUMNS)}",
                fix=f"choose among {', '.join(COLUMNS)}",
                where="--columns",
            )
        if not 0 < self.alpha < 0.5:
            raise UserError(
                f"{self.alpha} is not a valid level",
                fix="give one between 0 and 0.5, such as 0.05",
                where="--alpha",
            )
