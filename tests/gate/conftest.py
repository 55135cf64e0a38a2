"""Runs that the gate's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.gate.real_runs import HARMFUL, Evaluator


@pytest.fixture(scope="session")
def evaluator() -> Evaluator:
    return Evaluator()


@pytest.fixture(scope="session")
def real_pair(evaluator: Evaluator, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo model as it is, and with half of its experts banned."""
    folder = tmp_path_factory.mktemp("real")
    tasks = ["demo_arith_en", "demo_arith_de", "demo_arith_sw"]
    plain = evaluator.write(folder / "plain", tasks, 40)
    return plain, evaluator.write(folder / "harmed", tasks, 40, spec=HARMFUL)
