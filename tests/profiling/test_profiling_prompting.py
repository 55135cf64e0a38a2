"""Profiles of chats: prompts are those of a run with the same options, texts are what a user says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.profile_records import read_records
from support.profiled_texts import profiled, source

import lm_eval_moe
from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.errors import UserError
from lm_eval_moe.harness.task_index import task_manager
from lm_eval_moe.profiling.capture import CaptureOptions, ProfileJob
from lm_eval_moe.profiling.prompting import InTurns, Prompting
from lm_eval_moe.profiling.task_prompts import task_sources

TEMPLATE = (
    "{% for turn in messages %}[{{ turn['role'] }}]{{ turn['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = Prompting(apply_chat_template=True, system_instruction="Count.")


@pytest.fixture
def lm() -> HFMoE:
    lm = HFMoE(pretrained="demo", batch_size=4)
    lm.tokenizer.chat_template = TEMPLATE
    return lm


def test_task_prompts_are_those_of_a_run(lm: HFMoE, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    for language in ("en", "sw"):  # with examples before the question, which are turns of their own
        include = Path(lm_eval_moe.__file__).parent.parent / "tasks" / "demo" / f"demo_arith_{language}.yaml"
        (tmp_path / "tasks" / f"{language}.yaml").write_text(
            f"include: {include}\ntask: shots_{language}\nnum_fewshot: 2\n", encoding="utf-8"
        )
    tasks, folder = ["shots_en", "shots_sw"], str(tmp_path / "tasks")
    results = simple_evaluate(
        lm,
        tasks=tasks,
        task_manager=task_manager(tasks, [folder]),
        limit=3,
        bootstrap_iters=0,
        apply_chat_template=True,
        system_instruction="Count.",
        routing_profile=tmp_path / "run.safetensors",
    )
    assert results is not None
    header, items, records = read_records(tmp_path / "run.safetensors")
    ran = {(item.language, item.item): record for item, record in zip(items, records, strict=True)}
    seen = 0
    for each in task_sources(lm, tasks, limit=3, include_path=folder, prompting=CHAT):
        path = tmp_path / f"{each.language}.safetensors"
        ProfileJob(lm, each, path, CaptureOptions(limit=3, prompting=CHAT), lm.identity()).run()
        own, items, records = read_records(path)
        for item, record in zip(items, records, strict=True):
            seen += 1
            assert np.array_equal(record.counts, ran[item.language, item.item].counts)
        assert own.identity is not None
        assert header.identity is not None
        for part in ("prompts.chat_template", "prompts.system_instruction", "prompts.multiturn"):
            assert own.identity.parts[part] == header.identity.parts[part]
    assert seen == 6


def test_a_text_is_what_the_user_says(lm: HFMoE, tmp_path: Path) -> None:
    texts = ["Sara has two bananas.", "Tom"]
    chats = [f"[system]Count.\n[user]{text}\n[assistant]" for text in texts]
    plain = profiled(lm, source(tmp_path, "de", chats), tmp_path / "plain.safetensors")
    given: Any = InTurns(source(tmp_path, "en", texts), lm, CHAT)
    path = tmp_path / "chat.safetensors"
    ProfileJob(lm, given, path, CaptureOptions(prompting=CHAT), lm.identity()).run()
    _, items, records = read_records(path)
    for record, wanted in zip(records, read_records(plain)[2], strict=True):
        assert np.array_equal(record.counts, wanted.counts)
    by_themselves = read_records(profiled(lm, source(tmp_path, "en", texts), tmp_path / "bare.safetensors"))[1]
    assert [item.text for item in items] == [item.text for item in by_themselves]
    with pytest.raises(UserError, match="chat"):
        ProfileJob(lm, source(tmp_path, "en", texts), path, CaptureOptions(), lm.identity())


def test_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    lm = HFMoE(pretrained="demo", batch_size=4)
    with pytest.raises(UserError, match="no chat template"):
        ProfileJob(
            lm, source(tmp_path, "en", ["a"]), tmp_path / "x.safetensors", CaptureOptions(prompting=CHAT), lm.identity()
        )
    with pytest.raises(UserError, match="no chat template"):
        task_sources(lm, ["demo_arith_en"], limit=1, prompting=CHAT)
