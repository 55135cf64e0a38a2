"""The number of threads is the same in a test and in the processes that it starts: the last bits depend on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.paths import TESTS

STATE = "import torch; print(torch.get_num_threads(), torch.__config__.parallel_info())"


def threads_in(state: str) -> list[str]:
    """Return torch's number of threads, and what the libraries beneath it say."""
    return [state.split()[0], *re.findall(r"_get_max_threads\(\) : (\d+)", state)]


def test_a_process_that_a_test_starts_has_the_threads_of_the_test() -> None:
    own = f"{torch.get_num_threads()} {torch.__config__.parallel_info()}"
    assert set(threads_in(own)) == {os.environ["OMP_NUM_THREADS"]}, own
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, check=True)
    assert threads_in(done.stdout) == threads_in(own)


@pytest.mark.parametrize("number", ["1", "2", "4"])
def test_the_suite_runs_with_as_many_threads_as_asked_for(number: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "test_it.py").write_text(f"{STATE}\ndef test_it(): pass\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MKL_")}
    environment |= {"OMP_NUM_THREADS": number, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert threads_in(done.stdout)[0] == number


def test_no_test_sets_a_number_of_threads_of_its_own() -> None:
    """One side of a comparison would run with another number than the other side."""
    sets = re.compile(r"set_num_threads\(|[\"'](?:OMP|MKL)_NUM_THREADS[\"']")
    setting = {file for file in TESTS.rglob("*.py") if sets.search(file.read_text(encoding="utf-8"))}
    # But for the one evaluation whose number of threads is what is changed.
    on_purpose = TESTS / "support" / "identity" / "one_evaluation.py"
    assert setting == {TESTS / "conftest.py", on_purpose, Path(__file__).resolve()}
