"""The items that a plan's experts were selected on."""

from __future__ import annotations

from dataclasses import dataclass

from lm_eval_moe.profiles import read_profile
from lm_eval_moe.steering.plan import SteeringPlan

__all__ = ["SelectedOn", "selected_on"]


@dataclass(frozen=True)
class SelectedOn:
    """What is known of the items.

    Attributes:
        items: By benchmark and item key, in order: what says so.
        texts: By the hash of a text of an item: what says so.
        unknown: What does not say which items were counted: profiles, and those that a file names.
    """

    items: dict[tuple[str, str], str]
    texts: dict[str, str]
    unknown: tuple[str, ...]


def selected_on(plan: SteeringPlan) -> SelectedOn:
    """Return the items of the plan's profiles, and those that its file names.

    Raises:
        UserError: A profile cannot be read.
    """
    file_key = f"{plan.name}: selected_on"
    items = {(benchmark, key): file_key for benchmark, keys in plan.selected_on.items() for key in keys}
    texts = dict.fromkeys(plan.selected_on_texts, file_key)
    unknown = list(plan.selected_on_unknown)
    for source in plan.profiles:
        rows = read_profile(source.path, counts=True).items
        if not rows or not all(item.item for item in rows):  # pooled counts, or some among the items
            unknown.append(source.given)
        items.update({(item.benchmark, item.item): source.given for item in rows if item.item})
        texts.update({text: source.given for item in rows for text in item.text.split()})
    return SelectedOn(items, texts, tuple(dict.fromkeys(unknown)))
