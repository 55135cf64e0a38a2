"""The bundled file against the task names that lm-eval really has."""

from __future__ import annotations

from collections import defaultdict

import pytest
from lm_eval.tasks import TaskManager

from lm_eval_moe.languages import canonical_language
from lm_eval_moe.pairing import PairingRegistry, TaskPairing

FAMILIES = (
    *("mgsm_", "belebele_", "global_mmlu", "mmlu_prox", "xcopa_", "xquad_", "xnli_", "xstorycloze_"),
    *("sib_", "afrimgsm", "afrimmlu", "afrixnli"),
)

# One English task of every benchmark, read off lm-eval's task list; None: there is none.
ENGLISH = {
    "mgsm_direct": "mgsm_direct_en",
    "mgsm_en_cot": "mgsm_en_cot_en",
    "mgsm_native_cot": "mgsm_native_cot_en",
    "belebele": "belebele_eng_Latn",
    "belebele_afrobench[prompt=4]": "belebele_eng_prompt_4",
    "global_mmlu_full[subject=high_school_us_history]": "global_mmlu_full_en_high_school_us_history",
    "global_mmlu_lite[category=medical]": "global_mmlu_en_medical",
    "mmlu_prox[subject=computer_science]": "mmlu_prox_en_computer_science",
    "mmlu_prox_lite[subject=law]": "mmlu_prox_lite_en_law",
    "xcopa": None,
    "xquad": "xquad_en",
    "xnli": "xnli_en",
    "xnli_eu_test": None,
    "xnli_eu_test[version=mt]": None,
    "xnli_eu_test[version=native]": None,
    "xnli_gl_test": None,
    "xnli_va_test": None,
    "xstorycloze": "xstorycloze_en",
    "sib[prompt=2]": "sib_eng_prompt_2",
    "afrimgsm[prompt=1]": "afrimgsm_eng_prompt_1",
    "afrimgsm[mode=cot,prompt=5]": "afrimgsm_cot_eng_prompt_5",
    "afrimmlu[prompt=3]": "afrimmlu_direct_eng_prompt_3",
    "afrixnli[prompt=3]": "afrixnli_eng_prompt_3",
    "afrixnli[style=en]": "afrixnli_en_direct_eng",
    "afrixnli[style=manual]": "afrixnli_manual_direct_eng",
    "afrixnli[style=native]": "afrixnli_native_direct_eng",
    # Machine translations into English, one benchmark a source language: these are in English themselves.
    "afrimgsm_translate[mode=cot,source=vai,prompt=1]": "afrimgsm_cot_translate_vai_prompt_1",
    "afrimmlu_translate[source=swa,prompt=1]": "afrimmlu_translate_swa_prompt_1",
    "afrixnli_translate[source=swa,prompt=2]": "afrixnli_translate_swa_prompt_2",
    "afrixnli_translate[source=swa]": "afrixnli_translate_swa",
    "afrixnli_translate[style=manual,source=swa]": "afrixnli_manual_translate_swa",
    "paws": "paws_en",
    "mlqa": "mlqa_en_en",
    "lambada_openai_mt": "lambada_openai_mt_en",
}

# Two tasks for one language of one benchmark: the same items twice, or two languages that share a macrolanguage.
TWICE = {
    *(("mgsm_direct", "es"), ("xnli", "es"), ("paws", "es")),
    *((f"sib[prompt={n}]", "ak") for n in range(1, 6)),
}


@pytest.fixture(scope="module")
def registry() -> PairingRegistry:
    return PairingRegistry.default()


@pytest.fixture(scope="module")
def names() -> list[str]:
    return list(TaskManager().all_subtasks)


