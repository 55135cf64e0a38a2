"""Every mixture-of-experts family of the installed transformers, found by code and built tiny.

What a family looks like (which decoder layers route, how many experts, how many of them for a token) is said in
``tiny_configs`` from the families' definitions; nothing here asks the package under test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from torch import nn

from support.conformance.tiny_configs import BASE, TINY, VOCABULARY

__all__ = [
    "CANNOT_BUILD",
    "NO_BFLOAT16",
    "VOCABULARY",
    "Discovery",
    "Family",
    "build",
    "discover",
    "families",
    "tiny_config",
]

CANNOT_BUILD: dict[str, str] = {}
"""Families that the installed transformers itself cannot build or run, and why. Every one that it ships, it can."""

NO_BFLOAT16: dict[str, tuple[str, str]] = {
    "deepseek_v4": ("5.23.0", "its norms, kept in float32, feed bfloat16 projections"),
}
"""Families that fail in bfloat16 before this version of transformers, even if loaded from a checkpoint, and why."""

# A family routes if the module that defines its class also defines a class named for experts, a router, a top-k gate
# or a mixture of experts. Names alone are not enough: GraniteDocling's router picks between two connectors and its
# module never speaks of experts. The rule looks at whole modules, so it finds too much rather than too little, and a
# family that it finds needs an entry in ``TINY``. Checked against 5.19.0 and 5.24.0: of the causal language models
# that it leaves out, none has an expert or a router among its modules (gemma3n's AltUp router mixes, it does not
# select), and those that take any text model, like Fuyu, are released with dense ones only.
_ROUTED_CLASS = re.compile(r"^class \w*(?:Experts?|Moe|MoE|Router|TopK|Topk)\w*\(", re.MULTILINE)
_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Discovery:
    """What the installed transformers offers."""

    causal: dict[str, str]
    """Model type to the class that AutoModelForCausalLM builds, for every family that routes."""
    elsewhere: dict[str, str]
    """Modeling modules that route but have no model type in AutoModelForCausalLM, to the reason."""
    composites: dict[str, str]
    """Other model types of the modules in ``causal`` that a generative auto class builds, to that class."""


@dataclass(frozen=True)
class Family:
    """One family: what it is called, and how its tiny model must route."""

    model_type: str
    class_name: str
    config_module: str
    layers: str
    """Where the decoder layers sit in the model, as an attribute path."""
    moe_layers: tuple[int, ...]
    """Indices of the decoder layers that route with learned weights."""
    hashed_layers: tuple[int, ...]
    """Indices of the decoder layers whose experts are looked up by token id."""
    experts: int
    """E, the routed experts."""
    top_k: int
    """K, the experts that a token is sent to."""
    columns: int
    """The router's outputs: E, and more where shared, zero or skip experts are scored, too."""
    routers: int
    """Routers in each of these layers."""
    padding: str
    """Why a left-padded row does not give what it gives alone; empty if it does."""
    no_bfloat16: str
    """Why the installed transformers cannot run it in bfloat16; empty if it can."""


# ------------------------------------------------------------------------------------------------ discovery


def _modules() -> Iterator[tuple[str, str]]:
    """Yield the folder and the source of every modeling module."""
    import transformers

    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        yield path.parent.name, path.read_text(encoding="utf-8")


def _auto_classes() -> dict[str, dict[str, Any]]:
    """Return what every auto class builds, by model type."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    return {
        name: dict(value._model_mapping._model_mapping)
        for name, value in vars(modeling_auto).items()
        if name.startswith("AutoModel") and isinstance(value, type) and issubclass(value, _BaseAutoModelClass)
    }


def _reason(types: list[str], source: str, auto: dict[str, dict[str, Any]]) -> str:
    """Say why a module that routes has no causal language model."""
    builders = sorted({name for name, built in auto.items() if name != "AutoModel" and built.keys() & set(types)})
    own = [name for name in _CLASS.findall(source) if name.endswith("ForCausalLM")]
    if own:
        nature = f"a text model ({', '.join(own)}) that is left out"
    elif "AutoModelForImageTextToText" in builders:
        nature = "multimodal"
    elif "AutoModelForSeq2SeqLM" in builders:
        nature = "encoder-decoder"
    elif builders:
        nature = "no text generation"
    else:
        nature = "a part of other models"
    return f"{nature}: not in AutoModelForCausalLM; built by {', '.join(builders) or 'AutoModel'}"


@cache
def discover() -> Discovery:
    """Find every mixture-of-experts family of the installed transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, model_type_to_module_name

    auto = _auto_classes()
    home: dict[str, str] = {}  # class name to module
    routed: dict[str, str] = {}  # module to source
    for module, source in _modules():
        home.update((name, module) for name in _CLASS.findall(source))
        if _ROUTED_CLASS.search(source) and "expert" in source.lower():
            routed[module] = routed.get(module, "") + source
    causal = {}
    for model_type, classes in auto["AutoModelForCausalLM"].items():
        name = classes if isinstance(classes, str) else classes[0]
        # By the class, not by the type: some types have no modeling module of their own.
        if home.get(name) in routed:
            causal[model_type] = name
    covered = {home[name] for name in causal.values()}
    types: dict[str, list[str]] = {}
    for model_type in CONFIG_MAPPING:
        types.setdefault(model_type_to_module_name(model_type), []).append(model_type)
    generative = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM")
    return Discovery(
        causal=causal,
        elsewhere={
            module: _reason(types.get(module, []), source, auto)
            for module, source in routed.items()
            if module not in covered
        },
        composites={
            model_type: next(name for name in generative if model_type in auto.get(name, {}))
            for module in sorted(covered)
            for model_type in types.get(module, [])
            if model_type not in causal and any(model_type in auto.get(name, {}) for name in generative)
        },
    )


