"""A third backend around the bundled model: feeds texts in parts of any length, alike for the same requests."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from lm_eval_moe.backends.capturing import sums_by_row
from lm_eval_moe.backends.hf.caches import going_on_from
from lm_eval_moe.backends.passes import RoutedPasses
from lm_eval_moe.backends.requests import labels_of
from lm_eval_moe.backends.routed_state import RoutedState
from lm_eval_moe.backends.stopping import RowReading, StopRule
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.recording import ExpectedRow, Forest, GenerationTracker, Recorder, RowUse
from lm_eval_moe.recording.layout import cut_points, padded_batch, places_of
from lm_eval_moe.routers import find_sites, intercepted, routing_shape, shape_from_config
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering.apply import Steerer

PATH = str(demo_model_path())


class ToyEngine(RoutedState, TemplateLM):
    """The bundled model."""

    backend_name, backend, model_id, plans_at_once = "toy", "causal", "demo", 3
    device, max_length, eot_token_id, prefix_token_id = torch.device("cpu"), 256, 0, 0
    _order = staticmethod(lambda numbers: [[place] for place in range(len(numbers))])

    def __init__(self, *, steering: Any = None, capture: Any = "prompt", parallel: Any = (), **arguments: Any) -> None:
        TemplateLM.__init__(self)
        self._begin_capture(capture, parallel, None)
        self.batch_size = int(arguments.get("batch_size") or 1)
        self.model, self.tokenizer = (kind.from_pretrained(PATH) for kind in (AutoModelForCausalLM, AutoTokenizer))
        self._sites = find_sites(self.model)
        self.routing_shape = routing_shape(self.model, self._sites)
        self.set_steering(steering)
        self.eot_token_id = self.prefix_token_id = self.tokenizer.eos_token_id

    @classmethod
    def shape_before_loading(cls, arguments: Mapping[str, Any]) -> RoutingShape:
        return shape_from_config(AutoConfig.from_pretrained(PATH))

    def _own_parts(self) -> dict[str, Any]:
        return {"model.source": "toy"}

    def tok_encode(self, string: str, add_special_tokens: bool = False, **_: Any) -> list[int]:
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError("the toy scores no whole texts")

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        known = self._token_requests(requests, self.max_length)

        def run(numbers: Sequence[int], plans: Sequence[int]) -> list[list[tuple[float, bool]]]:
            dice = random.Random(str([known.tokens(number) for number in numbers]))
            rows = [replace(row, plan=plan) for plan in plans for row in known.rows(self._order(numbers), numbers)]
            scores = []
            for row, number in zip(self._scored(rows, dice), [*numbers] * len(plans), strict=True):
                answer, end = torch.tensor(requests[number][2]), known.length(number)
                seen = row[end - len(answer) : end].log_softmax(-1)
                greedy = bool((seen.argmax(-1) == answer).all())
                scores.append((float(seen.gather(1, answer[:, None]).sum()), greedy))
            return [scores[len(numbers) * n : len(numbers) * (n + 1)] for n in range(len(plans))]

        return self._scores(known, self._order, run, quiet=True)

    def _scored(self, rows: list[ExpectedRow], dice: random.Random) -> list[torch.Tensor]:
        """Feed parts of any length of any request, until all are done."""
        texts, forest = [torch.tensor([row.tokens]) for row in rows], Forest()
        segment, paths = padded_batch(forest, rows, max(text.shape[1] for text in texts))
        passes, recorder = self._listening(forest, self._new_steerer())
        done, caches = [0] * len(rows), [DynamicCache() for _ in rows]
        logits: list[list[torch.Tensor]] = [[] for _ in rows]
        with intercepted(self._sites, passes, top_k=self.routing_shape.top_k), torch.no_grad():
            while left := [row for row, text in enumerate(texts) if done[row] < text.shape[1]]:
                row = dice.choice(left)
                part = slice(done[row], dice.randint(done[row] + 1, texts[row].shape[1]))
                passes.start_pass(texts[row][:, part], forest.begin_pass(segment[row : row + 1, part]))
                logits[row].append(self.model(texts[row][:, part], **going_on_from(self.model, caches[row])).logits[0])
                passes.end_pass()
                done[row] = part.stop
        sums = sums_by_row(recorder, paths)
        self.captured.collect(
            self._span, rows, sums, lambda row, use, span: places_of(use, cut_points(rows[row]), span)
        )
        return [torch.cat(parts) for parts in logits]

    def _listening(self, forest: Forest, steerer: Steerer | None) -> tuple[RoutedPasses, Recorder]:
        recorder = Recorder(forest, len(self._sites), self.routing_shape.experts)
        how = {"compare": self.captured.request.changes, "layers": self.routing_shape.layers, "requests": {}}
        return RoutedPasses(recorder, steerer, forest=forest, **how), recorder

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        labels = labels_of(requests)
        languages = [self._language_for_steering(label.task) for label in labels]
        uses = [RowUse(label.key, 0) for label in labels]

        def run(numbers: Sequence[int], plans: Sequence[int]) -> list[list[tuple[str, int, int]]]:
            rows = [[ExpectedRow((uses[n],), languages[n], plan=plan) for n in numbers] for plan in plans]
            return [
                [self._generated(row, *requests[n].args) for n, row in zip(numbers, own, strict=True)] for own in rows
            ]

        return self._texts(requests, uses, languages, self._order, run, quiet=True)

    def _generated(self, row: ExpectedRow, prompt: str, how: dict[str, Any]) -> tuple[str, int, int]:
        dice, left, answer, cache = random.Random(prompt), self.tok_encode(prompt), list[int](), DynamicCache()
        rule, forest = StopRule(self.tokenizer, how["until"], [self.eot_token_id]), Forest()
        fed, ended = len(left), RowReading(rule)
        tracker = GenerationTracker(forest, np.full((1, fed), True), [RowReading(rule)], [row.language])
        passes, recorder = self._listening(forest, Steerer([self._plans[row.plan]]))
        with intercepted(self._sites, passes, top_k=self.routing_shape.top_k), torch.no_grad():
            while left:
                chunk = torch.tensor([left[: dice.randint(1, len(left))]])
                left = left[chunk.shape[1] :]
                passes.start_pass(chunk, forest.begin_pass(tracker.next_pass(1, chunk.shape[1])))
                logits = self.model(chunk, **going_on_from(self.model, cache), use_cache=True).logits[0, -1]
                passes.end_pass()
                if not left:
                    answer.append(int(logits.argmax()))
                    tracker.read(answer[-1:])
                    ended.add(answer[-1])
                    left = [] if ended.ended or len(answer) == how["max_gen_toks"] else answer[-1:]
        places, sums = tracker.places_of, sums_by_row(recorder, tracker.paths)
        self.captured.collect(self._span, [row], sums, lambda row, _, span: places(row, span))
        text = rule.decode(answer)
        return min((text.split(stop)[0] for stop in rule.strings), key=len, default=text), fed, len(answer) - 1
