"""How each part of an identity is changed alone, in a real evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.registry import register_backend
from support.identity.one_evaluation import Evaluation, edit
from support.small_models import make_model

Pair = tuple[Evaluation, Evaluation]
Change = Callable[[Evaluation, Path], Pair]

REMOTE = """
from transformers import Qwen3MoeForCausalLM


class OwnForCausalLM(Qwen3MoeForCausalLM):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)  # as it is
"""


def model_args(**changes: Any) -> Change:
    return lambda base, folder: (base, base.with_model_args(**changes))


def arguments(**changes: Any) -> Change:
    return lambda base, folder: (base, base.with_arguments(**changes))


def in_model(file: str, old: str, new: str) -> Change:
    def change(base: Evaluation, folder: Path) -> Pair:
        other = base.with_model(folder)
        edit(other.model / file, old, new)
        return base, other

    return change


def in_task(file: str, old: str, new: str) -> Change:
    def change(base: Evaluation, folder: Path) -> Pair:
        other = base.with_tasks(folder)
        edit(other.tasks / file, old, new)
        return base, other

    return change


def one_weight(base: Evaluation, folder: Path) -> Pair:
    """Change one element of one row of the embedding, which no token of the evaluation needs to use."""
    other = base.with_model(folder)
    path = other.model / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    tensors["model.embed_tokens.weight"][17, 3] += 1.0
    save_file(tensors, path, metadata)
    return base, other


def with_remote_code(base: Evaluation, folder: Path) -> Evaluation:
    remote = base.with_model(folder)
    (remote.model / "modeling_own.py").write_text(REMOTE, encoding="utf-8")
    config = remote.model / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    content |= {"auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}}
    config.write_text(json.dumps(content), encoding="utf-8")
    return remote.with_model_args(trust_remote_code=True)


def one_line_of_code(base: Evaluation, folder: Path) -> Pair:
    before = with_remote_code(base, folder / "before")
    after = before.with_model(folder / "after")
    edit(after.model / "modeling_own.py", "  # as it is", "")
    return before, after


def another_class(base: Evaluation, folder: Path) -> Pair:
    before = with_remote_code(base, folder / "before")
    after = before.with_model(folder / "after")
    edit(after.model / "modeling_own.py", "class OwnForCausalLM", "class OtherForCausalLM")
    edit(after.model / "config.json", "OwnForCausalLM", "OtherForCausalLM")
    return before, after


_ADAPTER = """from lm_eval_moe.routers import RoutedBlock


class OwnBlock(RoutedBlock):
    class_names = ("Qwen3MoeSparseMoeBlock",)
"""


def one_line_of_an_adapter(base: Evaluation, folder: Path) -> Pair:
    names = []
    for name, text in (("before", _ADAPTER), ("after", f"{_ADAPTER}    factor = 2\n")):
        path = folder / name / "adapter.py"
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        names.append(str(path))
    return base.with_model_args(adapter=names[0]), base.with_model_args(adapter=names[1])


def peft_adapters(base: Evaluation, folder: Path) -> Pair:
    from peft import LoraConfig, get_peft_model

    adapted = []
    for seed in (1, 2):
        model = make_model("qwen3_moe")
        torch.manual_seed(seed)
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(folder / str(seed) / "lora")
        adapted.append(base.with_model_args(peft=str(folder / str(seed) / "lora")))
    return adapted[0], adapted[1]


def delta_weights(base: Evaluation, folder: Path) -> Pair:
    changed = []
    for seed in (1, 2):
        model = make_model("qwen3_moe", seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1e-3)
        model.save_pretrained(folder / str(seed) / "delta")
        changed.append(base.with_model_args(delta=str(folder / str(seed) / "delta")))
    return changed[0], changed[1]


def one_character_of_the_template(base: Evaluation, folder: Path) -> Pair:
    before = base.with_arguments(apply_chat_template=True)
    after = before.with_model(folder)
    edit(after.model / "chat_template.jinja", "}}: {{", "}}; {{")
    return before, after


def one_turn_or_several(base: Evaluation, folder: Path) -> Pair:
    chat = base.with_arguments(apply_chat_template=True, num_fewshot=1)
    return chat.with_arguments(fewshot_as_multiturn=True), chat.with_arguments(fewshot_as_multiturn=False)


def another_few_shot_seed(base: Evaluation, folder: Path) -> Pair:
    shots = base.with_arguments(num_fewshot=1)
    return shots, shots.with_arguments(fewshot_random_seed=5)


def a_copy_of_another_name(base: Evaluation, folder: Path) -> Pair:
    return base, replace(base, model=shutil.copytree(base.model, folder / "other_name"))


def one_document(base: Evaluation, folder: Path) -> Pair:
    other = base.with_tasks(folder)
    edit(other.tasks / "data.jsonl", "The cat sat", "The dog sat")
    return base, other


def steering(base: Evaluation, folder: Path) -> Pair:
    paths = []
    for strength in (0.5, 0.6):
        path = folder / f"{strength}.yaml"
        path.write_text(
            "version: 1\ninterventions:\n"
            f"  - {{layers: all, experts: {{ids: {{all: [1, 2]}}}}, action: {{soft: {strength}}}}}\n",
            encoding="utf-8",
        )
        paths.append(path)
    return base.with_arguments(steering=paths[0]), base.with_arguments(steering=paths[1])


def more_arrays(base: Evaluation, folder: Path) -> Pair:
    steered = steering(base, folder)[0]
    return steered, steered.with_arguments(routing_fields="steered_change")


def another_bank(base: Evaluation, folder: Path) -> Pair:
    """Change a file that a task's function reads when it makes a prompt."""
    before = base.with_tasks(folder / "before")
    edit(before.tasks / "utils.py", '"Q: " + doc', 'Path(__file__).with_name("bank.txt").read_text() + doc')
    (before.tasks / "bank.txt").write_text("Q: ", encoding="utf-8")
    after = before.with_tasks(folder / "after")
    (after.tasks / "bank.txt").write_text("A: ", encoding="utf-8")
    return before, after


