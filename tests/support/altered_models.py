"""Models of several families, and everything that is observed on one: for tests of models that were altered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_moe import HFMoE
from lm_eval_moe.steering import parse_spec
from support.hf_cases import PAIRS, generated, likelihoods, scored
from support.small_models import FAMILIES, make_model

Observed = list[tuple[list[float], list[str], dict[Any, list[bytes]]]]

# Families whose router's weight sits in an nn.Linear; of the others, phimoe's router is one itself.
SIZES: dict[str, Any] = {
    "tie_word_embeddings": False,  # quantised linears cannot be tied
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "initializer_range": 0.3,
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LINEARS: dict[str, dict[str, Any]] = {
    "dbrx": {
        "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 512,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "gemma4_text": {
        "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 16, "head_dim": 8,
        "global_head_dim": 16, "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8,
    },
    "jetmoe": {"num_local_experts": 8, "num_experts_per_tok": 2, "kv_channels": 8},
    "longcat_flash": {
        **LATENT, "num_hidden_layers": 6, "num_key_value_heads": 4, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 16,
        "n_routed_experts": 8, "moe_topk": 2, "zero_expert_num": 2, "head_dim": 8,
    },
}  # fmt: skip
SEVERAL = ["qwen3_moe", "mixtral", "gpt_oss", "phimoe", "deepseek_v3", *LINEARS]
ROUTERS = {
    "gpt_oss": "mlp.router",
    "phimoe": "mlp.router",
    "dbrx": "ffn.router",
    "gemma4_text": "router",
} | dict.fromkeys(("jetmoe", "longcat_flash"), "mlp.router")


def make(family: str) -> Any:
    """Build a random model; the same weights each time."""
    if family in FAMILIES:
        return make_model(family)
    config = AutoConfig.for_model(family, **{**SIZES, **HEADS, **LINEARS[family]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "router" in name or "embed" in name or "wte" in name:
                tensor.normal_(0.0, 0.5)
    return model


def layers_of(model: Any) -> Any:
    """Return the decoder layers."""
    return model.transformer.blocks if hasattr(model, "transformer") else model.model.layers


def routers_of(family: str, model: Any) -> list[Any]:
    """Return the router modules, found by attribute path."""
    path = ROUTERS.get(family, "mlp.gate")
    dense = 1 if family == "deepseek_v3" else 0
    return [layer.get_submodule(path) for layer in layers_of(model)[dense:]]


def steering(action: Any, experts: list[int], **more: Any) -> Any:
    """Return a spec with one intervention in all layers."""
    entry = {"layers": "all", "experts": {"ids": {"all": experts}}, "action": action, **more}
    return parse_spec({"version": 1, "interventions": [entry]})


STEERINGS = [None, steering("mask", [1, 6, 3]), None, steering("activate", [0, 5], guard=True)]
PROMPTS = [context for context, _ in PAIRS[:4]]
ARRAYS = ("counts", "gate_mass", "importance", "importance_dense", "targeted", "hit")


def behind(model: Any, tokenizer: Any, **kwargs: Any) -> HFMoE:
    """Return the model behind `hf-moe`."""
    return HFMoE(
        pretrained=model, tokenizer=tokenizer, **{"batch_size": 3, "max_length": 300, "capture": "all", **kwargs}
    )


def observed(lm: HFMoE, steerings: Sequence[Any] = STEERINGS, **gen_kwargs: Any) -> Observed:
    """Return answers and records, with steering switched on, off and on again."""
    seen = []
    for given in steerings:
        lm.set_steering(given)
        lm.captured.clear()
        values = likelihoods(lm, scored(PAIRS[:4]))
        texts = lm.generate_until(generated(PROMPTS, task="texts", max_gen_toks=4, **gen_kwargs), disable_tqdm=True)
        records = {
            key: [getattr(lm.captured.record(key), name).tobytes() for name in ARRAYS] for key in lm.captured.records
        }
        seen.append((values, texts, records))
    return seen


_KNOWN: dict[str, Observed] = {}


def observed_plain(family: str, tokenizer: Any) -> Observed:
    """Return what is observed on a family's unaltered model."""
    if family not in _KNOWN:
        seen = observed(behind(make(family), tokenizer))
        assert seen[0] == seen[2]
        assert len({tuple(values) for values, _, _ in seen}) == 3, "the steering must matter"
        assert all(len(records) == 2 * len(PROMPTS) for _, _, records in seen)
        _KNOWN[family] = seen
    return _KNOWN[family]
