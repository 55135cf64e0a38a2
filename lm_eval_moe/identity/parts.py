"""The parts of an identity. What a part holds is JSON-ready and, where that is short, readable."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PARTS", "Part"]


@dataclass(frozen=True)
class Part:
    """One thing that answers and their routing depend on.

    Attributes:
        name: ``group.name``; the parts of the group ``task`` exist once for every task.
        meaning: What it holds, for people.
    """

    name: str
    meaning: str

    @property
    def group(self) -> str:
        """``model``, ``prompts``, ``task``, ``steering``, ``capture``, ``computation`` or ``versions``."""
        return self.name.partition(".")[0]


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("model.source", "hub id, or the last part of a folder's path"),
        Part("model.revision", "commit on the hub"),
        Part("model.class", "class of the loaded model"),
        Part("model.config", "every entry of the config, overrides included"),
        Part("model.generation_config", "defaults of generation"),
        Part("model.weights", "hash of all elements of all weights: of the files' bytes, or of the loaded parameters"),
        Part("model.routers", "settings of routers and blocks of experts, as they are in memory"),
        Part("model.code", "hash of the model's and the tokenizer's own code, where it is not transformers'"),
        Part("model.adapter", "hash of the adapter file"),
        Part("model.peft", "source and hash of the PEFT adapter"),
        Part("model.delta", "source and hash of the delta weights"),
        Part("model.dtype", "data types of parameters, softmax and mixed precision"),
        Part("model.quantization", "quantisation of the weights"),
        Part("model.attention", "implementation of attention"),
        Part("model.experts", "implementation of the experts"),
        Part("model.device", "kind of device"),
        Part("prompts.tokenizer", "hash of vocabulary, merges, normalisation and special tokens"),
        Part("prompts.special_tokens", "beginning, prefix and end tokens, and whether they are added"),
        Part("prompts.max_length", "tokens that the model is given at most"),
        Part("prompts.truncation", "whether the tokenizer truncates"),
        Part("prompts.thinking", "whether the model thinks, and which token ends that"),
        Part("prompts.chat_template", "hash of the chat template, if it is applied, and its arguments"),
        Part("prompts.system_instruction", "hash of the system instruction"),
        Part("prompts.multiturn", "whether few-shot examples are turns of a conversation"),
        Part("prompts.fewshot", "few-shot count that overrides the tasks'"),
        Part("prompts.generation", "generation arguments that override the tasks'"),
        Part("prompts.limit", "which documents of every task: limit and samples"),
        Part("prompts.fewshot_seed", "seed of the few-shot examples"),
        Part("prompts.seeds", "seeds of Python, NumPy and torch"),
        Part("task.version", "version in the task's metadata"),
        Part("task.content", "hash of the task's settings and the source of its functions"),
        Part("task.prompts", "hash of the prompts and right answers of the first 100 documents"),
        Part("task.data", "data set, split, and hash of the documents"),
        Part("task.fewshot", "few-shot count"),
        Part("task.generation", "generation arguments"),
        Part("steering.hash", "hash of the steering plan"),
        Part("capture.span", "tokens whose routing is recorded"),
        Part("capture.arrays", "arrays of the records"),
        Part("computation.batch_size", "rows of a batch"),
        Part("computation.threads", "threads of a process"),
        Part("computation.processes", "processes that share the requests"),
        Part("computation.machine", "instruction set, or name of the accelerator"),
        Part("computation.reuse", "whether requests of one context share its pass"),
        Part("versions.lm_eval_moe", "version of this package"),
        Part("versions.lm_eval", "version of lm-eval"),
        Part("versions.transformers", "version of transformers"),
        Part("versions.tokenizers", "version of tokenizers"),
        Part("versions.torch", "version of torch"),
        Part("versions.peft", "version of PEFT, if the model has an adapter"),
        Part("versions.plugins", "hash of the source of each plug-in's module, if there are any"),
    )
}
"""All parts by name; whoever adds one adds to the tests how to change it alone."""
