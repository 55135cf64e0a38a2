"""What our backends take in ``--model_args`` beside lm-eval's own arguments, in a line each."""

from __future__ import annotations

__all__ = ["ARGUMENT_HELP"]

ARGUMENT_HELP = {
    "pretrained": "hub id, folder, or demo for the bundled tiny model (default: demo)",
    "steering": "steering YAML file, as --steering",
    "capture": "tokens whose routing is recorded: prompt (default), continuation, all, thinking or off",
    "parallel": "YAML file that says which task is which language, as --parallel",
    "adapter": "Python file with the adapter of a family that has none (hf-moe)",
    "reuse": "auto (default): what requests begin with in common is computed once; off: each by itself (hf-moe)",
    "allow_missing_weights": "true: go on where the checkpoint lacks weights, which are then random (hf-moe)",
}
"""By name; docs/model_arguments.md tells more."""
