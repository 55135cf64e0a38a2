"""What does it cost to know all weights of a model, beside loading them?

Writes a random checkpoint, and does over and over what `run` does before its first request: load the model, load the
tasks, and know what the results depend on. Without hashing, with hashing at a first start (nothing is remembered), and
at a second start (the hash is remembered beside the files). The variants take turns in an order that rotates every
round; the cost is the difference of two times of the same round, as a share of loading the model alone. With ``--cold``
the files are dropped from the page cache before every load, as after a restart of the machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.tasks import TaskManager
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.weights import LoadedWeights
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.evaluation.identity import run_identity
from lm_eval_moe.identity.file_hashes import MEMORY, hash_of_files
from lm_eval_moe.resources import tasks_dir

VARIANTS = ("without", "first start", "second start")


class Unhashed(LoadedWeights):
    """Knows nothing of the weights: what everything else costs."""

    def use_files(self) -> None:
        pass

    def hash(self, model: Any) -> dict[str, str]:
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="of 32 experts each; 12 are 1.2 GB (default: 12)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache before every load")
    parser.add_argument("--json", type=Path, help="write the times here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in ("lm_eval", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder, args.layers)
        times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        loads: list[float] = []
        measure(folder, VARIANTS[0], args.cold)  # the first load of a process imports, too
        for number in range(args.rounds):
            for place in range(len(VARIANTS)):
                variant = VARIANTS[(number + place) % len(VARIANTS)]
                load, whole = measure(folder, variant, args.cold)
                times[variant].append(whole)
                if variant == "without":
                    loads.append(load)
        alone = hash_alone(folder)
    plain = times["without"]
    state = "cold" if args.cold else "warm"
    print(f"{size / 1e9:.2f} GB of weights, {state} files, {os.cpu_count()}-core CPU, {args.threads} threads of torch")
    print(f"loading the model {statistics.median(loads):.2f} s; with tasks and identity:")
    for variant in VARIANTS:
        costs = [(a - b) / c for a, b, c in zip(times[variant], plain, loads, strict=True)]
        low, _, high = statistics.quantiles(costs, n=4)
        seconds = statistics.median(times[variant])
        print(f"{variant:13} {seconds:6.2f} s  {statistics.median(costs):+.1%} of loading ({low:+.1%} to {high:+.1%})")
    print(f"the hash by itself: {alone:.3f} s per GB")
    if args.json:
        args.json.write_text(json.dumps({"bytes": size, "cold": args.cold, "seconds": times}, indent=2))


def hash_alone(folder: Path) -> float:
    """Return the seconds per GB of the hash by itself, of files in the page cache."""
    files = sorted(folder.glob("*.safetensors"))
    start = time.perf_counter()
    hash_of_files(files)
    return (time.perf_counter() - start) / sum(file.stat().st_size for file in files) * 1e9


def write(folder: Path, layers: int) -> int:
    """Write the checkpoint; return its size in bytes."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model_path())
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        "qwen3_moe",
        **{"vocab_size": len(tokenizer), "hidden_size": 1024, "intermediate_size": 2048, "moe_intermediate_size": 512},
        **{"num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64},
        **{"num_experts": 32, "num_local_experts": 32, "num_experts_per_tok": 4},
        **{"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def measure(folder: Path, variant: str, cold: bool) -> tuple[float, float]:
    """Return the seconds of loading the model, and of all that comes before a first request."""
    import lm_eval_moe.backends.hf.model as home

    if variant == "first start":
        (folder / MEMORY).unlink(missing_ok=True)
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            if cold:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while opened.read(1 << 24):
                    pass
    gc.collect()
    home.LoadedWeights = Unhashed if variant == "without" else LoadedWeights  # type: ignore[attr-defined]
    start = time.perf_counter()
    lm = HFMoE(pretrained=str(folder), device="cpu", max_length=512)
    load = time.perf_counter() - start
    lm.weights.use_files()
    manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)
    tasks = manager.load(["demo_arith"])["tasks"]
    identity = run_identity(lm.identity(), lm, tasks, {})
    whole = time.perf_counter() - start
    assert set(identity.parts["model.weights"]) == (set() if variant == "without" else {"files"})
    return load, whole


if __name__ == "__main__":
    main()
