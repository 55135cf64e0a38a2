"""The task and group files: current, complete, and such that lm-eval's groups average what they say."""

from __future__ import annotations

import shutil

import lm_eval
import pytest
import yaml
from support.answering_models import AnsweringModel, manager

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.groups import groups_of
from lm_eval_moe.multilingual.languages import language_info
from lm_eval_moe.multilingual.manifest import load_manifest, load_manifests
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.resources import tasks_dir
from tools.multilingual import task_files
from tools.multilingual.examples import write_examples
from tools.multilingual.task_files import FIRST_LINE, stale_files, write_files

MANIFESTS = {manifest.name: manifest for manifest in load_manifests()}
OWN = {name: manifest for name, manifest in MANIFESTS.items() if not manifest.lm_eval}


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_files_are_what_the_manifest_says(name):
    assert stale_files(MANIFESTS[name]) == (), f"run python -m tools.multilingual.task_files {name}"


@pytest.fixture
def copied(tmp_path):
    folder = tmp_path / "gsm8k_instruct"
    shutil.copytree(tasks_dir() / "gsm8k_instruct", folder)
    return folder


def test_a_changed_manifest_makes_files_stale_and_writing_mends_them(copied):
    path = copied / "benchmark.yml"
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  th:")]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    manifest = load_manifest(path)
    stale = ("_moe_gsm8k_instruct_mid_resource.yaml", "moe_gsm8k_instruct_th.yaml")
    assert stale_files(manifest) == stale
    assert write_files(manifest) == stale
    assert not (copied / "moe_gsm8k_instruct_th.yaml").exists()
    assert stale_files(manifest) == ()


def test_an_edited_file_is_stale_and_a_file_of_ones_own_is_left_alone(copied):
    edited, own = copied / "moe_gsm8k_instruct_sw.yaml", copied / "moe_gsm8k_instruct_mine.yaml"
    edited.write_text(edited.read_text(encoding="utf-8") + "num_fewshot: 3\n", encoding="utf-8")
    own.write_text("task: mine\n", encoding="utf-8")
    manifest = load_manifest(copied / "benchmark.yml")
    assert stale_files(manifest) == (edited.name,)
    write_files(manifest)
    assert own.exists()


def test_a_missing_template_is_named(copied):
    (copied / "_moe_gsm8k_instruct_yaml").unlink()
    with pytest.raises(UserError, match="the template _moe_gsm8k_instruct_yaml is missing"):
        write_files(load_manifest(copied / "benchmark.yml"))


def test_check_says_what_is_stale_and_writes_nothing(copied, monkeypatch, capsys):
    monkeypatch.setattr(task_files, "load_manifests", lambda: (load_manifest(copied / "benchmark.yml"),))
    assert task_files.main(["--check"]) == 0
    (copied / "moe_gsm8k_instruct_sw.yaml").write_text(FIRST_LINE, encoding="utf-8")
    assert task_files.main(["--check", "gsm8k_instruct"]) == 1
    assert capsys.readouterr().out == "gsm8k_instruct: 1 not current (moe_gsm8k_instruct_sw.yaml)\n"
    assert task_files.main(["gsm8k_instruct"]) == 0
    assert task_files.main(["--check"]) == 0
    assert task_files.main(["gsm9k"]) == 2


def test_lm_eval_knows_every_task_and_group_under_its_name():
    known = manager().task_index
    missing = [task.name for m in OWN.values() for task in m.tasks if task.name not in known]
    missing += [group["group"] for m in MANIFESTS.values() for group in groups_of(m) if group["group"] not in known]
    assert missing == []


@pytest.mark.parametrize("name", OWN)
def test_a_task_says_its_language_and_what_names_an_item(name):
    manifest, registry, index = OWN[name], PairingRegistry.default(), manager().task_index
    for task in manifest.tasks:
        pairing = registry.pairing(task.name, index[task.name].cfg["metadata"])
        assert pairing is not None
        assert (pairing.language, pairing.benchmark) == (task.language, manifest.identity(task.variant))
        assert pairing.item == manifest.item
        said = index[task.name].cfg["metadata"]["moe"]["language"]
        assert (said["script"], said["family"], said["resources"]) == (
            task.info.script,
            task.info.family,
            task.info.tier,
        )


def members(groups, name):
    return [task for member in groups[name] for task in (members(groups, member) if member in groups else [member])]


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_group_of_all_has_every_task_once_and_the_tiers_part_all_but_english(name):
    manifest = MANIFESTS[name]
    groups = {group["group"]: group["task"] for group in groups_of(manifest)}
    everything = members(groups, manifest.group)
    assert sorted(everything) == sorted(task.name for task in manifest.tasks)
    language_of = {task.name: task.language for task in manifest.tasks}
    for group in groups:
        if group.endswith("_non_english"):
            whole = set(members(groups, group.removesuffix("_non_english")))
            assert set(members(groups, group)) == {task for task in whole if language_of[task] != "en"}
        elif group.endswith("_resource"):
            tier = group.removesuffix("_resource").rpartition("_")[2]
            assert {language_info(language_of[task]).tier for task in members(groups, group)} == {tier}
            assert "en" not in {language_of[task] for task in members(groups, group)}


def test_lm_eval_averages_over_languages_with_equal_weight(tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))
    manifest = MANIFESTS["xcopa"]
    write_examples(tmp_path, manifest, manifest.tasks, 4)
    # English has half of its rows: an average over documents would differ from one over languages.
    english = tmp_path / "xcopa" / "en.test.jsonl"
    english.write_text("".join(english.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    knows = {"moe_xcopa_en", "moe_xcopa_sw", "moe_xcopa_th"}

    class KnowsSome(AnsweringModel):
        def _score(self, request):
            right = request.idx == request.doc["label"]
            return -1.0 if right == (request.task_name in knows) else -1000.0

    found = lm_eval.evaluate(KnowsSome(), manager().load(["moe_xcopa"]), bootstrap_iters=0, log_samples=False)
    accuracy = {name: scores["acc,none"] for name, scores in found["groups"].items()}
    assert accuracy == {
        "moe_xcopa": pytest.approx(3 / 12),
        "moe_xcopa_non_english": pytest.approx(2 / 11),
        "moe_xcopa_high_resource": 0.0,  # it, tr, vi, zh
        "moe_xcopa_mid_resource": pytest.approx(1 / 4),  # et, id, ta, th
        "moe_xcopa_low_resource": pytest.approx(1 / 3),  # ht, qu, sw
    }
    assert found["n-samples"]["moe_xcopa_en"]["effective"] == 2


def test_groups_of_variants_lie_in_the_group_of_all():
    groups = {group["group"]: group["task"] for group in groups_of(MANIFESTS["polymath"])}
    assert groups["moe_polymath"] == [f"moe_polymath_{level}" for level in ("low", "medium", "high", "top")]
    assert groups["moe_polymath_low"] == ["moe_polymath_low_en", "moe_polymath_low_non_english"]


def test_generated_files_are_plain_yaml_that_says_where_it_comes_from():
    for path in (tasks_dir() / "ntrex").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(FIRST_LINE)
        assert yaml.safe_load(text)["metadata"]["version"] == 1.0
