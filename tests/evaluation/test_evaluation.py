"""Routing fields through lm-eval's own machinery, on the bundled model and its tasks."""

from __future__ import annotations

import inspect
import json
import math
import re
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from support import demo_runs, oracle
from support.paths import ROOT
from support.profile_records import read_records
from support.small_models import make_model

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.harness.requests import make_request
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.resources import tasks_dir

TASKS = ["demo_arith_en", "demo_arith_ru", "demo_arith_sw"]
LIMIT = 6
STEERING: dict[str, Any] = {
    "version": 1,
    "name": "test",
    "interventions": [{"layers": "middle", "experts": {"ids": {"all": [1, 5]}}, "action": {"soft": 0.9}}],
}


def spec(**changes: Any) -> Any:
    from lm_eval_moe import parse_spec

    intervention = {**STEERING["interventions"][0], **changes}
    return parse_spec({**STEERING, "interventions": [intervention]}, source="test", base_dir=Path())


@pytest.fixture(scope="module")
def lm() -> HFMoE:
    return HFMoE(pretrained="demo", batch_size=8)


@pytest.fixture(autouse=True)
def _unsteered(lm: HFMoE) -> Any:
    yield
    lm.set_steering(None)
    lm.set_capture("prompt")


def evaluate(lm: HFMoE, manager: TaskManager, tasks: Any = TASKS, **kwargs: Any) -> dict[str, Any]:
    return demo_runs.evaluate(lm, manager, tasks, **{"limit": LIMIT, "bootstrap_iters": 10, **kwargs})


def importance_alone(lm: HFMoE, prompts: list[str]) -> list[np.ndarray]:
    """Each prompt's top-k expert importance from the plain model, one at a time."""
    return [
        oracle.run("qwen3_moe", lm.model, lm.tokenizer.encode(prompt)).importance(slice(None), 16) for prompt in prompts
    ]


def divergence_by_scipy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    curve = []
    for one, other in zip(p, q, strict=True):
        js = jensenshannon(one, other) ** 2
        room = math.log(len(one)) - (scipy_entropy(one) + scipy_entropy(other)) / 2
        curve.append(js / max(room, 1e-6))
    return np.array(curve)


def test_divergence_and_entropy_equal_scipys_for_every_item(lm: HFMoE, manager: TaskManager) -> None:
    results = evaluate(lm, manager, routing_fields="all")
    samples = results["samples"]
    alone = {task: importance_alone(lm, [s["doc"]["prompt"] for s in samples[task]]) for task in TASKS}
    english = {s["doc"]["item_id"]: q for s, q in zip(samples["demo_arith_en"], alone["demo_arith_en"], strict=True)}
    bands = {"routing_divergence": (2, 6), "routing_divergence_early": (0, 2), "routing_divergence_late": (6, 8)}
    for task in TASKS:
        expected_entropy = [scipy_entropy(q, axis=1).mean() / math.log(16) for q in alone[task]]
        np.testing.assert_allclose([s["routing_entropy"] for s in samples[task]], expected_entropy, atol=1e-6)
        assert results["results"][task]["routing_entropy,none"] == pytest.approx(np.mean(expected_entropy), abs=1e-6)
    for task in TASKS[1:]:
        curves = np.array(
            [
                divergence_by_scipy(q, english[s["doc"]["item_id"]])
                for s, q in zip(samples[task], alone[task], strict=True)
            ]
        )
        for field, (start, end) in bands.items():
            expected = curves[:, start:end].mean(1)
            np.testing.assert_allclose([s[field] for s in samples[task]], expected, atol=1e-6)
            assert results["results"][task][f"{field},none"] == pytest.approx(expected.mean(), abs=1e-6)
            assert results["results"][task][f"{field}_stderr,none"] == pytest.approx(
                expected.std(ddof=1) / math.sqrt(LIMIT), abs=1e-6
            )
        np.testing.assert_allclose(results["routing"]["tasks"][task]["curves"]["divergence"], curves.mean(0), atol=1e-6)


