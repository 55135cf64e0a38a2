"""``random``: the control that every claim needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.steering.selectors._base import Choice, ComparedNumber, Scope, Selector, parse_selector
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

if TYPE_CHECKING:
    from typing import Self

__all__ = ["RandomControl", "draw"]


@dataclass(frozen=True)
class RandomControl(Selector):
    """As many experts per layer as another rule selects, none of them, drawn without replacement (arXiv 2510.04694).

    The coefficients of the matched experts are dealt out anew, so that the control is as strong. A layer's draw depends
    on the seed, the layer and that layer's matched experts alone.

    Attributes:
        like: The rule to match.
        seed: Of the draw; ``None`` is the steering file's.
    """

    name = "random"
    like: Selector
    seed: int | None = None

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read ``{like: {ids: …}, seed: 1}``."""
        fields = field.keys(["like"], ["seed"])
        seed = fields["seed"].integer(0, 2**63 - 1) if "seed" in fields else None
        return cls(parse_selector(fields["like"], besides=[cls.name]), seed)

    def dump(self) -> dict[str, Any]:
        """Return the rule to match, and the seed if it has one."""
        seed = {} if self.seed is None else {"seed": self.seed}
        return {"like": {self.like.name: self.like.dump()}, **seed}

    @property
    def matched(self) -> Selector:
        """The rule to match."""
        return self.like

    def compare(self, scope: Scope) -> ComparedNumber | None:
        """Return what the matched rule compares."""
        return self.like.compare(self._matched_in(scope))

    def weighted_at(self) -> tuple[str, ...] | None:
        """Return where the matched rule has a coefficient."""
        keys = self.like.weighted_at()
        return None if keys is None else ("like", self.like.name, *keys)

    def _matched_in(self, scope: Scope) -> Scope:
        return replace(scope, place=scope.place / "like" / self.like.name)

    def explain(self, scope: Scope) -> list[Choice]:
        """Draw the control."""
        seed = scope.seed if self.seed is None else self.seed
        selection: dict[int, dict[int, float]] = {}
        for choice in self.like.explain(self._matched_in(scope)):
            selection.setdefault(choice.layer, {})[choice.expert] = choice.coefficient
        choices: list[Choice] = []
        for layer, matched in selection.items():
            replacements = draw(seed, layer, matched, scope.shape.experts, scope.place)
            pool = scope.shape.experts - len(matched)
            choices += [
                Choice(layer, expert, matched[instead], f"drawn from {pool} others, in place of expert {instead}")
                for expert, instead in replacements.items()
            ]
        return sorted(choices, key=lambda choice: (choice.layer, choice.expert))


def draw(seed: int, layer: int, matched: Mapping[int, object], experts: int, place: YamlPlace) -> dict[int, int]:
    """Return as many experts of a layer as are matched, none of them, each with the one that it stands for.

    Args:
        seed: Of the draw.
        layer: Decoder-layer index.
        matched: The layer's experts to match; their order says which drawn expert stands for which.
        experts: Routed experts per layer, E.
        place: What an error names.

    Raises:
        UserError: The layer has too few other experts.
    """
    candidates = [expert for expert in range(experts) if expert not in matched]
    if len(candidates) < len(matched):
        raise place.error(
            f"layer {layer} has {len(matched)} matched experts and only {len(candidates)} others to draw from",
            "match a rule that selects at most half of a layer's experts, or leave the layer out",
        )
    sample = np.random.default_rng([seed, layer]).choice(candidates, len(matched), replace=False).tolist()
    return dict(zip(sample, matched, strict=True))
