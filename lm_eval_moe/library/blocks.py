"""The two blocks: steer a model, capture its routing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval_moe.backends.arguments import resolve_plan
from lm_eval_moe.errors import UserError
from lm_eval_moe.languages import canonical_language
from lm_eval_moe.library.routing import Routing, RowRecords
from lm_eval_moe.library.session import session_of
from lm_eval_moe.steering import SteeringPlan, SteeringSpec, parse_spec

__all__ = ["capture", "steer"]


@contextmanager
def steer(
    model: Any,
    steering: str | Path | Mapping[str, Any] | SteeringSpec | SteeringPlan,
    *,
    language: str | None = None,
) -> Iterator[SteeringPlan]:
    """Steer a model's routers inside the ``with`` block, in any forward pass and in ``generate``.

    Padding is never steered, and tokens at which no intervention is in force are routed as without steering, bit for
    bit. Blocks inside each other steer one after the other, the outermost first. Nothing is left on the model
    afterwards, whatever happens inside.

    Args:
        model: A mixture-of-experts model of transformers, loaded in any way; one inside PEFT's wrapper, too.
        steering: A steering file, its content, or what `load_spec` and `resolve` made of it.
        language: The language of all rows, for interventions that name languages; None: those that name none.

    Yields:
        The plan: which experts of which layer are steered how.

    Raises:
        UserError: The steering does not fit the model or the language, or the model's routing cannot be intercepted.
        RoutingBypassedError: A pass went around a router.
    """
    session = session_of(model)
    if not isinstance(steering, str | Path | Mapping | SteeringSpec | SteeringPlan):
        raise UserError(
            f"expected a steering file, got {type(steering).__name__}", fix="give its path, its content or a plan"
        )
    plan = resolve_plan(parse_spec(dict(steering)) if isinstance(steering, Mapping) else steering, session.shape)
    assert plan is not None
    _check_language(plan, language)
    with session.steering(plan, language):
        yield plan


def _check_language(plan: SteeringPlan, language: str | None) -> None:
    """Refuse what is not a language, and a plan of which nothing would be in force."""
    if language is not None:
        try:
            canonical_language(str(language))
        except ValueError as error:
            raise UserError(
                f"language={language!r} is not a language code", fix="give one code for all rows, such as sw"
            ) from error
    elif plan.interventions and not any(planned.languages.admits(None) for planned in plan.interventions):
        raise UserError(
            "every intervention is limited to some languages, and the language of the rows is not given: nothing "
            "would be steered",
            fix="give language=..., or remove `languages` from the steering file",
        )


@contextmanager
def capture(model: Any) -> Iterator[Routing]:
    """Capture the routing of every forward pass inside the ``with`` block, those of ``generate`` included.

    A row is one sequence of a batch. A pass that continues from the key-value cache of an earlier one continues with
    its rows: in ``generate``, what is fed before the first new token is the *prompt*, and what is fed afterwards the
    *continuation* (the last token of a row is never fed); in a loop of one's own, the first pass is the prompt. Padding
    by the attention mask, and what a row is fed after its end, does not count.

    Args:
        model: A mixture-of-experts model of transformers, loaded in any way; one inside PEFT's wrapper, too.

    Yields:
        The routing, which has its rows when the block has ended, in the order in which they began.

    Raises:
        UserError: The model's routing cannot be intercepted, an attention mask does not tell what is padding, or
            ``generate`` searches with beams or an assistant.
        RoutingBypassedError: A pass went around a router.
    """
    session = session_of(model)
    rows: list[RowRecords] = []
    with session.capturing(rows):
        yield Routing(session.shape, rows)