def test_overlap_equals_sets_of_the_most_activated_experts(lm: HFMoE, manager: TaskManager) -> None:
    results = evaluate(lm, manager, TASKS[:2], routing_fields="routing_overlap")
    samples = results["samples"]

    def top(prompt: str) -> list[set[int]]:
        routed = oracle.run("qwen3_moe", lm.model, lm.tokenizer.encode(prompt))
        counts, mass = routed.counts(slice(None), 16), routed.importance(slice(None), 16)
        return [set(np.lexsort((range(16), -mass[layer], -counts[layer]))[:2].tolist()) for layer in range(8)]

    english = {s["doc"]["item_id"]: top(s["doc"]["prompt"]) for s in samples[TASKS[0]]}
    for sample in samples[TASKS[1]]:
        mine, theirs = top(sample["doc"]["prompt"]), english[sample["doc"]["item_id"]]
        shares = [len(mine[layer] & theirs[layer]) / len(mine[layer] | theirs[layer]) for layer in range(2, 6)]
        assert sample["routing_overlap"] == pytest.approx(np.mean(shares))


def test_scores_are_those_of_plain_lm_eval(manager: TaskManager) -> None:
    ours = evaluate(HFMoE("demo", batch_size=8, reuse="off"), manager)
    plain = lm_eval.simple_evaluate(
        "hf",
        {"pretrained": str(demo_model_path()), "device": "cpu"},
        tasks=TASKS,
        task_manager=manager,
        limit=LIMIT,
        batch_size=8,
        bootstrap_iters=10,
    )
    for task in TASKS:
        assert ours["results"][task]["acc,none"] == plain["results"][task]["acc,none"]
        for mine, theirs in zip(ours["samples"][task], plain["samples"][task], strict=True):
            assert mine["resps"] == theirs["resps"]


def test_group_has_the_mean_of_the_languages_that_have_the_field(lm: HFMoE, manager: TaskManager) -> None:
    results = evaluate(lm, manager, ["demo_arith"], limit=2)
    languages = results["group_subtasks"]["demo_arith"]
    values = [results["results"][task].get("routing_divergence,none") for task in languages]
    assert values.count(None) == 1
    expected = np.mean([value for value in values if value is not None])
    assert results["groups"]["demo_arith"]["routing_divergence,none"] == pytest.approx(expected)
    assert "routing_divergence" in make_table(results, "groups")


def write_two_filters(folder: Path, second: str) -> None:
    """Write a task for each of two languages, the second of whose filters has a name of its own."""
    for language in ("en", "sw"):
        (folder / f"two_{language}.yaml").write_text(
            f"""
include: {tasks_dir()}/demo/demo_arith_gen_{language}.yaml
task: two_filters_{language}
filter_list:
  - name: first
    filter: [{{function: regex, regex_pattern: '(1\\d*)'}}, {{function: take_first}}]
  - name: {second}
    filter: [{{function: take_first}}]
metadata: {{version: 1.0, routing: {{language: {language}, benchmark: two_filters, item: item_id}}}}
""",
            encoding="utf-8",
        )


def test_fields_come_once_a_document_however_many_filters_a_task_has(
    lm: HFMoE, manager: TaskManager, tmp_path: Path
) -> None:
    write_two_filters(tmp_path, "second")
    files = demo_runs.task_manager(tmp_path)
    results = evaluate(lm, files, ["two_filters_en", "two_filters_sw"], limit=3)
    scores = results["results"]["two_filters_sw"]
    assert {key for key in scores if key.startswith("routing_divergence")} == {
        "routing_divergence,none",
        "routing_divergence_stderr,none",
    }
    assert {"exact_match,first", "exact_match,second"} <= set(scores)
    carrying = [sample["filter"] for sample in results["samples"]["two_filters_sw"] if "routing_divergence" in sample]
    assert carrying == ["first"] * 3
    assert results["routing"]["tasks"]["two_filters_sw"]["documents"] == 3


