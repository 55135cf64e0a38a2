"""The same requests and plans for any backend, and what comes of them: run here in vLLM's process, and as a script
in one of its own for `hf-moe`, since vLLM changes classes of transformers when it is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, models, pre_tokenizers

from lm_eval_moe import parse_spec, resolve
from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering.plan import SteeringPlan

WORDS = 512
TASKS = ("mgsm_direct_en", "mgsm_direct_sw")
_COMMON = {
    "vocab_size": WORDS,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "num_experts_per_tok": 2,
    "intermediate_size": 64,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_moe": ("Qwen3Moe", {"moe_intermediate_size": 32, "num_experts": 8, "norm_topk_prob": True, "head_dim": 32}),
    "olmoe": ("Olmoe", {"num_experts": 8, "norm_topk_prob": False, "num_key_value_heads": 4}),
    "mixtral": ("Mixtral", {"num_local_experts": 8}),
    "phimoe": ("Phimoe", {"num_local_experts": 8, "attention_bias": True, "lm_head_bias": True}),
    "gpt_oss": ("GptOss", {"num_local_experts": 8, "head_dim": 32, "sliding_window": 64}),
    "qwen2_moe": (
        "Qwen2Moe",
        {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, "num_experts": 8},
    ),
    "glm4_moe": (
        "Glm4Moe",
        {
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.5,
            "first_k_dense_replace": 1,
            "head_dim": 32,
            "norm_topk_prob": True,
        },
    ),
}
ARRAYS = ("counts", "gate_mass", "importance", "importance_dense", "overlap", "targeted", "hit", "changed")


def make_model(name: str, folder: Path) -> Path:
    """Write a tiny random model of a family with a tokenizer of words; return where it lies."""
    import transformers

    kind, settings = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**_COMMON, **settings})
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    model.save_pretrained(folder)
    if name == "phimoe":  # as its checkpoints call it; by transformers' own name, vLLM does not know it
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": ["PhiMoEForCausalLM"]}))
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3} | {f"w{number}": number for number in range(4, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    return folder


def plans_for(shape: RoutingShape) -> dict[str, SteeringPlan | None]:
    """Return the nine plans by name: every action, and limits to languages and phases, in order."""
    a, b, c = 3 % shape.experts, 1, shape.experts - 1

    def acting(action: Any, ids: Any, **limits: Any) -> dict[str, Any]:
        return {"layers": "all", "experts": {"ids": {"all": ids}}, "action": action, **limits}

    specs: dict[str, list[dict[str, Any]]] = {
        "soft": [acting({"soft": 0.5}, [a, b])],
        "activate": [acting("activate", [a])],
        "activate more than K": [acting("activate", list(range(shape.top_k + 1)))],
        "deactivate": [acting("deactivate", [a, b])],
        "mask": [acting("mask", [b, c])],
        "bias": [acting({"bias": 0.7}, [c])],
        "proportional": [acting({"proportional": 0.3}, {a: 0.4, b: 1.0})],
        "mixed": [
            acting("mask", [b], languages=["sw"]),
            acting({"soft": 0.7}, [a, b, c], tokens="generated"),
            acting("activate", [c], languages={"all_but": ["sw"]}, tokens="prompt"),
        ],
    }
    plans = {
        name: resolve(parse_spec({"version": 1, "name": name, "seed": 7, "interventions": each}), shape)
        for name, each in specs.items()
    }
    return {"none": None, **plans}


@dataclass(frozen=True)
class Workload:
    """Requests of every kind, in two languages.

    Attributes:
        choices: Documents, each with two choices of one to four words.
        answers: Requests for generated answers.
        texts: Whole texts.
        shared: Words that all prompts of answers begin with.
        longest: New tokens of the first answer; each further one has three more.
        until: Stop strings.
        words: The first word that is drawn.
        seed: Draws the words.
    """

    choices: int = 10
    answers: int = 6
    texts: int = 2
    shared: int = 0
    longest: int = 9
    until: tuple[str, ...] = ("w9",)
    words: int = 4
    seed: int = 0
    prompts: int = 8
    step: int = 11

    def requests(self) -> dict[str, list[Instance]]:
        """Return the requests by kind."""
        draw = np.random.default_rng(self.seed)

        def text(count: int) -> str:
            return " ".join(f"w{number}" for number in draw.integers(self.words, WORDS, count))

        def named(kind: str, arguments: tuple[Any, ...], number: int, choice: int = 0) -> Instance:
            return Instance(kind, {}, arguments, choice, (TASKS[number % 2], number, 1))

        scored, same = [], text(12)
        for number in range(self.choices):
            # Every third document has choices of one word, which share a row.
            context, length = (same if number == 1 else text(5 + 7 * number)), 1 + number % 3
            if number % 5 == 3:  # words that begin alike: such choices differ in their last word only
                begin = text(2)
                scored += [
                    named("loglikelihood", (context, f" {begin} {text(1)}"), number, choice) for choice in range(2)
                ]
                continue
            scored += [named("loglikelihood", (context, f" {text(length)}"), number, choice) for choice in range(2)]
        head = text(self.shared)
        answers = [
            named(
                "generate_until",
                (
                    f"{head} {text(self.prompts + self.step * number)}".strip(),
                    {"until": list(self.until), "max_gen_toks": self.longest + 3 * number, "do_sample": False},
                ),
                100 + number,
            )
            for number in range(self.answers)
        ]
        texts = [named("loglikelihood_rolling", (text(40 + 300 * n),), 200 + n) for n in range(self.texts)]
        return {"loglikelihood": scored, "generate_until": answers, "loglikelihood_rolling": texts}


@dataclass
class Outcome:
    """What a backend made of a workload.

    Attributes:
        answers: By kind of request.
        records: By request.
        steered: Steered pairs by task.
    """

    answers: dict[str, list[Any]]
    records: dict[tuple[str, int, int], RoutingRecord]
    steered: dict[str, int] = field(default_factory=dict)


def outcome(lm: Any, workload: Workload, plan: SteeringPlan | None, *, changes: bool = True) -> Outcome:
    """Run a workload on a backend under a plan."""
    lm.set_steering(plan)
    with lm.capturing(CaptureRequest(changes=changes)) as captured:
        answers = {
            kind: getattr(lm, kind)(each, disable_tqdm=True) for kind, each in workload.requests().items() if each
        }
        records = {tuple(key)[:3]: captured.record(key) for key in captured.records}
    return Outcome(answers, records, dict(captured.steered_pairs))


def saved(found: Mapping[str, Outcome], file: Path) -> None:
    """Write outcomes by plan."""
    arrays: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for name, each in found.items():
        told[name] = {"answers": each.answers, "steered": each.steered, "records": []}
        for number, (key, record) in enumerate(each.records.items()):
            told[name]["records"].append([key, record.tokens])
            arrays.update({f"{name}/{number}/{array}": getattr(record, array) for array in ARRAYS})
    np.savez(file, told=np.array(json.dumps(told)), **arrays)


def read(file: Path) -> dict[str, Outcome]:
    """Read the outcomes that `saved` wrote."""
    with np.load(file) as arrays:
        told = json.loads(str(arrays["told"]))
        return {
            name: Outcome(
                each["answers"],
                {
                    tuple(key): RoutingRecord(
                        tokens=tokens, thinking=None, **{array: arrays[f"{name}/{number}/{array}"] for array in ARRAYS}
                    )
                    for number, (key, tokens) in enumerate(each["records"])
                },
                each["steered"],
            )
            for name, each in told.items()
        }


def differences(one: Outcome, other: Outcome, kinds: Sequence[str] = ARRAYS) -> dict[str, float]:
    """Return the largest difference of each array, of all records."""
    assert one.records.keys() == other.records.keys()
    found = dict.fromkeys(kinds, 0.0)
    for key, record in one.records.items():
        theirs = other.records[key]
        assert record.tokens == theirs.tokens, (key, record.tokens, theirs.tokens)
        for array in kinds:
            mine, its = np.asarray(getattr(record, array), float), np.asarray(getattr(theirs, array), float)
            assert (np.isnan(mine) == np.isnan(its)).all(), (key, array)
            found[array] = max(found[array], float(np.nanmax(np.abs(mine - its), initial=0.0)))
    return found


def main(pretrained: str, file: str, longest: str, span: str, workload: str, names: str) -> None:
    """Write what `hf-moe` makes of a workload under plans, in float32."""
    from lm_eval_moe import HFMoE

    lm = HFMoE(
        pretrained=pretrained, dtype="float32", device="cpu", batch_size=4, max_length=int(longest), capture=span
    )
    given = json.loads(workload)
    work = Workload(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
    plans = plans_for(lm.routing_shape)
    chosen = json.loads(names) or list(plans)
    saved({name: outcome(lm, work, plans[name]) for name in chosen}, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
