"""An item is known by its data set and by its text, whatever benchmark or file it was profiled under."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from lm_eval.tasks import TaskManager
from safetensors import safe_open
from support.demo_runs import evaluate
from support.paths import SHARED

from lm_eval_moe import HFMoE
from lm_eval_moe.cli import main
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.evaluation.leak import document_texts, main_fields
from lm_eval_moe.multilingual.local_data import BENCH_DIR_VARIABLE
from lm_eval_moe.multilingual.manifest import load_manifests
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.pairing.data_sets import data_item, load_data_sets
from lm_eval_moe.profiles import ProfileItem, read_profile, write_profile
from lm_eval_moe.resources import tasks_dir
from lm_eval_moe.steering import load_spec
from lm_eval_moe.text_hash import text_hash

BENCH = SHARED / "bench"
needs_bench = pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmark data (../shared/data) is not there")


@pytest.fixture(scope="module")
def lm() -> HFMoE:
    return HFMoE(pretrained="demo", batch_size=8)


# ---------------------------------------------------------------------- data sets

FAMILIES = {
    "mgsm": (
        *("mgsm_direct_sw", "mgsm_direct_es_spanish_bench", "mgsm_direct_eu", "mgsm_en_cot_de", "mgsm_native_cot_sw"),
        *("afrimgsm_swa_prompt_1", "afrimgsm_cot_yor_prompt_3", "afrimgsm_translate_swa_prompt_2"),
    ),
    "global_mmlu": ("global_mmlu_full_sw_anatomy", "global_mmlu_full_de_virology", "global_mmlu_sw_medical"),
    "mmlu_prox": ("mmlu_prox_sw_law", "mmlu_prox_lite_de_history"),
    "belebele": ("belebele_swh_Latn", "belebele_swa_prompt_2"),
    "xquad": ("xquad_de",),
    "sib200": ("sib_swa_prompt_1", "sib_yor_prompt_5"),
    "afrixnli": ("afrixnli_swa_prompt_1", "afrixnli_en_direct_swa", "afrixnli_translate_swa_prompt_1"),
    "xcopa": ("xcopa_sw",),
    "xnli": ("xnli_sw",),
}
OURS = {
    "mgsm": ("moe_mgsm_sw", "moe_mgsm_boxed_sw", "moe_global_mgsm_sw"),
    "global_mmlu": ("moe_global_mmlu_medical_60_sw",),
    "xquad": ("moe_xquad_direct_de",),
    "sib200": ("moe_sib200_sw", "moe_sib200_all_sw"),
    "flores": ("moe_flores_sw", "moe_flores_en_x_sw"),
    "demo_arith": ("demo_arith_sw", "demo_arith_gen_sw", "demo_arith_dev_en"),
    "xcopa": ("moe_xcopa_sw",),
}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in FAMILIES.items() for name in names])
def test_tasks_of_the_harness_are_of_their_data_set(family: str, name: str) -> None:
    pairing = PairingRegistry.default().pairing(name)
    assert pairing is not None
    assert data_item(pairing.benchmark, "row:7") == (family, "7")


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in OURS.items() for name in names])
def test_tasks_of_ours_are_of_their_data_set(family: str, name: str) -> None:
    [file] = tasks_dir().rglob(f"{name}.yaml")
    text = file.read_text(encoding="utf-8")
    routing = yaml.safe_load(text)["metadata"]["routing"]
    assert data_item(routing["benchmark"], "7") == (family, "7")


def test_benchmarks_of_one_hub_data_set_are_one_here() -> None:
    """Only passages, which are no questions, are known by their texts."""
    by_data: dict[str, set[str]] = {}
    for manifest in load_manifests():
        names = {manifest.name}
        if manifest.lm_eval:
            pairings = [PairingRegistry.default().pairing(task.name) for task in manifest.tasks]
            names = {pairing.benchmark for pairing in pairings if pairing}
        by_data.setdefault(manifest.dataset, set()).update(data_item(name, "x")[0] for name in names)
    several = {name: found for name, found in by_data.items() if len(found) > 1}
    assert several == {"facebook/belebele": {"belebele", "belebele_passages"}}


def test_every_name_of_the_file_is_a_benchmark() -> None:
    known = {entry.benchmark for entry in PairingRegistry.default().entries} | {m.name for m in load_manifests()}
    assert set(load_data_sets()) - known == {"demo_arith", "demo_arith_gen"}


def test_levels_and_subjects_stay_apart_where_keys_start_anew() -> None:
    assert data_item("polymath[low]", "3") != data_item("polymath[top]", "3")
    assert data_item("mine", "row:3") != data_item("other", "row:3")


@needs_bench
def test_a_real_problem_is_one_item_under_every_name(manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(BENCH))
    registry = PairingRegistry.default()
    rows = [json.loads(line) for line in (BENCH / "mgsm" / "sw.jsonl").read_text(encoding="utf-8").splitlines()]
    problems: list[dict[tuple[str, str], str]] = []
    for name in ("moe_mgsm_sw", "moe_mgsm_boxed_sw"):
        task = manager.load([name])["tasks"][name]
        pairing = registry.pairing(name, task.get_config("metadata"))
        keys = [data_item(pairing.benchmark, pairing.item_key(doc, row)) for row, doc in enumerate(task.eval_docs)]
        problems.append({key: task.doc_to_text(doc) for key, doc in zip(keys, task.eval_docs, strict=True)})
    native = registry.pairing("mgsm_native_cot_sw")
    problems.append(
        {data_item("mgsm_native_cot", native.item_key(row, n)): row["question"] for n, row in enumerate(rows)}
    )
    assert problems[0].keys() == problems[1].keys() == problems[2].keys()
    for key, question in problems[2].items():
        assert all(question.strip() in prompts[key] for prompts in problems[:2])


def test_another_prompt_of_the_same_items_is_refused(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    explicit = selected(lm, manager, tmp_path, {"demo_arith_en": [0, 1, 2]}, {"demo_text_en": [0, 1]})
    with pytest.raises(UserError, match=r"task demo_arith_gen_sw: 2 of its 3 documents are items"):
        evaluate(lm, manager, {"demo_arith_gen_sw": [1, 2, 3]}, steering=explicit)
    clean = evaluate(lm, manager, {"demo_arith_gen_sw": [3, 4]}, steering=explicit)["routing"]["tasks"]
    assert (clean["demo_arith_gen_sw"]["leaked_documents"], clean["demo_arith_gen_sw"]["leak_unknown"]) == (0, False)


def selected(
    lm: HFMoE, manager: TaskManager, folder: Path, task: dict[str, list[int]], baseline: dict[str, list[int]]
) -> str:
    """Write a steering file of experts that were selected on some items, and remove their profiles."""
    files = []
    for name, samples in (("task", task), ("base", baseline)):
        files.append(folder / f"{name}.safetensors")
        lm.set_steering(None)
        evaluate(lm, manager, samples, routing_profile=files[-1])
    written = experts(folder, *files)
    for file in files:
        file.unlink()
    return written


def experts(folder: Path, task: Path, base: Path) -> str:
    rule = ["experts", "task", "--profile", str(task), "--baseline", str(base), "--threshold", "0.01"]
    explicit = folder / "explicit.yaml"
    assert main([*rule, "--layers", "middle", "--action", "soft=0.5", "--output", str(explicit), "--force"]) == 0
    return str(explicit)


# ---------------------------------------------------------------------- unknown


def test_unknown_stays_unknown_to_the_end(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    profile = ["profile", "--model_args", "pretrained=demo", "--limit", "4"]
    for name, more in (("pooled", ["--aggregate"]), ("items", [])):
        tasks = {"pooled": "demo_arith_dev_en", "items": "demo_text_en"}[name]
        assert main([*profile, *more, "--tasks", tasks, "--output", str(tmp_path / name)]) == 0
    explicit = experts(tmp_path, tmp_path / "pooled" / "en.safetensors", tmp_path / "items" / "en.safetensors")
    assert load_spec(explicit).selected_on_unknown == ("en.safetensors",)
    with pytest.warns(RoutingWarning, match=r"^en.safetensors does not say which items were counted"):
        results = evaluate(lm, manager, {"demo_arith_sw": [0, 1]}, steering=explicit)
    assert results["routing"]["tasks"]["demo_arith_sw"]["leak_unknown"] is True
    again = tmp_path / "again.yaml"
    assert main(["experts", "--steering", explicit, "--model_args", "pretrained=demo", "--output", str(again)]) == 0
    assert load_spec(again).selected_on_unknown == ("en.safetensors",)
    merged = tmp_path / "merged.safetensors"  # the pooled row among rows of items
    files = [str(tmp_path / name / "en.safetensors") for name in ("items", "pooled")]
    assert main(["profile", "merge", str(merged), *files]) == 0
    (tmp_path / "other_en.txt").write_text("Quite another text than those before.\n", encoding="utf-8")
    assert main([*profile, "--texts", f"en={tmp_path / 'other_en.txt'}", "--output", str(tmp_path / "other")]) == 0
    explicit = experts(tmp_path, merged, tmp_path / "other" / "en.safetensors")
    assert load_spec(explicit).selected_on_unknown == ("merged.safetensors",)


# ---------------------------------------------------------------------- texts


def test_test_prompts_in_a_text_file_are_known_by_their_text(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    """Whatever their case and white space; the file's own names for them are lines."""
    sentences = [doc["text"] for doc in manager.load(["demo_text_en"])["tasks"]["demo_text_en"].eval_docs]
    other = tmp_path / "other_en.txt"
    other.write_text("\n".join(f"Line number {n} of quite another text." for n in range(4)), encoding="utf-8")
    file = tmp_path / "my_en.txt"
    file.write_text("\n".join(f"  {text.upper().replace(' ', '   ')} " for text in sentences[:3]), encoding="utf-8")
    for path in (file, other):
        command = ["profile", "--model_args", "pretrained=demo", "--texts", f"en={path}"]
        assert main([*command, "--output", str(tmp_path / path.stem)]) == 0
    explicit = experts(tmp_path, *(tmp_path / path.stem / "en.safetensors" for path in (file, other)))
    with pytest.raises(UserError, match=r"task demo_text_en: 2 of its 4 documents are items .*: selected_on: "):
        evaluate(lm, manager, {"demo_text_en": [1, 2, 3, 4]}, steering=explicit)
    with pytest.warns(RoutingWarning, match="2 of its 4 documents are items that experts were selected on"):
        marked = evaluate(lm, manager, {"demo_text_en": [1, 2, 3, 4]}, steering=explicit, allow_leak=True)
    assert marked["routing"]["tasks"]["demo_text_en"]["leaked_documents"] == 2
    assert marked["routing"]["steering"]["spec"]["selected_on_texts"] == 7
    clean = evaluate(lm, manager, {"demo_text_en": [3, 4]}, steering=explicit)["routing"]["tasks"]["demo_text_en"]
    assert (clean["leaked_documents"], clean["leak_unknown"]) == (0, False)


