"""The examples run as they stand, in a folder of their own, and end in a figure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from support.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_ends_in_a_figure(example: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [figure] = tmp_path.glob("*.png")
    assert done.stdout.rstrip().endswith(str(figure))
    assert len({tuple(pixel) for pixel in imread(figure)[::7, ::7].reshape(-1, 4)}) > 10
