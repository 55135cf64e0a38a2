"""The bundled demo model: a tiny multilingual mixture-of-experts model, and the data of its tasks."""

from __future__ import annotations

from pathlib import Path

__all__ = ["demo_model_path"]


def demo_model_path() -> Path:
    """Return the folder with the model's config, weights and tokenizer, as transformers loads it."""
    return Path(__file__).parent / "weights"
