"""The heat map: its numbers are the rule's, the marks are the chosen experts, the file is a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.written_profiles import SMALL, write_dump

from lm_eval_moe.cli import main
from lm_eval_moe.experts import ComparedNumber, compared, select
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import parse_spec

# Worked by hand, ten tokens: A (0.9 0.6 0.5 0), (0.2 0.8 1 0); B (0.1 0.5 0.9 0.5), (0.5 0.5 1 0).
A, B = [[9, 6, 5, 0], [2, 8, 10, 0]], [[1, 5, 9, 5], [5, 5, 10, 0]]
DIFFERENCE = [[0.8, 0.1, -0.4, -0.5], [-0.3, 0.3, 0.0, 0.0]]
NONE = np.nan
PAIR = {"en": "a.json", "sw": "b.json"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dump(tmp_path / "a.json", 10, A)
    write_dump(tmp_path / "b.json", 10, B)
    return tmp_path


def numbers(rule: dict[str, Any], folder: Path, shape: RoutingShape = SMALL) -> ComparedNumber | None:
    entry = {"layers": 2, "experts": rule, "action": {"proportional": 0.1}}
    return compared(select(parse_spec({"version": 1, "interventions": [entry]}, base_dir=folder), shape), 0)


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ({"task": {"profile": "a.json", "baseline": "b.json", "threshold": 0.2}}, DIFFERENCE),
        ({"multilingual": {"profiles": PAIR, "threshold": 0.2}}, -np.array(DIFFERENCE)),
        ({"random": {"like": {"multilingual": {"profiles": PAIR, "threshold": 0.2}}}}, -np.array(DIFFERENCE)),
        ({"risk_difference": {"profile_a": "a.json", "profile_b": "b.json", "top": 1}}, DIFFERENCE),
        # The two most active of each: A 0 and 1, 2 and 1; B 2 and 1 (before 3, which is as active), 2 and 0 (before 1).
        ({"shared": {"profiles": PAIR, "top_m": 2}}, [[1, 6 / 11, 1, NONE], [1, 1, 0.5, NONE]]),
        (
            {"exclusive": {"profiles": PAIR, "languages": ["sw"], "top_m": 2}},
            [[NONE, 5 / 11, 1, NONE], [1, NONE, 0.5, NONE]],
        ),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_numbers_of_all_layers_and_experts_are_the_rules(rule: dict[str, Any], values: Any, folder: Path) -> None:
    found = numbers(rule, folder)
    assert found is not None
    np.testing.assert_allclose(found.values, values, atol=1e-9)
    assert found.signed == (next(iter(rule)) not in ("shared", "exclusive"))


def test_risk_differences_beyond_the_k_largest_of_a_layer_are_shown_too(folder: Path) -> None:
    shape = RoutingShape(layers=(1, 2), experts=4, top_k=2, depth=3)
    write_dump(folder / "c.json", 10, [[9, 6, 5, 0], [9, 6, 5, 0]])
    write_dump(folder / "d.json", 10, [[8, 4, 2, 6], [8, 4, 2, 6]])
    found = numbers({"risk_difference": {"profile_a": "c.json", "profile_b": "d.json", "top": 2}}, folder, shape)
    assert found is not None
    np.testing.assert_allclose(found.values, [[0.1, 0.2, 0.3, -0.6]] * 2, atol=1e-9)


def test_a_list_of_experts_compares_nothing(folder: Path) -> None:
    assert numbers({"ids": {2: [1]}}, folder) is None


ARGUMENTS = ["experts", "shared", "--profiles", "en=a.json", "sw=b.json", "--action", "mask", "--top_m", "2",
             "--shape", "layers=3,experts=4,top_k=2,moe_layers=1-2"]  # fmt: skip


def test_pictures_are_written_and_the_same_every_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(folder)
    for name, start in (("map.png", b"\x89PNG"), ("map.svg", b"<?xml")):
        assert main([*ARGUMENTS, "--plot", name]) == 0
        first = Path(name).read_bytes()
        assert first.startswith(start)
        assert main([*ARGUMENTS, "--plot", name]) == 2, "it exists"
        assert main([*ARGUMENTS, "--plot", name, "--force"]) == 0
        assert Path(name).read_bytes() == first
    text = Path("map.svg").read_text(encoding="utf-8")
    assert "shared, top_m 2, threshold 0.7: 2 experts in 2 of 2 layers" in text
    assert "share of the dominant language" in text
    assert "written: map.svg" in capsys.readouterr().out


def test_without_matplotlib_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*ARGUMENTS, "--plot", "map.png"]) == 2
    assert 'pip install "lm-eval-moe[report]"' in capsys.readouterr().err
    assert main(ARGUMENTS) == 0
