"""How much of a request a plan steers, known from the request alone: its language, its prompt and its continuation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval_moe.steering.plan import PlannedIntervention, SteeringPlan

__all__ = ["Coverage"]

_PHASES = ("prompt", "generated")


class Coverage:
    """Counts the (token, layer) pairs at which a plan changes router logits.

    An intervention of zero strength changes none. Where several interventions act at once, a pair counts once.

    Args:
        plan: The resolved plan.
    """

    def __init__(self, plan: SteeringPlan) -> None:
        self._plan = plan
        self._layers: dict[tuple[str | None, str], int] = {}

    def pairs(self, language: str | None, prompt: int, generated: int) -> int:
        """Return the pairs of a request with so many tokens of each kind that pass through the model."""
        return prompt * self._layers_at(language, "prompt") + generated * self._layers_at(language, "generated")

    @property
    def changes_nothing(self) -> bool:
        """Whether every intervention has zero strength."""
        return all(intervention.action.idle for intervention in self._plan.interventions)

    def reaches(self, language: str | None) -> bool:
        """Whether requests in a language have any kind of token that is steered."""
        return any(self._layers_at(language, phase) for phase in _PHASES)

    def leaves_out(self, language: str) -> bool:
        """Whether every intervention names the language among those that it leaves out."""
        return all(language in intervention.languages.but for intervention in self._plan.interventions)

    def unreached(self, what: str, language: str | None) -> str:
        """Return the warning that the plan acted at no token of something that is in this language."""
        several = len(self._plan.interventions) > 1
        limits = "; ".join(
            (f"intervention {intervention.index} " if several else "it ") + _limit(intervention, language)
            for intervention in self._plan.interventions
        )
        return (
            f"{what}: the steering acts on none of its tokens: {limits}. Its scores are those of the unsteered "
            "model: change the steering file, or do not call this run steered"
        )

    def _layers_at(self, language: str | None, phase: str) -> int:
        key = language, phase
        if key not in self._layers:
            layers: set[int] = set()
            for intervention in self._plan.interventions:
                in_force = intervention.tokens in ("all", phase) and intervention.languages.admits(language)
                if in_force and not intervention.action.idle:
                    layers.update(intervention.targets)
            self._layers[key] = len(layers)
        return self._layers[key]


def _limit(intervention: PlannedIntervention, language: str | None) -> str:
    """Say what keeps an intervention from the tokens of a task in this language."""
    if intervention.action.idle:
        return "has zero strength"
    languages = intervention.languages
    if not languages.admits(language):
        mentioned = ", ".join(sorted(languages.mentioned))
        return f"has `languages: {mentioned if languages.only is not None else f'all but {mentioned}'}`, not {language}"
    if intervention.tokens == "generated":
        return (
            "has `tokens: generated`, and no generated token is fed to the model (the last one of an answer never is, "
            "so an answer of one token has none)"
        )
    if intervention.tokens == "prompt":
        return "has `tokens: prompt`, and there is no prompt"
    return "applied to no token"
