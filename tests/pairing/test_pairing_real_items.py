"""Items that the bundled file pairs are the same item, on the benchmarks' own rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.paths import SHARED

from lm_eval_moe.pairing import PairingRegistry

BENCH = SHARED / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmark data (../shared/data) is not on this machine")

MGSM = ("bn", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
XCOPA = ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh")
SIB = {"fra": "fra_Latn", "hau": "hau_Latn", "swa": "swh_Latn", "yor": "yor_Latn", "zul": "zul_Latn", "por": "por_Latn"}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_item(task: str, documents: list[dict[str, Any]], field: str) -> Mapping[str, Any]:
    """Map the item keys of a task's documents to what every language must agree on."""
    pairing = PairingRegistry.default().pairing(task)
    keys = {pairing.item_key(doc, row): doc[field] for row, doc in enumerate(documents)}
    assert len(keys) == len(documents), "two documents have the same key"
    return keys


def share_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    assert one.keys() == other.keys()
    return sum(one[key] == other[key] for key in one) / len(one)


@pytest.mark.parametrize("language", MGSM)
@pytest.mark.parametrize("variant", ["direct", "native_cot"])
def test_mgsm_rows_have_the_same_answer_in_every_language(variant, language) -> None:
    english = by_item(f"mgsm_{variant}_en", rows(BENCH / "mgsm" / "en.jsonl"), "answer_number")
    documents = rows(BENCH / "mgsm" / f"{language}.jsonl")
    assert len(documents) == 250
    assert share_equal(by_item(f"mgsm_{variant}_{language}", documents, "answer_number"), english) == 1
    # The check can tell: rows off by one rarely share an answer.
    shifted = by_item(f"mgsm_{variant}_{language}", documents[1:] + documents[:1], "answer_number")
    assert share_equal(shifted, english) < 0.1


@pytest.mark.parametrize("language", XCOPA)
def test_xcopa_items_have_the_same_label_in_every_language(language) -> None:
    estonian = by_item("xcopa_et", rows(BENCH / "xcopa" / "et.test.jsonl"), "label")
    documents = rows(BENCH / "xcopa" / f"{language}.test.jsonl")
    # The row order must not matter: items pair by their field.
    paired = by_item(f"xcopa_{language}", documents[::-1], "label")
    assert len(paired) == 500
    assert share_equal(paired, estonian) == 1


def test_english_copa_of_the_users_own_file_pairs_with_xcopa(tmp_path) -> None:
    path = tmp_path / "copa.yaml"
    path.write_text(
        "version: 1\nentries: [{tasks: copa_en, language: en, benchmark: xcopa, item: idx}]", encoding="utf-8"
    )
    registry = PairingRegistry.default([path])
    english, swahili = registry.pairing("copa_en"), registry.pairing("xcopa_sw")
    assert registry.reference_tasks(swahili, "en", [english]) == (english,)
    labels = {
        english.item_key(d, i): (d["id"], d["label"]) for i, d in enumerate(rows(BENCH / "xcopa" / "en.test.jsonl"))
    }
    for row, doc in enumerate(rows(BENCH / "xcopa" / "sw.test.jsonl")):
        assert labels[swahili.item_key(doc, row)] == (doc["id"], doc["label"])


@pytest.mark.parametrize(("code", "file"), SIB.items())
def test_sib_items_have_the_same_topic_in_every_language(code, file) -> None:
    english = by_item("sib_eng_prompt_1", rows(BENCH / "sib200" / "eng_Latn.test.jsonl"), "category")
    documents = rows(BENCH / "sib200" / f"{file}.test.jsonl")
    paired = by_item(f"sib_{code}_prompt_1", documents[::-1], "category")
    assert len(paired) == 204
    assert share_equal(paired, english) == 1
