"""The parts of an identity. What a part holds is JSON-ready and, where that is short, readable."""

from __future__ import annotations

from pathlib import Path

from lm_eval_moe.strict_yaml import read_yaml

__all__ = ["PARTS"]

PARTS: dict[str, str] = {
    f"{group}.{name}": meaning
    for group, parts in read_yaml(Path(__file__).with_name("parts.yaml"), "parts of an identity").items()
    for name, meaning in parts.items()
}
"""What every part holds, for people, by ``group.name``."""
