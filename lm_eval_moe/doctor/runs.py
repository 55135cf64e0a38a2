"""Run the doctor's sentences through the user's own model, plain, captured or steered, and keep what was seen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.doctor.sentences import SENTENCES
from lm_eval_moe.doctor.watch import ExpertSelection, ForwardPass, watched
from lm_eval_moe.doctor.witness import LayerWitness, witnesses
from lm_eval_moe.errors import RoutingBypassedError
from lm_eval_moe.harness.requests import make_request

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel, TorchModules
    from lm_eval_moe.recording import RoutingRecord
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = [
    "NEW_TOKENS",
    "GenerationRun",
    "NoModulesError",
    "Runs",
    "ScoringRun",
    "TokenizedSentence",
    "steering_of",
    "undisturbed",
]

_BATCH = 4
NEW_TOKENS = 6
_MUTED_TOKENS = 64
_REQUEST = CaptureRequest(
    arrays=frozenset({"counts", "gate_mass"}),
    languages={f"doctor_{sentence.language}": sentence.language for sentence in SENTENCES},
)


class NoModulesError(Exception):
    """What looks at torch modules meets a backend that has none in this process that can be looked at from outside."""

    def __init__(self) -> None:
        super().__init__("not possible with this backend: it has no modules that can be observed from outside")


@dataclass(frozen=True)
class TokenizedSentence:
    """One sentence as the model is asked to score it.

    Attributes:
        number: Which sentence.
        language: Its language.
        context: What stands before what is scored.
        continuation: What is scored.
        tokens: What the model must be fed, without padding.
        boundary: How many of these tokens are the prompt.
    """

    number: int
    language: str
    context: str
    continuation: str
    tokens: tuple[int, ...]
    boundary: int

    @property
    def task(self) -> str:
        """The name under which the model keeps its record."""
        return f"doctor_{self.language}"


@dataclass(frozen=True)
class ScoringRun:
    """A log-likelihood run.

    Attributes:
        passes: Its forward passes; none where the backend has no modules to watch.
        answers: What was scored, sentence by sentence.
        places: By sentence number, the pass and the row of the batch that held it.
        sentences: The sentences.
        records: By sentence number, what the model recorded, if it captured.
    """

    passes: list[ForwardPass]
    answers: list[tuple[float, bool]]
    places: dict[int, tuple[int, int]]
    sentences: tuple[TokenizedSentence, ...]
    records: dict[int, RoutingRecord]

    @property
    def padding(self) -> int:
        """Padding tokens in all batches."""
        if not self.passes:
            raise NoModulesError
        fed = sum(forward_pass.tokens.size for forward_pass in self.passes if forward_pass.tokens is not None)
        return fed - sum(len(sentence.tokens) for sentence in self.sentences)

    def _place(self, sentence: TokenizedSentence) -> tuple[int, int]:
        if not self.passes:
            raise NoModulesError
        return self.places[sentence.number]

    def received(self, position: int, sentence: TokenizedSentence) -> ExpertSelection:
        """Return what the experts of a layer received for a sentence's own tokens."""
        number, row = self._place(sentence)
        forward_pass = self.passes[number]
        assert forward_pass.tokens is not None
        if position not in forward_pass.received:
            raise RoutingBypassedError(f"the experts module of router {position} was never called")
        at = _rows_of(
            forward_pass.tokens.shape, len(forward_pass.received[position].indices), row, len(sentence.tokens)
        )
        return ExpertSelection(forward_pass.received[position].indices[at], forward_pass.received[position].weights[at])

    def logits(self, sentence: TokenizedSentence) -> Any:
        """Return the logits of a sentence's own tokens."""
        number, row = self._place(sentence)
        logits = self.passes[number].logits
        tokens = self.passes[number].tokens
        assert logits is not None
        assert tokens is not None
        virtual = logits.shape[1] - tokens.shape[1]
        return logits[row, virtual : virtual + len(sentence.tokens)]


@dataclass(frozen=True)
class GenerationRun:
    """A greedy generation of one batch.

    Attributes:
        passes: Its forward passes: the prompts, then a token at a time.
        texts: What was generated.
        sentences: The sentences whose contexts were the prompts.
        records: By sentence number, what the model recorded, if it captured.
    """

    passes: list[ForwardPass]
    texts: list[str]
    sentences: tuple[TokenizedSentence, ...]
    records: dict[int, RoutingRecord]

    @cached_property
    def fed(self) -> NDArray[np.int64] | None:
        """``[B, T]`` all tokens that the model was fed, None where it was fed embeddings."""
        if not self.passes:
            raise NoModulesError
        tokens = [forward_pass.tokens for forward_pass in self.passes]
        ids = [ids for ids in tokens if ids is not None]
        return np.concatenate(ids, axis=1) if len(ids) == len(tokens) else None


