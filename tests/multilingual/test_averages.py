"""Averages over a group's languages, against numbers worked out by hand and against the statistics module."""

from __future__ import annotations

import math
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.evaluation.averages import add_averages
from lm_eval_moe.pairing import TaskPairing
from lm_eval_moe.resources import tasks_dir
from lm_eval_moe.results.routing import GroupRouting

# English, German and Russian are high, Thai is mid, Swahili is low (Joshi et al. 2020: 5, 5, 4, 3, 2).
ACCURACY = {"en": 0.9, "de": 0.8, "ru": 0.7, "th": 0.6, "sw": 0.2}


def results(
    tables: dict[str, dict[str, Any]], groups: dict[str, list[str]], samples: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return results as lm-eval has them, every task with a standard error of 0.1 and ten documents."""
    table: dict[str, dict[str, Any]] = {}
    for name, scores in tables.items():
        table[name] = {"alias": name, "sample_len": 10}
        for metric, value in scores.items():
            table[name] |= {f"{metric},none": value, f"{metric}_stderr,none": 0.1}
    found = {
        "results": table,
        "groups": {name: dict(table[name]) for name in groups if len(table[name]) > 2},
        "group_subtasks": groups,
        "versions": dict.fromkeys(tables, 1.0),
        "n-shot": {name: 0 for name in tables if name not in groups},
        "higher_is_better": {name: {"acc": True} for name in tables if name not in groups},
    }
    return found | ({"samples": samples} if samples else {})


def pairings(*tasks: str, benchmark: str = "b") -> dict[str, TaskPairing | None]:
    """Take the language from the name's second part, a level from its third."""
    found: dict[str, TaskPairing | None] = {}
    for task in tasks:
        _, language, *level = task.split("_")
        found[task] = TaskPairing(task, language, f"{benchmark}[{level[0]}]" if level else benchmark, ("id",))
    return found


def of_five_languages(**changes: Any) -> tuple[dict[str, Any], dict[str, TaskPairing | None]]:
    tasks = {f"b_{language}": {"acc": value} for language, value in ACCURACY.items()}
    groups = {"b": list(tasks)} | changes.pop("groups", {})
    return results({**tasks, "b": {"acc": 0.64}, **changes}, groups), pairings(*tasks)


def test_each_average_is_the_mean_over_its_languages() -> None:
    found, known = of_five_languages()
    described = add_averages(found, known)
    assert {name: round(found["groups"][name]["acc,none"], 12) for name in found["groups"]} == {
        "b": 0.64,  # lm-eval's own
        "b_non_english": 0.575,  # (0.8 + 0.7 + 0.6 + 0.2) / 4
        "b_high_resource": 0.75,  # (0.8 + 0.7) / 2, without English
        "b_mid_resource": 0.6,
        "b_low_resource": 0.2,
    }
    assert found["results"]["b_non_english"] == found["groups"]["b_non_english"]
    assert found["results"]["b_non_english"]["acc_stderr,none"] == pytest.approx(0.1 / 2)  # sqrt(4 x 0.01) / 4
    assert found["results"]["b_high_resource"]["acc_stderr,none"] == pytest.approx(0.1 / math.sqrt(2))
    assert found["results"]["b_non_english"]["sample_len"] == 40
    assert described["b"].languages == {language: (f"b_{language}",) for language in ACCURACY}
    assert described["b_high_resource"].to_dict() == {"of": "b", "languages": {"de": ["b_de"], "ru": ["b_ru"]}}


def test_another_reference_than_english_has_an_average_without_it() -> None:
    found, known = of_five_languages()
    described = add_averages(found, known, "sw")
    assert found["groups"]["b_non_sw"]["acc,none"] == pytest.approx(0.75)  # (0.9 + 0.8 + 0.7 + 0.6) / 4
    assert described["b_non_sw"].of == "b"
    assert set(found["groups"]) == {
        *("b", "b_non_sw", "b_non_english", "b_high_resource", "b_mid_resource", "b_low_resource")
    }


def nested(*, aggregated: bool) -> tuple[dict[str, Any], dict[str, TaskPairing | None]]:
    """A group of two groups, levels of three languages each, with an average over all six tasks or without."""
    tasks = {f"n_{lang}_{level}": {"acc": 0.5} for level in ("easy", "hard") for lang in ("en", "sw", "th")}
    groups = {f"n_{level}": [name for name in tasks if name.endswith(level)] for level in ("easy", "hard")}
    groups["n"] = ["n_easy", "n_hard"]
    scores = {"n_easy": {"acc": 0.5}, "n_hard": {"acc": 0.5}, "n": {"acc": 0.5} if aggregated else {}}
    return results({**tasks, **scores}, groups), pairings(*tasks, benchmark="n")


def test_in_a_group_without_an_average_of_its_own_the_subgroups_have_theirs() -> None:
    found, known = nested(aggregated=False)
    described = add_averages(found, known)
    added = {
        f"n_{level}_{name}" for level in ("easy", "hard") for name in ("non_english", "mid_resource", "low_resource")
    }
    assert set(found["groups"]) == {"n_easy", "n_hard", *added}
    assert described["n_hard_non_english"].languages == {"sw": ("n_sw_hard",), "th": ("n_th_hard",)}
    whole, known = nested(aggregated=True)
    add_averages(whole, known)
    assert not added & set(whole["groups"])  # of the outermost group only
    assert {"n_non_english", "n_sw", "n_low_resource"} <= set(whole["groups"])


def test_a_group_of_one_group_a_language_without_an_average_of_its_own_is_warned_of() -> None:
    found, known = nested(aggregated=False)
    groups = {f"n_{lang}": [f"n_{lang}_easy", f"n_{lang}_hard"] for lang in ("en", "sw", "th")}
    table = results({name: {"acc": 0.5} for name in groups} | {"n": {}}, groups | {"n": list(groups)})
    found |= {"results": found["results"] | table["results"]}
    found |= {"groups": table["groups"], "group_subtasks": table["group_subtasks"]}
    with pytest.warns(RoutingWarning, match="n aggregates no scores itself, so there are no averages over its 3 lang"):
        add_averages(found, known)
    assert set(found["groups"]) == set(groups)


def test_an_average_that_a_subgroup_gives_is_not_added_again() -> None:
    found, known = of_five_languages(
        groups={"b_european": ["b_de", "b_ru"], "b": ["b_en", "b_european", "b_th", "b_sw"]}, b_european={"acc": 0.75}
    )
    described = add_averages(found, known)
    assert set(found["groups"]) == {"b", "b_european", "b_non_english", "b_mid_resource", "b_low_resource"}
    assert set(described["b_european"].languages) == {"de", "ru"}


def test_a_language_without_a_value_is_left_out_of_that_metric() -> None:
    found, known = of_five_languages()
    for language, value in {"de": 0.1, "ru": 0.3, "th": 0.2, "sw": 0.4}.items():
        found["results"][f"b_{language}"]["routing_divergence,none"] = value
    found["results"]["b"]["routing_divergence,none"] = 0.25
    del found["results"]["b_th"]["routing_divergence,none"]
    add_averages(found, known)
    assert found["results"]["b_non_english"]["routing_divergence,none"] == pytest.approx(0.8 / 3)
    assert "routing_divergence,none" not in found["results"]["b_mid_resource"]
    assert found["results"]["b_non_english"]["routing_divergence_stderr,none"] == "N/A"  # the tasks have none


def levels(**sizes: int) -> tuple[dict[str, Any], dict[str, TaskPairing | None]]:
    """Two levels of two languages: en 0.9 and 0.5, sw 0.6 and 0.0."""
    scores = {"p_en_easy": 0.9, "p_en_hard": 0.5, "p_sw_easy": 0.6, "p_sw_hard": 0.0}
    groups = {"p_easy": ["p_en_easy", "p_sw_easy"], "p_hard": ["p_en_hard", "p_sw_hard"], "p": ["p_easy", "p_hard"]}
    tables = {name: {"acc": value} for name, value in scores.items()} | {
        "p_easy": {"acc": 0.75},
        "p_hard": {"acc": 0.25},
        "p": {"acc": 0.5},
    }
    found = results(tables, groups)
    for name, size in sizes.items():
        found["results"][name]["sample_len"] = size
    return found, pairings(*scores, benchmark="p")


def test_a_languages_tasks_are_averaged_first_and_get_a_row() -> None:
    found, known = levels(p_sw_easy=90)  # sizes do not matter
    add_averages(found, known)
    assert found["results"]["p_en"]["acc,none"] == pytest.approx(0.7)
    assert found["results"]["p_sw"]["acc,none"] == pytest.approx(0.3)
    assert found["results"]["p_sw"]["acc_stderr,none"] == pytest.approx(0.1 / math.sqrt(2))
    # Swahili alone is all that is not English: one row of each name, of the same tasks.
    assert found["results"]["p_non_english"]["acc,none"] == pytest.approx(0.3)
    assert not {"p_easy_non_english", "p_easy_sw"} & set(found["results"])  # of the outermost group only


def test_a_languages_own_subgroup_says_what_its_value_is() -> None:
    found, known = levels()
    by_size = {"p_sw_all": {"acc": 0.48}}  # lm-eval's, weighted by size: (80 x 0.6 + 20 x 0) / 100
    tables = found["results"] | results(by_size, {"p_sw_all": []})["results"]
    found |= {"results": tables, "groups": {"p": tables["p"], "p_sw_all": tables["p_sw_all"]}}
    found["group_subtasks"] = {"p_sw_all": ["p_sw_easy", "p_sw_hard"], "p": ["p_en_easy", "p_en_hard", "p_sw_all"]}
    add_averages(found, known)
    assert "p_sw" not in found["results"]
    assert "p_non_english" not in found["results"]  # the subgroup is all that is not English
    assert found["results"]["p_en"]["acc,none"] == pytest.approx(0.7)


def logged(values: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {"doc_id": row, "doc": {"id": name}, "filter": "none", "acc": value}
        for row, (name, value) in enumerate(values.items())
    ]


def with_samples() -> tuple[dict[str, Any], dict[str, TaskPairing | None]]:
    """German and Swahili on the same four items; English on them, too."""
    samples = {
        "b_en": logged({"i1": 1, "i2": 1, "i3": 1, "i4": 1}),
        "b_de": logged({"i1": 1, "i2": 1, "i3": 0, "i4": 0}),
        "b_sw": logged({"i2": 1, "i1": 1, "i4": 0, "i3": 0}),  # in another order
    }
    tables = {"b_en": {"acc": 1.0}, "b_de": {"acc": 0.5}, "b_sw": {"acc": 0.5}, "b": {"acc": 2 / 3}}
    return results(tables, {"b": ["b_en", "b_de", "b_sw"]}, samples), pairings("b_en", "b_de", "b_sw")


def test_with_samples_the_same_item_in_several_languages_is_one_cluster() -> None:
    found, known = with_samples()
    described = add_averages(found, known)
    # Each item's u = (1/2)(1/4)(+-0.5) twice = +-0.125; variance = 4/3 x 4 x 0.125^2 = 1/12. As if there were four
    # values 1, 1, 0, 0 and not eight: their standard error is sqrt(1/3 / 4).
    assert described["b_non_english"].clustered_stderr["acc,none"] == pytest.approx(math.sqrt(1 / 12))
    # English adds no residuals: weights 1/3 each instead of 1/2.
    assert described["b"].clustered_stderr["acc,none"] == pytest.approx(math.sqrt(1 / 12) * 2 / 3)
    # lm-eval's column takes tasks as independent, in its own groups and in ours, with samples or without.
    assert found["results"]["b"]["acc_stderr,none"] == 0.1
    assert found["results"]["b_non_english"]["acc_stderr,none"] == pytest.approx(0.1 / math.sqrt(2))
    assert found["groups"]["b_non_english"]["acc_stderr,none"] == pytest.approx(0.1 / math.sqrt(2))


def test_a_metric_that_is_not_the_mean_of_its_documents_is_not_clustered() -> None:
    found, known = with_samples()
    found["results"]["b_sw"]["acc,none"] = 0.7
    described = add_averages(found, known)
    assert found["results"]["b_non_english"]["acc,none"] == pytest.approx(0.6)
    assert found["results"]["b_non_english"]["acc_stderr,none"] == pytest.approx(0.1 / math.sqrt(2))
    assert not described["b_non_english"].clustered_stderr


def test_groups_that_cannot_be_taken_apart_say_why() -> None:
    found, known = of_five_languages()
    known["b_th"] = None
    assert add_averages(found, known) == {"b": GroupRouting(why_not="the language of b_th is unknown")}
    found, known = levels()
    del found["results"]["p_sw_hard"], known["p_sw_hard"]
    found["group_subtasks"] = {"p": ["p_en_easy", "p_en_hard", "p_sw_easy"]}
    found["groups"] = {"p": found["results"]["p"]}
    assert add_averages(found, known) == {"p": GroupRouting(why_not="the tasks in sw are not those in en")}
    assert not any(name.startswith("p_non") for name in found["results"])


def test_a_name_that_is_taken_is_left_alone() -> None:
    found, known = of_five_languages(b_non_english={"acc": 0.123})
    with pytest.warns(RoutingWarning, match="b_non_english is already the name of a task or group"):
        add_averages(found, known)
    assert found["results"]["b_non_english"]["acc,none"] == 0.123


def test_a_run_shows_the_averages_under_its_group() -> None:
    manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)
    lm = HFMoE(pretrained="demo", batch_size=16)
    found = simple_evaluate(lm, tasks=["demo_arith"], task_manager=manager, limit=4, bootstrap_iters=0)
    assert found is not None
    languages = ("de", "es", "ru", "zh", "tr", "hi", "sw")
    for metric in ("acc,none", "routing_divergence,none"):
        mean = sum(found["results"][f"demo_arith_{language}"][metric] for language in languages) / 7
        assert found["groups"]["demo_arith_non_english"][metric] == pytest.approx(mean)
    assert tuple(found["routing"]["groups"]["demo_arith_non_english"]["languages"]) == languages
    assert set(found["routing"]["groups"]["demo_arith_low_resource"]["languages"]) == {"sw"}
    rows = [line.split("|")[1].strip() for line in make_table(found).splitlines()[2:]]
    shown = [row for row in rows if row]
    assert shown[0] == "demo_arith"
    assert shown[-3:] == ["demo_arith_high_resource", "demo_arith_low_resource", "demo_arith_non_english"]
