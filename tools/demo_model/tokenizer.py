"""The demo model's byte-level BPE tokenizer, trained on a mixture flattened over the languages."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lm_eval_moe.demo_model.words import LANGUAGES
from tools.demo_model.documents import random_document

__all__ = ["END", "PAD", "train_tokenizer"]

END, PAD = "<|endoftext|>", "<|pad|>"

# A Han character always stands alone; letters stay with their combining marks (Devanagari vowel signs are marks);
# a number is one piece, so that every answer is one token in every language.
_PIECES = r"\p{Han}| ?[[\p{L}\p{M}]&&[^\p{Han}]]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+"


def _texts(rng: random.Random, documents: int) -> Iterator[str]:
    """Yield documents, each language in proportion to the square root of its training share."""
    codes = list(LANGUAGES)
    flattened = [LANGUAGES[code].share ** 0.5 for code in codes]
    for code in rng.choices(codes, flattened, k=documents):
        yield "".join(text for text, _ in random_document(rng, code).pieces)


def train_tokenizer(seed: int, *, vocabulary: int = 1536, documents: int = 20_000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated documents.

    Args:
        seed: Seeds the documents.
        vocabulary: Tokens, the 256 bytes and the two special ones included.
        documents: Documents to train on.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(random.Random(f"tokenizer/{seed}"), documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
