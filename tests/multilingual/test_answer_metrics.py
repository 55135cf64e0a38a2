"""Boxed answers, numbers, expressions, and spans of text, against examples worked by hand."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
from fractions import Fraction

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual import expressions
from lm_eval_moe.multilingual.answers import contains_answer, exact_match, f1, normalised_words
from lm_eval_moe.multilingual.boxed import answer_part, boxed_answer, boxed_answers
from lm_eval_moe.multilingual.expressions import same_expression
from lm_eval_moe.multilingual.numerals import last_number, readings, same_number, western_digits

# --- boxed answers


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (r"The answer is $\boxed{18}$.", ["18"]),
        (r"\boxed{\frac{1}{2}} and then \boxed{ 3 }", [r"\frac{1}{2}", "3"]),
        (r"\boxed{\left\{1, 2\right\}}", [r"\left\{1, 2\right\}"]),
        (r"\boxed\{7\}", ["7"]),
        (r"\boxed {5}", ["5"]),
        ("boxed{5}", ["5"]),
        (r"\boxed{\boxed{1} 2}", [r"\boxed{1} 2", "1"]),
        (r"\boxed{never closed", []),
        (r"an empty one: \boxed{}", [""]),
        ("18", []),
    ],
)
def test_boxed_answers_have_their_braces_matched(text, answers):
    assert boxed_answers(text) == answers


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"First \boxed{1}, then \boxed{2}.", "1"),
        (r"<think>Perhaps \boxed{1}?</think> It is \boxed{2}.", "2"),
        (r"Perhaps \boxed{1}?</think> It is \boxed{2}.", "2"),
        (r"<think>Perhaps \boxed{1}? But then", None),
        ("No box at all, but 18", None),
    ],
)
def test_the_answer_is_the_first_box_after_the_thoughts(response, answer):
    assert boxed_answer(response) == answer


def test_what_follows_the_thoughts_is_the_answer():
    assert answer_part("<think>hm</think>\nNeun Eier.").strip() == "Neun Eier."
    assert answer_part("Neun Eier.") == "Neun Eier."
    assert answer_part("<think>hm, nine") == ""


# --- numbers

DIGITS = {
    "bn": "০১২৩৪৫৬৭৮৯",
    "th": "๐๑๒๓๔๕๖๗๘๙",
    "te": "౦౧౨౩౪౫౬౭౮౯",
    "hi": "०१२३४५६७८९",
    "ar": "٠١٢٣٤٥٦٧٨٩",
    "fa": "۰۱۲۳۴۵۶۷۸۹",
    "my": "၀၁၂၃၄၅၆၇၈၉",
    "km": "០១២៣៤៥៦៧៨៩",
    "full width": "０１２３４５６７８９",
}


@pytest.mark.parametrize("script", DIGITS)
def test_numbers_are_the_same_in_every_script(script):
    digits = DIGITS[script]
    assert western_digits(digits) == "0123456789"
    assert same_number("".join(digits[int(digit)] for digit in "1024"), 1024)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("18", {18}),
        ("-18", {-18}),
        ("\u221218", {-18}),
        ("$18", {18}),
        (r"\$18", {18}),
        ("-$18", {-18}),
        (r"18\text{ dollars}", {18}),
        ("18ドル", {18}),
        ("x = 18", {18}),
        ("18.", {18}),
        ("**18**", {18}),
        ("2.5", {Fraction(5, 2)}),
        ("2,5", {Fraction(5, 2)}),
        ("1,000", {1000, 1}),
        ("1.000", {1000, 1}),
        ("1{,}000", {1000, 1}),
        ("1 000", {1000}),
        ("12 345 678", {12345678}),
        ("1'000", {1000}),
        ("1,234,567", {1234567}),
        ("1,00,000", {100000}),
        ("1,234.5", {Fraction(2469, 2)}),
        ("1.234,5", {Fraction(2469, 2)}),
        ("٣٫٥", {Fraction(7, 2)}),
        (r"\frac{3}{4}", {Fraction(3, 4)}),
        (r"-\dfrac34", {Fraction(-3, 4)}),
        ("3/4", {Fraction(3, 4)}),
        (r"50\%", {50, Fraction(1, 2)}),
        (r"36^\circ", {36}),
        # More than one number, or one that is not the value:
        ("12 or 13", set()),
        ("10-5", set()),
        (r"1\frac{1}{2}", set()),
        ("10^3", set()),
        ("10²", set()),
        (r"\sqrt{2}", set()),
        ("1,2,3", set()),
        ("nine", set()),
        ("", set()),
    ],
)
def test_what_an_answer_can_mean_as_a_number(text, values):
    assert readings(text) == {Fraction(value) for value in values}


@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_thousands_separators_do_not_change_a_number(number):
    for separator in (",", ".", " ", "\u202f", "'"):
        assert same_number(f"{number:,}".replace(",", separator), number)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_number_is_the_same_as_no_other(one, other):
    assert same_number(str(one), other) == (one == other)


def test_of_a_gold_answers_readings_the_largest_counts():
    assert same_number("1000", "1,000")
    assert not same_number("1", "1,000")


def test_a_gold_answer_without_a_number_is_an_error():
    with pytest.raises(ValueError, match="'nine' is not a number"):
        same_number("9", "nine")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("First 3, then 4 eggs.", "4"),
        ("So $-5$.", "-5"),
        ("So x = - 5", "-5"),
        ("There are 10 - 5", "5"),
        ("It costs 1,234.50 dollars", "1,234.50"),
        ("মোট ১৮ টাকা", "18"),
        ("10-5", "5"),
        ("none", None),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


# --- expressions


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        (r"\frac{5}{4}", r"$\frac{5}{4}$", True),
        ("1.25", r"$\frac{5}{4}$", True),
        (r"\dfrac54", r"$\frac{5}{4}$", True),
        ("x+1", "$1 + x$", True),
        (r"\sqrt{8}", r"$2\sqrt{2}$", True),
        (r"2\sqrt{2}", r"$2\sqrt{3}$", False),
        (r"(1, 2)", "$(1,2)$", True),
        (r"(2, 1)", "$(1,2)$", False),
        (r"\{2,1\}", r"$\{1,2\}$", True),
        ("১৮", "18", True),
        ("1,000", "1000", True),
        (r"5\text{ apples}", "5", True),
        ("n = 3", "3", True),
        ("10^3", "1000", True),
        ("2^{100}", "$2^{100}$", True),
        ("12 or 13", "12", False),
        ("1.2", "$1, 2$", False),
        ("17", "18", False),
        (r"\frac{a", "5", False),
        ("", "5", False),
        (r"\text{Yes}", "Yes", True),
    ],
)
def test_mathematical_answers_are_compared_as_expressions(answer, gold, same):
    assert same_expression(answer, gold) is same


def test_expressions_are_compared_outside_the_main_thread_too():
    found = []
    thread = threading.Thread(target=lambda: found.append(same_expression("1.25", r"$\frac{5}{4}$")))
    thread.start()
    thread.join()
    assert found == [True]


def test_missing_math_verify_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r'math-verify, which is not installed\n.*pip install "lm-eval-moe\[tasks\]"'):
        expressions._math_verify.__wrapped__()


# --- spans of text


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "The Broncos, and a team!", ["broncos", "and", "team"]),
        ("de", "Das Haus; der Garten", ["haus", "garten"]),
        ("es", "El niño y la niña.", ["niño", "y", "niña"]),
        ("vi", "Những cái bàn", ["bàn"]),
        ("ar", "الكتاب", ["كتاب"]),
        ("ru", "«Дом» на холме", ["дом", "на", "холме"]),
        ("zh", "丹佛野马队，2016年", ["丹", "佛", "野", "马", "队", "2016", "年"]),
        ("zh-Hant", "隊", ["隊"]),
        ("ja", "東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("th", "ที่นี่ 12", ["ที่", "นี่", "12"]),
        ("hi", "यह एक किताब है।", ["यह", "एक", "किताब", "है"]),
    ],
)
def test_answers_are_compared_by_the_words_of_their_language(language, text, words):
    assert normalised_words(text, language) == words


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    # Said: the, big, red, house -> big red house; gold: red, house, there: 2 of 3 and 2 of 3.
    assert f1("The big red house", ["red house there"], "en") == pytest.approx(2 / 3)
    # 1 of 4 words said, 1 of 1 gold: 2 * .25 * 1 / 1.25
    assert f1("it is surely Denver", ["Denver"], "en") == pytest.approx(0.4)
    # Characters: 野 马 of the two gold ones, among 丹 佛 野 马: precision 1/2, recall 1.
    assert f1("丹佛野马", ["野马"], "zh") == pytest.approx(2 / 3)
    # A repeated word counts as often as it is in both.
    assert f1("no no no", ["no no"], "ru") == pytest.approx(2 * (2 / 3) / (5 / 3))


def test_the_best_of_several_right_answers_counts():
    assert f1("Denver Broncos", ["Carolina", "Broncos"], "en") == pytest.approx(2 / 3)
    assert exact_match("the Broncos.", ["Carolina", "Broncos"], "en") == 1.0


def test_nothing_in_common_is_zero():
    assert f1("", ["Denver"], "en") == f1("Carolina", ["Denver"], "en") == 0.0
    assert exact_match("Denver Broncos", ["Denver"], "en") == 0.0


@pytest.mark.parametrize(
    ("said", "gold", "contained"),
    [
        ("It was the Denver  Broncos.", "denver broncos", 1.0),
        ("Es war ＤＥＮＶＥＲ", "Denver", 1.0),
        ("答案是野马队。", "野马队", 1.0),
        ("cafe\u0301", "café", 1.0),
        ("Carolina", "Denver", 0.0),
        ("", "Denver", 0.0),
    ],
)
def test_an_answer_is_contained_letter_for_letter(said, gold, contained):
    assert contains_answer(said, [gold]) == contained


@pytest.mark.parametrize("language", ["en", "es", "de", "vi", "hi", "ar"])
def test_words_are_those_of_mlqas_rules(language):
    """Against the rules of MLQA's script written down once more, on random text."""
    articles = {
        "en": "a an the",
        "es": "un una unos unas el la los las",
        "de": "ein eine einen einem eines einer der die das den dem des",
        "vi": "của là cái chiếc những",
    }
    alphabet = {"ar": "الكتاب من في ال", "hi": "यह किताब है एक"}.get(language, articles.get(language, "")) + " Xyz, q."
    generator = random.Random(3)
    for _ in range(50):
        text = " ".join(generator.choice(alphabet.split()) for _ in range(8))
        plain = re.sub(r"[.,]", "", text.lower())
        if language == "ar":
            expected = plain.replace("ال", " ").split()
        else:
            expected = [word for word in plain.split() if word not in articles.get(language, "").split()]
        assert normalised_words(text, language) == expected


# --- chrF++


def test_lm_evals_chrf_plus_plus_is_sacrebleus():
    from lm_eval.api.registry import get_aggregation

    pairs = [("Das ist ein Haus.", "Das ist das Haus."), ("Sie verkauft neun Eier.", "Sie kauft neun Eier"), ("Ja", "")]
    theirs = sacrebleu.corpus_chrf([said for _, said in pairs], [[gold for gold, _ in pairs]], word_order=2).score
    assert get_aggregation("chrf++")(pairs) == pytest.approx(theirs)


def test_metrics_need_neither_torch_nor_lm_eval():
    program = (
        "import sys; from lm_eval_moe.multilingual import answers, boxed, numerals;"
        "print(sorted({'torch', 'lm_eval', 'datasets', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
