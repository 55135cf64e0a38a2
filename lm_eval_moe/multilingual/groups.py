"""The groups of a benchmark.

They lie within each other, so that every task is in one place and a run of ``moe_<name>`` shows all averages, each over
tasks with equal weight:

- ``moe_<name>``: all languages
- ``moe_<name>_non_english``: all but English
- ``moe_<name>_high_resource``, ``_mid_resource``, ``_low_resource``, ``_unknown_resource``: of these, one resource tier

lm-eval refuses a task that is in two of the groups of a run. A benchmark's further groups are therefore for runs of
their own. With variants there is each of these groups for each variant, ``moe_<name>_<variant>...``, within
``moe_<name>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval_moe.multilingual.languages import ENGLISH, by_tier
from lm_eval_moe.multilingual.manifest import BenchmarkTask, Manifest

__all__ = ["groups_of"]


def groups_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the configuration of every group of a benchmark, the one of all its tasks first."""
    if not manifest.variants:
        groups = _nested(manifest, manifest.group, manifest.tasks)
    else:
        groups = [_group(manifest, manifest.group, [f"{manifest.group}_{variant}" for variant in manifest.variants])]
        for variant in manifest.variants:
            tasks = [task for task in manifest.tasks if task.variant == variant]
            groups += _nested(manifest, f"{manifest.group}_{variant}", tasks)
    for name, keys in manifest.groups.items():
        members = [task.name for key in keys for task in manifest.tasks if task.key == key]
        groups.append(_group(manifest, f"{manifest.group}_{name}", members))
    return groups


def _nested(manifest: Manifest, name: str, tasks: Sequence[BenchmarkTask]) -> list[dict[str, Any]]:
    """Return the group of all these tasks, and within it those of all but English and of each resource tier."""
    reference = [task.name for task in tasks if task.language == ENGLISH]
    tiers = by_tier(dict.fromkeys(task.language for task in tasks))
    tier_groups = [
        _group(manifest, f"{name}_{tier}_resource", [task.name for task in tasks if task.language in languages])
        for tier, languages in tiers.items()
    ]
    tier_names = [group["group"] for group in tier_groups]
    if not tiers:
        return [_group(manifest, name, reference)]
    if not reference:
        return [_group(manifest, name, tier_names), *tier_groups]
    return [
        _group(manifest, name, [*reference, f"{name}_non_english"]),
        _group(manifest, f"{name}_non_english", tier_names),
        *tier_groups,
    ]


def _group(manifest: Manifest, name: str, members: Sequence[str]) -> dict[str, Any]:
    metrics = [
        {"metric": metric.name, "aggregation": "mean", "weight_by_size": metric.by_size}
        | ({"filter_list": [metric.filter]} if metric.filter else {})
        for metric in manifest.metrics
    ]
    return {
        "group": name,
        "task": list(members),
        "aggregate_metric_list": metrics,
        "metadata": {"version": manifest.version},
    }
