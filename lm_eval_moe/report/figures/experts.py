"""Heat maps of layers x experts: how much more often a language selects an expert than the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.analysis import AnalysisInputs, LanguageRouting
from lm_eval_moe.drawing.canvas import short
from lm_eval_moe.drawing.layers_by_experts import FEW_EXPERTS, HeatMap, Panel, draw_layers_by_experts
from lm_eval_moe.number_text import signed
from lm_eval_moe.report.figures._base import PROFILES, ProfilesSubject, ReportFigure
from lm_eval_moe.report.wording import listing, plural
from lm_eval_moe.statistics import holm
from lm_eval_moe.tables import TableValue

__all__ = ["expert_differences", "expert_heat_map"]

Values = NDArray[np.float64]
_LEVEL = 0.05


@dataclass(frozen=True)
class _Difference:
    """A language's frequencies less the reference's ``[L, E]``, and which are beyond noise; None without items."""

    language: str
    frequency: Values
    reference: Values
    beyond: NDArray[np.bool_] | None
    items: int

    @property
    def change(self) -> Values:
        return self.frequency - self.reference


_TITLE = "Which experts a language uses more or less"


@PROFILES.figure("expert_heat_map", order=50, title=_TITLE)
def expert_heat_map(subject: ProfilesSubject) -> ReportFigure | None:
    """Draw a panel a language; where there are many, those at even steps from the nearest to the farthest."""
    inputs = subject.inputs
    if len(inputs.languages) < 2:
        return None
    differences = expert_differences(inputs)
    panel_differences = _evenly_spaced(differences, 8 if inputs.shape.experts <= FEW_EXPERTS else 4)
    some = (
        f" Drawn are {len(panel_differences)} of {len(differences)} languages, from the nearest to the farthest."
        if len(panel_differences) < len(differences)
        else ""
    )
    grey = (
        " Coloured: beyond noise; grey: not."
        if any(difference.beyond is not None for difference in panel_differences)
        else ""
    )
    panels = [
        Panel([short(difference.language, 20)], difference.change, beyond=difference.beyond)
        for difference in panel_differences
    ]
    heat_map = HeatMap(panels, f"percentage points against {short(inputs.reference, 8)}", factor=100)
    return ReportFigure(
        _TITLE,
        f"Activation frequency of every expert (its share of the tokens) less that in {inputs.reference}; rows are "
        f"decoder layers, columns experts.{grey}{some} In the data every "
        "expert is a column: the difference, to five decimals, and 1 where it is beyond noise.",
        f"Heat maps of layers by experts, the activation frequency less that in {inputs.reference}, for "
        f"{listing([difference.language for difference in panel_differences])}.",
        ("language", "layer", "quantity", *(f"expert_{number}" for number in range(inputs.shape.experts))),
        _rows(inputs, differences),
        lambda colours: draw_layers_by_experts([heat_map], inputs.shape, colours),
        finding=_finding(inputs, differences),
        tabulated=False,
    )


def expert_differences(inputs: AnalysisInputs) -> list[_Difference]:
    """Return every language's difference to the reference, tested item by item where items pair.

    The test is a paired t test over items for each expert; over all experts of a language Holm's correction.
    """
    reference = inputs.languages[inputs.reference]
    return [_difference(inputs.languages[language], reference) for language in inputs.others]


def _difference(routing: LanguageRouting, reference: LanguageRouting) -> _Difference:
    common = [name for name in routing.items if name in reference.items]
    pairs = [
        (routing.items[name], reference.items[name])
        for name in common
        if routing.tokens[routing.items[name]] and reference.tokens[reference.items[name]]
    ]
    if len(pairs) < 2:
        language_mean, reference_mean = routing.activity.mean, reference.activity.mean
        return _Difference(routing.language, language_mean, reference_mean, None, 0)
    sums = np.zeros((3, len(routing.shape.layers), routing.shape.experts))
    first = routing.profile.rows("counts", [row for row, _ in pairs])
    second = reference.profile.rows("counts", [row for _, row in pairs])
    for (row, other_row), counts, reference_counts in zip(pairs, first, second, strict=True):
        a, b = counts / routing.tokens[row], reference_counts / reference.tokens[other_row]
        sums += np.stack([a, b, (a - b) ** 2])
    language_mean, reference_mean, squares = sums / len(pairs)
    variance = np.maximum(squares - (language_mean - reference_mean) ** 2, 0.0)
    return _Difference(
        routing.language,
        language_mean,
        reference_mean,
        _beyond(language_mean - reference_mean, variance, len(pairs)),
        len(pairs),
    )


def _beyond(mean: Values, variance: Values, n: int) -> NDArray[np.bool_]:
    from scipy.stats import t

    stderr = np.sqrt(variance / (n - 1))
    statistic = np.divide(np.abs(mean), stderr, out=np.zeros_like(mean), where=stderr > 1e-9)
    p = 2 * t.sf(statistic, n - 1)
    # The same difference in every item has no spread to test against; by turning signs its p is 2 of 2^n.
    p[(stderr <= 1e-9) & (np.abs(mean) > 1e-9)] = 2.0 ** (1 - n)
    corrected = np.asarray(holm(p.ravel().tolist()))
    is_beyond: NDArray[np.bool_] = (corrected < _LEVEL).reshape(mean.shape)
    return is_beyond


def _evenly_spaced(differences: Sequence[_Difference], most: int) -> list[_Difference]:
    ordered = sorted(differences, key=lambda difference: (float(np.abs(difference.change).mean()), difference.language))
    if len(ordered) <= most:
        return ordered
    return [ordered[round(step * (len(ordered) - 1) / (most - 1))] for step in range(most)]


def _rows(inputs: AnalysisInputs, differences: Sequence[_Difference]) -> list[tuple[TableValue, ...]]:
    """Return the data with a column per expert, so that those of a large model stay a few megabytes."""
    reference = inputs.languages[inputs.reference]
    tables: list[tuple[str, str, NDArray[Any]]] = [(inputs.reference, "frequency", reference.activity.mean)]
    for difference in differences:
        tables.append((difference.language, "difference", difference.change))
        if difference.beyond is not None:
            tables.append((difference.language, "beyond_noise", difference.beyond.astype(int)))
    return [
        (language, layer, quantity, *of_layer)
        for language, quantity, table in tables
        for layer, of_layer in zip(inputs.shape.layers, np.round(table, 5).tolist(), strict=True)
    ]


def _finding(inputs: AnalysisInputs, differences: Sequence[_Difference]) -> str:
    shape = inputs.shape
    total = len(shape.layers) * shape.experts
    tested = {
        difference.language: int(difference.beyond.sum()) for difference in differences if difference.beyond is not None
    }
    sentences = []
    if tested:
        most, least = max(tested, key=tested.__getitem__), min(tested, key=tested.__getitem__)
        low, high = f"{tested[least]} ({least})", f"{tested[most]} ({most})"
        sentences.append(
            f"{low if least == most else f'Between {low} and {high}'} of {total} experts ({shape.experts} in each of "
            f"{plural(len(shape.layers), 'layer')}) are selected more or less often than in {inputs.reference} "
            "beyond noise (paired by item, Holm's correction over the experts at 5 %)."
        )
    extreme = max(differences, key=lambda difference: float(np.abs(difference.change).max()))
    at, expert = np.unravel_index(int(np.abs(extreme.change).argmax()), extreme.change.shape)
    value = float(extreme.change[at, expert])
    if not math.isclose(value, 0.0, abs_tol=1e-12):
        sentences.append(
            f"The largest difference is that of expert {expert} in layer {shape.layers[at]}: {signed(100 * value, 1)} "
            f"percentage points of the tokens in {extreme.language}."
        )
    else:
        sentences.append(f"No language differs from {inputs.reference} in any expert.")
    if not tested:
        sentences.append("Pooled counts: it cannot be told what of it is noise.")
    return " ".join(sentences)
