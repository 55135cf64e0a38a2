"""Looking tasks up: users' files, task metadata, references, and what is refused."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from lm_eval_moe.errors import UserError
from lm_eval_moe.pairing import BUNDLED_FILE, PairingRegistry, TaskPairing, load_entries

HEADER = "version: 1\nentries:\n"


def write(folder: Path, entries: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(HEADER + entries, encoding="utf-8")
    return path


# --- users' files and metadata ---------------------------------------------------------------------------------------


def test_a_users_file_adds_tasks(tmp_path) -> None:
    path = write(
        tmp_path,
        r"""  - {tasks: 'quiz(?:_(?P<level>hard))?_(?P<lang>\w+)', benchmark: quiz, item: qid, languages: {jp: ja}}""",
    )
    registry = PairingRegistry.default([path])
    assert registry.pairing("quiz_swh") == TaskPairing("quiz_swh", "sw", "quiz", ("qid",))
    assert registry.pairing("quiz_hard_jp") == TaskPairing("quiz_hard_jp", "ja", "quiz[level=hard]", ("qid",))
    assert registry.pairing("mgsm_direct_sw").benchmark == "mgsm_direct"


def test_a_fixed_language_needs_no_group(tmp_path) -> None:
    path = write(
        tmp_path, "  - {tasks: 'copa_original', language: eng, benchmark: xcopa, item: idx, note: English COPA}\n"
    )
    registry = PairingRegistry.default([path])
    english, swahili = registry.pairing("copa_original"), registry.pairing("xcopa_sw")
    assert english == TaskPairing("copa_original", "en", "xcopa", ("idx",), "English COPA")
    assert registry.reference_tasks(swahili, "en", [swahili, english]) == (english,)


def test_users_files_win_in_the_order_given_and_the_first_match_wins_inside_a_file(tmp_path) -> None:
    first = write(tmp_path, "  - {tasks: 'quiz_(?P<lang>..)', benchmark: first, item: row}\n", "1.yaml")
    second = write(
        tmp_path,
        "  - {tasks: '(?:quiz|xcopa)_(?P<lang>..)', benchmark: second, item: row}\n"
        "  - {tasks: 'xcopa_(?P<lang>..)', benchmark: third, item: row}\n",
        "2.yaml",
    )
    registry = PairingRegistry.default([first, second])
    assert registry.pairing("quiz_en").benchmark == "first"
    assert registry.pairing("xcopa_en").benchmark == "second"
    assert [entry.benchmark for entry in registry.matching_entries("xcopa_en")] == ["second", "third", "xcopa"]


def test_the_whole_name_must_match(tmp_path) -> None:
    registry = PairingRegistry.default()
    assert registry.pairing("my_mgsm_direct_sw") is None
    assert registry.pairing("mgsm_direct_sw_hard") is None


def test_task_metadata_wins_over_every_file(tmp_path) -> None:
    path = write(tmp_path, "  - {tasks: 'mgsm_direct_(?P<lang>..)', benchmark: mine, item: row}\n")
    registry = PairingRegistry.default([path])
    routing = {"language": "swh_Latn", "benchmark": "demo_arith", "item": "item_id"}
    told = registry.pairing("mgsm_direct_de", {"version": 1.0, "routing": routing})
    assert told == TaskPairing("mgsm_direct_de", "sw", "demo_arith", ("item_id",))
    assert registry.pairing("mgsm_direct_de", {"version": 1.0}).benchmark == "mine"
    assert registry.pairing("unheard_of", {"routing": {**routing, "item": ["a", "b"]}}).item == ("a", "b")
    assert registry.pairing("unheard_of", {"routing": {**routing, "item": "row", "note": "x"}}).note == "x"


def test_unknown_tasks_are_none() -> None:
    registry = PairingRegistry.default()
    assert registry.pairing("gsm8k") is None
    assert registry.pairing("gsm8k", {"version": 3.0}) is None


# --- references ------------------------------------------------------------------------------------------------------


def test_the_reference_has_the_same_variants() -> None:
    registry = PairingRegistry.default()
    run = [registry.pairing(f"afrimgsm_{rest}") for rest in ("eng_prompt_1", "cot_eng_prompt_1", "cot_eng_prompt_2")]
    amharic = registry.pairing("afrimgsm_cot_amh_prompt_1")
    assert [p.task for p in registry.reference_tasks(amharic, "eng", run)] == ["afrimgsm_cot_eng_prompt_1"]
    assert registry.reference_tasks(amharic, "fr", run) == ()


def test_any_language_can_be_the_reference_and_two_tasks_can_hold_it() -> None:
    registry = PairingRegistry.default()
    run = [registry.pairing(f"mgsm_direct_{tail}") for tail in ("en", "es_spanish_bench", "es", "sw")]
    assert [p.task for p in registry.reference_tasks(run[3], "es", run)] == [
        "mgsm_direct_es_spanish_bench",
        "mgsm_direct_es",
    ]
    assert registry.reference_tasks(run[2], "es", run) == ()


def test_metadata_and_file_pairings_meet_in_one_benchmark() -> None:
    registry = PairingRegistry.default()
    english = registry.pairing("my_copa", {"routing": {"language": "en", "benchmark": "xcopa", "item": "idx"}})
    assert registry.reference_tasks(registry.pairing("xcopa_sw"), "en", [english]) == (english,)


@pytest.mark.parametrize(
    ("task", "reference", "expected"),
    [
        ("mgsm_direct_sw", "en", "add the task mgsm_direct_en, if there is one, to the run"),
        ("belebele_swh_Latn", "ko", "add the task belebele_kor_Hang, if there is one, to the run"),
        ("belebele_swh_Latn", "zh", "add the task belebele_zho_Hans, if there is one, to the run"),
        ("xcopa_sw", "en", "lm-eval has no English XCOPA"),
        ("xnli_va", "en", "runs a test split"),
        ("mlqa_ar_ar", "en", "none is known: give a --routing_profile that holds these items in 'en'"),
        ("mgsm_direct_en", "eng", "mgsm_direct_en is itself in 'en', the reference language"),
    ],
)
def test_a_missing_reference_is_explained_without_a_task_list(task, reference, expected) -> None:
    registry = PairingRegistry.default()
    sentence = registry.explain_missing(registry.pairing(task), reference)
    assert expected in sentence
    assert sentence.startswith(task)
    assert "\n" not in sentence


def test_a_missing_reference_of_a_task_with_metadata_points_at_metadata() -> None:
    registry = PairingRegistry.default()
    routing = {"language": "sw", "benchmark": "demo_arith", "item": "row"}
    for name in ("demo_arith_sw", "xcopa_sw"):
        sentence = registry.explain_missing(registry.pairing(name, {"routing": routing}), "en")
        assert "metadata.routing has benchmark 'demo_arith' and language 'en'" in sentence


@pytest.mark.parametrize("method", ["reference_tasks", "explain_missing"])
def test_a_reference_that_is_no_language_is_refused(method) -> None:
    registry = PairingRegistry.default()
    pairing = registry.pairing("xcopa_sw")
    with pytest.raises(UserError, match=r"routing_reference: 'english' is not a language code"):
        getattr(registry, method)(pairing, "english", ())


# --- item keys -------------------------------------------------------------------------------------------------------


def test_item_keys() -> None:
    by_row = TaskPairing("t", "sw", "b", None)
    by_field = TaskPairing("t", "sw", "b", ("qid",))
    by_fields = TaskPairing("t", "sw", "b", ("link", "n"))
    assert by_row.item_key({"qid": 9}, 4) == "row:4"
    assert by_field.item_key({"qid": "virology/test/3"}, 4) == "virology/test/3"
    assert by_field.item_key({"qid": 12}, 4) == by_field.item_key({"qid": 12.0}, 0) == "12"
    assert by_field.item_key({"qid": 1.5}, 4) == "1.5"
    # Joining with a separator would make these two the same.
    assert by_fields.item_key({"link": "a,1", "n": 2}, 0) != by_fields.item_key({"link": "a", "n": "1,2"}, 0)
    assert by_fields.item_key({"link": "https://b/ü", "n": 2}, 0) == by_fields.item_key(
        {"n": "2", "link": "https://b/ü"}, 7
    )


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        (
            {"idx": 1, "qids": 2},
            r"task quiz_sw, document 7: the field 'qid', which names the items of quiz, is missing "
            r"\(did you mean 'qids'\?\)\n  -> the document has idx, qids; say which",
        ),
        ({"qid": None}, "holds None"),
        ({"qid": ""}, "holds ''"),
        ({"qid": float("nan")}, "holds nan"),
        ({"qid": True}, "holds True"),
        ({"qid": [1]}, r"holds \[1\]"),
    ],
)
def test_a_document_without_a_usable_name_is_refused(doc, message) -> None:
    with pytest.raises(UserError, match=message):
        TaskPairing("quiz_sw", "sw", "quiz", ("qid",)).item_key(doc, 7)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ("sw", "task quiz: metadata.routing: expected a mapping, got 'sw'"),
        ({"language": "sw", "benchmark": "b"}, "metadata.routing: 'item' is missing"),
        ({"lang": "sw", "benchmark": "b", "item": "row"}, "unknown key 'lang' (did you mean 'language'?)"),
        ({"language": False, "benchmark": "b", "item": "row"}, "routing.language: expected a language code, got false"),
        ({"language": "swahili", "benchmark": "b", "item": "row"}, "routing.language: 'swahili' is not a language"),
        ({"language": "sw", "benchmark": "", "item": "row"}, "metadata.routing.benchmark: is blank"),
        ({"language": "sw", "benchmark": "b", "item": 3}, "metadata.routing.item: expected 'row', a field or a list"),
    ],
)
def test_bad_task_metadata_is_refused(routing, message) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        PairingRegistry.default().pairing("quiz", {"routing": routing})


def test_a_name_whose_language_is_unknown_says_where_to_explain_it(tmp_path) -> None:
    path = write(tmp_path, "  - {tasks: 'quiz_(?P<lang>..)', benchmark: quiz, item: row}\n")
    with pytest.raises(
        UserError, match=r"entries\.0\.languages: the task quiz_xx matches, but .*\n.*languages: \{xx: TAG\}"
    ):
        PairingRegistry.default([path]).pairing("quiz_xx")


def test_a_name_without_its_optional_language_is_refused(tmp_path) -> None:
    path = write(tmp_path, "  - {tasks: 'quiz(?:_(?P<lang>..))?', benchmark: quiz, item: row}\n")
    with pytest.raises(UserError, match="the task quiz matches without a language"):
        PairingRegistry.default([path]).pairing("quiz")


def test_loading_is_fast() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        PairingRegistry.default()
        return time.perf_counter() - start

    seconds()  # the first call loads the language tables
    assert min(seconds() for _ in range(5)) < 0.05


def test_the_bundled_file_lies_in_the_package() -> None:
    assert BUNDLED_FILE.name == "tasks.yaml"
    assert len(load_entries(BUNDLED_FILE)) > 20
