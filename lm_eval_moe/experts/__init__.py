"""Apply selection rules to profiles, and show and write down what they select.

Nothing here imports torch; matplotlib (the ``report`` extra) is imported when a picture is drawn.
"""

from __future__ import annotations

from lm_eval_moe.experts.explicit_file import explicit_yaml
from lm_eval_moe.experts.heatmap import save_heat_map
from lm_eval_moe.experts.reasons import reasons_csv
from lm_eval_moe.experts.selection import ComparedNumber, as_random_control, compared, parse_thresholds, select
from lm_eval_moe.experts.shapes import parse_shape, shape_of_spec
from lm_eval_moe.experts.text import render_text

__all__ = [
    "ComparedNumber",
    "as_random_control",
    "compared",
    "explicit_yaml",
    "parse_shape",
    "parse_thresholds",
    "reasons_csv",
    "render_text",
    "save_heat_map",
    "select",
    "shape_of_spec",
]
