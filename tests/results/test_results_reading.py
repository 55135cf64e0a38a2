"""Results files and samples logs: found, attributed by folder and date, and refused where they are not the run's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.written_runs import DATE, write_run

from lm_eval_moe.cli import main
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.results import Metric, Run, arrange, latest, read_results, read_runs
from lm_eval_moe.results.values import Score

EXACT = Metric("exact_match", "flexible-extract")
SCORES = {"en": [1.0, 1.0, 0.0, 1.0], "sw": [0.0, 1.0, 0.0, 1.0]}
OTHER = {"en": [0.0, 1.0, 1.0, 0.0], "sw": [1.0, 1.0, 1.0, 1.0]}
LATER = "2026-03-02T09-30-00.000002"
TASK = "mgsm_direct_sw"


def only(path: Path) -> Run:
    (run,) = read_runs(read_results([path]))
    return run


def scored(run: Run, task: str, metric: Metric) -> Score:
    score = run.score(task, metric)
    assert score is not None
    return score


def log_of(path: Path, task: str = TASK) -> Path:
    (log,) = path.parent.glob(f"samples_{task}_*.jsonl")
    return log


def test_a_folder_is_searched_and_items_come_from_the_log(tmp_path: Path) -> None:
    write_run(tmp_path / "out" / "org__model", SCORES)
    run = only(tmp_path)
    score = run.score(TASK, EXACT)
    assert score is not None
    assert score.items == {0: 0.0, 1: 1.0, 2: 0.0, 3: 1.0}
    assert run.item_names(TASK, run.pairing(TASK, PairingRegistry.default())) == {i: f"row:{i}" for i in range(4)}
    assert run.label == "org/model"


def test_output_path_with_a_file_name_is_known(tmp_path: Path) -> None:
    write_run(tmp_path, SCORES, name="my_run")
    assert len(scored(only(tmp_path), TASK, EXACT).items or ()) == 4


def test_two_dates_in_one_folder_keep_their_own_logs(tmp_path: Path) -> None:
    write_run(tmp_path, SCORES)
    write_run(tmp_path, OTHER, date=LATER)
    runs = read_runs(read_results([tmp_path]))
    found = [list((scored(run, TASK, EXACT).items or {}).values()) for run in runs]
    assert found == [SCORES["sw"], OTHER["sw"]]
    assert len({run.label for run in runs}) == 2


def test_of_several_dates_the_newest_result_of_each_task_counts(tmp_path: Path) -> None:
    write_run(tmp_path, SCORES)
    write_run(tmp_path, {"sw": OTHER["sw"]}, date=LATER)
    (merged,), superseded = latest(read_results([tmp_path]))
    (run,) = read_runs([merged])
    assert scored(run, TASK, EXACT).estimate.value == 1.0
    assert scored(run, "mgsm_direct_en", EXACT).items == dict(enumerate(SCORES["en"]))
    assert [(each.older, each.newer, each.tasks) for each in superseded] == [(DATE, LATER, (TASK,))]


def test_differently_steered_runs_of_one_folder_are_not_dates_of_each_other(tmp_path: Path) -> None:
    write_run(tmp_path, SCORES)
    write_run(tmp_path, OTHER, date=LATER, steering="soft")
    runs, superseded = latest(read_results([tmp_path]))
    assert len(runs) == 2
    assert not superseded
    assert {run.label for run in runs} == {"unsteered", "soft"}


def test_files_given_by_name_are_all_kept(tmp_path: Path) -> None:
    files = [write_run(tmp_path, SCORES), write_run(tmp_path, OTHER, date=LATER)]
    assert len(latest(read_results(files))[0]) == 2


def test_a_log_of_another_date_is_not_attached(tmp_path: Path) -> None:
    path = write_run(tmp_path, SCORES)
    log_of(path).rename(tmp_path / f"samples_{TASK}_{LATER}.jsonl")
    assert scored(only(path), TASK, EXACT).items is None


def test_results_without_a_date_take_no_logs_and_say_so(tmp_path: Path) -> None:
    write_run(tmp_path, SCORES).rename(tmp_path / "results.json")
    with pytest.warns(RoutingWarning, match="has no date.*2 samples logs"):
        (run,) = read_results([tmp_path])
    assert not run.logs


def test_samples_can_be_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, SCORES)
    (run,) = read_runs(read_results([tmp_path], samples=False))
    assert scored(run, TASK, EXACT).items is None


def test_results_of_no_task_are_refused_by_their_file(tmp_path: Path) -> None:
    file = tmp_path / "results_2026-01-01T00-00-00.000000.json"
    file.write_text('{"results": {}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"results_2026.*json: holds no results of any task"):
        read_results([file])


def test_task_globs_pick_tasks_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, SCORES)
    (run,) = read_results([tmp_path], tasks=["*_en"])
    assert list(run.results["results"]) == ["mgsm_direct_en"]
    with pytest.raises(UserError, match=r"no task matches belebele.*\n.*mgsm_direct_en, mgsm_direct_sw"):
        read_results([tmp_path], tasks=["belebele*"])


def edit_line(number: int, change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        lines = log_of(path).read_text(encoding="utf-8").splitlines()
        sample = json.loads(lines[number - 1])
        change(sample)
        lines[number - 1] = json.dumps(sample)
        log_of(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return edit


def cut(path: Path) -> None:
    text = log_of(path).read_bytes()
    log_of(path).write_bytes(text[: len(text) - 40])


def drop_last_line(path: Path) -> None:
    lines = log_of(path).read_text(encoding="utf-8").splitlines(keepends=True)
    log_of(path).write_text("".join(lines[:-1]), encoding="utf-8")


def swap_for_another_runs(path: Path) -> None:
    other = write_run(path.parent / "other", OTHER)
    shutil.copy(log_of(other), log_of(path))


def swap_for_other_prompts(path: Path) -> None:
    other = write_run(path.parent / "other", SCORES, prompt="Frage: ")
    shutil.copy(log_of(other), log_of(path))


def append_again(path: Path) -> None:
    text = log_of(path).read_text(encoding="utf-8")
    log_of(path).write_text(text + text.splitlines(keepends=True)[1], encoding="utf-8")


@pytest.mark.parametrize("decoder", ["msgspec", "json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "line 4 is not a JSON object"),
        (drop_last_line, "holds 3 documents, but the results say 4"),
        (
            swap_for_another_runs,
            r"the mean of exact_match is 1, but the results say 0.5: it is the log of a different run",
        ),
        (swap_for_other_prompts, "do not have the hash that the results give"),
        (append_again, "document 1 occurs twice under the filter 'flexible-extract': lines 2 and 5"),
        (edit_line(3, lambda sample: sample.update(exact_match=float("nan"))), r"line 3 \(document 2\) holds nan"),
        (
            edit_line(2, lambda sample: sample.pop("doc_id")),
            "line 2 has the doc_id nothing, which is not a whole number",
        ),
        (lambda path: log_of(path).write_text("[1, 2]\n"), "line 1 is not a JSON object: it is a list"),
        (lambda path: log_of(path).write_text(""), "holds 0 documents, but the results say 4"),
    ],
)
def test_a_damaged_or_strange_log_is_refused_with_file_and_line(
    tmp_path: Path,
    damage: Callable[[Path], None],
    message: str,
    decoder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lm_eval_moe.results import _json_lines

    _json_lines._decoder.cache_clear()
    if decoder == "json":
        monkeypatch.setitem(__import__("sys").modules, "msgspec", None)
    path = write_run(tmp_path, SCORES)
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        only(path).score(TASK, EXACT)
    _json_lines._decoder.cache_clear()
    assert caught.value.where == str(log_of(path))
    assert caught.value.fix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"results": {"a": {"acc,none": 0.', r"is not valid JSON: .* in line 1 \(it is cut off\)"),
        ("", "is not valid JSON"),
        ('{"a": 1}', "holds no table of results"),
        ("[]", "holds no table of results"),
        ('{"results": {"a": 1}}', "expected the task's scores, got int"),
        ('{"results": {"a": {"acc,none": NaN}}}', "the score is nan"),
        ('{"results": {"a": {"acc,none": -Infinity}}}', "the score is -inf"),
        (b"\xff\xfe\x00", "is not UTF-8|is not valid JSON"),
    ],
)
def test_a_damaged_results_file_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / f"results_{DATE}.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        read_results([tmp_path])
    assert caught.value.where
    assert str(path) in caught.value.where


def test_a_nan_standard_error_is_an_unknown_one(tmp_path: Path) -> None:
    write_run(tmp_path, {"en": [1.0, 0.0]}, samples=False)
    (path,) = tmp_path.glob("*.json")
    results = json.loads(path.read_text())
    results["results"]["mgsm_direct_en"]["exact_match_stderr,flexible-extract"] = float("nan")
    path.write_text(json.dumps(results))
    assert scored(only(tmp_path), "mgsm_direct_en", EXACT).estimate.stderr is None


def test_an_empty_folder_a_missing_path_and_a_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results in this directory: it is empty"):
        read_results([tmp_path])
    with pytest.raises(UserError, match="no such file or directory"):
        read_results([tmp_path / "nowhere"])
    path = write_run(tmp_path, SCORES)
    with pytest.raises(UserError, match="this is a samples log"):
        read_results([log_of(path)])


def test_two_filters_are_kept_apart(tmp_path: Path) -> None:
    divergence = {"sw": [0.1, 0.2, 0.3, 0.4]}
    path = write_run(tmp_path, SCORES, filters=("strict", "flexible-extract"), divergence=divergence)
    edit = edit_line(5, lambda sample: sample.update(exact_match=1.0))  # the first document under the second filter
    edit(path)
    results = json.loads(path.read_text())
    results["results"][TASK]["exact_match,flexible-extract"] = 0.75
    path.write_text(json.dumps(results))
    run = only(path)
    assert scored(run, TASK, Metric("exact_match", "strict")).items == dict(enumerate(SCORES["sw"]))
    assert scored(run, TASK, EXACT).items == {0: 1.0, 1: 1.0, 2: 0.0, 3: 1.0}
    middle = run.divergence(TASK).middle
    assert middle is not None
    assert middle.items == dict(enumerate(divergence["sw"]))


def test_a_metric_that_is_no_mean_of_its_items_has_none(tmp_path: Path) -> None:
    path = write_run(tmp_path, {"en": [2.0, 4.0]}, metric="perplexity")
    results = json.loads(path.read_text())
    results["results"]["mgsm_direct_en"]["perplexity,flexible-extract"] = 20.1
    path.write_text(json.dumps(results))
    score = only(path).score("mgsm_direct_en", Metric("perplexity", "flexible-extract"))
    assert score is not None
    assert score.items is None


def test_languages_stand_in_one_order_in_all_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def scores(**shares: int) -> dict[str, list[float]]:
        return {lang: [1.0] * right + [0.0] * (10 - right) for lang, right in shares.items()}

    first = write_run(tmp_path / "a", scores(de=3, en=9, sw=8, zh=5))
    second = write_run(
        tmp_path / "b", scores(th=9, zh=9, en=2, sw=4), benchmark="xcopa", metric="acc", filters=("none",)
    )
    benchmarks, _ = arrange(read_runs(read_results([first, second])))
    assert [(each.name, each.languages) for each in benchmarks] == [
        ("mgsm_direct", ("en", "sw", "zh", "de")),
        ("xcopa", ("en", "sw", "zh", "th")),
    ]
    assert main(["compare", str(first), str(second), "--format", "markdown"]) == 0
    headers = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|") and "sw" in line]
    orders = [[cell for cell in line.split("| ") if cell.strip() in ("en", "sw", "zh")] for line in headers]
    assert len(orders) == 2
    assert orders[0] == orders[1]
