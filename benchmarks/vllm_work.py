"""What is measured on vLLM: few-shot log-likelihoods, prompts, and answers that are generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval_moe.demo_model.data import evaluation_problems
from lm_eval_moe.demo_model.words import LANGUAGES
from lm_eval_moe.routing_fields import CURVES

__all__ = ["CAPTURED", "STEERED", "Work", "decoding", "fewshot", "prefill", "steering"]

CAPTURED = ("capture", "capture + soft")
STEERED = ("capture + soft",)


@dataclass(frozen=True)
class Work:
    """Requests of one kind.

    Attributes:
        kind: As lm-eval's models call it.
        requests: ``[task, document, index, arguments]`` of each.
        keys: Those whose routing is kept; None: all.
        tokens: That they have in all, generated ones included.
        span: What is captured.
    """

    kind: str
    requests: Sequence[Sequence[Any]]
    keys: Sequence[Sequence[Any]] | None
    tokens: int
    span: str

    def asked(self, capture: str | None = None, spec: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Return what a side is asked; `capture` None for one that knows nothing of routing."""
        languages = {_task(code): code for code in LANGUAGES}
        arrays = sorted(frozenset().union(*(curve.arrays for curve in CURVES.values())))
        routed = {} if capture is None else {"capture": capture, "spec": spec, "arrays": arrays, "languages": languages}
        return {"kind": self.kind, "requests": self.requests, "keys": self.keys, **routed, **more}

    def for_transformers(self) -> Work:
        """Return the same for `hf-moe`, which calls the least number of new tokens otherwise."""

        def renamed(settings: Any) -> Any:
            names = {"min_tokens": "min_new_tokens"}
            return {names.get(name, name): value for name, value in settings.items()}

        if self.kind != "generate_until":
            return self
        requests = [[*rest, [text, renamed(settings)]] for *rest, (text, settings) in self.requests]
        return replace(self, requests=requests)

    def agree(self, one: Sequence[Any], other: Sequence[Any]) -> bool:
        """Whether two sides answer alike: texts are equal, log-likelihoods within 1e-3."""
        if self.kind == "generate_until":
            return list(one) == list(other)
        return all(abs(a[0] - b[0]) < 1e-3 for a, b in zip(one, other, strict=True))


def fewshot(model: Path, documents: int, *, shots: int = 8) -> Work:
    """Return documents of four choices after solved examples; the routing of the right one is kept."""
    encode, requests, keys, tokens = _encoder(model), [], [], 0
    for number, (task, text, options, gold) in enumerate(_documents(documents, shots)):
        for index, option in enumerate(options):
            # More than one token, so that every choice is a row on either side.
            requests.append([task, number, index, [text, f" {option}{option}{option}."]])
            tokens += encode("".join(requests[-1][3]))
        keys.append([task, number, gold])
    return Work("loglikelihood", requests, keys, tokens, "prompt")


def decoding(model: Path, prompts: int, generated: int, *, shots: int = 3) -> Work:
    """Return prompts to each of which so many tokens are generated; everything is kept."""
    encode = _encoder(model)
    settings = {"until": ["<never>"], "max_gen_toks": generated, "min_tokens": generated, "do_sample": False}
    requests = [[task, n, 0, [text, settings]] for n, (task, text, *_) in enumerate(_documents(prompts, shots))]
    return Work("generate_until", requests, None, sum(encode(each[3][0]) + generated for each in requests), "all")


def prefill(model: Path, prompts: int, *, shots: int = 24) -> Work:
    """Return long prompts that are read, with one token to generate each."""
    return decoding(model, prompts, 1, shots=shots)


def steering(layers: int, experts: int, action: Any) -> dict[str, Any]:
    """Return a spec that steers two experts of every layer in the middle, half of all layers."""
    targets: Any = [1 % experts, 3 % experts]
    if isinstance(action, Mapping) and "proportional" in action:
        targets = {targets[0]: 0.4, targets[1]: 1.0}
    middle = list(range(layers // 4, layers // 4 + layers // 2))
    return {
        "version": 1,
        "name": "benchmark",
        "interventions": [{"layers": middle, "experts": {"ids": {"all": targets}}, "action": action}],
    }


def _task(code: str) -> str:
    return f"demo_arith_{code}"


def _documents(count: int, shots: int) -> list[tuple[str, str, list[str], int]]:
    """Return task, text, choices and the right choice, in languages that take turns; no two texts are alike."""
    problems, found = evaluation_problems(), []
    for number in range(count):
        row, language = divmod(number, len(LANGUAGES))
        code = list(LANGUAGES)[language]
        problem, options = problems[row % len(problems)]
        examples = [problems[(row + 1 + n) % len(problems)][0] for n in range(shots)]
        head = "\n\n".join(f"{each.prompt(code)} {each.answer}" for each in examples)
        text = f"{head}\n\n{problem.prompt(code)}" if shots else problem.prompt(code)
        found.append((_task(code), text, [str(each) for each in options], options.index(problem.answer)))
    return found


def _encoder(model: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text).ids)
