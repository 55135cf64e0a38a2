"""What runs are called: by what tells them apart, and what they share once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_eval_moe.results import LabelledRun
from lm_eval_moe.results.facts import RunFacts
from lm_eval_moe.results.labels import shared_sentence, unique_labels, unsaid


def run(
    model: str = "org/model", steering: str | None = None, *, digest: str = "ab" * 32, label: str = "", **more: Any
) -> LabelledRun:
    """Return a run; ``seed`` is the steering's, ``folder`` where its file lies, all else is of the settings."""
    seed, folder, date = more.pop("seed", None), more.pop("folder", "."), more.pop("date", "")
    spec = {} if seed is None else {"seed": seed}
    arguments = {"pretrained": model, **more.pop("model_args", {})}
    results = {
        "results": {"task": {}},
        "config": {"model": "hf-moe", "model_args": arguments, **more},
        "routing": {"steering": {"name": steering, "hash": digest, "spec": spec} if steering else None},
    }
    return LabelledRun(label, results, source=Path(folder) / "results.json", date=date)


CASES: dict[str, tuple[list[LabelledRun], list[str], str]] = {
    "one run has its whole name": ([run(steering="soft")], ["org/model + soft"], ""),
    "steerings of one model": (
        [run(), run(steering="soft"), run(steering="hard")],
        ["unsteered", "soft", "hard"],
        "All runs: org/model.",
    ),
    "models": ([run(), run("org/other")], ["org/model", "org/other"], ""),
    "models and steerings": (
        [run(), run(steering="soft"), run("org/other", "soft")],
        ["org/model", "org/model + soft", "org/other + soft"],
        "",
    ),
    "data types": (
        [run(model_args={"dtype": "float32"}), run(model_args={"dtype": "bfloat16"})],
        ["dtype=float32", "dtype=bfloat16"],
        "All runs: org/model, unsteered.",
    ),
    "data types of two steerings": (
        [
            run(),
            run(steering="soft", model_args={"dtype": "float32"}),
            run(steering="soft", model_args={"dtype": "bfloat16"}),
        ],
        ["unsteered", "soft (dtype=float32)", "soft (dtype=bfloat16)"],
        "All runs: org/model.",
    ),
    "seeds of a steering": (
        [run(steering="soft", seed=1, digest="1" * 64), run(steering="soft", seed=2, digest="2" * 64)],
        ["seed=1", "seed=2"],
        "All runs: org/model + soft.",
    ),
    "seeds of an evaluation": (
        [run(random_seed=1), run(random_seed=2)],
        ["random_seed=1", "random_seed=2"],
        "All runs: org/model, unsteered.",
    ),
    "the hash where nothing else differs": (
        [run(), run(steering="soft", digest="12" * 32), run(steering="soft", digest="34" * 32)],
        ["unsteered", "soft #12121212", "soft #34343434"],
        "All runs: org/model.",
    ),
    "a setting that one does not say": (
        [run(), run(limit=8)],
        ["unsteered", "limit=8"],
        "All runs: org/model, unsteered.",
    ),
    "folders": ([run(folder="x/a"), run(folder="x/b")], ["a", "b"], "All runs: org/model, unsteered."),
    "dates": (
        [run(date="2026-01-01"), run(date="2026-01-02")],
        ["2026-01-01", "2026-01-02"],
        "All runs: org/model, unsteered.",
    ),
    "nothing at all": ([run(), run()], ["run 1", "run 2"], "All runs: org/model, unsteered."),
    "labels that are given": (
        [run(label="plain"), run(steering="soft", label="new")],
        ["plain", "new"],
        "All runs: org/model.",
    ),
    "a label that is given twice": (
        [run(label="mine", folder="x/a"), run(steering="soft", label="mine", folder="x/b")],
        ["mine", "mine #abababab"],
        "All runs: org/model.",
    ),
    "one run with a label": ([run(label="mine", steering="soft")], ["mine"], "The run: org/model + soft."),
}


@pytest.mark.parametrize(("runs", "labels", "shared"), CASES.values(), ids=CASES)
def test_runs_are_called_by_what_tells_them_apart(runs: list[LabelledRun], labels: list[str], shared: str) -> None:
    labelled = unique_labels(runs)
    assert [each.label for each in labelled] == labels
    assert shared_sentence([RunFacts(each) for each in labelled]) == shared


def test_secrets_do_not_tell_runs_apart() -> None:
    runs = unique_labels([run(model_args={"token": "hf_ONE"}), run(model_args={"token": "hf_TWO"})])
    assert [each.label for each in runs] == ["run 1", "run 2"]


def test_long_settings_are_cut_at_their_beginning() -> None:
    long = "a/" * 40
    runs = unique_labels([run(model_args={"adapter": f"{long}one.py"}), run(model_args={"adapter": f"{long}two.py"})])
    for each, name in zip(runs, ("one", "two"), strict=True):
        assert each.label.startswith("adapter=\N{HORIZONTAL ELLIPSIS}")
        assert each.label.endswith(f"{name}.py")
        assert len(each.label) == len("adapter=") + 40


def test_what_a_given_label_leaves_out_stands_beside_it() -> None:
    one_model = [RunFacts(each) for each in (run(label="plain"), run(steering="soft", label="best"))]
    assert [unsaid(each, one_model) for each in one_model] == ["", "soft"]
    two_models = [RunFacts(each) for each in (run(label="plain"), run("org/other", "soft", label="soft 2"))]
    assert [unsaid(each, two_models) for each in two_models] == ["org/model", "org/other"]
