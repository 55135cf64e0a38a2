"""The form of a results JSON: what is read of it has to be of the right kind, wherever the file comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.results._json_dataclass import FLAG, NUMBER, TEXT, WHOLE, schema_of
from lm_eval_moe.results.routing import KEY, RoutingObject
from lm_eval_moe.results.values import LARGEST

__all__ = ["FIX", "check_schema"]

FIX = "give a results JSON as `run --output_path` wrote it"

_LAYER = re.compile(r"[0-9]{1,9}")

# A dictionary: known keys, all of which may be left out; under None the form of every other key's value, if it is read.
# A list: the form of each entry. A text: the kind of value. Anything may be null
# but an entry of a list, where only numbers may be unknown.
_FORM: dict[str | None, Any] = {
    "results": {None: {}},
    "groups": {None: {}},
    "group_subtasks": {None: [TEXT]},
    "configs": {None: {"metric_list": [{"metric": TEXT}]}},
    "config": {},
    "versions": {},
    "n-shot": {},
    "n-samples": {None: {"original": WHOLE, "effective": WHOLE}},
    "higher_is_better": {None: {}},
    "task_hashes": {None: TEXT},
    "samples": {None: [{}]},
    "chat_template_sha": TEXT,
    "system_instruction_sha": TEXT,
    KEY: schema_of(RoutingObject),
}


def check_schema(results: Mapping[str, Any], path: Path) -> None:
    """Check the kinds of the values that are read of a results JSON.

    Raises:
        UserError: A value is of another kind, or the layers do not fit together; with the file and the key.
    """
    _check(results, _FORM, str(path), ())
    _check_layers(RoutingObject.of(results), str(path))


def _check(value: object, form: Any, path: str, keys: tuple[str, ...]) -> None:
    if value is None:
        return
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise _wrong("a table", value, path, keys)
        for key, entry in value.items():
            inner = form.get(key, form.get(None))
            if inner is not None:
                _check(entry, inner, path, (*keys, key))
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise _wrong("a list", value, path, keys)
        for number, entry in enumerate(value):
            if entry is None and form[0] != NUMBER:
                raise _wrong(form[0] if isinstance(form[0], str) else "a table", entry, path, (*keys, str(number)))
            _check(entry, form[0], path, (*keys, str(number)))
    else:
        kind = {TEXT: str, NUMBER: Real, WHOLE: int, FLAG: bool}[form]
        too_large = isinstance(value, int | float) and abs(value) > LARGEST
        if not isinstance(value, kind) or isinstance(value, bool) != (form == FLAG) or too_large:
            raise _wrong(form, value, path, keys)


def _check_layers(routing: RoutingObject, path: str) -> None:
    """Refuse bands and experts of other layers than the model has, and curves of another length."""
    layers = routing.model_shape.layers
    for band, members in routing.model_shape.bands.items():
        if not set(members) <= set(layers):
            raise _wrong("some of the model's layers", list(members), path, (KEY, "model_shape", "bands", band))
    for layer in routing.steering.experts if routing.steering else ():
        if not _LAYER.fullmatch(layer) or (layers and int(layer) not in layers):
            raise _wrong("one of the model's layers", layer, path, (KEY, "steering", "experts"))
    for task, entry in routing.tasks.items():
        for name, curve in entry.curves.items():
            if curve and len(curve) != len(layers):
                raise _wrong(f"{len(layers)} values", list(curve), path, (KEY, "tasks", task, "curves", name))


def _wrong(expected: str, value: object, path: str, keys: tuple[str, ...]) -> UserError:
    place = ".".join(key[:60] for key in keys)
    return UserError(f"expected {expected}, got {value!r:.60}", fix=FIX, where=f"{path}: {place}")
