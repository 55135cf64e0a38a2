"""A quick run of the script that measures coverage: all its tables are there, and their rates are rates."""

from __future__ import annotations

import re
import subprocess
import sys

from support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "coverage.py"


def test_the_quick_run_prints_every_table() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^### (.*), per cent$", done.stdout, re.M) == [
        "Differences of two runs",
        "Gains over random controls",
        "The best cell of a sweep",
        "Other intervals",
    ]
    rates = [float(rate) for rate in re.findall(r"\| \*{0,2}(\d+\.\d)\*{0,2} (?=\|)", done.stdout)]
    assert len(rates) > 30
    assert all(0 <= rate <= 100 for rate in rates)
    assert "| 2 | 11 | 30 | 2 points |" in done.stdout
