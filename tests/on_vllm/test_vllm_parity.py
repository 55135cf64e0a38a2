"""Eight models under nine plans give on vLLM what they give on transformers: scores, records, what steering reached."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.on_vllm.engines import EAGER, assert_parity, closing, engine
from support.on_vllm.workload import MODELS, Workload

WORK = Workload()
SHORT = Workload(choices=6, prompts=2, step=3, texts=1)
"""For a tokenizer that cuts words into several tokens."""


@pytest.mark.parametrize("name", ["demo", *MODELS])
def test_a_model_gives_on_vllm_what_it_gives_on_transformers(
    name: str, model_of: Callable[[str], str], reference: Callable[..., dict]
) -> None:
    work = SHORT if name == "demo" else WORK
    with closing(engine(model_of(name), **EAGER)) as lm:
        assert_parity(lm, work, reference(name, work))


@pytest.mark.parametrize("name", ["qwen3_moe", "glm4_moe"])
def test_a_compiled_model_gives_the_same(
    name: str, model_of: Callable[[str], str], reference: Callable[..., dict]
) -> None:
    with closing(engine(model_of(name))) as lm:
        assert not lm.model.llm_engine.model_config.enforce_eager
        assert_parity(lm, WORK, reference(name, WORK))
