"""How far two backends agree on one model: the same texts under the same steering, each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe._version import __version__
from lm_eval_moe.doctor.sample import Request, SampleResult, read_result, send
from lm_eval_moe.errors import UserError
from lm_eval_moe.identity import SELECTION, Identity
from lm_eval_moe.metrics import normalized_js_divergence
from lm_eval_moe.tables import aligned
from lm_eval_moe.wrapping import hanging

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BackendAgreement", "Parity", "compare_backends", "parity", "shared_arguments"]

_SHARED = ("pretrained", "revision", "dtype", "trust_remote_code", "tokenizer", "max_length")
"""Model arguments that say which model it is and how it reads text: both backends get them."""

_SCORES, _IMPORTANCE, _DIVERGENCE = 1e-3, 1e-4, 1e-3
_NEAR_TIES = 0.002
"""What float32 is judged by: differences of texts with the same selections, and the share of other selections."""

_WIDTH = 96


@dataclass(frozen=True)
class BackendAgreement:
    """How far two backends agree under one plan; all differences are the largest of all texts.

    Attributes:
        plan: Its name.
        scores: Of log-likelihoods.
        importance: Of any expert's importance.
        divergence: Of the divergence of consecutive texts in the middle layers.
        differing: Selections that differ.
        selections: Of how many.
        even: The first three again, of texts in which no selection differs.
        miscounted: Texts of which the two counted another number of tokens.
        confused: Texts whose record is nearer to another text's than to the other backend's of the same text.
    """

    plan: str
    scores: float
    importance: float
    divergence: float
    differing: int
    selections: int
    even: tuple[float, float, float]
    miscounted: int
    confused: int

    def problem(self, *, exact: bool) -> str:
        """Say what is wrong; empty where nothing is.

        Args:
            exact: Whether both compute in float32: otherwise only what no rounding can explain is wrong.
        """
        if self.miscounted:
            return f"{self.miscounted} texts have different numbers of tokens"
        if self.confused:
            return f"{self.confused} records are closer to another text's"
        if not exact:
            return ""
        limits = (("log-likelihood", _SCORES), ("importance", _IMPORTANCE), ("divergence", _DIVERGENCE))
        wrong = [
            f"{name} by {value:.1e} (at most {most:g})"
            for (name, most), value in zip(limits, self.even, strict=True)
            if not value <= most
        ]
        if self.differing > max(2, _NEAR_TIES * self.selections):
            wrong.append(f"{self.differing} of {self.selections} selections, more than near-ties explain")
        return f"differ in {'; '.join(wrong)}" if wrong else ""


@dataclass(frozen=True)
class Parity:
    """How far two backends agree.

    Attributes:
        backends: Their names.
        dtypes: Of their parameters; None where a backend does not say.
        texts: How many texts were compared.
        plans: By plan.
    """

    backends: tuple[str, str]
    dtypes: tuple[str | None, str | None]
    texts: int
    plans: tuple[BackendAgreement, ...]

    @property
    def exact(self) -> bool:
        """Whether both compute in float32, as far as they say."""
        return all(dtype in (None, "float32") for dtype in self.dtypes)

    @property
    def problems(self) -> list[str]:
        """What is wrong, by plan."""
        problems = [(plan.plan, plan.problem(exact=self.exact)) for plan in self.plans]
        return [f"steering {plan}: {problem}" for plan, problem in problems if problem]

    @property
    def ok(self) -> bool:
        """Whether they agree as far as their data types allow."""
        return not self.problems

    @property
    def verdict(self) -> str:
        """The verdict in a sentence or two."""
        one, other = self.backends
        if not self.ok:
            return f"NOT OK. {one} and {other} do not agree: {'. '.join(self.problems)}."
        if self.exact:
            return f"OK. {one} and {other} agree up to rounding and near-ties."
        return (
            f"OK. {one} and {other} see the same texts. In 16-bit types they cannot agree more closely: do not mix "
            "their results; dtype=float32 shows whether anything else is behind the differences."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {"lm_eval_moe_version": __version__, **asdict(self), "ok": self.ok, "verdict": self.verdict}

    def render(self) -> str:
        """Return it as lines of at most 96 characters."""
        pairs = zip(self.backends, self.dtypes, strict=True)
        names = " and ".join(f"{name} ({dtype or 'dtype unknown'})" for name, dtype in pairs)
        rows = [["steering", "log-likelihood", "importance", "divergence", "selections that differ"]]
        rows += [
            [
                agreement.plan,
                *(f"{value:.1e}" for value in (agreement.scores, agreement.importance, agreement.divergence)),
                f"{agreement.differing:,} of {agreement.selections:,}",
            ]
            for agreement in self.plans
        ]
        title = f"{names}: largest differences on {self.texts} texts"
        verdict = "\n".join(hanging("verdict: ", self.verdict, _WIDTH))
        return "\n".join([title, *aligned(rows), "", verdict])


def shared_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a backend's model arguments those that another one gets, too."""
    values = {"max_length": arguments.get("max_model_len"), **arguments}
    return {name: values[name] for name in _SHARED if values.get(name) is not None}


