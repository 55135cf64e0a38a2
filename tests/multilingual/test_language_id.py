"""Which language a text is in: what is judged, what is left out, and that real sentences are told apart."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.answering_models import BENCH, needs_bench

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.languages import canonical_language
from lm_eval_moe.multilingual import language_id
from lm_eval_moe.multilingual.language_id import (
    can_identify,
    identify,
    language_consistency,
    prepare_identifier,
    prose,
)

SENTENCES = {
    "en": "She has nine eggs left after breakfast and sells them at the market.",
    "de": "Nach dem Frühstück hat sie noch neun Eier und verkauft sie auf dem Markt.",
    "fr": "Après le petit déjeuner, il lui reste neuf œufs qu'elle vend au marché.",
    "sw": "Baada ya kifungua kinywa, anabaki na mayai tisa na kuyauza sokoni.",
    "ru": "После завтрака у неё остаётся девять яиц, и она продаёт их на рынке.",
    "zh": "早餐之后她还剩下九个鸡蛋，她把它们拿到市场上去卖。",
    "ja": "朝食の後、彼女には卵が九個残っていて、それを市場で売ります。",
    "th": "หลังอาหารเช้าเธอเหลือไข่เก้าฟองและนำไปขายที่ตลาด",
    "bn": "সকালের নাস্তার পর তার কাছে নয়টি ডিম থাকে এবং সে সেগুলি বাজারে বিক্রি করে।",
    "te": "అల్పాహారం తర్వాత ఆమె దగ్గర తొమ్మిది గుడ్లు మిగిలి ఉన్నాయి, వాటిని ఆమె మార్కెట్‌లో అమ్ముతుంది.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_is_in_its_own_language_and_in_no_other(language):
    consistent = {asked: language_consistency(SENTENCES[language], asked) for asked in SENTENCES}
    assert consistent == {asked: float(asked == language) for asked in SENTENCES}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"Also \(13 \times 2\) Euro, \boxed{26}.", "Also Euro"),
        ("Es sind $x + 1$ Äpfel\n$$\\text{some English}$$ im Korb", "Es sind Äpfel im Korb"),
        (r"Daraus folgt \begin{align} a &= \text{words} \\ b \end{align} sofort", "Daraus folgt sofort"),
        ("Es kostet $5 und dann noch $6 mehr", "Es kostet und dann noch mehr"),
        ("vorher ```python\nprint('hello there')\n``` nachher `code` Ende", "vorher nachher Ende"),
        ("vorher ```python\nnever closed", "vorher"),
        ("siehe https://example.org/an/English/page <b>hier</b>", "siehe hier"),
        ("১৮টি ডিম, 18 %", "টি ডিম"),
        ("l'œuf d’or", "l'œuf d’or"),
    ],
)
def test_only_the_words_of_a_text_count(text, words):
    assert prose(text) == words


@pytest.mark.parametrize("text", ["", "18", r"\boxed{18}", "$$x^2 + y^2 = z^2$$", "Ja, 18.", "答案是十八。"])
def test_too_little_prose_is_not_judged(text):
    assert identify(text) is None
    assert language_consistency(text, "de") is None


def test_a_short_chinese_sentence_is_prose_enough():
    assert language_consistency("她每天卖出九个鸡蛋。", "zh") == 1.0


def test_formulas_and_code_do_not_make_an_answer_english():
    english = "the number of eggs that are left over from the farm for every one of the following days of the week"
    answer = rf"Sie verkauft also täglich $\text{{{english}}}$ auf dem Markt: \boxed{{18}}. `{english}`"
    assert identify(english) == "en"
    assert language_consistency(answer, "de") == 1.0


def test_scripts_and_varieties_of_a_language_count_as_the_language():
    assert language_consistency("早餐之後她還剩下九個雞蛋，她把它們拿到市場上去賣。", "zh-Hant") == 1.0
    assert language_consistency("После завтрака у неё остаётся девять яиц.", "zh-Hant") == 0.0


@pytest.mark.parametrize(
    ("language", "known"),
    [
        *((tag, True) for tag in ("en", "zh-Hant", "sr-Latn", "am", "ky", "kok", "fil")),
        *((tag, False) for tag in ("bm", "hi-Latn", "acm-Arab", "nqo")),
    ],
)
def test_what_the_identifier_knows(language, known):
    assert can_identify(language) is known


def test_an_unknown_language_is_warned_of_and_has_no_value():
    with pytest.warns(RoutingWarning, match="does not know bm: answers in it have no language_consistency"):
        prepare_identifier("bm")
    assert language_consistency(SENTENCES["en"], "bm") is None


def test_a_known_language_is_not_warned_of(recwarn):
    prepare_identifier("sw")
    assert not recwarn.list


def test_a_missing_library_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    monkeypatch.setattr(language_id, "_identifier", language_id._identifier.__wrapped__)
    with pytest.raises(UserError, match=r'py3langid, which is not installed\n.*pip install "lm-eval-moe\[tasks\]"'):
        language_id._identifier()


def test_the_same_text_has_the_same_language_in_every_process():
    program = (
        "import json, sys; from lm_eval_moe.multilingual.language_id import identify;"
        "print(json.dumps([identify(text) for text in json.load(sys.stdin)]))"
    )
    # Short texts, where a tie or a random number would show.
    texts = [text[:length] for text in SENTENCES.values() for length in (24, 30, 40)]
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert json.loads(runs[0]) == [identify(text) for text in texts]


def test_the_identifier_is_imported_only_when_it_is_needed():
    program = (
        "import sys, lm_eval_moe.multilingual.language_id, lm_eval_moe.multilingual.expressions;"
        "print(sorted({'py3langid', 'math_verify', 'torch', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_bench
@pytest.mark.parametrize("code", ["deu", "eng", "swa", "jpn", "zho-CN", "amh", "tel", "tha", "yor", "kir", "ben"])
def test_real_news_sentences_are_recognised(code):
    language = canonical_language(code)
    rows = [json.loads(line) for line in (BENCH / "ntrex" / f"{code}.jsonl").open(encoding="utf-8")]
    values = [language_consistency(row["text"], language) for row in rows]
    judged = [value for value in values if value is not None]
    assert len(judged) > 0.85 * len(rows)
    assert sum(judged) / len(judged) > 0.97
