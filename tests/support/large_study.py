"""A made-up study of real size: 62 languages, 8 runs of one model with 48 layers of 128 experts, profiles, a sweep.

It has the structure that real ones have: languages differ most in early and late layers, the more so the fewer
resources they have; relatives resemble each other; steering moves the middle layers a little. A few are outliers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_moe.analysis import AnalysisInputs, read_inputs
from lm_eval_moe.multilingual.languages import known_languages
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.results import LabelledRun
from lm_eval_moe.results.gains import add_gains
from lm_eval_moe.results.labels import unique_labels
from lm_eval_moe.results.sweeps import SweepReport, read_sweep
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import SteeringPlan, parse_spec, resolve
from lm_eval_moe.steering.control import random_control
from support.report_profiles import write_profile
from support.written_sweeps import effect, write_sweep

_HIGH = "en de fr es it pt nl sv pl ru cs hr ca hi fa ar ja ko zh zh-Hant vi tr fi hu eu"
_MID = "da uk bg el ro lt bn ur ta id ms fil th kk uz et ka he af"
_LOW = "sw yo zu xh ha am so ig rw te ml my km lo ne mg qu ay"
LANGUAGES = tuple(" ".join((_HIGH, _MID, _LOW)).split())
OUTLIERS = {"my": 1.9, "am": 1.7, "ka": 1.5, "yo": 0.5}
"""How many times as far from English as others of their tier."""

MODEL, BENCHMARK, ITEMS, CHOICES = "org/some-moe-model-name", "reading", 40, 4
SHAPE = RoutingShape(tuple(range(48)), 128, 8, 48)
_DISTANCE = {"high": 0.35, "mid": 0.6, "low": 1.0, "unknown": 1.0}

# Name of the steering file, its layers, its action, and what it does to accuracy by resource tier.
STEERINGS: tuple[tuple[str, str, Any, dict[str, float]], ...] = (
    ("task-experts-soft", "middle", {"soft": 0.5}, {"high": 0.0, "mid": 0.03, "low": 0.06}),
    ("task-experts-activate", "middle", "activate", {"high": -0.01, "mid": 0.01, "low": 0.02}),
    ("multilingual-experts-soft", "16-31", {"soft": 0.3}, {"high": 0.0, "mid": 0.01, "low": 0.03}),
    ("shared-experts-soft", "early", {"soft": 0.5}, {"high": -0.02, "mid": -0.02, "low": -0.03}),
    ("exclusive-experts-deactivate", "late", "deactivate", {"high": -0.03, "mid": -0.08, "low": -0.15}),
    ("multilingual-experts-strong", "middle", {"soft": 1.0}, {"high": 0.0, "mid": 0.02, "low": 0.04}),
)


@dataclass(frozen=True)
class LargeStudy:
    """What is in the folder, as it was read."""

    runs: tuple[LabelledRun, ...]
    profile_sets: tuple[AnalysisInputs, ...]
    sweeps: tuple[SweepReport, ...]


def large_study(folder: Path) -> LargeStudy:
    """Make the study; profiles and sweep are files in the folder, runs are not."""
    return LargeStudy(
        tuple(large_runs()),
        (read_inputs([str(write_large_profile(folder / "routing.safetensors"))]),),
        (read_sweep(write_large_sweep(folder / "by-strength")),),
    )


def large_runs() -> list[LabelledRun]:
    """Return the runs, named as `report` names them: the baseline, six steered, a control of the first."""
    return unique_labels([LabelledRun("", results) for results in _runs().values()])


def write_large_study(folder: Path) -> Path:
    """Write results and samples of the runs, the profiles and the sweep as the commands do."""
    for number, (name, results) in enumerate(_runs().items()):
        date = f"2026-03-{number + 1:02}T10-00-00.000000"
        home = folder / name / MODEL.replace("/", "__")
        home.mkdir(parents=True)
        samples = results["samples"]
        content = {key: value for key, value in results.items() if key != "samples"}
        (home / f"results_{date}.json").write_text(json.dumps(content), encoding="utf-8")
        for task, logged in samples.items():
            lines = "".join(json.dumps(sample) + "\n" for sample in logged)
            (home / f"samples_{task}_{date}.jsonl").write_text(lines, encoding="utf-8")
    write_large_profile(folder / "routing.safetensors")
    write_large_sweep(folder / "by-strength")
    return folder


def write_large_profile(path: Path) -> Path:
    """Write the baseline's profile of all languages."""
    distance = {lang: _distance(lang) for lang in LANGUAGES}
    return write_profile(
        path,
        LANGUAGES,
        shape=SHAPE,
        items=8,
        tokens=48,
        benchmark=BENCHMARK,
        model=MODEL,
        overlap=True,
        distance=distance,
        kin={lang: known_languages()[lang].branch or known_languages()[lang].family for lang in LANGUAGES},
    )


