"""How far the candidate's routing of the same items lies from the baseline's, from the two saved profiles."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lm_eval_moe.gate.evidence import DriftEvidence, Evidence
from lm_eval_moe.gate.policy import DriftLimits
from lm_eval_moe.identity import DRIFT
from lm_eval_moe.metrics import normalized_js_divergence, where_routed
from lm_eval_moe.profiles import Profile, read_profile
from lm_eval_moe.results import Run
from lm_eval_moe.results.routing import identity_of

__all__ = ["drift_between", "identical_profiles", "item_spread"]

_WRITE = "write it with `lm-eval-moe run --routing_profile FILE`, where FILE does not exist yet"


def drift_between(
    limits: DriftLimits,
    evidence: Sequence[Evidence],
    baseline: tuple[Path | None, Run],
    candidate: tuple[Path | None, Run],
) -> list[DriftEvidence]:
    """Return the drift of every language that is judged.

    The drift of an item in a layer is the entropy-normalised Jensen-Shannon divergence (arXiv 2510.04694) between its
    expert importance in the two runs; a band's is the mean over its layers and the items.

    Args:
        limits: The bands that have a limit.
        evidence: What is judged; drift is looked at in the same benchmarks and languages.
        baseline: Its profile, and the run that the profile has to be of.
        candidate: The same of the candidate.

    Raises:
        UserError: A file cannot be read or is not a profile.
    """
    for name, (path, _) in (("baseline", baseline), ("candidate", candidate)):
        if path is None:
            flag = f"--{name}_profile"
            return [
                _problem(
                    f"the policy limits routing drift, but no profile of the {name} is given: add {flag} FILE; {_WRITE}"
                )
            ]
    first, second = (read_profile(path) for path, _ in (baseline, candidate) if path is not None)
    for name, reader, run in (("baseline", first, baseline[1]), ("candidate", second, candidate[1])):
        problem = _stranger(reader, run)
        if problem:
            return [_problem(f"{reader.path} is not the profile of the {name}: {problem}; {_WRITE}")]
    same = identical_profiles(baseline[0], candidate[0])
    if same and _of_other_models(baseline[1], candidate[1]):
        return [
            _problem(f"{same[0]}. The runs differ in model or steering: one profile cannot belong to both; {_WRITE}")
        ]
    problem = _unlike(first, second)
    if problem:
        return [_problem(f"the two profiles cannot be compared: {problem}")]
    bands = {band: first.header.shape.band(band) for band in limits.limits}
    empty = [band for band, layers in bands.items() if not layers]
    if empty:
        return [_problem(f"this model has no {' or '.join(empty)} MoE layers: take the limit out of the policy")]
    return [_drift(entry, first, second, bands) for entry in evidence if entry.language and not entry.problem]


def identical_profiles(baseline: Path | None, candidate: Path | None) -> list[str]:
    """Say that the two profiles are one file, or copies of each other: a drift of 0 then says nothing."""
    if baseline is None or candidate is None or not filecmp.cmp(baseline, candidate, shallow=False):
        return []
    how = "the same file" if baseline.samefile(candidate) else "byte for byte the same"
    return [
        f"IDENTICAL PROFILES: {candidate} of the candidate and {baseline} of the baseline are {how}; unless both were "
        "captured from these two runs, their drift of 0 means nothing"
    ]


def unchecked_profiles(sides: Mapping[str, tuple[Path | None, Run]]) -> list[str]:
    """Say of which profiles it could not be checked that they are of the weights and prompts of their run.

    Args:
        sides: By name, the profile and the run that it has to be of.

    Raises:
        UserError: A file cannot be read or is not a profile.
    """
    notes = []
    for name, (path, run) in sides.items():
        if path is None:
            continue
        identities = {str(path): read_profile(path).header.identity, f"the results of the {name}": identity_of(run.raw)}
        silent = [what for what, identity in identities.items() if identity is None or not identity.parts]
        if silent:
            notes.append(
                f"whether {path} is of the weights and prompts of the {name} could not be checked: "
                f"{' and '.join(silent)} do not record what they depend on"
            )
    return notes


def item_spread(path: Path, bands: Sequence[str], *, most: int = 60) -> dict[str, float]:
    """Return the mean divergence between the routing of different items of one language, by band.

    Args:
        path: A profile.
        bands: The bands to look at; one without layers is left out.
        most: So many items of each language are looked at.

    Raises:
        UserError: The file cannot be read or is not a profile.
    """
    reader = read_profile(path)
    by_task: dict[tuple[str, str], list[int]] = {}
    for row, item in enumerate(reader.items):
        if item.item:
            by_task.setdefault((item.task, item.language), []).append(row)
    shape = reader.header.shape
    total, count = np.zeros(len(shape.layers)), np.zeros(len(shape.layers), dtype=np.int64)
    for rows in by_task.values():
        importance = np.stack(list(reader.rows("importance", rows[:most]))).astype(np.float64)
        for i in range(len(importance) - 1):
            pairs = where_routed(normalized_js_divergence, importance[i], importance[i + 1 :])
            total += np.nansum(pairs, axis=0)
            count += (~np.isnan(pairs)).sum(axis=0)
    at = {band: [shape.layers.index(layer) for layer in shape.band(band)] for band in bands}
    return {
        band: float(total[layers].sum() / count[layers].sum()) for band, layers in at.items() if count[layers].any()
    }


def _drift(evidence: Evidence, first: Profile, second: Profile, bands: Mapping[str, Sequence[int]]) -> DriftEvidence:
    of_task = partial(DriftEvidence, evidence.benchmark, evidence.language, evidence.task)
    rows = [
        {item.item: row for row, item in enumerate(reader.items) if item.task == evidence.task and item.item}
        for reader in (first, second)
    ]
    missing = [name for name, item_rows in zip(("baseline's", "candidate's"), rows, strict=True) if not item_rows]
    if missing:
        return of_task(problem=f"the {' and the '.join(missing)} profile has no items of {evidence.task}")
    if rows[0].keys() != rows[1].keys():
        only = len(rows[0].keys() - rows[1].keys()), len(rows[1].keys() - rows[0].keys())
        problem = f"{only[0]} items are only in the baseline's profile, {only[1]} only in the candidate's"
        return of_task(problem=problem)
    names = sorted(rows[0])
    curves = np.stack(
        [
            where_routed(normalized_js_divergence, a, b)
            for a, b in zip(
                first.rows("importance", [rows[0][name] for name in names]),
                second.rows("importance", [rows[1][name] for name in names]),
                strict=True,
            )
        ]
    )
    layers = list(first.header.shape.layers)
    means = {}
    for band, at in bands.items():
        values = curves[:, [layers.index(layer) for layer in at]]
        if np.isnan(values).all():
            return of_task(problem=f"no expert was selected in the {band} layers")
        means[band] = float(np.nanmean(values))
    return of_task(items=len(names), means=means)


def _stranger(reader: Profile, run: Run) -> str:
    """Say why a profile is not of a run, as far as both tell."""
    if not run.routing.is_said:
        return ""
    identity = identity_of(run.raw)
    if reader.header.identity is not None and identity is not None:
        differences = reader.header.identity.mismatch(identity, DRIFT)
        return "; ".join(difference.say("its {part} is {old}, the results say {new}") for difference in differences)
    pairs = [
        ("model", reader.header.model, run.routing.model),
        ("steering", (reader.header.steering or "none")[:12], (run.steering_hash or "none")[:12]),
        ("span", reader.header.span, run.routing.capture),
    ]
    return "; ".join(
        f"its {what} is {profile_value}, the results say {results_value}"
        for what, profile_value, results_value in pairs
        if results_value and profile_value != results_value
    )


def _of_other_models(first: Run, second: Run) -> bool:
    return (first.model, first.steering_title) != (second.model, second.steering_title)


def _unlike(first: Profile, second: Profile) -> str:
    a, b = first.header, second.header
    if a.shape != b.shape:
        return f"{a.shape} and {b.shape}"
    return f"spans {a.span} and {b.span}" if a.span != b.span else ""


def _problem(problem: str) -> DriftEvidence:
    return DriftEvidence("routing", None, problem=problem)
