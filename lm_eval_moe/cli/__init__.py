"""The command line: one module a subcommand, imported when it is needed."""

from __future__ import annotations

from lm_eval_moe.cli.main import main

__all__ = ["main"]
