"""The form of a results JSON: what is read of it has to be of the right kind, wherever the file comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.results.values import LARGEST

__all__ = ["check_form"]

_LAYER = re.compile(r"[0-9]{1,9}")
_TEXT, _NUMBER, _WHOLE, _FLAG = "text", "a number", "a whole number", "true or false"
_GAINS = {None: {None: {"gain": _NUMBER, "stderr": _NUMBER, "low": _NUMBER, "high": _NUMBER}}}

# A dictionary: known keys, all of which may be left out; under None the form of every other key's value, if it is read.
# A list: the form of each entry. A text: the kind of value. Anything may be null
# but an entry of a list, where only numbers may be unknown.
_FORM: dict[str | None, Any] = {
    "results": {None: {}},
    "groups": {None: {}},
    "group_subtasks": {None: [_TEXT]},
    "configs": {None: {"metric_list": [{"metric": _TEXT}]}},
    "config": {},
    "versions": {},
    "n-shot": {},
    "n-samples": {None: {"original": _WHOLE, "effective": _WHOLE}},
    "higher_is_better": {None: {}},
    "task_hashes": {None: _TEXT},
    "samples": {None: [{}]},
    "chat_template_sha": _TEXT,
    "system_instruction_sha": _TEXT,
    "routing": {
        "model_shape": {
            **{"layers": [_WHOLE], "bands": {None: [_WHOLE]}},
            **{"experts": _WHOLE, "top_k": _WHOLE, "depth": _WHOLE},
        },
        "steering": {
            **{"name": _TEXT, "hash": _TEXT, "matching": _TEXT, "control_of": _TEXT},
            **{"spec": {"interventions": [{"experts": {}}]}, "experts": {None: [_WHOLE]}, "profiles": [{}]},
        },
        "identity": {
            **{"hash": _TEXT, "schema_version": _WHOLE, "tasks": {None: {}}},
            **{"model": {}, "prompts": {}, "steering": {}, "capture": {}, "computation": {}, "versions": {}},
        },
        "control": {"seeds": [_WHOLE], "tasks": _GAINS, "groups": _GAINS},
        "reference": _TEXT,
        "capture": _TEXT,
        "reference_source": dict.fromkeys(("kind", "file", "sha256", "model", "steering"), _TEXT),
        "groups": {None: {"languages": {None: [_TEXT]}, "clustered_stderr": {None: _NUMBER}}},
        "tasks": {
            None: {
                **{"language": _TEXT, "benchmark": _TEXT, "reference": _TEXT, "curves": {None: [_NUMBER]}},
                **{"documents": _WHOLE, "document_hash": _TEXT, "curve_documents": {None: _WHOLE}},
                **{"leaked_documents": _WHOLE, "leak_unknown": _FLAG, "steered_tokens": _WHOLE},
            }
        },
    },
}


def check_form(results: Mapping[str, Any], path: Path) -> None:
    """Check the kinds of the values that are read of a results JSON.

    Raises:
        UserError: A value is of another kind, or the layers do not fit together; with the file and the key.
    """
    _check(results, _FORM, str(path), ())
    _check_layers(results.get("routing") or {}, str(path))


def _check(value: object, form: Any, path: str, keys: tuple[str, ...]) -> None:
    if value is None:
        return
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise _wrong("a table", value, path, keys)
        for key, each in value.items():
            inner = form.get(key, form.get(None))
            if inner is not None:
                _check(each, inner, path, (*keys, key))
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise _wrong("a list", value, path, keys)
        for number, each in enumerate(value):
            if each is None and form[0] != _NUMBER:
                raise _wrong(form[0] if isinstance(form[0], str) else "a table", each, path, (*keys, str(number)))
            _check(each, form[0], path, (*keys, str(number)))
    else:
        kind = {_TEXT: str, _NUMBER: Real, _WHOLE: int, _FLAG: bool}[form]
        too_large = isinstance(value, int | float) and abs(value) > LARGEST
        if not isinstance(value, kind) or isinstance(value, bool) != (form == _FLAG) or too_large:
            raise _wrong(form, value, path, keys)


def _check_layers(routing: Mapping[str, Any], path: str) -> None:
    """Refuse bands and experts of other layers than the model has, and curves of another length."""
    shape = routing.get("model_shape") or {}
    layers = shape.get("layers") or []
    for band, members in (shape.get("bands") or {}).items():
        if not set(members or ()) <= set(layers):
            raise _wrong("some of the model's layers", members, path, ("routing", "model_shape", "bands", band))
    for layer in (routing.get("steering") or {}).get("experts") or {}:
        if not _LAYER.fullmatch(layer) or (layers and int(layer) not in layers):
            raise _wrong("a layer of the model's", layer, path, ("routing", "steering", "experts"))
    for task, entry in (routing.get("tasks") or {}).items():
        for name, curve in ((entry or {}).get("curves") or {}).items():
            if curve and len(curve) != len(layers):
                raise _wrong(f"{len(layers)} values", curve, path, ("routing", "tasks", task, "curves", name))


def _wrong(expected: str, value: object, path: str, keys: tuple[str, ...]) -> UserError:
    place = ".".join(key[:60] for key in keys)
    return UserError(
        f"expected {expected}, got {value!r:.60}",
        fix="give a results JSON as `run --output_path` wrote it",
        where=f"{path}: {place}",
    )