@needs_bench
def test_questions_and_prompts_are_texts_and_instructions_are_not(
    manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(BENCH))
    task = manager.load(["moe_mgsm_boxed_en"])["tasks"]["moe_mgsm_boxed_en"]
    doc = task.eval_docs[3]
    fields = main_fields(task.eval_docs)
    assert "question" in fields
    assert "instruction" not in fields
    texts = document_texts(task, doc, "Examples.\n\n" + task.doc_to_text(doc), fields)
    for known in (doc["question"], task.doc_to_text(doc), "Examples.\n\n" + task.doc_to_text(doc)):
        assert text_hash(known) in texts
    assert text_hash(doc["instruction"]) not in texts
    of_other_rows = {value for row in range(4, 40) for value in document_texts(task, task.eval_docs[row], "", fields)}
    assert not of_other_rows & set(texts)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How many eggs are left over?", "  how MANY\teggs are\nleft over? ", True),
        ("ＨＯＷ many eggs are left over?", "how many eggs are left over?", True),
        ("How many eggs are left over?", "How many eggs are left over!", False),
        ("Straße und Wasser am Morgen", "STRASSE UND WASSER AM MORGEN", True),
    ],
)
def test_what_makes_two_texts_one(one: str, other: str, same: bool) -> None:
    assert (text_hash(one) == text_hash(other)) is same


