"""What the benchmarks run: a model shared by all variants, and the same lm-eval requests for each."""

from __future__ import annotations

import argparse
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lm_eval_moe import HFMoE, parse_spec
from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.demo_model.data import evaluation_problems
from lm_eval_moe.demo_model.words import LANGUAGES
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.routing_fields import CURVES
from lm_eval_moe.shape import RoutingShape

VARIANTS = ("hf", "output_router_logits", "capture off", "capture", "capture + steering")
TARGETS = 2  # steered experts a middle layer


@dataclass(frozen=True)
class Request:
    """A document with its choices: its text, the choices, the gold one, and a name for its task."""

    task: str
    doc_id: int
    prompt: str
    choices: tuple[str, ...]
    gold: int


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which model is measured, and on what."""
    parser.add_argument("--pretrained", default="demo", help="demo, a local folder or a hub id (default: demo)")
    parser.add_argument("--random", metavar="FAMILY", help="a random-initialised model instead, such as qwen3_moe")
    parser.add_argument("--layers", type=int, default=12, help="of the random model (default: 12)")
    parser.add_argument("--hidden", type=int, default=512, help="its hidden size (default: 512)")
    parser.add_argument("--experts", type=int, default=32, help="its routed experts per layer (default: 32)")
    parser.add_argument("--top_k", type=int, default=4, help="experts per token (default: 4)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: 1)")
    parser.add_argument("--batch_size", type=int, default=32, help="default: 32")
    parser.add_argument("--length", type=int, default=0, help="pad prompts with further problems to so many tokens")


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the model and its tokenizer; a random model takes the demo model's."""
    torch.set_num_threads(args.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of models that are given as objects
    dtype = getattr(torch, args.dtype)
    if args.random:
        tokenizer = AutoTokenizer.from_pretrained(demo_model_path())
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            args.random,
            vocab_size=len(tokenizer),
            hidden_size=args.hidden,
            intermediate_size=args.hidden * 2,
            moe_intermediate_size=args.hidden // 2,
            num_hidden_layers=args.layers,
            num_attention_heads=max(args.hidden // 64, 1),
            num_key_value_heads=max(args.hidden // 128, 1),
            head_dim=64,
            num_experts=args.experts,
            num_local_experts=args.experts,
            num_experts_per_tok=args.top_k,
            max_position_embeddings=4096,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        path = demo_model_path() if args.pretrained == "demo" else args.pretrained
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.to(args.device).eval(), tokenizer


class RouterLogits(HFLM):
    """What scripts do without us: the model returns every router's logits, which are copied to the host.

    Each forward pass is copied by itself; nothing is made of the logits, neither records nor sums.
    """

    copied = 0
    """Logits that were copied."""

    def _model_call(self, *args: Any, **kwargs: Any) -> Any:
        with self._returning():
            return super()._model_call(*args, **kwargs)

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        with self._returning():
            return super()._model_generate(*args, **kwargs)

    @contextmanager
    def _returning(self) -> Iterator[None]:
        def ask(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "output_router_logits": True}

        def copy(_: Any, args: Any, output: Any) -> None:
            if not output.router_logits:
                raise SystemExit(f"{type(self.model).__name__} returns no router logits")
            logits = [layer.float().cpu() for layer in output.router_logits]
            self.copied += sum(layer.numel() for layer in logits)

        # Asked for of the whole model, they enter a loss that fails with padding and a key-value cache.
        body = self.model.base_model
        with body.register_forward_pre_hook(ask, with_kwargs=True), body.register_forward_hook(copy):
            yield


def build(variant: str, model: Any, tokenizer: Any, args: argparse.Namespace, reuse: str = "off") -> Any:
    """Return an lm-eval model around the shared weights: `HFMoE` intercepts only during its own calls."""
    given = {"pretrained": model, "tokenizer": tokenizer, "batch_size": args.batch_size, "device": args.device}
    if variant == "hf":
        return HFLM(**given)
    if variant == "output_router_logits":
        return RouterLogits(**given)
    lm = HFMoE(**given, capture=variant != "capture off", reuse=reuse)
    if variant.endswith("steering"):
        lm.set_steering(parse_spec(steering_spec(lm.routing_shape)))
    record_gold(lm, None)
    return lm


def steering_spec(shape: RoutingShape, band: str = "middle") -> dict[str, Any]:
    """Return soft steering of a few experts in every layer of a band."""
    ids = {layer: [(layer + i * 3) % shape.experts for i in range(TARGETS)] for layer in shape.band(band)}
    return {
        "version": 1,
        "name": "benchmark",
        "interventions": [{"layers": band, "experts": {"ids": ids}, "action": {"soft": 0.5}}],
    }


def documents(count: int, tokenizer: Any, length: int = 0) -> list[Request]:
    """Return real text: the demo's arithmetic problems, language after language.

    Once there are no more, each comes again with a solved example before it, another one in every round: no two
    documents are the same, or lm-eval would let one row serve both.
    """
    problems = evaluation_problems()
    found: list[Request] = []
    for number in range(count):
        round_, within = divmod(number, len(problems) * len(LANGUAGES))
        row, language = divmod(within, len(LANGUAGES))
        code = list(LANGUAGES)[language]
        problem, options = problems[row]
        prompt = problem.prompt(code)
        more = row
        if round_:
            example = problems[(row + round_) % len(problems)][0]
            prompt = f"{example.prompt(code)} {example.answer}\n\n{prompt}"
        while len(tokenizer.encode(prompt)) < length:
            more = (more + 1) % len(problems)
            prompt = f"{problems[more][0].prompt(code)} {problems[more][0].answer}\n\n{prompt}"
        found.append(
            Request(
                _task(code),
                round_ * len(problems) + row,
                prompt,
                tuple(f" {option}" for option in options),
                options.index(problem.answer),
            )
        )
    return found


def _task(code: str) -> str:
    return f"demo_arith_{code}"


def likelihood_instances(chosen: list[Request]) -> list[Instance]:
    """Return a log-likelihood request a choice, as lm-eval builds them for multiple choice."""
    return [
        _instance("loglikelihood", request, index, (request.prompt, choice))
        for request in chosen
        for index, choice in enumerate(request.choices)
    ]


def generation_instances(chosen: list[Request], tokens: int) -> list[Instance]:
    """Return a request a document, to generate exactly so many tokens."""
    settings = {"until": ["<never>"], "max_gen_toks": tokens, "min_new_tokens": tokens, "do_sample": False}
    return [_instance("generate_until", request, 0, (request.prompt, settings)) for request in chosen]


def _instance(kind: str, request: Request, index: int, arguments: tuple[Any, ...]) -> Instance:
    return Instance(
        request_type=kind,
        doc={},
        arguments=arguments,
        idx=index,
        metadata=(request.task, request.doc_id, 1),
    )


def record_gold(lm: Any, chosen: list[Request] | None) -> None:
    """Keep the routing of each document's gold choice only, as an evaluation does; of all requests without documents.

    As in an evaluation, the tasks' languages are known, and records hold what the curves need.
    """
    if not isinstance(lm, HFMoE):
        return
    keys = None if chosen is None else frozenset(RequestKey(each.task, each.doc_id, each.gold) for each in chosen)
    arrays = frozenset().union(*(curve.arrays for curve in CURVES.values()))
    lm.captured = Captured(CaptureRequest(keys, arrays, languages={_task(code): code for code in LANGUAGES}))


def environment(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Describe machine, versions and model, for whoever compares figures."""
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{os.cpu_count()}-core CPU"
    config = model.config
    return {
        "machine": f"{device} ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "lm_eval")},
        "model": args.random or args.pretrained,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "device": args.device,
        "dtype": args.dtype,
        "batch_size": args.batch_size,
    }
