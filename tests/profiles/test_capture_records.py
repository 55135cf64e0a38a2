"""Pooling of records, and profiles on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.profile_records import read_records, write_records

from lm_eval_moe.errors import UserError
from lm_eval_moe.profiles import ProfileHeader, ProfileItem
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.shape import RoutingShape

SHAPE = RoutingShape(layers=(1,), experts=4, top_k=2, depth=2)


def record(tokens: int, counts: list[int], overlap: float) -> RoutingRecord:
    """One layer, four experts; every selected expert has half of the weight."""
    per_expert = np.array([counts], dtype=np.int32)
    none = np.zeros(1, dtype=np.int64)
    return RoutingRecord(
        tokens=tokens,
        counts=per_expert,
        gate_mass=(per_expert * 0.5).astype(np.float32),
        importance=(per_expert * 0.5 / tokens).astype(np.float32),
        importance_dense=None,
        overlap=np.array([overlap], dtype=np.float32),
        targeted=none,
        hit=none,
        changed=none,
    )


def test_pooling_weighs_means_by_tokens_and_overlap_by_pairs() -> None:
    pooled = RoutingRecord.pooled(
        [record(3, [3, 3, 0, 0], 1.0), record(2, [0, 2, 2, 0], 0.25), record(1, [0, 0, 1, 1], np.nan)]
    )
    assert pooled.tokens == 6
    assert pooled.counts is not None
    assert pooled.counts.tolist() == [[3, 5, 3, 1]]
    np.testing.assert_allclose(pooled.importance, [[0.25, 5 / 12, 0.25, 1 / 12]], rtol=1e-6)
    np.testing.assert_allclose(pooled.overlap, [(2 * 1.0 + 1 * 0.25) / 3])
    assert pooled.importance_dense is None


def test_profile_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "items.safetensors"
    header = ProfileHeader("a/model", SHAPE, "prompt", steering="abc")
    items = [ProfileItem("bench", "q1", "en", "bench_en"), ProfileItem("bench", "вопрос", "ru", "bench_ru")]
    records = [record(3, [3, 3, 0, 0], 1.0), record(2, [0, 2, 2, 0], 0.25)]
    write_records(path, header, items, records)
    got_header, got_items, got = read_records(path)
    assert (got_header, got_items) == (header, items)
    for mine, theirs in zip(records, got, strict=True):
        assert mine.tokens == theirs.tokens
        assert np.array_equal(mine.counts, theirs.counts)
        assert np.array_equal(mine.importance, theirs.importance)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing half-written is left"


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"weight": np.zeros((2, 2))}, path)
    with pytest.raises(UserError, match=r"weights\.safetensors: is not a profile of schema version 1"):
        read_records(path)
    with pytest.raises(UserError, match="cannot be read as a profile"):
        read_records(tmp_path / "nowhere.safetensors")


def test_bands_split_the_depth_as_published() -> None:
    qwen3 = RoutingShape(layers=tuple(range(48)), experts=128, top_k=8, depth=48)
    assert (qwen3.band("early"), qwen3.band("middle")) == (tuple(range(8)), tuple(range(8, 36)))
    assert qwen3.band("late") == tuple(range(36, 48))
    dense_first = RoutingShape(layers=tuple(range(1, 27)), experts=64, top_k=6, depth=27)
    assert dense_first.band("early") == (1, 2, 3, 4)
    bands = [layer for name in ("early", "middle", "late") for layer in dense_first.band(name)]
    assert tuple(bands) == dense_first.layers
