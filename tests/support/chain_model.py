"""A model that writes chains given by hand, and routes every token in a known way.

A real Qwen3-MoE: its embeddings are the identity, the outputs of attention and experts are zero, and its head is a
transition matrix. What comes next, and which experts a token is routed to, thus depend on that token alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

EXPERTS, TOP_K, LAYERS = 8, 2, 2
END = "<|end|>"


class Chains:
    """A model and its tokenizer for some chains.

    Args:
        chains: By prompt, the pieces that follow it. ``#`` and a number after a piece tell tokens of the same text
            apart and do not show in it; a piece without is one token wherever it stands. Where no chain says what
            follows its last piece, that piece is repeated for ever.
        special: Pieces that are special tokens beside the end of the sequence, at which ``generate`` stops.
    """

    def __init__(self, chains: Mapping[str, Sequence[str]], special: Sequence[str] = ()) -> None:
        self.chains = chains
        pieces = [piece for prompt, chain in chains.items() for piece in (prompt, *chain)]
        self.pieces = list(dict.fromkeys([END, *special, "pad", *pieces]))
        self.ids = {piece: number for number, piece in enumerate(self.pieces)}
        self.special = [END, *special]
        self.tokenizer = self._tokenizer()

    def _tokenizer(self) -> Any:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        core = Tokenizer(models.WordLevel(self.ids, unk_token=END))
        longest_first = sorted(self.pieces, key=len, reverse=True)
        core.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
        core.decoder = decoders.Sequence([decoders.Replace(Regex("#[0-9]+"), ""), decoders.Fuse()])
        return PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token=END,
            eos_token=END,
            pad_token=END,
            extra_special_tokens=self.special[1:],
            clean_up_tokenization_spaces=False,
        )

    def next_of(self) -> dict[int, int]:
        """Return each token's successor."""
        after: dict[int, int] = {}
        for prompt, chain in self.chains.items():
            ids = [self.ids[piece] for piece in (prompt, *chain)]
            for one, other in pairwise(ids):
                assert after.setdefault(one, other) == other, "a token has one successor"
        for chain in self.chains.values():
            after.setdefault(self.ids[chain[-1]], self.ids[chain[-1]])
        return after

    def experts_of(self, token: int, layer: int) -> list[int]:
        """Return the two experts that a token is routed to, the first with the larger weight."""
        first = (3 * token + layer) % EXPERTS
        return [first, (first + 1 + token % (EXPERTS - 1)) % EXPERTS]

    def model(self) -> Any:
        """Return the model."""
        from transformers import AutoConfig, AutoModelForCausalLM

        size = len(self.pieces)
        size += -size % 8  # what grouped matrix products ask for
        config = AutoConfig.for_model(
            "qwen3_moe",
            **{"vocab_size": size, "hidden_size": size, "intermediate_size": 8, "moe_intermediate_size": 8},
            **{"num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
            **{"num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "norm_topk_prob": True},
            **{"max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
            **{"tie_word_embeddings": False},
        )
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(torch.eye(size))
            model.lm_head.weight.zero_()
            for one, other in self.next_of().items():
                model.lm_head.weight[other, one] = 1.0
            for number, layer in enumerate(model.model.layers):
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.experts.down_proj.zero_()
                layer.mlp.gate.weight.zero_()
                for token in range(len(self.pieces)):
                    first, second = self.experts_of(token, number)
                    layer.mlp.gate.weight[first, token] = 0.2
                    layer.mlp.gate.weight[second, token] = 0.1
        return model

    def counts(self, tokens: Sequence[int]) -> np.ndarray:
        """Return how often each expert of each layer is selected for tokens, ``[L, E]``."""
        counts = np.zeros((LAYERS, EXPERTS), dtype=int)
        for token in tokens:
            for layer in range(LAYERS):
                counts[layer, self.experts_of(token, layer)] += 1
        return counts
