"""The page on identities names every part."""

from __future__ import annotations

from support.paths import ROOT

from lm_eval_moe.identity import PARTS


def test_every_part_is_documented() -> None:
    page = (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
    assert [name for name in PARTS if f"`{name}`" not in page] == []