@pytest.fixture(scope="module")
def pairings(registry: PairingRegistry, names: list[str]) -> list[TaskPairing]:
    found = (registry.pairing(name) for name in names)
    return [pairing for pairing in found if pairing is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_task_of_a_family_matches_exactly_one_entry(registry, names, family) -> None:
    tasks = [name for name in names if name.startswith(family)]
    assert len(tasks) > 10
    matched = {name: [entry.place.where for entry in registry.matching_entries(name)] for name in tasks}
    assert {name: where for name, where in matched.items() if len(where) != 1} == {}


def test_no_task_of_the_harness_matches_two_entries(registry, names) -> None:
    assert [name for name in names if len(registry.matching_entries(name)) > 1] == []


def test_every_entry_matches_a_task_of_the_harness(registry, names) -> None:
    used = {entry.place.where for name in names for entry in registry.matching_entries(name)}
    assert used == {entry.place.where for entry in registry.entries}


def test_every_language_is_a_canonical_tag(pairings) -> None:
    assert len(pairings) > 4000
    assert {p.task: p.language for p in pairings if canonical_language(p.language) != p.language} == {}


def test_a_language_occurs_once_in_a_benchmark(pairings) -> None:
    tasks = defaultdict(list)
    for pairing in pairings:
        tasks[pairing.benchmark, pairing.language].append(pairing.task)
    assert {key for key, several in tasks.items() if len(several) > 1} == TWICE


def test_every_benchmark_has_english_or_says_why_not(registry, pairings) -> None:
    languages = defaultdict(set)
    for pairing in pairings:
        languages[pairing.benchmark].add(pairing.language)
    for pairing in pairings:
        (entry,) = registry.matching_entries(pairing.task)
        has_english = "en" in languages[pairing.benchmark]
        assert has_english != ("en" in entry.lacks), pairing
        assert has_english or pairing.note, pairing


@pytest.mark.parametrize(("benchmark", "english"), ENGLISH.items())
def test_the_english_reference_is_the_expected_task(pairings, benchmark, english) -> None:
    tasks = [p.task for p in pairings if p.benchmark == benchmark and p.language == "en"]
    assert tasks == ([] if english is None else [english])
    assert any(p.benchmark == benchmark for p in pairings)


@pytest.mark.parametrize(
    ("task", "language", "benchmark", "item"),
    [
        ("mgsm_direct_sw", "sw", "mgsm_direct", None),
        ("mgsm_direct_es_spanish_bench", "es", "mgsm_direct", None),
        ("mgsm_native_cot_eu", "eu", "mgsm_native_cot", None),
        ("belebele_kor_Hang", "ko", "belebele", ("link", "question_number")),
        ("belebele_zho_Hant", "zh-Hant", "belebele", ("link", "question_number")),
        ("belebele_arb_Latn", "ar-Latn", "belebele", ("link", "question_number")),
        ("belebele_pbt_Arab", "ps", "belebele", ("link", "question_number")),
        ("belebele_swa_prompt_3", "sw", "belebele_afrobench[prompt=3]", ("link", "question_number")),
        ("global_mmlu_full_fil_world_religions", "fil", "global_mmlu_full[subject=world_religions]", ("sample_id",)),
        ("global_mmlu_sw_social_sciences", "sw", "global_mmlu_lite[category=social_sciences]", ("sample_id",)),
        ("mmlu_prox_wo_other", "wo", "mmlu_prox[subject=other]", ("question_id",)),
        ("mmlu_prox_lite_zu_math", "zu", "mmlu_prox_lite[subject=math]", ("question_id",)),
        ("xcopa_qu", "qu", "xcopa", ("idx",)),
        ("xquad_ca", "ca", "xquad", ("id",)),
        ("xnli_va", "ca", "xnli_va_test", None),
        ("xnli_eu_mt", "eu", "xnli_eu_test[version=mt]", None),
        ("xstorycloze_my", "my", "xstorycloze", ("story_id",)),
        ("xstorycloze_gl", "gl", "xstorycloze", ("InputStoryid",)),
        ("sib_gaz_prompt_5", "om", "sib[prompt=5]", ("index_id",)),
        ("afrimgsm_cot_amh_prompt_1", "am", "afrimgsm[mode=cot,prompt=1]", None),
        ("afrimgsm_twi_prompt_2", "ak", "afrimgsm[prompt=2]", None),
        ("afrimgsm_translate_swa_prompt_2", "en", "afrimgsm_translate[source=swa,prompt=2]", None),
        ("afrixnli_native_direct_kin", "rw", "afrixnli[style=native]", None),
        ("mlqa_zh_zh", "zh", "mlqa", ("id",)),
    ],
)
def test_what_is_known_of_a_task(registry, names, task, language, benchmark, item) -> None:
    assert task in names
    pairing = registry.pairing(task)
    assert (pairing.language, pairing.benchmark, pairing.item) == (language, benchmark, item)


@pytest.mark.parametrize(
    "task", ["gsm8k", "mmlu_abstract_algebra", "xwinograd_en", "mlqa_ar_en", "copa", "hellaswag_de"]
)
def test_tasks_that_are_not_parallel_are_unknown(registry, names, task) -> None:
    assert task in names
    assert registry.pairing(task) is None


def test_a_missing_reference_is_named_from_the_tasks_that_exist(registry, names) -> None:
    def explain(task: str, reference: str) -> str:
        return registry.explain_missing(registry.pairing(task), reference, names)

    assert "add the task belebele_eng_Latn to the run" in explain("belebele_kor_Hang", "en")
    assert "add the task belebele_kor_Hang to the run" in explain("belebele_swh_Latn", "ko")
    assert "add the task afrimgsm_cot_eng_prompt_1 to the run" in explain("afrimgsm_cot_amh_prompt_1", "en")
    assert "add the task mlqa_en_en to the run" in explain("mlqa_ar_ar", "en")
    assert "lm-eval has no English XCOPA" in explain("xcopa_sw", "en")
    assert "no 'fr' task of xcopa and none is known" in explain("xcopa_sw", "fr")
