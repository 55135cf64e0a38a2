"""Small models behind `hf` and `hf-moe`, and requests for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lm_eval_moe import HFMoE
from support.small_models import make_model

PAIRS = [
    ("The cat sat", " on the mat."),
    ("Die Katze", " saß auf"),
    ("Сколько яблок осталось?", " ноль"),
    ("猫坐在垫子", "上"),
    ("How many apples are left?", " none"),
    ("x", " y"),
]
"""Contexts and continuations of different lengths in four scripts."""

CHOICES = [("Is it a, b or c:", letter) for letter in "abc"]
"""One-token continuations of one context: a single row with ``logits_cache``."""


def build(family: str, tokenizer: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> HFMoE:
    """Build `HFMoE` on a random model; the same weights for the same arguments."""
    return HFMoE(pretrained=make_model(family, dtype=dtype), tokenizer=tokenizer, **_arguments(kwargs))


def build_plain(family: str, tokenizer: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> HFLM:
    """Build lm-eval's own model on the same weights."""
    return HFLM(pretrained=make_model(family, dtype=dtype), tokenizer=tokenizer, **_arguments(kwargs))


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    return {"batch_size": 4, "max_length": 300, "max_batch_size": 8, **given}


def scored(pairs: Sequence[tuple[str, str]], task: str | Sequence[str | None] = "task") -> list[Instance]:
    """Return log-likelihood requests, all of one task or each of its own."""
    tasks = [task] * len(pairs) if isinstance(task, str) else task
    return [
        Instance("loglikelihood", doc={}, arguments=pair, idx=0, metadata=(name, number, 1))
        for number, (pair, name) in enumerate(zip(pairs, tasks, strict=True))
    ]


def rolled(texts: Sequence[str], task: str | None = "task") -> list[Instance]:
    """Return rolling log-likelihood requests."""
    return [
        Instance("loglikelihood_rolling", doc={}, arguments=(text,), idx=0, metadata=(task, number, 1))
        for number, text in enumerate(texts)
    ]


def generated(prompts: Sequence[str], task: str | Sequence[str | None] = "task", **gen_kwargs: Any) -> list[Instance]:
    """Return generation requests; by default 8 tokens without stop strings."""
    tasks = [task] * len(prompts) if isinstance(task, str) else task
    kwargs = {"until": ["\n\n\n"], "max_gen_toks": 8, **gen_kwargs}
    return [
        Instance("generate_until", doc={}, arguments=(prompt, kwargs), idx=0, metadata=(name, number, 1))
        for number, (prompt, name) in enumerate(zip(prompts, tasks, strict=True))
    ]


def likelihoods(lm: HFLM, requests: list[Instance]) -> list[float]:
    """Return the log-likelihoods alone."""
    return [value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)]