@pytest.mark.parametrize(("text", "known"), [("abcdefgh 1234567", True), ("abcdefg 12345678", False), ("abc", False)])
def test_short_texts_say_nothing(text: str, known: bool) -> None:
    assert bool(text_hash(text)) is known
    assert not text_hash("abcdefghijklmno")  # fifteen characters
    assert text_hash("abcdefghijklmnop")


def test_files_without_hashes_are_read_and_written_as_before(lm: HFMoE, manager: TaskManager, tmp_path: Path) -> None:
    lm.set_steering(None)
    path, bare = tmp_path / "with.safetensors", tmp_path / "without.safetensors"
    evaluate(lm, manager, {"demo_text_en": [0, 1, 2]}, routing_profile=path)
    profile = read_profile(path)
    assert all(item.text for item in profile.items)
    arrays = {name: list(profile.rows(name, range(3))) for name in ("counts", "gate_mass", "importance")}
    items = [ProfileItem(item.benchmark, item.item, item.language, item.task) for item in profile.items]
    assert items == list(profile.items), "a hash names nothing"
    header, tokens = profile.header, profile.tokens
    write_profile(bare, header, items, {**{name: np.stack(rows) for name, rows in arrays.items()}, "tokens": tokens})
    with safe_open(str(bare), framework="numpy") as file:
        assert all(
            set(item) == {"benchmark", "item", "language", "task"} for item in json.loads(file.metadata()["items"])
        )
    profile = read_profile(bare)
    assert list(profile.items) == items
