"""Phi-3.5-MoE: a sparse mixer takes the place of the top-k."""

from __future__ import annotations

from lm_eval_moe.routers.blocks import RoutedBlock

__all__ = ["PhimoeBlock"]


class PhimoeBlock(RoutedBlock):
    """The largest logit is chosen, then the largest of the rest: the logits alone decide."""

    class_names = ("PhimoeSparseMoeBlock",)
    guards_logits = True
