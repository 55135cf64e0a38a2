"""The smallest useful configuration of every mixture-of-experts family: keyword arguments of its configuration class.

A family is one entry of ``TINY``: blocks of keyword arguments that several families share, then what is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from support.small_models import STATEFUL

VOCABULARY = 320

# ------------------------------------------------------------------------------------------------ shared blocks

BASE: dict[str, Any] = {
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
    "tie_word_embeddings": False,
}

# The three ways to say "eight routed experts, two of them for a token".
EXPERTS: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL: dict[str, Any] = {"num_local_experts": 8, "num_experts_per_tok": 2}
ROUTED: dict[str, Any] = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

SHARED: dict[str, Any] = {"n_shared_experts": 1}
GROUPED: dict[str, Any] = {"n_group": 2, "topk_group": 1}
HEAD: dict[str, Any] = {"head_dim": 8}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
INDEXED: dict[str, Any] = {"index_topk": 512, "index_head_dim": 16, "index_n_heads": 2}
DENSE_FIRST: dict[str, Any] = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
FIRST_DENSE: dict[str, Any] = {"first_k_dense_replace": 1}
WINDOW: dict[str, Any] = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
DELTA_NET: dict[str, Any] = {
    "linear_conv_kernel_dim": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
LINEAR_TWICE: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
GRANITE: dict[str, Any] = {
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.5,
    "residual_multiplier": 0.7,
    "logits_scaling": 2.0,
}
SHORT_CONV: dict[str, Any] = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "sliding_window_size": 4,
    "d_rel": 4,
    "rel_extent": 8,
    "conv_kernel_size": 2,
    "unpadded_vocab_size": VOCABULARY,
}


# ------------------------------------------------------------------------------------------------ the families


@dataclass(frozen=True)
class Tiny:
    """A family's tiny configuration and what its routing must look like, said without looking at the model."""

    config: dict[str, Any]
    """Keyword arguments of the configuration class, on top of ``BASE`` unless ``text`` is given."""
    routes: tuple[int, ...] = (0, 1, 2)
    """Indices of the decoder layers that route with learned weights."""
    experts: int = 8
    """E: the routed experts, without shared, zero and skip experts."""
    top_k: int = 2
    """K: the experts that a token is sent to."""
    columns: int = 0
    """The router's outputs where they are not one for each routed expert; 0: they are."""
    hashed: tuple[int, ...] = ()
    """Decoder layers that route by a table over token ids: they have experts, but nothing learned to steer."""
    layers: str = "model.layers"
    """Where the decoder layers sit in the causal-LM model."""
    text: str = ""
    """For a composite type: the type of its text model, whose tiny configuration becomes ``text_config``."""
    routers: int = 1
    """Routers in each layer that routes."""
    padding: str = ""
    """Why a left-padded row does not give what it gives alone; empty: it does."""


