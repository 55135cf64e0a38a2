"""Train the demo model: ``python -m tools.demo_model.train --output DIR``.

One seed, one run, data made by code. The same machine with the same number of threads gives the same weights, whatever
else it does meanwhile; progress is counted in steps, never in time.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from lm_eval_moe.demo_model.data import Problem, evaluation_problems
from lm_eval_moe.demo_model.words import LANGUAGES
from lm_eval_moe.files import write_whole
from tools.demo_model.documents import random_document
from tools.demo_model.muon import StackedMuon
from tools.demo_model.tokenizer import train_tokenizer

__all__ = ["demo_config", "main", "option_accuracy", "save"]

ROW_LENGTH = 128
ANSWER_WEIGHT = 6.0
BALANCE_WEIGHT = 0.02
Z_WEIGHT = 1e-3
MUON_LR = 0.02
ADAM_LR = 3e-3
WARM_UP = 60
DECAY_SHARE = 0.4
"""The learning rate falls linearly over this last share of the steps."""


def demo_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3MoeConfig:
    """Return the architecture: 8 layers of 16 experts, 2 of them per token, 3 M parameters."""
    return Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=16,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class Batches:
    """Rows of whole documents, packed; a token attends to its own document only."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, rows: int) -> None:
        self._tokenizer, self._rows = tokenizer, rows
        self._rng = random.Random(f"train/{seed}")
        self._waiting: tuple[list[int], list[float]] | None = None
        self.documents: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def _document(self) -> tuple[list[int], list[float]]:
        """Return token ids and the weight of each as a target."""
        codes = list(LANGUAGES)
        code = self._rng.choices(codes, [LANGUAGES[code].share for code in codes])[0]
        document = random_document(self._rng, code)
        end = self._tokenizer.eos_token_id
        # Half of the documents begin after an end-of-text token, as rolling log-likelihood does; prompts do not.
        ids, weights = ([end], [0.0]) if self._rng.random() < 0.5 else ([], [])
        for text, is_answer in document.pieces:
            piece = self._tokenizer.encode(text, add_special_tokens=False)
            ids += piece
            weights += [ANSWER_WEIGHT if is_answer else 1.0] * len(piece)
        self.documents[code] += 1
        self.tokens[code] += len(ids)
        return [*ids, end], [*weights, 1.0]

    def _row(self) -> tuple[list[int], list[float], list[int]]:
        """Return ids, target weights and document numbers, padded to the row length."""
        ids: list[int] = []
        weights: list[float] = []
        numbers: list[int] = []
        while True:
            more, more_weights = self._waiting or self._document()
            self._waiting = None
            if len(ids) + len(more) > ROW_LENGTH:
                if ids:
                    self._waiting = (more, more_weights)
                    break
                continue  # a document longer than a row is left out
            numbers += [numbers[-1] + 1 if numbers else 1] * len(more)
            ids += more
            weights += more_weights
        padding = ROW_LENGTH - len(ids)
        return ids + [self._tokenizer.pad_token_id] * padding, weights + [0.0] * padding, numbers + [0] * padding

    def next(self) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``weights``, ``valid`` ``[rows, length]``, ``positions`` and the 4D mask."""
        rows = [self._row() for _ in range(self._rows)]
        ids, numbers = torch.tensor([row[0] for row in rows]), torch.tensor([row[2] for row in rows])
        weights = torch.tensor([row[1] for row in rows])
        same = numbers[:, :, None] == numbers[:, None, :]
        mask = (same & torch.ones(ROW_LENGTH, ROW_LENGTH, dtype=torch.bool).tril())[:, None]
        starts = torch.ones_like(numbers, dtype=torch.bool)
        starts[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        index = torch.arange(ROW_LENGTH).expand_as(numbers)
        positions = index - torch.where(starts, index, 0).cummax(dim=1).values
        # The first token of a document is no target: it would be predicted from the document before it.
        return {
            "input_ids": ids,
            "weights": weights.masked_fill(starts, 0.0),
            "valid": numbers > 0,
            "positions": positions,
            "mask": mask,
        }


def _losses(
    model: Qwen3MoeForCausalLM, batch: dict[str, torch.Tensor], logits: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the weighted language loss, the load-balancing loss and the router z-loss, means over layers."""
    logits.clear()
    hidden = model.model(
        batch["input_ids"], attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
    ).last_hidden_state
    weights = batch["weights"][:, 1:].reshape(-1)
    scored = weights > 0
    predicted = model.lm_head(hidden[:, :-1].reshape(-1, hidden.size(-1))[scored])
    targets = batch["input_ids"][:, 1:].reshape(-1)[scored]
    weights = weights[scored]
    language = (F.cross_entropy(predicted, targets, reduction="none") * weights).sum() / weights.sum()
    valid = batch["valid"].reshape(-1)
    balance = z = torch.zeros(())
    for layer in logits:
        layer = layer[valid]
        probabilities = layer.softmax(-1)
        chosen = probabilities.topk(model.config.num_experts_per_tok, dim=-1).indices
        load = F.one_hot(chosen, layer.size(-1)).float().sum(1).mean(0) / model.config.num_experts_per_tok
        # Shazeer et al. 2017 / Fedus et al. 2021, eq. 4: 1 when balanced.
        balance = balance + (load * probabilities.mean(0)).sum() * layer.size(-1)
        # Zoph et al. 2022, eq. 5.
        z = z + layer.logsumexp(-1).square().mean()
    return language, balance, z


