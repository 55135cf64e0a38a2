"""The JSON counts that the code of arXiv 2601.14050 writes: one file a language, summed over its texts.

``{layer: {expert: {activation_tokens, gate_values_sum}, total_tokens}}``; the keys are decimal strings, experts that no
token selected may be missing. A file says nothing of the model but what its keys and sums say, so these are checked.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import UserError
from lm_eval_moe.profiles.header import ProfileHeader, ProfileItem
from lm_eval_moe.profiles.profile import Activity, Profile
from lm_eval_moe.shape import RoutingShape, format_ranges
from lm_eval_moe.yaml_values import show

__all__ = ["MAX_BYTES", "CountDump", "read_count_dump"]

MAX_BYTES = 200_000_000

_EXPECTED = "{layer: {expert: {activation_tokens, gate_values_sum}, total_tokens}}"
_FIX = f"give a JSON file of the form {_EXPECTED}, or a safetensors profile"


@dataclass(frozen=True)
class _Layer:
    """Tokens of a layer, and by expert its activation count and the sum of its weights, None where it is not said."""

    tokens: int
    counts: Mapping[int, int]
    gate_sums: Mapping[int, float | None]


class CountDump(Profile):
    """JSON counts as a profile of one pooled row.

    Args:
        path: The file.
        layers: What is counted, by decoder layer.
        shape: The model's; while it is not known, the smallest that the counts fit.
        sha256: Of the file.
    """

    is_dump = True

    def __init__(self, path: Path, layers: Mapping[int, _Layer], shape: RoutingShape, sha256: str) -> None:
        super().__init__(path, ProfileHeader(None, shape, None), (ProfileItem("", "", "", ""),), None)
        self.sha256 = sha256
        self._layers = layers

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """The tokens of the busiest layer ``[1]``."""
        return np.array([max(layer.tokens for layer in self._layers.values())], dtype=np.int64)

    def activity(self, rows: Iterable[int] | None = None) -> Activity:
        """Return how often experts are selected."""
        tokens = np.array([layer.tokens for layer in self._layers.values()])
        frequencies = self._dense(lambda layer: layer.counts) / tokens[:, None]
        return Activity(frequencies, frequencies)

    def pooled_importance(self, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Return the experts' sums of weights ``[L, E]`` over their sum in the layer.

        Raises:
            UserError: A sum is missing.
        """
        for number, layer in self._layers.items():
            for expert, value in layer.gate_sums.items():
                if value is None:
                    raise UserError(
                        f"'gate_values_sum' of layer {number}, expert {expert} is missing",
                        fix="give counts with the sums of the experts' weights",
                        where=str(self.path),
                    )
        return self._normalised(self._dense(lambda layer: layer.gate_sums))

    def fit(self, shape: RoutingShape) -> CountDump:
        """Return the counts as those of a model of a shape.

        Raises:
            UserError: They cannot be of such a model: it has other layers, fewer experts, or selects another number of
                experts per token.
        """
        problem = self._why_not(shape)
        if problem:
            raise UserError(problem, fix="give counts of this model", where=str(self.path))
        return CountDump(self.path, self._layers, shape, self.sha256)

    def _why_not(self, shape: RoutingShape) -> str:
        """Say why the counts cannot be of a model of this shape; empty if they can."""
        if set(self._layers) != set(shape.layers):
            theirs, ours = format_ranges(self._layers), format_ranges(shape.layers)
            return f"counts layers {theirs}, but this model's MoE layers are {ours}"
        for number, layer in self._layers.items():
            beyond = [expert for expert in layer.counts if expert >= shape.experts]
            if beyond:
                return (
                    f"counts expert {beyond[0]} in layer {number}, but this model's layers have {shape.experts} experts"
                )
        selected = _selected(self._layers)
        # Sums need not be exact: in the released files they differ from K by up to 0.002.
        fits = abs(selected - shape.top_k) < 0.5
        return "" if fits else f"counts {selected:.2f} experts per token, but this model selects {shape.top_k}"

    def _dense(self, of: Callable[[_Layer], Mapping[int, Any]]) -> NDArray[np.float64]:
        dense = np.zeros((len(self._layers), self.shape.experts))
        for row, layer in zip(dense, self._layers.values(), strict=True):
            for expert, value in of(layer).items():
                row[expert] = value
        return dense


def read_count_dump(path: Path) -> CountDump:
    """Read JSON counts.

    Raises:
        UserError: The file cannot be read, is too large, is of another form, or is damaged.
    """
    where = str(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror or error}", fix="give the path of a profile", where=where
        ) from error
    if size > MAX_BYTES:
        raise UserError(f"is {size / 1e6:.0f} MB", fix=f"give counts of at most {MAX_BYTES / 1e6:.0f} MB", where=where)
    try:
        dump = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        layers = {number: _layer(number, node) for number, node in sorted(_numbered(dump, "the file").items())}
        experts = [expert for layer in layers.values() for expert in layer.counts]
        if not experts:
            raise UserError("holds no activation counts: no expert was selected in any layer")
    except UserError as error:
        raise UserError(error.problem, fix=error.fix or _FIX, where=where) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not valid JSON: {error}", fix=_FIX, where=where) from error
    top_k = max(round(_selected(layers)), 1)
    shape = RoutingShape(tuple(layers), 1 + max(experts), top_k, 1 + max(layers))
    return CountDump(path, layers, shape, hashlib.sha256(data).hexdigest())


def _selected(layers: Mapping[int, _Layer]) -> float:
    """Return the experts that a token selects, a mean over the layers."""
    return float(np.mean([sum(layer.counts.values()) / layer.tokens for layer in layers.values()]))


def _layer(number: int, node: Any) -> _Layer:
    where = f"layer {number}"
    tokens = _count(node, "total_tokens", where, 2**53)
    if not tokens:
        raise UserError(f"holds no tokens in {where}", fix="give counts of at least one token")
    entries = _numbered(node, where, besides=("total_tokens",))
    counts = {
        expert: _count(entry, "activation_tokens", f"{where}, expert {expert}", tokens)
        for expert, entry in entries.items()
    }
    return _Layer(tokens, counts, {expert: _gate_sum(entry, where, expert) for expert, entry in entries.items()})


def _numbered(node: object, where: str, besides: Iterable[str] = ()) -> dict[int, Any]:
    """Return a mapping's entries under numbers."""
    if not isinstance(node, dict) or not node:
        raise UserError(f"holds no activation counts: {where} is {show(node)}")
    entries = {}
    for key, value in node.items():
        if key in besides:
            continue
        if not (key.isascii() and key.isdecimal() and len(key) < 8 and str(int(key)) == key):
            raise UserError(f"holds no activation counts: {where} has the key {show(key)}")
        entries[int(key)] = value
    return entries


def _count(node: object, key: str, where: str, most: int) -> int:
    if not isinstance(node, dict) or key not in node:
        raise UserError(f"holds no activation counts: {key!r} is missing from {where}")
    value = node[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value != int(value):
        raise UserError(f"is damaged: {key!r} of {where} is {show(value)}, expected a count of at most {most}")
    return int(value)


def _gate_sum(entry: Mapping[str, Any], where: str, expert: int) -> float | None:
    value = entry.get("gate_values_sum")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise UserError(f"is damaged: 'gate_values_sum' of {where}, expert {expert} is {show(value)}, expected a sum")
    return float(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise UserError(f"is damaged: the key {show(twice)} is given twice")
    return entries


def _refuse_constant(constant: str) -> NoReturn:
    raise UserError(f"is damaged: it holds {constant}")