TINY: dict[str, Tiny] = {
    "afmoe": Tiny(
        EXPERTS | HEAD | WINDOW | {"num_dense_layers": 1, "num_shared_experts": 1, "route_scale": 1.5}, routes=(1, 2)
    ),
    "aria_text": Tiny({"moe_num_experts": 8, "moe_topk": 2, "moe_num_shared_experts": 1, "intermediate_size": 16}),
    "axk1": Tiny(ROUTED | SHARED | GROUPED | LATENT | FIRST_DENSE, routes=(1, 2)),
    "axk2": Tiny(ROUTED | SHARED | GROUPED | LATENT | INDEXED | DENSE_FIRST | {"gated_norm_rank": 4}, routes=(1, 2)),
    "bailing_hybrid": Tiny(
        EXPERTS
        | SHARED
        | GROUPED
        | LATENT
        | LINEAR_TWICE
        | FIRST_DENSE
        | HEAD
        | {"num_local_experts": 8, "short_conv_kernel_size": 2, "num_mtp_layers": 0},
        routes=(1, 2),
    ),
    "beam": Tiny(EXPERTS | GROUPED | HEAD | WINDOW | DENSE_FIRST, routes=(1, 2)),
    "cohere2_moe": Tiny(
        EXPERTS | HEAD | WINDOW | DENSE_FIRST | {"num_shared_experts": 1, "logit_scale": 1.0}, routes=(1, 2)
    ),
    "dbrx": Tiny(
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 3,
            "max_seq_len": 512,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2},
        },
        layers="transformer.blocks",
    ),
    "deepseek_v2": Tiny(
        ROUTED | SHARED | GROUPED | LATENT | FIRST_DENSE | {"topk_method": "group_limited_greedy"}, routes=(1, 2)
    ),
    "deepseek_v3": Tiny(ROUTED | SHARED | GROUPED | LATENT | FIRST_DENSE, routes=(1, 2)),
    "deepseek_v32": Tiny(ROUTED | SHARED | GROUPED | LATENT | INDEXED | FIRST_DENSE, routes=(1, 2)),
    "deepseek_v4": Tiny(
        ROUTED
        | SHARED
        | INDEXED
        | {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "q_lora_rank": 16,
            "o_groups": 2,
            "o_lora_rank": 8,
            "hc_mult": 2,
            "hc_sinkhorn_iters": 3,
            "sliding_window": 8,
            "layer_types": [
                "heavily_compressed_attention",
                "compressed_sparse_attention",
                "heavily_compressed_attention",
            ],
            "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
            "mlp_layer_types": ["hash_moe", "moe", "moe"],
        },
        routes=(1, 2),
        hashed=(0,),
        padding="attention compresses windows that are cut from the left edge of the batch, padding included",
    ),
    "doge": Tiny(
        EXPERTS | {"is_moe": True, "num_experts": 16, "keep_window_size": 64},
        experts=16,
        columns=8,  # product keys: expert 4 i + j has the sum of the i-th of four outputs and the j-th of four others
        padding="a token's logits are cut out of the whole batch's, so routing depends on every other token",
    ),
    "dots1": Tiny(ROUTED | SHARED | GROUPED | HEAD | WINDOW | FIRST_DENSE, routes=(1, 2)),
    "dots3_note": Tiny(
        {"vision_config": {"adapter_out_dim": 32}, "audio_config": {"adapter_out_dim": 32}}, text="dots3_note_text"
    ),
    "dots3_note_text": Tiny(
        ROUTED
        | SHARED
        | GROUPED
        | LATENT
        | INDEXED
        | DENSE_FIRST
        | {
            "head_dim": 16,
            "shared_experts_intermediate_size": 16,
            "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
            "sliding_window": 4,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "swa_q_lora_rank": 16,
            "swa_kv_lora_rank": 8,
            "swa_head_dim": 16,
            "swa_qk_nope_head_dim": 8,
            "swa_v_head_dim": 8,
        },
        routes=(1, 2),
    ),
    "ernie4_5_moe": Tiny(
        {
            "moe_num_experts": 8,
            "moe_k": 2,
            "moe_intermediate_size": 16,
            "moe_layer_start_index": 1,
            "moe_num_shared_experts": 1,
        },
        routes=(1, 2),
    ),
    "exaone_moe": Tiny(
        EXPERTS | GROUPED | HEAD | WINDOW | DENSE_FIRST | FIRST_DENSE | {"num_shared_experts": 1}, routes=(1, 2)
    ),
    "flex_olmo": Tiny(EXPERTS),
    "flint": Tiny(EXPERTS | HEAD | WINDOW | {"mlp_only_layers": [0], "shared_expert_intermediate_size": 16}, (1, 2)),
    "gemma4": Tiny(
        {
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "patch_size": 4,
                "position_embedding_size": 16,
            },
            "initializer_range": 0.3,
        },
        text="gemma4_text",
        layers="model.language_model.layers",
    ),
    "gemma4_text": Tiny(
        {
            "enable_moe_block": True,
            "num_experts": 8,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
            "head_dim": 8,
            "global_head_dim": 16,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        }
    ),
    "glm4_moe": Tiny(ROUTED | SHARED | GROUPED | HEAD | FIRST_DENSE | {"use_qk_norm": True}, routes=(1, 2)),
    "glm4_moe_lite": Tiny(ROUTED | SHARED | GROUPED | LATENT | DENSE_FIRST, routes=(1, 2)),
    "glm_moe_dsa": Tiny(
        ROUTED
        | SHARED
        | GROUPED
        | LATENT
        | INDEXED
        | DENSE_FIRST
        | FIRST_DENSE
        | {"indexer_types": ["full", "shared", "full"]},
        routes=(1, 2),
    ),
    "gpt_oss": Tiny(LOCAL | HEAD | WINDOW),
    "granitemoe": Tiny(LOCAL | GRANITE),
    "granitemoe_swa": Tiny(LOCAL | GRANITE | WINDOW | {"shared_intermediate_size": 16}),
    "granitemoehybrid": Tiny(GRANITE | STATEFUL["granitemoehybrid"]),
    "granitemoeshared": Tiny(LOCAL | GRANITE | {"shared_intermediate_size": 16}),
    "hunyuan_v1_moe": Tiny(HEAD | {"num_experts": 8, "moe_topk": 2}),
    "hy_v3": Tiny(EXPERTS | HEAD | DENSE_FIRST | {"num_shared_experts": 1}, routes=(1, 2)),
    "hy_v4": Tiny(
        ROUTED
        | SHARED
        | GROUPED
        | LATENT
        | INDEXED
        | DENSE_FIRST
        | {"head_dim": 16, "hc_mult": 2, "indexer_types": ["full", "shared", "full"]},
        routes=(1, 2),
    ),
    "inkling2_loop_text": Tiny(
        ROUTED
        | HEAD
        | SHORT_CONV
        | {
            "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"],
            "n_layers_per_attn_res_block": 1,
            "loop_layer_index_start": 1,
            "loop_layer_index_end": 2,
            "loop_num_passes": 2,
            "loop_gate_rank": 4,
        }
    ),
    "inkling2_text": Tiny(
        ROUTED
        | HEAD
        | SHORT_CONV
        | {"layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"], "n_layers_per_attn_res_block": 2}
    ),
    "inkling_text": Tiny(
        ROUTED
        | HEAD
        | SHORT_CONV
        | DENSE_FIRST
        | {
            "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"],
            "n_shared_experts": 2,
            "logits_mup_width_multiplier": 1.0,
        },
        routes=(1, 2),
        columns=10,
    ),
    "jamba": Tiny(
        {
            "num_hidden_layers": 4,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_d_conv": 2,
            "mamba_dt_rank": 4,
        },
        routes=(1, 3),
    ),
    "jetmoe": Tiny(LOCAL | {"kv_channels": 8, "num_key_value_heads": 2}, routers=2),
    "kimi_linear": Tiny(
        EXPERTS
        | SHARED
        | GROUPED
        | LATENT
        | LINEAR_TWICE
        | DENSE_FIRST
        | {"num_local_experts": 8, "linear_head_dim": 8, "linear_num_heads": 4, "linear_conv_kernel_dim": 2},
        routes=(1, 2),
    ),
    "kolibri1": Tiny(EXPERTS | HEAD | WINDOW | {"shared_expert_intermediate_size": 16}),
    "laguna": Tiny(
        EXPERTS
        | HEAD
        | WINDOW
        | DENSE_FIRST
        | {
            "shared_expert_intermediate_size": 16,
            "moe_routed_scaling_factor": 1.5,
            "moe_router_logit_softcapping": 4.0,
        },
        routes=(1, 2),
    ),
    "lara_mini": Tiny(
        EXPERTS
        | HEAD
        | DELTA_NET
        | {
            "layer_types": ["linear_attention", "sliding_attention", "full_attention"],
            "sliding_window": 4,
            "shared_expert_intermediate_size": 16,
        }
    ),
    "lfm2_moe": Tiny(
        EXPERTS | {"num_dense_layers": 1, "conv_L_cache": 2, "layer_types": ["conv", "full_attention", "conv"]},
        routes=(1, 2),
    ),
    "llama4": Tiny({}, text="llama4_text"),
    "llama4_text": Tiny(
        LOCAL
        | HEAD
        | {"intermediate_size_mlp": 32, "moe_layers": [1, 2], "attention_chunk_size": 64, "no_rope_layers": [1, 0, 1]},
        routes=(1, 2),
    ),
    "longcat_flash": Tiny(
        LATENT
        | {
            "num_hidden_layers": 6,  # two attentions a decoder layer
            "ffn_hidden_size": 32,
            "expert_ffn_hidden_size": 16,
            "n_routed_experts": 8,
            "moe_topk": 2,
            "zero_expert_num": 2,
            "head_dim": 8,
        },
        columns=10,
    ),
    "mellum": Tiny(EXPERTS | HEAD | WINDOW | DENSE_FIRST, routes=(1, 2)),
    "mimo_v2_flash": Tiny(ROUTED | GROUPED | WINDOW | DENSE_FIRST | {"head_dim": 16, "v_head_dim": 8}, routes=(1, 2)),
    "minimax": Tiny(
        LOCAL | HEAD | {"block_size": 8, "layer_types": ["full_attention", "linear_attention", "full_attention"]}
    ),
    "minimax_m2": Tiny(LOCAL | HEAD),
    "minimax_m3_vl_text": Tiny(
        LOCAL
        | HEAD
        | DENSE_FIRST
        | {
            "dense_intermediate_size": 32,
            "shared_intermediate_size": 16,
            "rotary_dim": 4,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_block_size": 4,
            "index_topk_blocks": 2,
        },
        routes=(1, 2),
    ),
    "mixtral": Tiny(LOCAL),
    "nemotron_h": Tiny(
        ROUTED
        | SHARED
        | GROUPED
        | HEAD
        | {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
            "moe_shared_expert_intermediate_size": 16,
            "moe_latent_size": 16,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 2,
            "conv_kernel": 2,
            "chunk_size": 8,
        },
        routes=(1, 3),
    ),
    "olmoe": Tiny(EXPERTS),
    "phimoe": Tiny(LOCAL),
    "qwen2_moe": Tiny(EXPERTS | {"shared_expert_intermediate_size": 16}),
    "qwen3_5_moe": Tiny({}, text="qwen3_5_moe_text"),
    "qwen3_5_moe_text": Tiny(EXPERTS | HEAD | DELTA_NET | LINEAR_TWICE | {"shared_expert_intermediate_size": 16}),
    "qwen3_moe": Tiny(EXPERTS | HEAD | {"norm_topk_prob": True}),
    "qwen3_next": Tiny(EXPERTS | HEAD | DELTA_NET | LINEAR_TWICE | {"shared_expert_intermediate_size": 16}),
    "qwen4_exp": Tiny({}, text="qwen4_exp_text"),
    "qwen4_exp_text": Tiny(
        EXPERTS
        | HEAD
        | DELTA_NET
        | {
            "layer_types": ["linear_attention", "indexed_attention", "linear_attention"],
            "shared_expert_intermediate_size": 16,
            "hc_count": 2,
            "hc_lowrank": 8,
            "ple_layer_ids": [1],
            "ple_embed_dim": 32,
            "ple_conv_kernel_size": 2,
            "heads_per_ngram": 2,
            "ngram_vocab_size_base": 64,
            "make_ngram_vocab_size_divisible_by": 8,
            "split_ngram_parts": 2,
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 4,
            "indexer_compress_ratio": 2,
        }
    ),
    "sarvam_mla": Tiny(ROUTED | SHARED | GROUPED | LATENT | FIRST_DENSE, routes=(1, 2)),
    "sarvam_moe": Tiny(ROUTED | SHARED | GROUPED | HEAD | FIRST_DENSE, routes=(1, 2)),
    "solar_open": Tiny(ROUTED | SHARED | GROUPED | HEAD),
    "zaya": Tiny(EXPERTS | HEAD | {"num_experts_per_tok": 1, "router_hidden_size": 32}, top_k=1, columns=9),
}
"""Every family that AutoModelForCausalLM can build, by model type."""
