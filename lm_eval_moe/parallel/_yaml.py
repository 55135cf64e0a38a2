"""Reading a YAML file safely, with every way to fail told as one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lm_eval_moe.errors import UserError

__all__ = ["read_yaml"]

_FIX = "mend the YAML; a regex is safest in single quotes"


class _Loader(yaml.SafeLoader):
    """The safe loader, except that a key given twice is an error: YAML would let the last one win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> object:
    """Return the content of a YAML file.

    Raises:
        UserError: The file cannot be read, is not UTF-8, or is not YAML; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8 ({error.reason})"
        raise UserError(problem, fix="save the file as UTF-8", where=str(path)) from error
    except OSError as error:
        fix = "give the path of a YAML file that says how tasks pair across languages"
        raise UserError(f"cannot be read: {error.strerror or error}", fix=fix, where=str(path)) from error
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = f"not valid YAML: {error.problem or error.context}"
        raise UserError(problem, fix=_FIX, where=f"{path}{line}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, such as 2024-13-45
        raise UserError(f"not valid YAML: {error}", fix=_FIX, where=str(path)) from error