@cache
def families() -> dict[str, Family]:
    """Return every family that the installed transformers has and this suite can build, by model type."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found = {}
    for model_type, class_name in discover().causal.items():
        if model_type in CANNOT_BUILD or model_type not in TINY:
            continue
        tiny = TINY[model_type]
        routing = TINY[tiny.text or model_type]
        since, reason = NO_BFLOAT16.get(model_type, ("0", ""))
        found[model_type] = Family(
            model_type=model_type,
            class_name=class_name,
            config_module=CONFIG_MAPPING[model_type].__module__,
            layers=tiny.layers,
            moe_layers=routing.routes,
            hashed_layers=routing.hashed,
            experts=routing.experts,
            top_k=routing.top_k,
            columns=routing.columns or routing.experts,
            routers=routing.routers,
            padding=routing.padding,
            no_bfloat16=reason if Version(transformers.__version__) < Version(since) else "",
        )
    return found


# ------------------------------------------------------------------------------------------------ tiny models


def tiny_config(model_type: str) -> Any:
    """Return a family's tiny configuration."""
    from transformers import AutoConfig

    tiny = TINY[model_type]
    if tiny.text:
        text = {**BASE, **TINY[tiny.text].config}
        return AutoConfig.for_model(model_type, text_config=text, tie_word_embeddings=False, **tiny.config)
    return AutoConfig.for_model(model_type, **{**BASE, **tiny.config})


def build(model_type: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Build a family's tiny model with random weights, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type)).eval()
    with torch.no_grad():
        _randomise(model, families()[model_type].experts)
        if dtype != torch.float32:
            _cast(model, dtype)
    return model


_SELECTION_BIAS = re.compile(r"correction_bias|expert_bias|balancing_bias")


def _randomise(model: Any, experts: int) -> None:
    """Give every weight that starts as a constant a random value, so that a test sees whether it is heeded."""
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].normal_(0.0, 0.3)
    # Tokens must differ, or all of them go to the same experts; a zero row for padding would tie a router's logits.
    model.get_input_embeddings().weight.normal_(0.0, 1.0)
    for name, tensor in model.state_dict().items():
        if name.endswith("tid2eid"):  # token id to expert ids, [vocabulary, K], all zero without a checkpoint
            tensor.copy_(torch.rand(len(tensor), experts).argsort(-1)[:, : tensor.shape[1]])
        elif not tensor.is_floating_point() or not tensor.numel():
            continue
        elif _SELECTION_BIAS.search(name):
            tensor.normal_(0.0, 0.1)  # smaller than the scores that it is added to
        elif bool((tensor == (first := tensor.flatten()[0])).all()):
            if first == 0.0:
                tensor.normal_(0.0, 0.3)
            else:
                tensor.copy_(first * torch.empty_like(tensor).uniform_(0.5, 1.5))


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Cast as loading a checkpoint does: what the class keeps in float32 stays, and so do rotary tables.

    The values are those of the float32 model, rounded, so that the two can be compared.
    """
    from transformers import AutoModelForCausalLM

    kept = set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())
    with torch.device("meta"):  # some modules ask for float32 where they create a weight
        made = AutoModelForCausalLM.from_config(model.config, dtype=dtype).state_dict()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in made and not any(re.search(part, name) for part in kept):
            tensor.data = tensor.data.to(made[name].dtype)