class OtherBackend(HFMoE):
    """The same under another name."""

    backend_name = "other"


def another_backend(base: Evaluation, folder: Path) -> Pair:
    register_backend("other", f"{__name__}:OtherBackend")
    return base, replace(base, backend="other")


CHANGES: dict[str, Change] = {
    "model.backend": another_backend,
    "model.source": a_copy_of_another_name,
    "model.class": another_class,
    "model.config": model_args(num_experts_per_tok=3),
    "model.generation_config": in_model("generation_config.json", '"pad_token_id"', '"typical_p": 0.9, "pad_token_id"'),
    "model.weights": one_weight,
    "model.code": one_line_of_code,
    "model.adapter": one_line_of_an_adapter,
    "model.peft": peft_adapters,
    "model.delta": delta_weights,
    "model.dtype": model_args(dtype="bfloat16"),
    "model.attention": model_args(attn_implementation="eager"),
    "model.experts": model_args(experts_implementation="eager"),
    "prompts.tokenizer": in_model(
        "tokenizer.json", '"add_prefix_space": false,\n    "trim', '"add_prefix_space": true,\n    "trim'
    ),
    "prompts.special_tokens": model_args(prefix_token_id=5),
    "prompts.max_length": model_args(max_length=150),
    "prompts.truncation": model_args(truncation=True),
    "prompts.thinking": model_args(enable_thinking=False),
    "prompts.chat_template": one_character_of_the_template,
    "prompts.system_instruction": arguments(system_instruction="Be brief."),
    "prompts.multiturn": one_turn_or_several,
    "prompts.fewshot": arguments(num_fewshot=1),
    "prompts.generation": arguments(gen_kwargs="max_gen_toks=5"),
    "prompts.limit": arguments(limit=3),
    "prompts.fewshot_seed": another_few_shot_seed,
    "prompts.seeds": arguments(torch_random_seed=7),
    "task.prompts": another_bank,
    "task.version": in_task("own_choice.yaml", "version: 1.0", "version: 1.1"),
    "task.content": in_task("own_choice.yaml", "Is it so?", "Is it so!"),
    "task.data": one_document,
    "task.fewshot": in_task("own_choice.yaml", "task: own_choice", "task: own_choice\nnum_fewshot: 1"),
    "task.generation": in_task("own_text.yaml", "max_gen_toks: 4", "max_gen_toks: 5"),
    "steering.hash": steering,
    "capture.span": model_args(capture="all"),
    "capture.arrays": more_arrays,
    "computation.batch_size": model_args(batch_size=2),
    "computation.threads": lambda base, folder: (base, replace(base, threads=1)),
    "computation.reuse": model_args(logits_cache=False),
}

ELSEWHERE: dict[str, str] = {
    "model.revision": "two commits need a cache of the hub: tested in a process of its own",
    "model.routers": "is set in memory: tested on a loaded model",
    "model.quantization": "needs a library that quantises: tested on a config that says so",
    "model.device": "there is one kind of device",
    "computation.processes": "needs several processes",
    "computation.machine": "there is one machine",
    "versions.lm_eval_moe": "one version is installed",
    "versions.lm_eval": "one version is installed",
    "versions.transformers": "one version is installed",
    "versions.tokenizers": "one version is installed",
    "computation.engine": "vllm-moe alone has it: tested there",
    "prompts.max_gen_toks": "vllm-moe alone takes it: tested there",
    "versions.vllm": "vllm-moe alone has it, and one version is installed",
    "versions.torch": "one version is installed",
    "versions.peft": "is there with an adapter only: changes together with model.peft",
    "versions.plugins": "plug-ins are loaded once in a process: tested with the one that extends the tool",
}
"""Parts that no change within one process reaches, and why; what the users of an identity do then is tested for all."""

TOGETHER: dict[str, set[str]] = {
    "model.backend": {"versions.plugins"},  # whose class is none of ours
    "model.config": {"model.routers"},  # K is both
    "model.class": {"model.code", "model.config"},  # a class is code, and the config names it
    "model.dtype": set(),
    "prompts.fewshot": {"task.fewshot", "task.data"},  # examples are data
    "prompts.generation": {"task.generation"},
    "task.fewshot": {"task.data"},
    "task.content": {"task.prompts"},
    "prompts.limit": {"task.prompts"},  # of the documents up to the limit
    "task.data": {"task.prompts"},
}
"""What else such a change changes."""
