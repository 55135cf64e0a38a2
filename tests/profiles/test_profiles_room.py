"""The room of profiles: one reader for every form of file, and nothing heavy behind it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lm_eval_moe
from lm_eval_moe.errors import UserError
from lm_eval_moe.profiles import ProfileHeader, ProfileItem, common_shape, read_profile, write_profile
from lm_eval_moe.shape import RoutingShape

SHAPE = RoutingShape((1, 3), 3, 2, 4)
COUNTS = np.array([[[4, 4, 0], [2, 3, 3]], [[0, 1, 1], [1, 1, 0]]], dtype=np.int32)  # of 4 tokens and of 1


def profile(path: Path, shape: RoutingShape = SHAPE) -> Path:
    """Write two items."""
    importance = (COUNTS / COUNTS.sum(-1, keepdims=True)).astype(np.float32)
    arrays = {"counts": COUNTS, "gate_mass": importance, "importance": importance, "tokens": np.array([4, 1])}
    items = [ProfileItem("b", name, "sw", "b_sw") for name in ("one", "two")]
    write_profile(path, ProfileHeader("m", shape, "prompt"), items, arrays)
    return path


def dump(path: Path, layers: tuple[int, ...] = SHAPE.layers, experts: int = 3) -> Path:
    """Write the pooled counts of the same items, without the experts that nothing selects."""
    pooled = COUNTS.sum(0)
    written = {
        str(layer): {
            **{
                str(expert): {"activation_tokens": int(count), "gate_values_sum": float(count) / 2}
                for expert, count in enumerate(row[:experts])
                if count
            },
            "total_tokens": 5,
        }
        for layer, row in zip(layers, pooled, strict=True)
    }
    path.write_text(json.dumps(written))
    return path


def test_a_profile_and_the_counts_of_the_same_items_agree(tmp_path: Path) -> None:
    one = read_profile(profile(tmp_path / "p.safetensors"))
    other = read_profile(dump(tmp_path / "p.json"), counts=True).fit(SHAPE)
    assert (one.is_dump, other.is_dump) == (False, True)
    assert one.tokens.tolist() == [4, 1]
    assert other.tokens.tolist() == [5]
    np.testing.assert_array_equal(one.activity().pooled, COUNTS.sum(0) / 5)
    np.testing.assert_array_equal(other.activity().pooled, one.activity().pooled)
    np.testing.assert_allclose(one.activity().mean, (COUNTS[0] / 4 + COUNTS[1]) / 2)
    np.testing.assert_allclose(other.pooled_importance(), COUNTS.sum(0) / 10)
    np.testing.assert_allclose(one.pooled_importance().sum(-1), 1)
    assert one.totals_by("item") == {"one": (1, 4), "two": (1, 1)}
    assert (other.header.model, other.header.span, other.header.identity) == (None, None, None)


def test_counts_say_the_smallest_shape_that_they_fit(tmp_path: Path) -> None:
    small, large = (read_profile(dump(tmp_path / f"{n}.json", experts=n), counts=True) for n in (2, 3))
    assert (small.shape.experts, large.shape.experts) == (2, 3)
    assert common_shape((small, large), "").experts == 3
    with_profile = (read_profile(profile(tmp_path / "p.safetensors")), small)
    assert common_shape(with_profile, "") == SHAPE
    other = read_profile(dump(tmp_path / "other.json", layers=(0, 1)), counts=True)
    with pytest.raises(UserError, match=r"other.json: has a different shape from .*3.json: layers 0-1 of 2"):
        common_shape((large, other), "give others")


def test_counts_are_read_only_where_they_will_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a profile"):
        read_profile(dump(tmp_path / "p.json"))


def test_a_file_that_is_replaced_meanwhile_does_not_matter(tmp_path: Path) -> None:
    path = profile(tmp_path / "p.safetensors")
    opened = read_profile(path)
    profile(path, RoutingShape((1, 2), 3, 2, 3))
    assert opened.shape == SHAPE
    assert opened.tokens.tolist() == [4, 1]


def test_no_other_room_opens_safetensors_files() -> None:
    package = Path(lm_eval_moe.__file__).parent
    opening = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [module or ""]
            if any(name.split(".")[0] == "safetensors" for name in names):
                opening.add(str(file.relative_to(package).parent))
    assert opening == {"profiles"}


def test_profiles_need_neither_torch_nor_lm_eval() -> None:
    modules = "columns, count_dump, diff, files, frames, merge, show, store, unfinished"
    code = (
        f"import sys; from lm_eval_moe.profiles import {modules}\n"
        "assert not {'torch', 'lm_eval', 'transformers'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
