"""Running analyses, and writing what they find: one JSON file, a table an analysis, and a summary for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_moe._version import __version__
from lm_eval_moe.analysis._base import Analysis, jsonable
from lm_eval_moe.analysis._inputs import AnalysisInputs, NotPossible
from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_whole
from lm_eval_moe.tables import csv_text

__all__ = ["SCHEMA_VERSION", "Findings", "analyse", "chosen_analyses", "profiles_of"]

SCHEMA_VERSION = 1
JSON_NAME = "analysis.json"


@dataclass(frozen=True)
class Findings:
    """What analyses found.

    Attributes:
        inputs: What they were computed from.
        done: Their results, by name.
        not_done: The others, and why.
    """

    inputs: AnalysisInputs
    done: dict[str, Analysis]
    not_done: dict[str, NotPossible]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        inputs, shape = self.inputs, self.inputs.shape
        return jsonable(
            {
                "schema_version": SCHEMA_VERSION,
                "lm_eval_moe_version": __version__,
                "model": inputs.model,
                "shape": shape.to_dict(),
                "span": inputs.span,
                "steering": inputs.steering,
                "reference": inputs.reference,
                "languages": list(inputs.languages),
                "benchmarks": inputs.benchmarks,
                "profiles": profiles_of(inputs),
                "results": [Path(run.label).name for run in inputs.runs],
                "accuracies": inputs.accuracies_name or None,
                "settings": dict(vars(inputs.settings)),
                "analyses": {
                    analysis.name: self._entry(analysis.name)
                    for analysis in Analysis.ordered()
                    if analysis.name in self.done or analysis.name in self.not_done
                },
            }
        )

    def tables(self) -> dict[str, str]:
        """Return the CSV tables by their file names."""
        return {f"{name}.csv": csv_text(analysis.columns, analysis.rows()) for name, analysis in self.done.items()}

    def write(self, folder: Path) -> list[Path]:
        """Write ``analysis.json`` and the tables; tables of analyses that were not done now are removed.

        Raises:
            UserError: The folder cannot be written to.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        for name in Analysis.registry:
            if name not in self.done:
                (folder / f"{name}.csv").unlink(missing_ok=True)
        contents = {folder / name: content for name, content in {**self.tables(), JSON_NAME: text}.items()}
        for path, content in contents.items():
            write_whole(path, content, "analysis")
        return list(contents)

    def text(self) -> str:
        """Return what matters most, for people."""
        inputs = self.inputs
        languages = ", ".join(inputs.languages)
        head = [
            f"model      {inputs.model or 'not said'}",
            f"span       {inputs.span or 'not said'}",
            f"languages  {languages} (reference {inputs.reference})",
        ]
        counts = inputs.benchmarks
        if counts:
            model_counts = ", ".join(f"{name} ({count} items)" for name, count in counts.items())
            head.append(
                f"benchmark  {model_counts}"
                if len(counts) == 1
                else f"benchmarks {model_counts}: pooled, --benchmark takes one"
            )
        if inputs.steering:
            head.append(f"steering   {inputs.steering[:16]}")
        blocks = ["\n".join(head)]
        blocks += ["\n".join(analysis.lines()) for analysis in self.done.values()]
        if self.not_done:
            width = max(map(len, self.not_done))
            lines = [
                f"  {name:<{width}}  {obstacle.reason}\n  {'':<{width}}  -> {obstacle.fix}"
                for name, obstacle in self.not_done.items()
            ]
            blocks.append("\n".join(["not done", *lines]))
        return "\n\n".join(blocks)

    def _entry(self, name: str) -> dict[str, Any]:
        if name in self.done:
            return {"done": True, "table": f"{name}.csv", **self.done[name].to_dict()}
        missing = self.not_done[name]
        return {"done": False, "reason": missing.reason, "fix": missing.fix}


def profiles_of(inputs: AnalysisInputs) -> list[dict[str, Any]]:
    """Return what is known of every file of profiles that was read, with the languages that are compared from it."""
    languages_of_path: dict[Path, list[str]] = {}
    for language, routing in inputs.languages.items():
        languages_of_path.setdefault(routing.given.path.resolve(), []).append(language)
    return [
        {
            "file": Path(source.given).name,
            **source.said(),
            "languages": languages_of_path.get(source.path.resolve(), []),
        }
        for source in inputs.store.used
    ]


def chosen_analyses(names: Sequence[str]) -> list[type[Analysis]]:
    """Return the analyses of these names, in the order in which they are printed.

    Raises:
        UserError: A name is unknown.
    """
    for name in names:
        Analysis.registry.look_up(name, "--analyses")
    return [analysis for analysis in Analysis.ordered() if analysis.name in names]


def analyse(inputs: AnalysisInputs, names: Sequence[str] | None = None) -> Findings:
    """Run analyses: all of them, or those named.

    Raises:
        UserError: A name is unknown, one that was named cannot be done, or a profile is damaged.
    """
    results: dict[str, Analysis] = {}
    not_done: dict[str, NotPossible] = {}
    for analysis in Analysis.ordered() if names is None else chosen_analyses(names):
        try:
            results[analysis.name] = inputs.result(analysis)
        except NotPossible as missing:
            if names is not None:
                raise UserError(
                    f"{analysis.name} cannot be done: {missing.reason}", fix=missing.fix, where="--analyses"
                ) from missing
            not_done[analysis.name] = missing
    return Findings(inputs, results, not_done)
