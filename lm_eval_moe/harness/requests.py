"""lm-eval's requests: making them, reading their texts, and how its models order, cut and sample them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import Collator, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, simple_parse_args_string

__all__ = ["Instance", "is_sampled", "make_request", "parse_arguments", "prompt_of", "running_order", "window_count"]


def make_request(kind: str, arguments: tuple[Any, ...], task: str | None, doc_id: int | None, repeats: int = 1) -> Any:
    """Return a request as a task would make it.

    Args:
        kind: ``loglikelihood``, ``loglikelihood_rolling`` or ``generate_until``.
        arguments: What the model is given.
        task: The name of its task.
        doc_id: The number of its document.
        repeats: How often it is to be answered.
    """
    # 0.4 takes the names from the metadata, 0.5 wants the arguments, and takes this form of metadata for them, too.
    names = {"task_name": task, "doc_id": doc_id, "repeats": repeats}
    return Instance(kind, doc={}, arguments=arguments, idx=0, metadata=(task, doc_id, repeats), **names)


def prompt_of(request: Instance) -> str:
    """Return the text before the answer; of a text that is scored as a whole, the text, behind an empty one in 0.5."""
    text: str = request.args[-1 if request.request_type == "loglikelihood_rolling" else 0]
    return text


def running_order(
    requests: Sequence[Any],
    sort_key: Callable[[Any], Any],
    group_by: str | None = None,
    group_key: Callable[[Any], Any] = lambda request: request,
) -> Iterator[Any]:
    """Yield requests in the order in which lm-eval's Hugging Face model runs them; see its `Collator`."""
    order = Collator(requests, sort_fn=sort_key, group_by=group_by, group_fn=group_key)
    for (request,) in order.get_batched(n=1):
        yield request


def window_count(tokens: list[int], prefix_token: int, max_length: int) -> int:
    """Return into how many windows lm-eval cuts a text that is scored as a whole."""
    windows: Iterable[Any] = get_rolling_token_windows(
        token_list=tokens, prefix_token=prefix_token, max_seq_len=max_length, context_len=1
    )
    return sum(1 for _ in windows)


def is_sampled(generation_kwargs: dict[str, Any]) -> bool:
    """Whether answers are drawn at random: a temperature without ``do_sample`` asks for that, too, in lm-eval."""
    return bool(normalize_gen_kwargs(generation_kwargs)["do_sample"])


def parse_arguments(arguments: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments given as ``key=value,key=value`` or as a mapping."""
    return dict(simple_parse_args_string(arguments) if isinstance(arguments, str) else arguments or {})
