"""Templates are compiled once while a routed model is evaluated, and render what they render."""

from __future__ import annotations

import jinja2
import pytest
from lm_eval import utils

from lm_eval_moe.harness.templates import templates_compiled_once

pytestmark = pytest.mark.skipif(not hasattr(utils, "env"), reason="this lm-eval keeps what it compiles by itself")


def test_a_template_is_compiled_once_and_renders_every_document(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    plain = jinja2.Environment.compile

    def compile_(self: jinja2.Environment, source: str, *rest: object) -> object:
        compiled.append(source)
        return plain(self, source, *rest)

    monkeypatch.setattr(jinja2.Environment, "compile", compile_)
    with templates_compiled_once():
        texts = [utils.apply_template("{{a}} and {{b|upper}}", {"a": n, "b": "x"}) for n in range(3)]
    assert texts == ["0 and X", "1 and X", "2 and X"]
    assert len(compiled) == 1
    utils.apply_template("{{a}} and {{b|upper}}", {"a": 1, "b": "x"})
    assert len(compiled) == 2  # lm-eval's own way again
