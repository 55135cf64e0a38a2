"""What is said where a package of an extra is not installed."""

from __future__ import annotations

import importlib

from lm_eval_moe.errors import UserError

__all__ = ["require_extra"]

_NAMES = {"jinja2": "Jinja2", "math_verify": "math-verify"}
_EXTRAS = {"math_verify": "tasks", "py3langid": "tasks"}


def require_extra(what: str, *modules: str, where: str | None = None) -> None:
    """Refuse to go on without modules of the extra ``report`` or ``tasks``.

    Args:
        what: What needs them.
        modules: Their names.
        where: What asked for it, such as a flag.

    Raises:
        UserError: One is not installed.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            package = module.partition(".")[0]
            raise UserError(
                f"{what} needs {_NAMES.get(package, package)}, which is not installed",
                fix=f'pip install "lm-eval-moe[{_EXTRAS.get(package, "report")}]"',
                where=where,
            ) from error
