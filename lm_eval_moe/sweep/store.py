"""The folder of a sweep: every run's results as it ends, so that a sweep that was cut off goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_json
from lm_eval_moe.identity import CONTINUATION, Identity, check_agreement, setting_differences
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.results import RoutingObject
from lm_eval_moe.results.reading import load_json, load_results
from lm_eval_moe.results.samples import with_compact_samples

__all__ = ["BASELINE", "RunStore"]

SCHEMA_VERSION = 1
BASELINE = "baseline"


class RunStore:
    """The runs of one sweep on disk, by the hash of their steering.

    Args:
        folder: Where they lie; made if it is not there.
        settings: What the sweep was asked for, besides the steering; JSON-ready.
        identity: What the runs depend on, besides the steering.

    Raises:
        UserError: The folder holds the runs of other settings, or of no sweep.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], identity: Identity) -> None:
        self.folder = folder
        path = folder / "settings.json"
        now = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **settings}))
        if path.exists():
            self._check(
                load_json(path, "give another --output: without its settings the sweep cannot be resumed"),
                now,
                identity,
            )
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(
                "the folder is not empty and does not hold a sweep", fix="give a new folder", where=f"--output {folder}"
            )
        else:
            write_json(path, {**now, "identity": identity.to_dict()}, "settings of the sweep")

    def _check(self, before: Any, now: Mapping[str, Any], identity: Identity) -> None:
        where, fix = str(self.folder), "give another --output, or the previous settings"
        if not isinstance(before, dict):
            raise UserError("its settings do not hold a JSON object", fix="give another --output", where=where)
        differences = setting_differences(before, now, now)
        if differences:
            raise UserError(
                "the folder holds runs with other settings:\n     " + "\n     ".join(differences), fix=fix, where=where
            )
        try:
            stored = Identity.from_dict(before["identity"]) if "identity" in before else None
        except ValueError as error:
            raise UserError(f"its settings are damaged: {error}", fix="give another --output", where=where) from error
        check_agreement(stored, identity, CONTINUATION, what="the sweep", where=where, fix=fix)

    def path(self, name: str) -> Path:
        """Return where a run lies: ``baseline``, or the hash of its steering."""
        return self.folder / "runs" / f"results_{name[:16]}.json"

    @property
    def answers(self) -> Path:
        """Where the answers of the runs lie that have not ended: a sweep that was cut off goes on there."""
        return self.folder / "unfinished" / "answers"

    def forget_answers(self) -> None:
        """Delete the answers, once the results of all runs that they were for are kept."""
        for file in self.answers.parent.glob(f"{self.answers.name}.*"):
            file.unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def read(self, name: str) -> dict[str, Any]:
        """Return a run's results, with samples.

        Raises:
            UserError: The file is damaged, or is another run's.
        """
        path = self.path(name)
        try:
            results = load_results(path)
            steering = RoutingObject.of(results).steering
            if (steering.hash if steering else BASELINE) != name:
                raise UserError("holds the results of a different steering from the one in its name", where=str(path))
        except UserError as error:
            fix = f"delete {path}: it will be computed again"
            raise UserError(error.problem, fix=fix, where=error.where) from error
        return results

    def write(self, name: str, results: Mapping[str, Any], registry: PairingRegistry) -> None:
        """Keep a run's results; of the samples what statistics need, not the prompts.

        Raises:
            UserError: The file cannot be written.
        """
        write_json(self.path(name), with_compact_samples(results, registry), "results")