def steering_of(*interventions: dict[str, Any]) -> SteeringSpec:
    """Return a steering spec of these interventions, of all layers unless they say otherwise."""
    from lm_eval_moe.steering import parse_spec

    return parse_spec(
        {
            "version": 1,
            "name": "doctor",
            "interventions": [{"layers": "all", **intervention} for intervention in interventions],
        }
    )


class Runs:
    """All that the proofs ask of a model; runs that several of them need are made once.

    Args:
        lm: The model; left as it was by `undisturbed`.
        progress: Is called with what is about to run.
    """

    def __init__(self, lm: RoutedModel, progress: Callable[[str], object] | None = None) -> None:
        self.lm = lm
        self.shape = lm.routing_shape
        self._modules = lm.torch_modules()
        self.skips = self._modules is not None and any(site.block.extra for site in self._modules.sites)
        self._progress = progress or (lambda label: None)
        self.sentences = tuple(self._tokenize(number) for number in range(len(SENTENCES)))

    @staticmethod
    def shared(layers: int) -> int:
        """Return how many runs are made that several proofs share, and that a steering file is measured with."""
        return 7 + layers

    @property
    def has_modules(self) -> bool:
        """Whether the model has torch modules that can be looked at from outside."""
        return self._modules is not None

    @property
    def observing(self) -> str:
        """What a run has to capture so that its selections are seen: nothing where the modules are watched."""
        return "off" if self.has_modules else "all"

    def counts(self, run: ScoringRun, position: int, sentence: TokenizedSentence) -> NDArray[np.int64]:
        """Return how often each expert of a layer is selected for a sentence's own tokens, ``[E]``.

        As the modules show it, or, where there are none to watch, as it is recorded.
        """
        experts = self.shape.experts
        if self.has_modules:
            return np.bincount(run.received(position, sentence).indices.ravel(), minlength=experts + 1)[:experts]
        record = run.records.get(sentence.number)
        if record is None or record.counts is None:
            raise RoutingBypassedError(
                f"nothing was recorded for the sentence {sentence.context + sentence.continuation!r}"
            )
        return np.asarray(record.counts[position])

    @property
    def modules(self) -> TorchModules:
        """The model's torch modules.

        Raises:
            NoModulesError: It has none that can be looked at from outside.
        """
        if self._modules is None:
            raise NoModulesError
        return self._modules

    @property
    def few(self) -> tuple[TokenizedSentence, ...]:
        """The sentences of one batch: long and short in turn, so that they have to be padded."""
        rest = sorted(self.sentences, key=lambda sentence: sentence.boundary)
        turns = [rest.pop(-1 if turn % 2 else 0) for turn in range(len(rest))]
        return tuple(turns[: int(self.lm.batch_size)])

    def miscounted(self, record: RoutingRecord | None, tokens: int) -> str | None:
        """Say what is wrong with the record of a request of so many tokens; None where nothing is."""
        if record is None or record.counts is None:
            return "nothing was recorded"
        if record.tokens != tokens:
            return f"{record.tokens} tokens were counted, but it has {tokens}"
        sums, due = record.counts.sum(1), tokens * self.shape.top_k
        if (sums > due).any() or (not self.skips and (sums < due).any()):
            return f"{int(sums.min())}-{int(sums.max())} selections per layer instead of {due}"
        return None

    # ------------------------------------------------------------------ runs that several proofs share

    @cached_property
    def plain(self) -> ScoringRun:
        """The model as it is, without any interception."""
        return self.score("plain run")

    @cached_property
    def plain_few(self) -> ScoringRun:
        """The model as it is, on one batch."""
        return self.score("plain run", sentences=self.few)

    @cached_property
    def captured(self) -> ScoringRun:
        """With capture on."""
        return self.score("captured run", capture="all")

    @cached_property
    def generated(self) -> GenerationRun:
        """Greedy generation without any interception."""
        return self.generate("plain generation")

    @cached_property
    def generated_captured(self) -> GenerationRun:
        """Greedy generation with capture on."""
        return self.generate("captured generation", capture="all")

    @cached_property
    def witnesses(self) -> dict[int, LayerWitness]:
        """By decoder layer, what its experts do, besides what is recorded, over tokens of the sentences in a row."""
        modules = self.modules
        self._prepare("plain run", None, "off")
        tokens = [token for sentence in self.sentences for token in sentence.tokens][
            : min(_MUTED_TOKENS, self.lm.max_length)
        ]
        return witnesses(modules, self.shape, tokens, self._progress)

    # ------------------------------------------------------------------ one run

    def score(
        self,
        label: str,
        *,
        steering: SteeringSpec | SteeringPlan | None = None,
        capture: str = "off",
        sentences: tuple[TokenizedSentence, ...] | None = None,
        alone: bool = False,
        positions: Collection[int] | None = None,
        logits: bool = True,
        routers: bool = False,
    ) -> ScoringRun:
        """Score sentences, each alone if asked for; see `watched` for the last three arguments."""
        selection = self.sentences if sentences is None else sentences
        self._prepare(label, steering, capture)
        requests = [
            make_request("loglikelihood", (sentence.context, sentence.continuation), sentence.task, sentence.number)
            for sentence in selection
        ]
        watching = self._watched(steps=False, positions=positions, logits=logits, routers=routers)
        batches = self.lm.at_batch_size(1) if alone else nullcontext()
        with batches, watching as passes, self.lm.capturing(_REQUEST) as captured:
            answers = self.lm.loglikelihood(requests, disable_tqdm=True)
        places = _places(passes, selection) if self._modules is not None else {}
        return ScoringRun(passes, answers, places, selection, _records(captured))

    def generate(self, label: str, *, capture: str = "off") -> GenerationRun:
        """Generate greedily from the contexts of one batch of sentences."""
        self._prepare(label, None, capture)
        arguments = {"until": [], "max_gen_toks": NEW_TOKENS, "do_sample": False}
        requests = [
            make_request("generate_until", (sentence.context, dict(arguments)), sentence.task, sentence.number)
            for sentence in self.few
        ]
        # Rows that leave their batch could not be told from the others.
        batches = nullcontext() if self._modules is None else self._modules.in_whole_batches()
        watching = self._watched(steps=True, positions=(), logits=False)
        with batches, watching as passes, self.lm.capturing(_REQUEST) as captured:
            texts = self.lm.generate_until(requests, disable_tqdm=True)
        return GenerationRun(passes, texts, self.few, _records(captured))

    def _watched(self, *, steps: bool, **options: Any) -> AbstractContextManager[list[ForwardPass]]:
        if self._modules is None:
            return nullcontext([])
        model = self._modules.step if steps else self._modules.model
        return watched(model, self._modules.sites, self.shape.top_k, **options)

    def _prepare(self, label: str, steering: SteeringSpec | SteeringPlan | None, capture: str) -> None:
        self._progress(label)
        self.lm.set_capture(capture)
        self.lm.set_steering(steering)

    def _tokenize(self, number: int) -> TokenizedSentence:
        sentence = SENTENCES[number]
        full_text = self.lm.tok_encode(sentence.context + sentence.continuation)
        scored = len(full_text) - len(self.lm.tok_encode(sentence.context))
        tokens = tuple(full_text[-(self.lm.max_length + 1) :][:-1])  # the last token is only predicted
        return TokenizedSentence(number, *sentence, tokens, max(len(tokens) - (scored - 1), 0))