def write_large_sweep(folder: Path) -> Path:
    """Write a sweep over bands of layers, actions and strengths, whose last cells have not been run."""
    generator = np.random.default_rng(5)
    cells = []
    for layers in ("early", "middle", "late"):
        for rule in ("task", "multilingual"):
            for strength in (-0.5, 0.25, 0.5, 1.0):
                helps = {"early": -0.01, "middle": 0.02, "late": -0.04}[layers] * (1 if strength > 0 else -1)
                gains = {
                    lang: helps * abs(strength) * 2 * _distance(lang) + 0.008 * generator.normal() for lang in LANGUAGES
                }
                gains["mean"] = float(np.mean([*gains.values()]))
                if (layers, rule, strength) == ("late", "task", 1.0):
                    gains["my"] = -0.6  # what one outlier does to a scale
                settings = {"layers": layers, "experts.rule": rule, "action.soft": strength}
                effects = {}
                for name, gain in gains.items():
                    control = 0.005 * generator.normal()
                    effects[name] = effect(round(gain, 4), round(control, 4), gain - 0.02, gain + 0.02, draws=3)
                    effects[name]["gain"] |= {"stderr": 0.012, "exact_p": None}
                if rule == "multilingual" and strength == -0.5:
                    del effects["qu"], effects["ay"]
                cells.append((settings, effects))
    return write_sweep(folder, cells, name="by-strength", benchmark=BENCHMARK, languages=LANGUAGES)


def _distance(language: str) -> float:
    """Return how far a language is from English: 0 for itself, about 1 for one of few resources."""
    if language == "en":
        return 0.0
    info = known_languages()[language]
    own = np.random.default_rng([1, *language.encode()]).uniform(0.8, 1.2)
    kin = np.random.default_rng([2, *(info.branch or info.family).encode()]).uniform(0.85, 1.15)
    return float(_DISTANCE[info.tier] * own * kin * OUTLIERS.get(language, 1.0))


@cache
def _runs() -> Mapping[str, dict[str, Any]]:
    generator = np.random.default_rng(0)
    selected = {layer: sorted(generator.choice(128, 4, replace=False).tolist()) for layer in SHAPE.layers}
    plans = [
        resolve(
            parse_spec(
                {
                    "version": 1,
                    "name": name,
                    "interventions": [
                        {"layers": layers, "experts": {"ids": _within(selected, layers)}, "action": action}
                    ],
                }
            ),
            SHAPE,
        )
        for name, layers, action, _ in STEERINGS
    ]
    runs = {"baseline": _results(None, {}, 0)}
    for number, (plan, (name, *_, effects)) in enumerate(zip(plans, STEERINGS, strict=True), start=1):
        runs[name] = _results(plan, effects, number)
    controls = [random_control(plans[-1], seed) for seed in (1, 2, 3)]
    drawn = [_results(plan, {}, 20 + number) for number, plan in enumerate(controls)]
    add_gains(runs[STEERINGS[-1][0]], drawn, [plan.hash for plan in controls], PairingRegistry.default())
    runs["random-control"] = _results(random_control(plans[0], 1), {}, 30)
    return runs


def _within(selected: Mapping[int, list[int]], layers: str) -> dict[int, list[int]]:
    first, _, last = layers.partition("-")
    inside = SHAPE.band(layers) if not last else range(int(first), int(last) + 1)
    return {layer: selected[layer] for layer in inside}