def compare_backends(
    first: tuple[str, Mapping[str, Any]],
    second: tuple[str, Mapping[str, Any]],
    progress: Callable[[str], object] = lambda label: None,
) -> Parity:
    """Run a sample of texts by two backends, and compare what they make of it.

    Args:
        first: Name and model arguments of a backend, which draws the sample.
        second: Those of the other.
        progress: Is called with what is about to run.

    Raises:
        UserError: A backend cannot be loaded, or the two do not run the same model.
    """
    requests = [Request.of(*first), Request.of(*second)]  # both are known before an hour is spent on one
    with tempfile.TemporaryDirectory() as folder:
        progress(requests[0].backend)
        one = _run_sample(requests[0], Path(folder))
        progress(requests[1].backend)
        other = _run_sample(Request.of(*second, texts=one.texts), Path(folder))
    return parity(one, other)


def _run_sample(request: Request, folder: Path) -> SampleResult:
    request_file, result_file = folder / f"{request.backend}.asked.json", folder / f"{request.backend}.npz"
    send(request, request_file)
    command = [sys.executable, "-m", "lm_eval_moe.doctor.sample", str(request_file), str(result_file)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    error = result_file.with_suffix(".json")
    if error.is_file():
        raise UserError(**json.loads(error.read_text(encoding="utf-8")))
    if process.returncode:
        last = next((line for line in reversed(process.stderr.splitlines()) if line.strip()), "")
        raise UserError(
            f"the process that ran {request.backend} exited with code {process.returncode}: {last.strip()}",
            fix="check whether `lm-eval-moe doctor` runs with this backend alone",
            where=f"doctor: {request.backend}",
        )
    return read_result(result_file)


def parity(one: SampleResult, other: SampleResult) -> Parity:
    """Compare what two backends made of the same texts.

    Raises:
        UserError: They did not run the same model.
    """
    differences = Identity.from_dict(one.identity).differences(Identity.from_dict(other.identity), SELECTION.needed())
    if differences:
        raise UserError(
            f"the two backends run different models: {'; '.join(map(str, differences))}",
            fix="give both the same model: --model_args pretrained=...; --against_args is for what only the other one "
            "needs",
            where="--against",
        )
    plans = tuple(_plan_agreement(plan, one, other) for plan in one.scores)
    return Parity((one.backend, other.backend), (one.dtype, other.dtype), len(one.texts), plans)


def _plan_agreement(plan: str, one: SampleResult, other: SampleResult) -> BackendAgreement:
    counts = one.counts[plan], other.counts[plan]
    distance = np.abs(counts[0] - counts[1]).sum((1, 2))
    even = distance == 0
    scores = np.abs(one.scores[plan] - other.scores[plan])
    importance = np.abs(one.importance[plan] - other.importance[plan]).max((1, 2))
    layers = list(one.layers["middle"] or one.layers["all"])
    divergence = np.abs(_divergence(one.importance[plan], layers) - _divergence(other.importance[plan], layers))
    return BackendAgreement(
        plan,
        scores=_largest(scores),
        importance=_largest(importance),
        divergence=_largest(divergence),
        differing=int(distance.sum()) // 2,
        selections=int(counts[0].sum()),
        even=(_largest(scores[even]), _largest(importance[even]), _largest(divergence[even & np.roll(even, -1)])),
        miscounted=int((one.tokens[plan] != other.tokens[plan]).sum()),
        confused=_count_confused(*counts),
    )


def _divergence(importance: NDArray[np.float64], layers: Sequence[int]) -> NDArray[np.float64]:
    """Return the mean over layers of the divergence of each text from the next one; from the first, of the last."""
    return np.asarray(normalized_js_divergence(importance, np.roll(importance, -1, axis=0))[:, layers].mean(1))


def _count_confused(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Count the records whose nearest one, of all the other backend's, is of another text."""
    flat = [np.asarray(counts.reshape(len(counts), -1), dtype=np.float64) for counts in (one, other)]
    shares = [counts / counts.sum(1, keepdims=True) for counts in flat]
    distances = np.abs(shares[0][:, None] - shares[1][None]).sum(-1)
    return int((distances.min(1) < distances.diagonal()).sum())


def _largest(values: NDArray[np.float64]) -> float:
    return float(values.max()) if values.size else 0.0
