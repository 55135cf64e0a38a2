"""A sweep's folder written by hand, in the form that `lm-eval-moe sweep` leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def effect(gain: float, control: float, low: float, high: float, *, draws: int = 1) -> dict[str, Any]:
    """Return what a cell does to one language, with controls that are all alike, as releases wrote it at first."""
    over = gain - control
    return {
        "baseline": 0.5,
        "gain": {"value": gain, "stderr": 0.01, "how": "paired", "changed": 3, "values": 20, "exact_p": 1.0},
        "control": control,
        "over_control": {
            "steered": 0.5 + gain,
            "per_control": [0.5 + control] * draws,
            "gain": over,
            "stderr": 0.01,
            "low": low,
            "high": high,
            "covers_draws": draws > 1,
        },
    }


def write_sweep(
    folder: Path,
    cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    *,
    name: str = "by-strength",
    benchmark: str = "sums",
    languages: Sequence[str] = ("en", "sw"),
) -> Path:
    """Write a folder; a cell is its settings and its effects by language (``mean`` included)."""
    (folder / "runs").mkdir(parents=True)
    table = {
        "schema_version": 1,
        "name": name,
        "benchmarks": [
            {
                "benchmark": benchmark,
                "metric": "acc,none",
                "higher_is_better": True,
                "reference": "en",
                "languages": list(languages),
                "cells": [
                    {
                        "settings": dict(settings),
                        "hash": "cd" * 32,
                        "experts": 4,
                        "control_hashes": [],
                        "effects": effects,
                    }
                    for settings, effects in cells
                ],
                "waiting": 0,
                "empty": [],
            }
        ],
    }
    (folder / "table.json").write_text(json.dumps(table), encoding="utf-8")
    settings = {"schema_version": 1, "model": "some/model", "tasks": [benchmark], "versions": {"lm_eval": "0.4.13"}}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def some_cells(*, draws: int = 1) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return two cells: the first within noise of its controls, the second above them."""
    quiet, loud = effect(0.01, 0.02, -0.04, 0.02, draws=draws), effect(0.08, -0.01, 0.05, 0.13, draws=draws)
    return [
        (
            {"interventions.0.layers": "early", "interventions.0.action.soft": -0.5},
            dict.fromkeys(("en", "sw", "mean"), quiet),
        ),
        (
            {"interventions.0.layers": "middle", "interventions.0.action.soft": 0.5},
            dict.fromkeys(("en", "sw", "mean"), loud),
        ),
    ]