def _results(plan: SteeringPlan | None, effects: Mapping[str, float], seed: int) -> dict[str, Any]:
    """Return a run's results; a steering moves accuracy by tier, and the divergence of its layers."""
    generator = np.random.default_rng([7, seed])
    depth = np.linspace(-1, 1, 48)
    steered = np.zeros(48)
    for layer in plan.to_dict()["experts"] if plan else ():
        steered[int(layer)] = 1
    table, samples, routing, configs = {}, {}, {}, {}
    for lang in LANGUAGES:
        task, info, distance = f"{BENCHMARK}_{lang}", known_languages()[lang], _distance(lang)
        fixed = np.random.default_rng([3, *lang.encode()])  # what all runs of a language have in common
        easiness = np.random.default_rng(4).uniform(-0.15, 0.15, ITEMS)
        draws = fixed.uniform(size=ITEMS)
        level = max(0.27, 0.86 - 0.4 * distance + 0.06 * fixed.normal())
        moved = effects.get(info.tier, 0.0) + 0.01 * generator.normal() * bool(plan)
        scores = (draws < np.clip(level + moved + easiness, 0.02, 0.98)).astype(float)
        shape = 0.16 + 0.34 * np.abs(depth) ** 2.2 + 0.05 * np.exp(-(((depth - fixed.uniform(-0.7, 0.7)) / 0.1) ** 2))
        curve = distance**0.6 * shape + 0.004 * fixed.normal(size=48) + 0.002 * generator.normal(size=48)
        curve = np.clip(curve - steered * 0.25 * moved, 0.0, None)
        divergence = float(np.mean(curve[[*SHAPE.band("middle")]]))
        by_item = np.clip(divergence + 0.03 * fixed.normal(size=ITEMS), 0, None)
        entropy = 0.93 - 0.1 * np.abs(depth) - 0.05 * distance + 0.004 * fixed.normal(size=48)
        is_reference = lang == "en"
        curves = {"entropy": entropy.round(5).tolist()}
        table[task] = {"alias": task, "acc,none": float(scores.mean()), "acc_stderr,none": _stderr(scores)}
        if not is_reference:
            curves["divergence"] = (curve + by_item.mean() - divergence).round(5).tolist()
            table[task] |= {
                "routing_divergence,none": float(by_item.mean()),
                "routing_divergence_stderr,none": _stderr(by_item),
            }
        samples[task] = [
            {
                "doc_id": item,
                "doc": {"item_id": f"item-{item}"},
                "doc_hash": f"{lang}{item}",
                "filter": "none",
                "acc": float(scores[item]),
                **({} if is_reference else {"routing_divergence": float(by_item[item])}),
            }
            for item in range(ITEMS)
        ]
        routing[task] = {
            "language": lang,
            "benchmark": BENCHMARK,
            "reference": None if is_reference else "en",
            "documents": ITEMS,
            "tokens": 100 * ITEMS,
            **({"steered_tokens": 2400 * ITEMS} if plan else {}),
            "curves": curves,
        }
        own = {"language": lang, "benchmark": BENCHMARK, "item": "item_id"}
        configs[task] = {"metadata": {"version": 1, "routing": own}}
    return {
        "results": table,
        "group_subtasks": {},
        "configs": configs,
        "versions": dict.fromkeys(table, 1.0),
        "n-shot": dict.fromkeys(table, 0),
        "n-samples": {task: {"original": ITEMS, "effective": ITEMS} for task in table},
        "higher_is_better": {task: {"acc": True} for task in table},
        "config": {"model": "hf-moe", "model_args": {"pretrained": MODEL}, "limit": None},
        "lm_eval_version": "0.4.13",
        "date": 1_772_000_000.0 + 86_400 * seed,
        "samples": samples,
        "routing": {
            "schema_version": 1,
            "lm_eval_moe_version": "0.1.0",
            "model_shape": {
                "layers": list(SHAPE.layers),
                "experts": SHAPE.experts,
                "top_k": SHAPE.top_k,
                "depth": SHAPE.depth,
                "bands": {band: list(SHAPE.band(band)) for band in ("early", "middle", "late")},
            },
            "capture": "prompt",
            "reference": "en",
            "steering": plan.to_dict() if plan else None,
            "tasks": routing,
        },
    }


def _stderr(values: np.ndarray[Any, Any]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))
