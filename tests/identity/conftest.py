from __future__ import annotations

import pytest

from lm_eval_moe.routers import blocks


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that a test gives is gone after it."""
    monkeypatch.setattr(blocks, "_ADAPTERS", dict(blocks._ADAPTERS))
