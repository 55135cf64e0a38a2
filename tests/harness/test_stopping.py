"""What ends a call of ``generate`` while ours reads along, and afterwards."""

from __future__ import annotations

from typing import Any

from lm_eval.models import huggingface

from lm_eval_moe.harness.stopping import stopping_by


def test_lm_eval_looks_for_no_more_strings_than_it_has_to(tokenizer: Any) -> None:
    stock = huggingface.stop_sequences_criteria

    def strings() -> list[str]:
        criteria = huggingface.stop_sequences_criteria(tokenizer, ["one", "two", "three"], 0, 1)
        return [getattr(each, "sequence", "ours") for each in criteria]

    with stopping_by(lambda *_: None, ["two", "four"]):
        assert strings() == ["two", "ours"]
    assert strings() == ["one", "two", "three"]
    assert huggingface.stop_sequences_criteria is stock
