"""The gain of every steered run over random experts: from its own controls, or from control runs beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lm_eval_moe.compare.control import Gain, control_gains
from lm_eval_moe.number_text import Scale
from lm_eval_moe.report.wording import listing, plural
from lm_eval_moe.results import Benchmark, Run

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
    by_language: Mapping[str, Gain]
    average: Gain | None
    controls: tuple[str, ...]
    checked: bool = True


def gains_of(benchmark: Benchmark) -> list[RunGains]:
    """Return the gains of the steered runs for which there are controls.

    A control is known by the steering that it matches: rule, action, strength, tokens, languages, layers. Results of
    early releases do not name it; there, as many experts per layer must do, and `RunGains.checked` says so.
    """
    found = []
    for number, run in enumerate(benchmark.runs):
        if not run.steering or run.is_random_control:
            continue
        own = control_gains(run, benchmark)
        if own is not None:
            average = own.average if len(own.by_language) > 1 else None
            found.append(RunGains(number, own.seeds, own.by_language, average, ()))
            continue
        sure = {control: run.is_controlled_by(other) for control, other in enumerate(benchmark.runs)}
        matched = [
            control
            for control, is_one in sure.items()
            if is_one or (is_one is None and _sizes(benchmark.runs[control]) == _sizes(run))
        ]
        gains = _beside(benchmark, number, matched)
        if gains is not None:
            found.append(replace(gains, checked=all(sure[control] for control in matched)))
    return found


def _sizes(run: Run) -> dict[str, int]:
    return {str(layer): len(experts) for layer, experts in (run.steering.experts if run.steering else {}).items()}


def _beside(benchmark: Benchmark, run: int, controls: Sequence[int]) -> RunGains | None:
    languages = [lang for lang in benchmark.languages if all(lang in benchmark.cells[n] for n in (run, *controls))]
    by_language = {lang: gain for lang in languages if (gain := _gain(benchmark, run, controls, [lang]))}
    if not controls or not by_language:
        return None
    average = _gain(benchmark, run, controls, languages) if len(languages) > 1 else None
    labels = tuple(benchmark.runs[number].label for number in controls)
    return RunGains(run, len(controls), by_language, average, labels)


def _gain(benchmark: Benchmark, run: int, controls: Sequence[int], languages: Sequence[str]) -> Gain | None:
    gain = benchmark.gain_over(controls, run, languages)
    return Gain(gain.gain, gain.low, gain.high, gain.identical) if gain else None


def in_words(gains: RunGains, benchmark: Benchmark) -> str:
    """Say the gain, and whether it is beyond noise."""
    scale = Scale(benchmark.metric)
    label = benchmark.runs[gains.run].label
    sign = 1.0 if benchmark.higher_is_better else -1.0
    drawn = plural(gains.draws, "draw") + " of random experts"
    if gains.average is not None:
        said = f"{label} against {drawn}, over {len(gains.by_language)} languages: {_shown(gains.average, scale)}"
        said += f", {_verdict(gains.average, sign)}."
    else:
        (lang, gain), *_ = gains.by_language.items()
        said = f"{label} against {drawn}, in {lang}: {_shown(gain, scale)}, {_verdict(gain, sign)}."
    if len(gains.by_language) > 1:
        better = [lang for lang, gain in gains.by_language.items() if gain.beyond and sign * gain.value > 0]
        worse = [lang for lang, gain in gains.by_language.items() if gain.beyond and sign * gain.value < 0]
        parts = [f"better beyond noise in {listing(better)}"] if better else []
        parts += [f"worse beyond noise in {listing(worse)}"] if worse else []
        said += " By language: " + (" and ".join(parts) if parts else "no difference beyond noise in any") + "."
    if not gains.checked:
        said += " Whether these controls are steered in the same way could not be checked: the results do not say."
    if gains.draws == 1:
        said += " One draw cannot tell how much the draw of experts matters; the interval covers the items only."
    return said


def _shown(gain: Gain, scale: Scale) -> str:
    text = f"{scale.change(gain.value)}{scale.points}"
    if gain.low is None or gain.high is None:
        return text
    return f"{text} (95 % interval {scale.change(gain.low)} to {scale.change(gain.high)})"


def _verdict(gain: Gain, sign: float) -> str:
    if gain.identical:
        return "as not one item differs"
    if gain.low is None:
        return "without an interval that could tell whether that is noise"
    if not gain.beyond:
        return "no difference beyond noise"
    return "a gain beyond noise" if sign * gain.value > 0 else "a loss beyond noise"