@pytest.mark.parametrize(("second", "home"), [("second", "first"), ("none", "none")])
def test_results_and_samples_join_by_task_metric_and_filter(lm: HFMoE, tmp_path: Path, second: str, home: str) -> None:
    """By the rule of docs/results.md, on the files that lm-eval's own code writes."""
    write_two_filters(tmp_path, second)
    tasks = {"two_filters_en": range(5), "two_filters_sw": range(2, 8)}  # three documents of sw have no reference
    with pytest.warns(RoutingWarning, match="routing_divergence covers 3 of its 6 documents"):
        written = evaluate(lm, demo_runs.task_manager(tmp_path), tasks, limit=None)
    samples = written.pop("samples")
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    tracker.general_config_tracker.model_name_sanitized = "demo"
    tracker.save_results_aggregated(results=written, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)

    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"```python\n(def rows_of.*?)```", text, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(rule, scope)  # the rule as it is documented
    (results_file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(results_file.read_text(encoding="utf-8"))
    joined = set()
    for task, scores in results["results"].items():
        (log,) = results_file.parent.glob(f"samples_{task}_*.jsonl")
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for key, value in scores.items():
            metric, comma, under = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            own = scope["rows_of"](rows, metric, under)
            ids = [row["doc_id"] for row in own]
            assert len(set(ids)) == len(ids), "each document once"
            assert value == pytest.approx(np.mean([row[metric] for row in own]))
            joined.add((task, metric, under, len(own), own[0]["filter"]))
    expected = {
        ("two_filters_en", "exact_match", "first", 5, "first"),
        ("two_filters_en", "exact_match", second, 5, second),
        ("two_filters_en", "routing_entropy", "none", 5, home),
        ("two_filters_sw", "exact_match", "first", 6, "first"),
        ("two_filters_sw", "exact_match", second, 6, second),
        ("two_filters_sw", "routing_entropy", "none", 6, home),
        ("two_filters_sw", "routing_divergence", "none", 3, home),
    }
    assert joined == expected


@pytest.mark.parametrize("capture", ["prompt", "off"])
def test_predict_only_counts_the_documents_and_a_cached_run_names_its_cache(
    lm: HFMoE, manager: TaskManager, tmp_path: Path, capture: str
) -> None:
    lm.set_capture(capture)
    path = tmp_path / "cache"
    results = evaluate(lm, manager, ["demo_arith_sw", "demo_arith_en"], predict_only=True, use_cache=path)
    assert results["n-samples"]["demo_arith_sw"] == {"original": 180, "effective": LIMIT}
    assert len(results["samples"]["demo_arith_sw"]) == LIMIT
    assert results["config"]["use_cache"] == str(path)
    assert evaluate(lm, manager, ["demo_arith_en"])["config"]["use_cache"] is None


def test_our_simple_evaluate_takes_lm_evals_arguments_by_their_places(lm: HFMoE, manager: TaskManager) -> None:
    stock, ours = inspect.signature(lm_eval.simple_evaluate), inspect.signature(simple_evaluate)
    theirs = list(stock.parameters.values())
    assert list(ours.parameters.values())[: len(theirs)] == theirs
    further = list(ours.parameters.values())[len(theirs) :]
    assert {each.kind for each in further} == {inspect.Parameter.KEYWORD_ONLY}
    assert not {each.name for each in further} & {each.name for each in theirs}
    # Through num_fewshot, batch_size, ... to limit, by their places alone.
    places = [each.name for each in theirs]
    given = [each.default for each in theirs[3 : places.index("limit")]]
    by_place = simple_evaluate(lm, None, ["demo_arith_sw"], *given, 3, task_manager=manager, bootstrap_iters=0)
    by_name = simple_evaluate(lm, tasks=["demo_arith_sw"], limit=3, task_manager=manager, bootstrap_iters=0)
    assert by_place is not None
    assert by_name is not None
    assert by_place["results"] == by_name["results"]
    with pytest.raises(TypeError, match="stearing"):
        simple_evaluate("hf-moe", {"pretrained": "there/is/no/such/model"}, ["demo_arith_sw"], stearing="x.yaml")
    with pytest.raises(TypeError, match="limit"):
        simple_evaluate(lm, None, ["demo_arith_sw"], *given, 3, limit=3)


def test_records_outside_of_an_evaluation_are_of_the_steering_in_force(lm: HFMoE) -> None:
    requests = [make_request("loglikelihood", ("Anna has", " two apples"), "t", 0)]
    key = RequestKey("t", 0, 0)
    records = []
    for _ in range(2):
        for steering in (None, spec(action="mask")):
            lm.set_steering(steering)
            lm.loglikelihood(requests, disable_tqdm=True)
            records.append(lm.captured.record(key))
    assert len({record.tokens for record in records if record}) == 1
    for first, again in zip(records[:2], records[2:], strict=True):
        np.testing.assert_array_equal(first.counts, again.counts)
    assert not np.array_equal(records[0].counts, records[1].counts)
    lm.set_capture("all")
    assert lm.captured.record(key) is None


def test_missing_reference_is_a_warning_that_names_the_task_to_add(lm: HFMoE, manager: TaskManager) -> None:
    with pytest.warns(RoutingWarning, match="has nothing to be compared with") as caught:
        results = evaluate(lm, manager, ["demo_arith_sw"])
    scores = results["results"]["demo_arith_sw"]
    assert "routing_divergence,none" not in scores
    assert "acc,none" in scores
    assert "routing_entropy,none" in scores
    (message,) = {str(warning.message) for warning in caught if warning.category is RoutingWarning}
    assert results["routing"]["warnings"] == [message]
    assert "demo_arith_sw" in message
    assert "'en'" in message
    assert "--routing_profile" in message


def test_reference_language_has_its_trivial_values_only_if_asked(lm: HFMoE, manager: TaskManager) -> None:
    fields = "routing_divergence,routing_overlap"
    assert "routing_divergence,none" not in evaluate(lm, manager, routing_fields=fields)["results"]["demo_arith_en"]
    asked = evaluate(lm, manager, routing_fields=fields, routing_include_reference=True)["results"]["demo_arith_en"]
    assert asked["routing_divergence,none"] == pytest.approx(0.0, abs=1e-9)
    assert asked["routing_overlap,none"] == 1.0


def test_another_reference_language(lm: HFMoE, manager: TaskManager) -> None:
    results = evaluate(lm, manager, ["demo_arith_en", "demo_arith_ru"], routing_reference="rus")
    forth = evaluate(lm, manager, ["demo_arith_en", "demo_arith_ru"])
    assert results["routing"]["reference"] == "ru"
    assert results["results"]["demo_arith_en"]["routing_divergence,none"] == pytest.approx(
        forth["results"]["demo_arith_ru"]["routing_divergence,none"]
    )


def test_profile_written_by_one_run_is_the_reference_of_another(
    lm: HFMoE, manager: TaskManager, tmp_path: Path
) -> None:
    path = tmp_path / "profile.safetensors"
    together = evaluate(lm, manager, routing_profile=path)
    apart = evaluate(lm, manager, ["demo_arith_sw"], routing_profile=path)
    assert apart["results"]["demo_arith_sw"]["routing_divergence,none"] == pytest.approx(
        together["results"]["demo_arith_sw"]["routing_divergence,none"], abs=1e-6
    )
    header, items, records = read_records(path)
    assert header.model == "demo"
    assert len(items) == len(records) == 3 * LIMIT
    assert all(record.counts.sum() == record.tokens * 2 * 8 for record in records)
    lm.set_capture("all")
    with pytest.raises(UserError, match="captured span is prompt, but this run's is all"):
        evaluate(lm, manager, ["demo_arith_sw"], routing_profile=path)
    lm.set_capture("prompt")
    with pytest.raises(UserError, match="no item in 'de', only in \\['en', 'ru', 'sw'\\]"):
        evaluate(lm, manager, ["demo_arith_sw"], routing_profile=path, routing_reference="de")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as a profile"):
        evaluate(lm, manager, ["demo_arith_sw"], routing_profile=damaged)


def test_chosen_samples_pair_by_item(lm: HFMoE, manager: TaskManager) -> None:
    samples = {"demo_arith_en": [1, 4, 7], "demo_arith_sw": [4, 1]}
    chosen = evaluate(lm, manager, list(samples), limit=None, samples=samples)
    whole = evaluate(lm, manager, list(samples), limit=8)
    by_item = {s["doc"]["item_id"]: s["routing_divergence"] for s in whole["samples"]["demo_arith_sw"]}
    for sample in chosen["samples"]["demo_arith_sw"]:
        assert sample["routing_divergence"] == pytest.approx(by_item[sample["doc"]["item_id"]], abs=1e-6)


def test_rows_pair_by_their_true_index_when_samples_are_chosen(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    for language in ("en", "sw"):
        (tmp_path / f"rows_{language}.yaml").write_text(
            f"include: {tasks_dir()}/demo/demo_arith_{language}.yaml\ntask: rows_{language}\nmetadata: {{version: 1.0, "
            f"routing: {{language: {language}, benchmark: rows, item: row}}}}\n",
            encoding="utf-8",
        )
    files = demo_runs.task_manager(tmp_path)
    chosen = evaluate(lm, files, ["rows_en", "rows_sw"], limit=None, samples={"rows_en": [2, 5], "rows_sw": [5]})
    whole = evaluate(lm, files, ["rows_en", "rows_sw"], limit=6)
    (sample,) = chosen["samples"]["rows_sw"]
    assert sample["routing_divergence"] == pytest.approx(whole["samples"]["rows_sw"][5]["routing_divergence"], abs=1e-6)


def test_steering_is_named_in_the_results_and_its_reach_is_reported(lm: HFMoE, manager: TaskManager) -> None:
    results = evaluate(lm, manager, steering=spec(), routing_fields="all")
    plan = lm.steering
    assert plan is not None
    assert results["routing"]["steering"]["hash"] == plan.hash
    assert results["routing"]["steering"]["experts"] == {str(layer): [1, 5] for layer in range(2, 6)}
    assert results["config"]["steering"] == {"name": "test", "hash": plan.hash}
    for task in TASKS:
        scores = results["results"][task]
        assert 0 < scores["steered_change,none"] < scores["steered_selection,none"] <= 1
    unsteered = evaluate(lm, manager, steering=spec(action="mask"), routing_fields="steered_selection")
    assert unsteered["results"]["demo_arith_en"]["steered_selection,none"] == 0
    assert results["config"]["model"] == "hf-moe"
    assert results["routing"]["model"] == results["config"]["model_args"]["pretrained"] == "demo"
    json.dumps(results["routing"])


def test_steering_limited_to_a_language_leaves_the_others_as_they_are(lm: HFMoE, manager: TaskManager) -> None:
    others = ["demo_arith_en", "demo_arith_ru"]
    plain = evaluate(lm, manager)
    with pytest.warns(RoutingWarning, match="acts on none of its tokens: it has `languages: sw`, not "):
        mixed = evaluate(lm, manager, steering=spec(languages=["swa"], action="activate"))
    for task in others:
        # In a batch with steered rows the experts multiply other groups of tokens at once: the last bits may differ.
        for mine, theirs in zip(mixed["samples"][task], plain["samples"][task], strict=True):
            scores = [[resp[0][0] for resp in sample["resps"]] for sample in (mine, theirs)]
            np.testing.assert_allclose(*scores, atol=1e-5)
        assert "steered_selection,none" not in mixed["results"][task]
    steered, unsteered = (results["samples"]["demo_arith_sw"][0]["resps"][0][0][0] for results in (mixed, plain))
    assert abs(steered - unsteered) > 1e-3
    assert mixed["results"]["demo_arith_sw"]["steered_selection,none"] == 1.0
    lm.set_steering(None)
    alone = evaluate(lm, manager, others)
    with pytest.warns(RoutingWarning, match="acts on none of its tokens: it has `languages: sw`, not "):
        limited = evaluate(lm, manager, others, steering=spec(languages=["swa"], action="activate"))
    for task in others:
        for mine, theirs in zip(limited["samples"][task], alone["samples"][task], strict=True):
            assert mine["resps"] == theirs["resps"]


def test_steering_that_falls_short_is_warned_of(manager: TaskManager, tokenizer: Any) -> None:
    """Groups stand between the logits and the selection; the guard reaches through them."""
    grouped = HFMoE(pretrained=make_model("deepseek_v3"), tokenizer=tokenizer, batch_size=8)
    targets = {"layers": "all", "experts": {"ids": {"all": [1]}}}
    few = TASKS[:1]
    with pytest.warns(RoutingWarning, match=r"in layers 1-2 an activated expert was selected at only \d\d%.*guard: tr"):
        short = evaluate(grouped, manager, few, steering=spec(**targets, action="activate"))
    assert short["results"][few[0]]["steered_selection,none"] < 0.99
    banned = {**targets, "experts": {"ids": {"all": [0, 1, 2, 4, 5, 6]}}}
    with pytest.warns(RoutingWarning, match=r"layers .* a masked expert was selected at \d+\.\d% of the tokens.*guard"):
        evaluate(grouped, manager, few, steering=spec(**banned, action="mask"))
    for action, share in (("activate", 1), ("mask", 0)):
        reached = evaluate(grouped, manager, few, steering=spec(**targets, action=action, guard=True))
        assert reached["results"][few[0]]["steered_selection,none"] == share
    evaluate(grouped, manager, few, steering=spec(**targets, action={"soft": 0.5}))  # promises no selection


def test_capture_off_gives_stock_results(lm: HFMoE, manager: TaskManager) -> None:
    lm.set_capture("off")
    results = evaluate(lm, manager)
    assert not any(entry["curves"] or entry["tokens"] for entry in results["routing"]["tasks"].values())
    assert not any("routing" in key for key in results["results"]["demo_arith_sw"])


def test_the_machine_is_described_once(
    lm: HFMoE, manager: TaskManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[None] = []
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: asked.append(None) or "a machine")
    found = [evaluate(lm, manager, ["demo_arith_en"], limit=1) for _ in range(2)]
    assert [each["pretty_env_info"] for each in found] == ["a machine"] * 2
    assert len(asked) == 1
    lm_eval.simple_evaluate(lm, tasks=["demo_arith_en"], task_manager=manager, limit=1)
    assert len(asked) == 2


def test_rolling_and_generation_tasks_have_fields(lm: HFMoE, manager: TaskManager) -> None:
    tasks = ["demo_text_en", "demo_text_hi", "demo_arith_gen_en", "demo_arith_gen_hi"]
    results = evaluate(lm, manager, tasks, limit=4)
    for task in tasks[1::2]:
        assert 0 < results["results"][task]["routing_divergence,none"] < 1
    lm.set_capture("continuation")
    generated = evaluate(lm, manager, tasks[2:], limit=4)
    assert generated["routing"]["tasks"]["demo_arith_gen_hi"]["tokens"] < 4 * 4


def test_the_harness_own_response_cache_is_refused(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other steering"):
        lm_eval.simple_evaluate(lm, tasks=TASKS, task_manager=manager, use_cache=str(tmp_path / "cache"))


def test_stock_simple_evaluate_steers_by_model_args(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    file = tmp_path / "steer.yaml"
    file.write_text(json.dumps(STEERING), encoding="utf-8")
    stock = lm_eval.simple_evaluate(
        "hf-moe",
        f"pretrained=demo,steering={file},capture=off",
        tasks=TASKS,
        task_manager=manager,
        limit=LIMIT,
        batch_size=8,
        bootstrap_iters=10,
    )
    ours = evaluate(lm, manager, steering=file)
    for task in TASKS:
        for mine, theirs in zip(ours["samples"][task], stock["samples"][task], strict=True):
            assert mine["resps"] == theirs["resps"]
    assert stock["config"]["steering"]["hash"] == ours["routing"]["steering"]["hash"]


def test_language_limits_need_the_tasks_language(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    (tmp_path / "nameless.yaml").write_text(
        f"include: {tasks_dir()}/demo/demo_arith_sw.yaml\ntask: nameless\nmetadata: {{version: 1.0}}\n"
        f"custom_dataset: !function loader.load\n",
        encoding="utf-8",
    )
    (tmp_path / "loader.py").write_text(
        "from datasets import Dataset, DatasetDict\n"
        "def load(**_):\n"
        "    rows = [{'item_id': name, 'prompt': '1 + 1 =', 'choices': ['1', '2'], 'gold': 1} for name in 'abc']\n"
        "    return DatasetDict(test=Dataset.from_list(rows), validation=Dataset.from_list(rows))\n",
        encoding="utf-8",
    )
    files = demo_runs.task_manager(tmp_path)
    refused = pytest.raises(
        UserError, match="limited to some languages, but the language of task 'nameless' is unknown"
    )
    with refused, pytest.warns(RoutingWarning, match="nameless: its language is unknown"):
        evaluate(lm, files, ["nameless"], steering=spec(languages=["sw"]))
    lm.set_steering(None)
    # A file of the user's says what the task itself does not.
    parallel = tmp_path / "parallel.yaml"
    parallel.write_text(
        "version: 1\nentries:\n  - {tasks: nameless, benchmark: mine, item: item_id, language: swh_Latn}\n",
        encoding="utf-8",
    )
    results = evaluate(lm, files, ["nameless"], steering=spec(languages=["sw"]), parallel=str(parallel))
    assert results["routing"]["tasks"]["nameless"]["language"] == "sw"
    assert results["results"]["nameless"]["steered_selection,none"] > 0


def test_fields_and_curves_have_the_order_of_the_documentation() -> None:
    from lm_eval_moe.routing_fields import CURVES, FIELDS

    assert list(CURVES) == ["divergence", "entropy", "overlap", "steered_selection", "steered_change"]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = page.partition("| `routing_divergence` |")
    assert re.findall(r"`((?:routing|steered)_\w+)`", "".join(table[1:]).partition("\n\n")[0]) == list(FIELDS)
