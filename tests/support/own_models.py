"""Models with their own code, saved as a hub repository holds them: run with ``trust_remote_code``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from support.small_models import VOCABULARY

EXPERTS, TOP_K = 6, 2

# Blocks as models bring them that come with their own code; transformers runs the file with trust_remote_code.
MODELING = """
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM


class OwnConfig(Qwen2Config):
    model_type = "own_moe"
    num_experts_per_tok = {top_k}


class Gate(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.randn({experts}, hidden) * 0.3)

    def forward(self, flat):
        scores = nn.functional.linear(flat, self.weight).softmax(-1)
        weights, indices = scores.topk({top_k}, sorted=False)
        return indices, weights / weights.sum(-1, keepdim=True), None


class MyMoEBlock(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.gate = {gate}
        self.experts = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range({experts}))

    def choose(self, flat):
        {choose}

    def forward(self, hidden):
        flat = hidden.reshape(-1, hidden.shape[-1])
        indices, weights = self.choose(flat)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, place = (indices == number).nonzero(as_tuple=True)
            if len(token):
                out.index_add_(0, token, expert(flat[token]) * weights[token, place, None])
        return out.reshape(hidden.shape)


class OwnForCausalLM(Qwen2ForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = MyMoEBlock(config.hidden_size)
"""

ALL_IN_ONE = f"""class All(nn.Linear):
    def __init__(self, hidden):
        super().__init__(hidden, {EXPERTS} * hidden)

    def __iter__(self):
        return iter([lambda rows, n=n: self(rows).chunk({EXPERTS}, -1)[n] for n in range({EXPERTS})])


"""

KINDS = {
    "gate": {"gate": "Gate(hidden)", "choose": "return self.gate(flat)[:2]"},
    "linear": {
        "gate": f"nn.Linear(hidden, {EXPERTS}, bias=False)",
        "choose": f"weights, indices = self.gate(flat).float().softmax(-1).topk({TOP_K}); "
        "return indices, weights / weights.sum(-1, keepdim=True)",
    },
}


def saved(kind: str, folder: Path, tokenizer: Any) -> str:
    """Save a model with its own code as a hub repository holds it."""
    folder.mkdir()
    code = MODELING.format(experts=EXPERTS, top_k=TOP_K, **KINDS[kind])
    (folder / f"modeling_{kind}.py").write_text(code, encoding="utf-8")
    module = f"modeling_{kind}"
    config = {
        "model_type": "own_moe",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": f"{module}.OwnConfig", "AutoModelForCausalLM": f"{module}.OwnForCausalLM"},
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "num_experts_per_tok": TOP_K,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(0)
    loaded = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    AutoModelForCausalLM.from_config(loaded, trust_remote_code=True).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return str(folder)
