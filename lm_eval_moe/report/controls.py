"""The gain of every steered run over random experts: from its own controls, or from control runs beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lm_eval_moe.compare.control import control_gains
from lm_eval_moe.long_lists import counted
from lm_eval_moe.number_text import Scale, p_text
from lm_eval_moe.report.wording import plural
from lm_eval_moe.results import Benchmark, Run
from lm_eval_moe.statistics import ALPHA, ControlGain, corrected_new_draws, draws_needed, is_beyond_chance

__all__ = ["RunGains", "gains_of", "in_words"]


@dataclass(frozen=True)
class RunGains:
    """A steered run less its random controls.

    Attributes:
        run: Its number.
        draws: How many draws of random experts there are.
        by_language: One a language.
        average: Over the languages that the run and its controls have; None for one language, or where it is not known.
        controls: Labels of the control runs; empty where the run brought its own.
        checked: Whether the controls are known to be steered in the same way.
    """

    run: int
    draws: int
    by_language: Mapping[str, ControlGain]
    average: ControlGain | None
    controls: tuple[str, ...]
    checked: bool = True

    @property
    def corrected_p(self) -> dict[str, float | None]:
        """Each language's p of a new draw, corrected for the others."""
        return dict(zip(self.by_language, corrected_new_draws([*self.by_language.values()]), strict=True))

    @property
    def beyond(self) -> list[str]:
        """The languages in which the run differs from a random set beyond noise, after that correction."""
        return [lang for lang, p in self.corrected_p.items() if is_beyond_chance(p, ALPHA)]


def gains_of(benchmark: Benchmark) -> list[RunGains]:
    """Return the gains of the steered runs for which there are controls.

    A control is known by the steering that it matches: rule, action, strength, tokens, languages, layers. Results of
    early releases do not name it; there, as many experts per layer must do, and `RunGains.checked` says so.
    """
    gains_by_run = []
    for number, run in enumerate(benchmark.runs):
        if not run.steering or run.is_random_control:
            continue
        reported = control_gains(run, benchmark)
        if reported is not None:
            average = reported.average if len(reported.by_language) > 1 else None
            gains_by_run.append(RunGains(number, reported.seeds, reported.by_language, average, ()))
            continue
        sure = {control: run.is_controlled_by(candidate) for control, candidate in enumerate(benchmark.runs)}
        matched = [
            control
            for control, is_one in sure.items()
            if is_one or (is_one is None and _sizes(benchmark.runs[control]) == _sizes(run))
        ]
        gains = _beside(benchmark, number, matched)
        if gains is not None:
            gains_by_run.append(replace(gains, checked=all(sure[control] for control in matched)))
    return gains_by_run


def _sizes(run: Run) -> dict[str, int]:
    return {str(layer): len(experts) for layer, experts in (run.steering.experts if run.steering else {}).items()}


def _beside(benchmark: Benchmark, run: int, controls: Sequence[int]) -> RunGains | None:
    languages = [lang for lang in benchmark.languages if all(lang in benchmark.cells[n] for n in (run, *controls))]
    by_language = {lang: gain for lang in languages if (gain := benchmark.gain_over(controls, run, [lang]))}
    if not controls or not by_language:
        return None
    average = benchmark.gain_over(controls, run, languages) if len(languages) > 1 else None
    labels = tuple(benchmark.runs[number].label for number in controls)
    return RunGains(run, len(controls), by_language, average, labels)


def in_words(gains: RunGains, benchmark: Benchmark) -> str:
    """Say the gain over the mean of random sets, and whether the run is better than a random set."""
    scale = Scale(benchmark.metric)
    label = benchmark.runs[gains.run].label
    sign = 1.0 if benchmark.higher_is_better else -1.0
    (lang, gain), *further = gains.by_language.items()
    place = f"in {lang}" if gains.average is None else f"over {len(gains.by_language)} languages"
    sentences = [
        f"{label} against {plural(gains.draws, 'draw')} of random experts, {place}: "
        f"{', '.join(_parts(gains.average or gain, scale, sign))}."
    ]
    if further and gains.draws > 1:
        parts = [
            f"{verdict} in {counted(languages, 'languages')}"
            for verdict, side in (("better", 1), ("worse", -1))
            if (languages := [lang for lang in gains.beyond if side * sign * gains.by_language[lang].gain > 0])
        ]
        verdicts = " and ".join(parts) + " beyond noise" if parts else "no difference beyond noise in any"
        sentences.append(f"By language, against a new random draw and after Holm's correction: {verdicts}.")
    if not gains.checked:
        sentences.append(
            "Whether these controls are steered in the same way could not be checked: the results do not say."
        )
    if gains.draws == 1:
        sentences.append(
            "One draw cannot tell how much the draw of experts matters; the interval covers the items only."
        )
    elif gains.draws < draws_needed():
        sentences.append(f"The rank p can reach {ALPHA:g} from {draws_needed()} draws on.")
    return " ".join(sentences)


def _parts(gain: ControlGain, scale: Scale, sign: float) -> Iterator[str]:
    """Say both questions, each by its name."""
    yield f"{scale.change(gain.gain)}{scale.points} above their mean{_ends(gain.low, gain.high, scale)}"
    if gain.identical:
        yield "as not one item differs"
        return
    if gain.new_draw_p is None:
        yield "without an interval that could tell whether it is better than a random set"
    else:
        better = "better" if sign * gain.gain > 0 else "worse"
        verdict = better if gain.differs_from_draw else "neither better nor worse"
        ends = _ends(gain.new_draw_low, gain.new_draw_high, scale, "prediction interval for a new draw")
        yield f"{verdict} than a random set beyond noise{ends}"
    if gain.rank_p is not None:
        yield f"rank {p_text(gain.rank_p)}"


def _ends(low: float | None, high: float | None, scale: Scale, name: str = "interval") -> str:
    return "" if low is None or high is None else f" (95 % {name} {scale.change(low)} to {scale.change(high)})"
