"""Items that pair are the same items: repeated keys are refused, rows in another order are found out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager
from support.paths import SHARED
from support.profile_records import read_records, write_records

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.evaluation.paired_items import agreement, gold_answer
from lm_eval_moe.multilingual.local_data import BENCH_DIR_VARIABLE
from lm_eval_moe.resources import tasks_dir

BENCH = SHARED / "bench"
needs_bench = pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmark data (../shared/data) is not there")
NUMBERS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38]


@pytest.fixture(scope="module")
def lm() -> HFMoE:
    return HFMoE(pretrained="demo", batch_size=8)


def task(folder: Path, language: str, rows: list[dict[str, Any]], item: str = "row", **more: Any) -> str:
    """Write a generation task of ours that reads its rows from a file."""
    file = folder / f"{language}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {
        "task": f"sums_{language}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 1},
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "routing": {"language": language, "benchmark": "sums", "item": item}},
        **more,
    }
    (folder / f"sums_{language}.yaml").write_text(json.dumps(config), encoding="utf-8")
    return f"sums_{language}"


def evaluate(lm: HFMoE, folder: Path, names: list[str], **kwargs: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=[str(folder)], include_defaults=False)
    results = simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0, **kwargs)
    assert results is not None
    return results


def rows(answers: list[Any], text: str = "What is {}?") -> list[dict[str, Any]]:
    return [{"question": text.format(answer), "answer": str(answer)} for answer in answers]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# ---------------------------------------------------------------------- repeated keys


def test_a_key_twice_in_a_task_is_refused_by_key_and_rows(lm: HFMoE, tmp_path: Path) -> None:
    english = task(tmp_path, "en", [{**row, "id": f"q{n % 4}"} for n, row in enumerate(rows(NUMBERS[:6]))], item="id")
    with pytest.raises(UserError) as refused:
        evaluate(lm, tmp_path, [english])
    assert "task sums_en: the key 'q0' names several items, those in rows 0, 4, and so do 1 other keys" in str(
        refused.value
    )
    assert "its items are named by id: remove" in str(refused.value)
    evaluate(lm, tmp_path, [english], limit=4)  # of these each is there once


def test_a_key_twice_in_a_profile_is_refused(lm: HFMoE, tmp_path: Path) -> None:
    english, swahili = task(tmp_path, "en", rows(NUMBERS[:4])), task(tmp_path, "sw", rows(NUMBERS[:4], "Je, ni {}?"))
    profile = tmp_path / "en.safetensors"
    evaluate(lm, tmp_path, [english], routing_profile=profile)
    evaluate(lm, tmp_path, [swahili], routing_profile=profile)
    header, items, records = read_records(profile)
    write_records(profile, header, [*items, items[1]], [*records, records[2]])
    with pytest.raises(UserError, match=r"the key 'sums row:1' names several items, those in rows 1, 4"):
        evaluate(lm, tmp_path, [swahili], routing_profile=profile)


# ---------------------------------------------------------------------- another order


def test_rows_in_another_order_are_a_loud_warning(lm: HFMoE, tmp_path: Path) -> None:
    """Silent where they are in one order, with digits and separators of the language's own."""
    english = task(tmp_path, "en", rows([*NUMBERS, 1200]))
    task(tmp_path, "sw", rows([*NUMBERS, "1,200"], "Je, ni {}?"))
    evaluate(lm, tmp_path, [english, "sums_sw"])  # warnings of ours are errors in the tests
    swahili = task(tmp_path, "sw", rows([*NUMBERS[3:], *NUMBERS[:3], 1200], "Je, ni {}?"))
    for names in ([english, swahili], [swahili, english]):
        with pytest.warns(
            RoutingWarning, match=r"sums_sw and sums_en are paired by row, but only 1 of 11 right answers agree"
        ):
            evaluate(lm, tmp_path, names)
    with pytest.warns(RoutingWarning, match=r"only 0 of 5 right answers agree"):  # with what else is in the first rows
        evaluate(lm, tmp_path, [english, swahili], limit=5)


