"""What one backend makes of a sample of texts: run in its own process, since engines change each other's classes.

``python -m lm_eval_moe.doctor.sample`` reads a request from a file and writes what it found next to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.backends.registry import BACKENDS, load_model, quiet_loading, register_backend
from lm_eval_moe.doctor.runs import steering_of
from lm_eval_moe.doctor.sentences import SENTENCES
from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_json
from lm_eval_moe.recording import RequestKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lm_eval_moe.backends.base import RoutedModel
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringSpec

__all__ = ["Request", "SampleResult", "Text", "read_result", "send"]

_SEED = 0
_DRAWN = 8
_LONGEST = 60
_LAST = 4
_FEWEST_WORDS = 4

Text = tuple[list[int], list[int]]
"""The tokens of a context and of its continuation."""


@dataclass(frozen=True)
class Request:
    """What the process is asked for.

    Attributes:
        backend: The backend's name.
        home: ``module:Class`` of it.
        arguments: The model arguments.
        texts: The texts; None: draw them.
    """

    backend: str
    home: str
    arguments: Mapping[str, Any]
    texts: Sequence[Text] | None = None

    @classmethod
    def of(cls, backend: str, arguments: Mapping[str, Any], texts: Sequence[Text] | None = None) -> Request:
        """Return the request to a backend of this process.

        Raises:
            UserError: There is no such backend.
        """
        return cls(backend, BACKENDS.look_up(backend, "--against"), dict(arguments), texts)


@dataclass(frozen=True)
class SampleResult:
    """What a backend made of N texts under some plans.

    Attributes:
        backend: Its name.
        dtype: Of its parameters; None where it does not say.
        identity: What its answers depend on, JSON-ready.
        layers: By name of a band of layers, the places of its routers.
        texts: The texts.
        scores: By plan, ``[N]`` log-likelihoods.
        counts: By plan, ``[N, L, E]`` selections.
        importance: By plan, ``[N, L, E]``.
        tokens: By plan, ``[N]`` counted tokens.
    """

    backend: str
    dtype: str | None
    identity: Mapping[str, Any]
    layers: Mapping[str, Sequence[int]]
    texts: Sequence[Text]
    scores: Mapping[str, NDArray[np.float64]]
    counts: Mapping[str, NDArray[np.int64]]
    importance: Mapping[str, NDArray[np.float64]]
    tokens: Mapping[str, NDArray[np.int64]]


_ARRAYS = ("scores", "counts", "importance", "tokens")


def read_result(file: Path) -> SampleResult:
    """Read what the process wrote."""
    with np.load(file) as arrays:
        header = json.loads(str(arrays["told"]))
        by_plan: dict[str, Any] = {
            name: {plan: arrays[f"{name}/{plan}"] for plan in header["plans"]} for name in _ARRAYS
        }
        return SampleResult(**header["facts"], **by_plan)


def _plans(shape: RoutingShape) -> dict[str, SteeringSpec | None]:
    """Return no steering, and one plan for each kind of change to the logits, on experts drawn for each layer."""
    rng = np.random.default_rng(_SEED)
    count = min(2, shape.top_k, shape.experts - shape.top_k) or 1
    targets = {layer: sorted(rng.choice(shape.experts, count, replace=False).tolist()) for layer in shape.layers}
    actions: tuple[Any, ...] = ({"soft": 0.5}, {"bias": 0.7}, "activate", "mask")
    by_name = {next(iter(action)) if isinstance(action, dict) else action: action for action in actions}
    return {"none": None, **{n: steering_of({"experts": {"ids": targets}, "action": a}) for n, a in by_name.items()}}


def _draw(lm: RoutedModel) -> list[Text]:
    """Return the doctor's sentences, where the tokenizer knows their words, and words of its vocabulary at random."""
    rng = np.random.default_rng(_SEED)
    vocabulary, longest = lm.vocabulary(), min(_LONGEST, lm.max_length - 2 - _LAST)
    texts = [lm.encode_pair(sentence.context, sentence.continuation) for sentence in SENTENCES]
    usable = [text for text in texts if len({*text[0], *text[1]}) >= _FEWEST_WORDS and len(text[0]) <= longest]
    sample = []
    for number in range(_DRAWN):
        length = 3 + (longest - 3) * number // (_DRAWN - 1)
        words = rng.choice(vocabulary, length + 1 + number % _LAST).tolist()
        sample.append((words[:length], words[length:]))
    return [*usable, *sample]


def _look(request: Request, file: Path) -> None:
    register_backend(request.backend, request.home)
    with quiet_loading():
        lm = load_model(request.backend, request.arguments)
    lm.trust_files()
    lm.set_capture("all")
    texts = [(list(context), list(rest)) for context, rest in request.texts or _draw(lm)]
    identity, shape = lm.identity(), lm.routing_shape
    arrays: dict[str, Any] = {}
    plans = _plans(shape)
    for name, plan in plans.items():
        lm.set_steering(plan)
        keys = [RequestKey("doctor", number, 0) for number in range(len(texts))]
        with lm.capturing(CaptureRequest(arrays=frozenset({"counts", "importance"}))) as captured:
            answers = lm.score_tokens([(key, *text) for key, text in zip(keys, texts, strict=True)])
        records = [captured.record(key) for key in keys]
        if None in records:
            raise UserError(
                f"{request.backend} recorded nothing for text {records.index(None)}", where="doctor --against"
            )
        arrays[f"scores/{name}"] = np.array([score for score, _ in answers])
        for array in ("counts", "importance", "tokens"):
            arrays[f"{array}/{name}"] = np.array([getattr(record, array) for record in records])
    dtype = identity.parts.get("model.dtype")
    bands = {band: [shape.layers.index(layer) for layer in shape.band(band)] for band in ("middle", "all")}
    facts = {
        "backend": request.backend,
        "dtype": dtype.get("parameters") if isinstance(dtype, Mapping) else None,
        "identity": identity.to_dict(),
        "layers": bands,
        "texts": texts,
    }
    np.savez(file, told=np.array(json.dumps({"plans": list(plans), "facts": facts})), **arrays)


def send(request: Request, file: Path) -> None:
    """Write a request for the process."""
    write_json(file, asdict(request), "request")


def main(request_file: str, result_file: str) -> int:
    """Fulfil the request in a file; an error of the user's is written in place of what was found.

    Args:
        request_file: The file of the request.
        result_file: The file to write, ``.npz``; the error goes into a ``.json`` next to it.
    """
    request = Request(**json.loads(Path(request_file).read_text(encoding="utf-8")))
    try:
        _look(request, Path(result_file))
    except UserError as error:
        error_fields = {"problem": error.problem, "fix": error.fix, "where": error.where}
        write_json(Path(result_file).with_suffix(".json"), error_fields, "error")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
