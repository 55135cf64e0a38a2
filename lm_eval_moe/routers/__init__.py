"""Find a model's routers and intercept them."""

from __future__ import annotations

from lm_eval_moe.routers.blocks import RoutedBlock, looped_error
from lm_eval_moe.routers.intercept import RouterListener, intercepted
from lm_eval_moe.routers.sites import (
    RouterSite,
    check_adapters,
    find_sites,
    model_on_meta,
    routing_shape,
    shape_from_config,
)

__all__ = [
    "RoutedBlock",
    "RouterListener",
    "RouterSite",
    "check_adapters",
    "find_sites",
    "intercepted",
    "looped_error",
    "model_on_meta",
    "routing_shape",
    "shape_from_config",
]
