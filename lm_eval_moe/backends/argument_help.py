"""What our backends take in ``--model_args`` besides lm-eval's own arguments, one line each."""

from __future__ import annotations

__all__ = ["ARGUMENT_HELP"]

ARGUMENT_HELP = {
    "pretrained": "hub id, folder, or demo for the bundled tiny model (default: demo)",
    "steering": "steering file (YAML), same as --steering",
    "capture": "tokens whose routing is recorded: prompt (default), continuation, all, thinking or off",
    "parallel": "YAML file that says which language each task is in, same as --parallel",
    "adapter": "Python file with an adapter for a model family that lacks one (hf-moe)",
    "reuse": "auto (default): contexts that requests share are computed once; off: each request by itself (hf-moe)",
    "allow_missing_weights": "true: continue although the checkpoint lacks weights, which are then random (hf-moe)",
}
"""By name; docs/model_arguments.md says more."""