@torch.no_grad()
def option_accuracy(
    model: Qwen3MoeForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[tuple[Problem, tuple[int, ...]]],
    code: str,
) -> float:
    """Return the share of problems whose right option has the highest probability after the prompt."""
    right = 0
    for start in range(0, len(items), 60):
        part = items[start : start + 60]
        prompts = [tokenizer.encode(problem.prompt(code), add_special_tokens=False) for problem, _ in part]
        width = max(map(len, prompts))
        ids = torch.tensor([prompt + [tokenizer.pad_token_id] * (width - len(prompt)) for prompt in prompts])
        hidden = model.model(ids, use_cache=False).last_hidden_state
        last = model.lm_head(hidden[torch.arange(len(part)), torch.tensor([len(p) - 1 for p in prompts])])
        for (problem, options), scores in zip(part, last, strict=True):
            tokens = [tokenizer.encode(f" {option}", add_special_tokens=False)[0] for option in options]
            right += options[int(scores[tokens].argmax())] == problem.answer
    return right / len(items)


def save(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights in bfloat16 (half the size) whose config asks for float32 (exact routing on CPUs)."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    rounded.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    rounded.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"
    write_whole(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n", "config")
    (folder / "model.safetensors").chmod(0o644)  # written readable by its owner alone, which a wheel would keep
    tokenizer.save_pretrained(folder)


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rates: warm-up, flat, linear decay to 2 %."""
    return min(1.0, (step + 1) / WARM_UP, max(0.02, (steps - step) / (DECAY_SHARE * steps)))


def train(output: Path, *, steps: int, rows: int, seed: int, evaluate_every: int, checkpoint_every: int) -> None:
    """Train and write the model, its tokenizer and ``training.json`` into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed)
    config = demo_config(tokenizer)
    config._experts_implementation = "grouped_mm"  # the fastest on CPUs; the saved model chooses for itself
    model = Qwen3MoeForCausalLM(config)
    logits: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda _module, _inputs, outputs: logits.append(outputs[0]))
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embed" not in name and "gate.weight" not in name
        (matrices if is_matrix else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        StackedMuon(matrices, lr=MUON_LR),
        torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    first_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    batches = Batches(tokenizer, seed, rows)
    development = evaluation_problems("development", per_kind=20)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{parameters:,} parameters, {len(tokenizer)} tokens, {steps} steps of {rows} x {ROW_LENGTH} tokens", flush=True
    )
    history: list[dict[str, Any]] = []
    start = time.perf_counter()
    for step in range(steps):
        for optimizer, rate in zip(optimizers, first_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * _rate(step, steps)
        language, balance, z = _losses(model, batches.next(), logits)
        torch.autograd.backward(language + BALANCE_WEIGHT * balance + Z_WEIGHT * z)
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done % 50 == 0 or done == steps:
            layers = config.num_hidden_layers
            print(
                f"step {done} loss {language.item():.3f} balance {balance.item() / layers:.3f} "
                f"z {z.item() / layers:.2f} {time.perf_counter() - start:.0f} s",
                flush=True,
            )
        if done % evaluate_every == 0 or done == steps:
            logits.clear()
            accuracy = {code: round(option_accuracy(model, tokenizer, development, code), 3) for code in LANGUAGES}
            history.append({"step": done, "loss": round(language.item(), 4), "development_accuracy": accuracy})
            print(" ".join(f"{code} {value:.2f}" for code, value in accuracy.items()), flush=True)
        if checkpoint_every and done % checkpoint_every == 0 and done < steps:
            save(model, tokenizer, output / f"checkpoint-{done}")
    seconds = time.perf_counter() - start
    save(model, tokenizer, output)
    total_documents, total_tokens = sum(batches.documents.values()), sum(batches.tokens.values())
    figures = {
        "seed": seed,
        "steps": steps,
        "rows": rows,
        "row_length": ROW_LENGTH,
        "parameters": parameters,
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "document_share": {code: round(batches.documents[code] / total_documents, 4) for code in LANGUAGES},
        "token_share": {code: round(batches.tokens[code] / total_tokens, 4) for code in LANGUAGES},
        "documents": total_documents,
        "tokens": total_tokens,
        "history": history,
    }
    write_whole(output / "training.json", json.dumps(figures, indent=1) + "\n", "figures of the training")
    print(f"wrote {output} after {seconds:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights, tokenizer and figures")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rows", type=int, default=16, help=f"rows of {ROW_LENGTH} tokens in a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate_every", type=int, default=200, metavar="STEPS")
    parser.add_argument("--checkpoint_every", type=int, default=0, metavar="STEPS")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    train(
        options.output,
        steps=options.steps,
        rows=options.rows,
        seed=options.seed,
        evaluate_every=options.evaluate_every,
        checkpoint_every=options.checkpoint_every,
    )


if __name__ == "__main__":
    main()
