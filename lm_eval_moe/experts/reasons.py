"""Why each expert is selected, as a table."""

from __future__ import annotations

from lm_eval_moe.experts.selection import Found
from lm_eval_moe.tables import csv_text

__all__ = ["reasons_csv"]


def reasons_csv(selection: Found) -> str:
    """Return a row for every selected expert: where it is, its coefficient, what the rule compared, and the reason."""
    choices = [(rule.planned.index, choice) for rule in selection.rules for choice in rule.choices]
    names = list(dict.fromkeys(name for _, choice in choices for name in choice.values))
    rows = (
        [index, choice.layer, choice.expert, choice.coefficient, *map(choice.values.get, names), choice.why]
        for index, choice in choices
    )
    return csv_text(["intervention", "layer", "expert", "coefficient", *names, "why"], rows)
