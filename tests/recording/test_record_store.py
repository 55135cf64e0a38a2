"""Records that do not fit into memory lie in a file, and come back exactly."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import RecordStore, RoutingRecord


def record(seed: int) -> RoutingRecord:
    rng = np.random.default_rng(seed)
    return RoutingRecord(
        tokens=seed + 1,
        counts=rng.integers(0, 9, (4, 16)).astype(np.int32),
        gate_mass=None,
        importance=rng.random((4, 16)).astype(np.float32),
        importance_dense=None,
        overlap=None,
        targeted=rng.integers(0, 9, 4),
        hit=rng.integers(0, 9, 4),
        changed=np.zeros(4, dtype=np.int64),
    )


def same(one: RoutingRecord, other: RoutingRecord) -> bool:
    return one.tokens == other.tokens and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("counts", "importance", "targeted", "hit")
    )


@pytest.mark.parametrize("held", [0, 2000, 2**20], ids=["all on disk", "some on disk", "none on disk"])
def test_records_come_back_in_the_order_in_which_they_were_added(held: int) -> None:
    store: RecordStore[str] = RecordStore(held)
    for seed in range(12):
        store.add("even" if seed % 2 == 0 else "odd", record(seed))
    assert set(store) == {"even", "odd"}
    assert len(store) == 2
    assert "even" in store
    assert store.get("none") is None
    for key, first in (("even", 0), ("odd", 1)):
        assert all(same(a, record(b)) for a, b in zip(store[key], range(first, 12, 2), strict=True))
    store.add("even", record(99))  # after reading, too
    assert same(store["even"][-1], record(99))
    assert same(store["odd"][0], record(1))
    store.clear()
    assert not store
    store.add("even", record(5))
    assert [each.tokens for each in store["even"]] == [6]


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    store: RecordStore[str] = RecordStore(0)
    with pytest.raises(UserError, match="TMPDIR"):
        store.add("a", record(1))


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store: RecordStore[str] = RecordStore(0)
    store.add("a", record(1))
    assert not list(tmp_path.iterdir())
