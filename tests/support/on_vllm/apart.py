"""Python in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

from support.paths import TESTS

LONGEST = 256
"""Tokens that every engine takes; a scored text has two fewer before its last token."""


def run_apart(*arguments: str, **environment: str) -> str:
    """Run Python with arguments in a process of its own; return what it prints."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), **environment}
    run = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{arguments}:\n{run.stdout[-3000:]}\n{run.stderr[-6000:]}"
    return run.stdout
