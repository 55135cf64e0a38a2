"""Find the demo model's task experts: ``python -m lm_eval_moe.demo_model.find_experts``.

The rule is that of arXiv 2510.04694, eq. 3: each expert's mean activation frequency over English arithmetic prompts,
less that over plain English sentences; what exceeds the threshold is a task expert. The arithmetic comes from the
development split, so that the items which the demo evaluates choose nothing.
"""

from __future__ import annotations

import argparse

import numpy as np
import yaml
from lm_eval.api.instance import Instance

from lm_eval_moe.capture import RequestKey
from lm_eval_moe.demo_model.data import evaluation_problems, evaluation_sentences
from lm_eval_moe.models.hf_moe import HFMoE

__all__ = ["frequencies", "main"]


def frequencies(lm: HFMoE, texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the activation frequency of every expert, averaged over texts; ``[L, E]``."""
    lm.clear_records()
    requests = [
        Instance("loglikelihood", doc={}, arguments=(text, " "), idx=0, metadata=("texts", number, 1))
        for number, text in enumerate(texts)
    ]
    lm.loglikelihood(requests, disable_tqdm=True)
    found = []
    for number in range(len(texts)):
        record = lm.record(RequestKey("texts", number, 0))
        assert record is not None
        assert record.counts is not None
        found.append(record.counts / record.tokens)
    lm.clear_records()
    mean: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.mean(found, axis=0)
    return mean


def main() -> None:
    """Print the experts as the ``ids`` of a steering file, and how many there are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threshold", type=float, default=0.2)
    parser.add_argument("--band", choices=("early", "middle", "late"), default="middle")
    args = parser.parse_args()
    lm = HFMoE(pretrained="demo", batch_size=32)
    arithmetic = [problem.prompt("en") for problem, _ in evaluation_problems("development")]
    plain = [sentence.text("en") for sentence in evaluation_sentences()]
    difference = frequencies(lm, arithmetic) - frequencies(lm, plain)
    shape = lm.routing_shape
    ids = {
        layer: np.flatnonzero(difference[shape.layers.index(layer)] > args.threshold).tolist()
        for layer in shape.band(args.band)
    }
    ids = {layer: experts for layer, experts in ids.items() if experts}
    print(yaml.safe_dump({"ids": ids}, default_flow_style=None).rstrip())
    print(f"# {sum(map(len, ids.values()))} experts with a difference above {args.threshold}")


if __name__ == "__main__":
    main()