@needs_bench
def test_real_problems_agree_in_their_own_order_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(BENCH))
    manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)

    def golds(name: str) -> list[str | None]:
        loaded = manager.load([name])["tasks"][name]
        return [gold_answer(loaded, doc) for doc in loaded.eval_docs]

    def by_row(answers: list[str | None]) -> dict[str, str | None]:
        return {f"row:{row}": answer for row, answer in enumerate(answers)}

    for benchmark, languages in (("mgsm_boxed", ("bn", "th", "sw")), ("xcopa", ("sw", "th", "qu"))):
        english = golds(f"moe_{benchmark}_en")
        for language in languages:
            own = golds(f"moe_{benchmark}_{language}")
            assert not agreement(by_row(own), by_row(english)).shuffled
            mixed = own.copy()
            random.Random(0).shuffle(mixed)
            for part in (mixed, own[1:] + own[:1], mixed[:60], own[: len(own) // 3] + mixed[len(own) // 3 :]):
                result = agreement(by_row(part), by_row(english))
                assert result.shuffled, (benchmark, language, result)


@given(st.integers(4, 200), st.integers(2, 4), st.integers(0, 2), st.randoms(use_true_random=False))
def test_some_slips_are_no_other_order(documents: int, choices: int, slips: int, chance: random.Random) -> None:
    english = {str(n): str(chance.randrange(choices)) for n in range(documents)}
    other = english | {str(n): "0" for n in range(slips)}
    assert not agreement(other, english).shuffled
    assert agreement(other, english).agreeing >= documents - slips


@pytest.mark.parametrize("documents", [5, 50])
def test_translated_answers_say_nothing(documents: int) -> None:
    """Also where some are names or numbers that every language has; whether they are in order cannot be told."""
    english = {str(n): f"word {n}" for n in range(documents)}
    other = {str(n): f"neno {n}" for n in range(documents)} | {"0": "word 3", "1": "word 0"}
    assert not agreement(other, english).shuffled


def test_the_chance_of_agreeing_is_that_of_a_random_order() -> None:
    one, other = dict(enumerate("aaabbc")), dict(enumerate("abcabb"))
    letters = list(other.values())
    generator, hits = random.Random(1), []
    for _ in range(4000):
        generator.shuffle(letters)
        hits.append(sum(a == b for a, b in zip(one.values(), letters, strict=True)))
    keyed = [{str(key): answer for key, answer in each.items()} for each in (one, other)]
    assert agreement(*keyed).by_chance == pytest.approx(sum(hits) / len(hits), abs=0.1)


def turned(answers: list[str], count: int) -> dict[str, str | None]:
    """Move the first so many answers on by one row."""
    return {str(n): answer for n, answer in enumerate([*answers[1:count], answers[0], *answers[count:]])}


@pytest.mark.parametrize(
    ("answers", "other", "shuffled"),
    [
        (["1", "2"], ["2", "1"], False),  # two that differ are slips
        (["1", "2", "3"], ["2", "3", "1"], True),
        (
            [str(n) for n in range(20)],
            list(turned([str(n) for n in range(20)], 9).values()),
            False,
        ),  # 9 of 19 by chance
        ([str(n) for n in range(20)], list(turned([str(n) for n in range(20)], 10).values()), True),
        (list("abcdefghij"), list("bcdefghaxy"), True),  # eight of ten are the same texts
        (list("abcdefghij"), list("bcdefgaxyz"), False),  # seven
        (["7"] * 9, ["7"] * 9, False),
    ],
)
def test_where_a_shuffle_begins(answers: list[str], other: list[str], shuffled: bool) -> None:
    one, two = ({str(n): answer for n, answer in enumerate(each)} for each in (answers, other))
    assert agreement(one, two).shuffled is shuffled
    assert agreement(two, one).shuffled is shuffled
