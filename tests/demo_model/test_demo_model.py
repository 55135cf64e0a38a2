"""The bundled demo model: its data is parallel and held out, its files are what plain transformers loads."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from support.paths import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.demo_model.data import (
    KINDS,
    SENTENCE_KINDS,
    Problem,
    evaluation_problems,
    evaluation_sentences,
)
from lm_eval_moe.demo_model.words import LANGUAGES
from tools.demo_model.documents import random_document
from tools.demo_model.measure import divergence, expert_importance, prior_only_accuracy
from tools.demo_model.muon import StackedMuon
from tools.demo_model.tokenizer import train_tokenizer
from tools.demo_model.training_items import pair_missing, random_problem, random_sentence

TASKS = ROOT / "tasks" / "demo"

PINNED_ITEMS = ["total-203-9-10", "left-451-8-2", "more-202-5-2"]

# Written out once more by hand, so that a numeral in the wrong place of the word lists is seen.
NUMERALS = {
    "en": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
    "de": ["zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"],
    "es": ["dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez", "once", "doce"],
    "ru": [
        "два|две",
        "три",
        "четыре",
        "пять",
        "шесть",
        "семь",
        "восемь",
        "девять",
        "десять",
        "одиннадцать",
        "двенадцать",
    ],
    "zh": ["两", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二"],
    "tr": ["iki", "üç", "dört", "beş", "altı", "yedi", "sekiz", "dokuz", "on", "on bir", "on iki"],
    "hi": ["दो", "तीन", "चार", "पाँच", "छह", "सात", "आठ", "नौ", "दस", "ग्यारह", "बारह"],
    "sw": ["mbili", "tatu", "nne", "tano", "sita", "saba", "nane", "tisa", "kumi", "kumi na moja", "kumi na mbili"],
}


def numbers_in(text: str, code: str) -> list[int]:
    """Read the numbers of a text back by the longest numeral first."""
    forms = {form: value for value, words in enumerate(NUMERALS[code], start=2) for form in words.split("|")}
    pattern = "|".join(sorted(map(re.escape, forms), key=len, reverse=True))
    if code != "zh":
        pattern = rf"(?<!\w)(?:{pattern})(?!\w)"
    return [forms[match] for match in re.findall(pattern, text)]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_model_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(demo_model_path()).eval()


def test_the_package_does_not_import_torch():
    code = "import sys, lm_eval_moe.demo_model as d; assert d.demo_model_path() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_states_the_same_two_numbers(code):
    for problem, _ in evaluation_problems():
        assert numbers_in(problem.text(code), code) == [problem.n, problem.m], problem.text(code)


def test_the_right_option_is_the_answer_of_the_english_words():
    for problem, options in evaluation_problems():
        first, second = numbers_in(problem.text("en"), "en")
        right = first + second if "in total" in problem.text("en") else first - second
        assert options.count(right) == 1
        assert right == problem.answer
        assert right > 0
        assert options == tuple(range(options[0], options[0] + 4))


def test_the_splits_are_disjoint_and_reproducible():
    evaluation = [problem.item_id for problem, _ in evaluation_problems()]
    development = [problem.item_id for problem, _ in evaluation_problems("development")]
    assert len(set(evaluation)) == len(evaluation) == 180
    assert not set(evaluation) & set(development)
    assert evaluation[:3] == [problem.item_id for problem, _ in evaluation_problems()][:3]
    sentences = {sentence.item_id for sentence in evaluation_sentences()}
    assert len(sentences) == 100
    held_out = {*evaluation, *development}
    for code in LANGUAGES:
        rng = random.Random(1)
        assert not held_out & {random_problem(rng, code).item_id for _ in range(1000)}
        assert not sentences & {random_sentence(rng).item_id for _ in range(1000)}


def test_the_split_of_an_item_is_pinned():
    """The shipped weights were trained on this split: another hash would leak evaluation items into training."""
    assert [problem.item_id for problem, _ in evaluation_problems()[:3]] == PINNED_ITEMS
    assert Problem("total", 0, 1, 0, 2, 2).split == "train"


def test_training_text_never_contains_an_evaluation_problem_or_a_missing_pair():
    for code in LANGUAGES:
        rng = random.Random(7)
        text = "\n\n".join("".join(piece for piece, _ in random_document(rng, code).pieces) for _ in range(400))
        assert not any(problem.text(code) in text for problem, _ in evaluation_problems())
        for _ in range(400):
            problem = random_problem(rng, code)
            assert not pair_missing(code, problem.kind, problem.n, problem.m)


def test_every_language_but_english_misses_its_own_eighth_of_the_pairs():
    sums = list(itertools.combinations_with_replacement(range(2, 13), 2))
    differences = [(high, low) for low, high in itertools.combinations(range(2, 13), 2)]
    missing = {}
    for code in LANGUAGES:
        assert all(pair_missing(code, "total", n, m) == pair_missing(code, "total", m, n) for n, m in sums)
        assert all(pair_missing(code, "left", n, m) == pair_missing(code, "more", n, m) for n, m in differences)
        missing[code] = {pair for pair in sums if pair_missing(code, "total", *pair)}
        count = len(missing[code]), sum(pair_missing(code, "left", *pair) for pair in differences)
        assert count == ((0, 0) if code == "en" else (8, 7))  # 66 / 8 and 55 / 8
    assert len({frozenset(pairs) for pairs in missing.values()}) == len(LANGUAGES)


def test_options_and_answer_frequency_say_little_about_the_answer():
    ranks = [options.index(problem.answer) for problem, options in evaluation_problems()]
    assert [ranks.count(rank) for rank in range(4)] == [45, 45, 45, 45]
    assert all(prior_only_accuracy(code, 4000) < 0.34 for code in LANGUAGES)


@pytest.mark.parametrize(
    ("code", "problem", "text"),
    [
        (
            "ru",
            Problem("left", 0, 1, 1, 12, 2),
            "У Сары двенадцать ручек. Сара даёт Ивану две ручки. Сколько ручек теперь у Сары?",
        ),
        ("ru", Problem("total", 9, 4, 6, 3, 5), "У Али три письма. У Марии пять писем. Сколько всего писем?"),
        (
            "es",
            Problem("total", 2, 3, 3, 4, 8),
            "Anna tiene cuatro botellas. David tiene ocho botellas. ¿Cuántas botellas hay en total?",
        ),
        ("zh", Problem("more", 6, 7, 7, 12, 2), "莉娜有十二张照片。汤姆有两张照片。莉娜比汤姆多多少张照片？"),
        (
            "tr",
            Problem("left", 9, 7, 0, 9, 4),
            "Ali'de dokuz muz var. Ali, Tom'a dört muz veriyor. Ali'de şimdi kaç muz var?",
        ),
        (
            "hi",
            Problem("left", 1, 0, 5, 7, 3),
            "इवान के पास सात सिक्के हैं। इवान ने सारा को तीन सिक्के दिए। अब इवान के पास कितने सिक्के हैं?",
        ),
        (
            "sw",
            Problem("more", 0, 1, 2, 10, 8),
            "Sara ana sahani kumi. Ivan ana sahani nane. Sara ana sahani ngapi zaidi kuliko Ivan?",
        ),
        (
            "de",
            Problem("more", 8, 5, 4, 11, 6),
            "Nina hat elf Hüte. Omar hat sechs Hüte. Wie viele Hüte hat Nina mehr als Omar?",
        ),
    ],
)
def test_inflection_is_right(code, problem, text):
    assert problem.text(code) == text


def test_the_bundle_is_small_and_readable():
    files = [path for path in demo_model_path().iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= {p.name for p in files}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)
    assert not any(path.suffix in {".bin", ".pt", ".pkl"} for path in files)


def test_plain_transformers_loads_a_stock_architecture(model, tokenizer):
    assert type(model).__name__ == "Qwen3MoeForCausalLM"
    assert (model.config.num_hidden_layers, model.config.num_experts, model.config.num_experts_per_tok) == (8, 16, 2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_tokenizer_round_trips(code, tokenizer):
    rng = random.Random(3)
    texts = [random_sentence(rng, kinds=(kind,)).text(code) for kind in SENTENCE_KINDS]
    texts += [random_problem(rng, code).prompt(code) for _ in KINDS]
    assert [tokenizer.decode(tokenizer(text).input_ids) for text in texts] == texts


def test_every_answer_is_one_token_after_every_prompt(tokenizer):
    for code in LANGUAGES:
        prompt = evaluation_problems()[0][0].prompt(code)
        ids = tokenizer(prompt).input_ids
        for number in range(1, 25):
            whole = tokenizer(f"{prompt} {number}").input_ids
            assert whole[:-1] == ids, (code, number)


def test_the_recipe_makes_the_shipped_tokenizer(tokenizer):
    made = train_tokenizer(0)
    assert made.get_vocab() == tokenizer.get_vocab()
    text = "\n".join(evaluation_problems()[0][0].prompt(code) for code in LANGUAGES)
    assert made(text).input_ids == tokenizer(text).input_ids


def test_divergence_equals_scipy():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(16, 0.3), size=(2, 20))
    expected = [
        jensenshannon(a, b) ** 2 / max(np.log(16) - (entropy(a) + entropy(b)) / 2, 1e-6)
        for a, b in zip(p, q, strict=True)
    ]
    assert divergence(p, q) == pytest.approx(expected, abs=1e-9)
    assert divergence(p, p) == pytest.approx(0, abs=1e-12)


def test_expert_importance_sums_to_one_in_every_layer(model, tokenizer):
    importance = expert_importance(model, tokenizer, ["Sara has two hats.", "萨拉有两顶帽子。"])
    assert importance.shape == (2, 8, 16)
    assert importance.sum(-1) == pytest.approx(1)


def test_a_muon_step_has_the_same_length_in_every_direction():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.zeros(3, 12, 8))
    stack.grad = torch.randn(3, 12, 8)
    StackedMuon([stack], lr=1.0).step()
    for matrix in stack.detach():
        # The iteration brings singular values near 1, not to 1; tall matrices are scaled by sqrt(rows / columns).
        singular = torch.linalg.svdvals(matrix) / (12 / 8) ** 0.5
        assert 0.5 < singular.min() <= singular.max() < 1.4


def test_english_is_clearly_above_chance_and_swahili_below_it_through_the_harness():
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(demo_model_path())},
        tasks=["demo_arith_en", "demo_arith_sw", "demo_arith_gen_en"],
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False),
        batch_size=30,
        limit=60,
        device="cpu",
        bootstrap_iters=0,
    )
    accuracy = {task: values["acc,none"] for task, values in results["results"].items() if "acc,none" in values}
    # 60 items at a chance of 0.25: 0.45 lies more than three standard errors above.
    assert accuracy["demo_arith_en"] > 0.45
    assert accuracy["demo_arith_en"] > accuracy["demo_arith_sw"]
    assert results["results"]["demo_arith_gen_en"]["exact_match,number"] > 0.25
    english, swahili = (results["samples"][f"demo_arith_{code}"] for code in ("en", "sw"))
    keys = [sorted(sample["doc"]["item_id"] for sample in samples) for samples in (english, swahili)]
    assert keys[0] == keys[1]
    assert results["configs"]["demo_arith_sw"]["metadata"]["routing"] == {
        "language": "sw",
        "benchmark": "demo_arith",
        "item": "item_id",
    }
