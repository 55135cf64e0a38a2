"""Models with random weights of given shapes, in a folder that any engine loads; the tokenizer is the demo's."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_moe.demo_model import demo_model_path

__all__ = ["SHAPES", "Shape", "write_model"]


@dataclass(frozen=True)
class Shape:
    """A family and the numbers of its config.

    Attributes:
        family: As transformers names it.
        layers: Decoder layers, all with experts.
        experts: Of a layer.
        settings: The rest of the config.
    """

    family: str
    layers: int
    experts: int
    settings: dict[str, Any] = field(default_factory=dict)


SHAPES = {
    # Small enough for a CPU.
    "162M": Shape(
        "qwen3_moe",
        12,
        32,
        {
            "hidden_size": 512,
            "moe_intermediate_size": 256,
            "num_experts_per_tok": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "norm_topk_prob": True,
        },
    ),
    "tiny": Shape(
        "qwen3_moe",
        4,
        8,
        {
            "hidden_size": 128,
            "moe_intermediate_size": 32,
            "num_experts_per_tok": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "norm_topk_prob": True,
        },
    ),
    # Real shapes with fewer layers.
    "Qwen3-30B-A3B": Shape(
        "qwen3_moe",
        8,
        128,
        {
            "hidden_size": 2048,
            "moe_intermediate_size": 768,
            "num_experts_per_tok": 8,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "norm_topk_prob": True,
        },
    ),
    "OLMoE-1B-7B": Shape(
        "olmoe",
        8,
        64,
        {
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_experts_per_tok": 8,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "norm_topk_prob": False,
        },
    ),
    "GPT-OSS-20B": Shape(
        "gpt_oss",
        6,
        32,
        {
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_experts_per_tok": 4,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
        },
    ),
}


def write_model(folder: Path, shape: Shape, *, dtype: str = "float32", device: str = "cpu") -> Path:
    """Write a model of a shape; return its folder.

    Args:
        folder: Where.
        shape: The shape.
        dtype: Of the weights.
        device: Where the weights are drawn.
    """
    import torch
    import transformers

    source = Path(demo_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    named = {"num_local_experts" if shape.family == "gpt_oss" else "num_experts": shape.experts}
    config = transformers.AutoConfig.for_model(
        shape.family,
        vocab_size=-(-len(tokenizer) // 64) * 64,
        num_hidden_layers=shape.layers,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **named,
        **shape.settings,
    )
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = transformers.AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(default)
    model.save_pretrained(folder)
    for file in source.iterdir():
        if "token" in file.name or file.name == "vocab.json":
            shutil.copy(file, folder)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == shape.layers
    return folder


def main() -> None:
    """Write a model of a shape into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    write_model(args.folder, SHAPES[args.shape], dtype=args.dtype, device=args.device)


if __name__ == "__main__":
    main()
