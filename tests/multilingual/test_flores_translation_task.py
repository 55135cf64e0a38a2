"""FLORES+ from English through lm-eval, on rows of the dataset card's columns (id, text and what describes them)."""

from __future__ import annotations

import pytest
import sacrebleu
from support.answering_models import (
    AnsweringModel,
    evaluate,
    identity,
    item_keys,
    load_task,
    manager,
    prompt_of,
    write_rows,
)

from lm_eval_moe.errors import RoutingWarning, UserError

TEXTS = {
    ("en", "eng", "Latn"): [
        "The farmer sells her eggs at the market every morning.",
        "Two hundred people came to see the new bridge.",
        "The weather will be warmer at the end of the week.",
    ],
    ("de", "deu", "Latn"): [
        "Die Bäuerin verkauft ihre Eier jeden Morgen auf dem Markt.",
        "Zweihundert Menschen kamen, um die neue Brücke zu sehen.",
        "Das Wetter wird gegen Ende der Woche wärmer.",
    ],
    ("zh", "cmn", "Hans"): [
        "农妇每天早上在市场上卖她的鸡蛋。",
        "两百人前来观看这座新桥。",
        "这个周末天气会变得更暖和。",
    ],
    ("bm", "bam", "Latn"): ["Sɛnɛkɛla bɛ a ka fanw feere.", "Mɔgɔ kɛmɛ fila nana.", "Teliman bɛna bonya."],
}
GERMAN = TEXTS["de", "deu", "Latn"]


def _row(number: int, text: str, iso: str, script: str) -> dict[str, object]:
    return {
        **{"id": number, "iso_639_3": iso, "iso_15924": script, "glottocode": "stan1293", "text": text},
        **{"url": "https://en.wikinews.org/wiki/x", "domain": "wikinews", "topic": "health"},
        **{"has_image": "yes", "has_hyperlink": "yes", "last_updated": "1.0"},
    }


@pytest.fixture(autouse=True)
def _rows(tmp_path, monkeypatch):
    for (file, iso, script), texts in TEXTS.items():
        write_rows(tmp_path / "flores", file, [_row(number, text, iso, script) for number, text in enumerate(texts)])
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))


@pytest.mark.parametrize(("language", "name"), [("de", "German"), ("zh", "Chinese")])
def test_the_prompt_is_the_published_one(language, name):
    assert prompt_of(f"moe_flores_en_x_{language}", 1) == (
        f"Translate the following English text into {name}.\n"
        f"English: Two hundred people came to see the new bridge.\n\n{name}:"
    )
    task = load_task(f"moe_flores_en_x_{language}")
    assert task.doc_to_target(task.eval_docs[1]) == TEXTS[next(key for key in TEXTS if key[0] == language)][1]


def test_right_translations_have_full_scores():
    scores = evaluate(AnsweringModel(lambda doc: f" {doc['reference']}\n"), "moe_flores_en_x_de", "moe_flores_en_x_zh")
    for row in scores.values():
        assert row == {"chrf++": pytest.approx(100.0), "language_consistency": 1.0, "language_judged": 1.0}


def test_chrf_plus_plus_is_that_of_the_corpus():
    said = [text.replace("Markt", "Platz").replace("Brücke", "Bahn")[:-3] for text in GERMAN]
    answers = dict(zip(range(3), said, strict=True))
    scores = evaluate(AnsweringModel(lambda doc: answers[doc["id"]]), "moe_flores_en_x_de")
    expected = sacrebleu.corpus_chrf(said, [GERMAN], word_order=2).score
    assert scores["moe_flores_en_x_de"]["chrf++"] == pytest.approx(expected)
    mean = sum(sacrebleu.sentence_chrf(s, [r], word_order=2).score for s, r in zip(said, GERMAN, strict=True)) / 3
    assert expected != pytest.approx(mean)


def test_the_standard_error_is_bootstrapped_over_sentences():
    import lm_eval

    # A hundred draws are all that lm-eval makes of this metric.
    found = lm_eval.simple_evaluate(
        AnsweringModel(lambda doc: doc["reference"][: 20 + 10 * doc["id"]]),
        tasks=["moe_flores_en_x_de"],
        task_manager=manager(),
        bootstrap_iters=10,
    )
    row = found["results"]["moe_flores_en_x_de"]
    assert 0 < row["chrf++_stderr,none"] < row["chrf++,none"]


def test_a_model_that_copies_the_english_is_caught():
    scores = evaluate(AnsweringModel(lambda doc: doc["source"]), "moe_flores_en_x_de", "moe_flores_en_x_zh")
    assert [row["language_consistency"] for row in scores.values()] == [0.0, 0.0]
    assert all(row["chrf++"] < 25 for row in scores.values())


def test_sentences_are_named_by_their_id_and_have_no_english_counterpart():
    assert item_keys("moe_flores_en_x_de") == item_keys("moe_flores_en_x_zh") == ["0", "1", "2"]
    assert identity("moe_flores_en_x_de") == ("flores_en_x", "de")
    assert "moe_flores_en_x_en" not in manager().all_tasks


def test_a_language_that_the_identifier_does_not_know_is_warned_of():
    with pytest.warns(RoutingWarning, match="does not know bm"):
        scores = evaluate(AnsweringModel(lambda doc: doc["reference"]), "moe_flores_en_x_bm")
    assert scores["moe_flores_en_x_bm"] == {"chrf++": pytest.approx(100.0)}


def test_sentences_without_a_translation_are_refused(tmp_path):
    write_rows(tmp_path / "flores", "de", [_row(0, GERMAN[0], "deu", "Latn")])
    with pytest.raises(UserError, match="2 English sentences have no translation, such as those with id 1, 2"):
        load_task("moe_flores_en_x_de")


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path):
    write_rows(tmp_path / "flores", "de", [{"id": 0, "sentence": GERMAN[0]}])
    with pytest.raises(UserError, match=r"the column 'text' is missing(.|\n)*the columns are id, sentence"):
        load_task("moe_flores_en_x_de")
