"""A policy to begin with, written from a baseline: its margins are as large as that baseline's noise asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lm_eval_moe.escaping import printable
from lm_eval_moe.gate.power import WANTED, Planned, change_variance
from lm_eval_moe.number_text import Scale
from lm_eval_moe.statistics.power import mean_stderr
from lm_eval_moe.strict_yaml import yaml_key, yaml_quoted

__all__ = ["DRIFT_SHARE", "noise_margin", "policy_text"]

DRIFT_SHARE = 0.25
"""A drift limit, as a share of how far apart different items of one language are routed."""

_TEMPLATE = Path(__file__).with_suffix(".template")
_SAMPLES = {
    True: "samples: required       # compare item by item; preferred: by standard errors where there are no samples",
    False: "samples: preferred      # the baseline has none; required: compare item by item or not at all",
}
_DRIFT = """\
routing_drift:          # largest mean divergence from the baseline's routing of the same items; here a
                        # quarter of how far apart different items of one language are routed
{limits}
  exceeded: fail        # or warn
"""


def noise_margin(stderr: float, alpha: float) -> float:
    """Return the smallest margin within which an unchanged run is shown to be in 80 of 100 cases.

    ``(z(1 - alpha) + z(0.8)) x stderr``, with the standard error of the difference of two equally good runs: the usual
    sample-size formula of non-inferiority trials, solved for the margin.
    """
    from scipy import special

    return float(special.ndtri(1 - alpha) + special.ndtri(WANTED)) * stderr


def policy_text(
    planned: Sequence[Planned],
    *,
    metrics: Mapping[str, str],
    label: str,
    alpha: float,
    correlation: float,
    between: float,
    samples: bool,
    spread: Mapping[str, float],
) -> str:
    """Return a policy file's text.

    Args:
        planned: The baseline's scores.
        metrics: Each benchmark's metric, as ``acc,none``.
        label: What the baseline is called.
        alpha: The family-wise level.
        correlation: Assumed of two runs' scores of the same item.
        between: Correlation of the differences of one item in two languages.
        samples: Whether the baseline has samples.
        spread: How far apart different items are routed, by band; empty: no drift limits.
    """
    languages = [_margin(entry, alpha) for entry in planned]
    blocks, macros = [], []
    for benchmark in dict.fromkeys(entry.benchmark for entry in planned):
        entries = [entry for entry in planned if entry.benchmark == benchmark]
        averaged = [entry for entry in entries if entry.language is not None]
        lines = [f"{yaml_key(benchmark, indent=2)}:", f"    metric: {yaml_quoted(metrics[benchmark])}"]
        lines.append(f"    minimum_items: {min(entry.items for entry in entries)}")
        lines.append("    margins:")
        if averaged:
            macros.append(_macro(averaged, alpha, between))
            lines += [f"      macro: {macros[-1]:g}", "      languages:"]
            lines += [f"        {entry.language}: {_about(entry, _margin(entry, alpha))}" for entry in averaged]
        else:
            lines.append(f"      language: {_about(entries[0], _margin(entries[0], alpha))}")
        blocks.append("\n".join(lines))
    limits = "\n".join(f"  {band}: {DRIFT_SHARE * mean:.2g}" for band, mean in spread.items())
    return _TEMPLATE.read_text(encoding="utf-8").format(
        label=printable(label),
        one_minus_alpha=1 - alpha,
        wanted=WANTED,
        correlation=correlation,
        between=between,
        name=yaml_quoted(printable(f"as good as {label}")),
        alpha=alpha,
        samples=_SAMPLES[samples],
        minimum_items=min(entry.items for entry in planned),
        language=max(languages),
        macro=max(macros or languages),
        benchmarks="\n".join(blocks),
        drift=_DRIFT.format(limits=limits) if spread else "",
    )


def _margin(planned: Planned, alpha: float) -> float:
    stderr = math.sqrt(change_variance(planned, smoothed=True) / planned.items)
    return _rounded_up(noise_margin(stderr, alpha), planned, planned.score)


def _macro(entries: Sequence[Planned], alpha: float, between: float) -> float:
    variances = [change_variance(entry, smoothed=True) for entry in entries]
    shared = all(entry.shared for entry in entries)
    stderr = mean_stderr(variances, [entry.items for entry in entries], between if shared else 1.0)
    return _rounded_up(
        noise_margin(stderr, alpha), entries[0], math.fsum(entry.score for entry in entries) / len(entries)
    )


def _rounded_up(margin: float, like: Planned, largest: float) -> float:
    """Round a margin up, but keep it below the score: one that no loss could exceed is refused."""
    step = 1e-3 if like.is_share else 10.0 ** (math.floor(math.log10(max(abs(like.score), 1e-9))) - 3)
    steps = math.ceil(margin / step - 1e-9)
    return round(min(steps, math.ceil(abs(largest) / step - 1e-9) - 1) * step if largest else steps * step, 12)


def _about(planned: Planned, margin: float) -> str:
    """Return a margin, and in a comment what it rests on."""
    scale = Scale(planned, plain=True)
    baseline = f"{planned.items} items, {scale.value(planned.score)}"
    return f"{margin:g}  # {scale.size_in_words(margin)}; {baseline}"
