"""Models, tokenizers and texts that the tests share: every model class is a real one, only small."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 320

_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
_EIGHT: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DEEPSEEK: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": None,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {**_EIGHT, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**_EIGHT, "head_dim": 8, "norm_topk_prob": True},
    "olmoe": {**_EIGHT},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 32},
    "phimoe": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "group_limited_greedy"},
    "deepseek_v3": {**_DEEPSEEK},
    "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "ernie4_5_moe": {
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_intermediate_size": 16,
        "moe_layer_start_index": 1,
        "moe_num_shared_experts": 1,
        "tie_word_embeddings": True,
    },
}
"""What makes each family small and a mixture of experts, beside what all have in common."""

STATEFUL: dict[str, dict[str, Any]] = {
    "lfm2_moe": {
        **_EIGHT,
        "num_dense_layers": 1,
        "conv_L_cache": 3,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "granitemoehybrid": {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "position_embedding_type": "rope",
        "mamba_n_heads": 4,
        "mamba_d_state": 8,
        "mamba_d_conv": 2,
        "mamba_expand": 2,
        "mamba_chunk_size": 8,
    },
}
"""The same of families some of whose layers keep a state instead of keys and values."""


def make_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Build a random model of a family; biases that start at zero get values, so that they matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**_SMALL, **(FAMILIES | STATEFUL)[family]})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and ("bias" in name or "gate" in name or "router" in name):
                tensor.normal_(0.0, 0.3)
    return model.to(dtype)


def train_tokenizer(texts: list[str]) -> Any:
    """Train a byte-level BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>")


SENTENCES = {
    "en": ["The cat sat on the mat.", "How many apples are left?", "Rain fell all night on the quiet town."],
    "de": ["Die Katze saß auf der Matte.", "Wie viele Äpfel sind übrig?", "Die ganze Nacht fiel Regen auf die Stadt."],
    "ru": ["Кошка сидела на коврике.", "Сколько яблок осталось?", "Всю ночь на тихий город лил дождь."],
    "zh": ["猫坐在垫子上。", "还剩多少个苹果？", "雨整夜落在安静的小镇上。"],
    "sw": ["Paka alikaa kwenye mkeka.", "Matofaa mangapi yamebaki?", "Mvua ilinyesha usiku kucha mjini."],
}