def _records(captured: Captured) -> dict[int, RoutingRecord]:
    records = {key.doc_id: captured.record(key) for key in captured.records}
    return {number: record for number, record in records.items() if record is not None}


@contextmanager
def undisturbed(lm: RoutedModel) -> Iterator[None]:
    """Leave the model's capture and steering as they were, whatever is run inside."""
    capture, steering = lm.capture, lm.steering
    # "auto" would look for the largest batch in every run.
    with nullcontext() if isinstance(lm.batch_size, int) else lm.at_batch_size(_BATCH):
        try:
            yield
        finally:
            lm.set_capture(capture)
            lm.set_steering(steering)


def _places(passes: Sequence[ForwardPass], sentences: Sequence[TokenizedSentence]) -> dict[int, tuple[int, int]]:
    """Find each sentence's row by its tokens; the longest first, so that none is taken for the start of another."""
    rows = [
        (number, row, tokens)
        for number, forward_pass in enumerate(passes)
        for row, tokens in enumerate([] if forward_pass.tokens is None else forward_pass.tokens.tolist())
    ]
    places: dict[int, tuple[int, int]] = {}
    for sentence in sorted(sentences, key=lambda sentence: -len(sentence.tokens)):
        mine = next((entry for entry in rows if tuple(entry[2][: len(sentence.tokens)]) == sentence.tokens), None)
        if mine is None:
            raise RoutingBypassedError(
                f"the model was never fed the tokens of the sentence {sentence.context + sentence.continuation!r}",
                fix="the tokenizer or lm-eval's batching is not as expected: please report this",
            )
        rows.remove(mine)
        places[sentence.number] = mine[:2]
    return places


def _rows_of(shape: tuple[int, ...], rows: int, row: int, length: int) -> slice:
    """Return where a row's own tokens are among the ``rows`` tokens of a batch, virtual tokens before each row."""
    width = rows // shape[0]
    start = row * width + (width - shape[1])
    return slice(start, start + length)
