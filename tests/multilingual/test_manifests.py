"""Reading ``benchmark.yml``: what it says, and what is refused."""

from __future__ import annotations

import copy

import pytest
import yaml
from lm_eval.tasks._index import TaskIndex

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.manifest import AveragedMetric, load_manifest, load_manifests
from tools.multilingual.task_files import write_files

GOOD = {
    "name": "riddles",
    "title": "Riddles",
    "kind": "generation",
    "dataset": "someone/riddles",
    "licence": "CC BY 4.0",
    "citation": "Someone 2024",
    "homepage": "https://example.org",
    "items": 12,
    "item": ["book", "page"],
    "pairs_with_reference": True,
    "metrics": ["acc", {"metric": "exact_match", "filter": "number"}],
    "defaults": {"word": "Question:", "tone": "plain"},
    "languages": {
        "en": None,
        "sw": {"config": "swa", "file": "swahili", "strings": {"word": "Swali:"}, "fields": {"num_fewshot": 2}},
        "fa": "pes_Arab",
        "fa_prs": {"language": "fa", "config": "prs_Arab"},
    },
    "groups": {"persian": ["fa", "fa_prs"], "everything": "all"},
    "note": "Made up.",
}


def written(folder, content):
    path = folder / "riddles" / "benchmark.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def changed(**keys):
    content = copy.deepcopy(GOOD)
    content.update(keys)
    return {key: value for key, value in content.items() if value != "absent"}


def test_a_manifest_says_everything_of_every_task(tmp_path):
    manifest = load_manifest(written(tmp_path, GOOD))
    english, swahili, persian, dari = manifest.tasks
    assert [task.name for task in manifest.tasks] == [
        "moe_riddles_en",
        "moe_riddles_sw",
        "moe_riddles_fa",
        "moe_riddles_fa_prs",
    ]
    assert (english.config, english.file, english.strings) == (None, "en", {"word": "Question:", "tone": "plain"})
    assert (swahili.config, swahili.file, swahili.fields) == ("swa", "swahili", {"num_fewshot": 2})
    assert swahili.strings == {"word": "Swali:", "tone": "plain"}
    assert (persian.config, dari.config, dari.language, dari.key) == ("pes_Arab", "prs_Arab", "fa", "fa_prs")
    assert manifest.languages == ("en", "sw", "fa")
    assert manifest.item == ("book", "page")
    assert manifest.metrics == (AveragedMetric("acc"), AveragedMetric("exact_match", "number"))
    assert manifest.groups == {"persian": ("fa", "fa_prs"), "everything": ("en", "sw", "fa", "fa_prs")}
    assert (manifest.no_pairs, manifest.items, manifest.version) == (None, "12", 1.0)
    assert swahili.info.name == "Swahili"


def test_variants_multiply_the_tasks_and_bring_strings(tmp_path):
    manifest = load_manifest(written(tmp_path, changed(variants={"easy": {"tone": "kind"}, "hard": None}, groups=None)))
    assert [task.name for task in manifest.tasks][:3] == [
        "moe_riddles_easy_en",
        "moe_riddles_hard_en",
        "moe_riddles_easy_sw",
    ]
    assert [task.strings["tone"] for task in manifest.tasks[:2]] == ["kind", "plain"]
    assert [manifest.identity(task.variant) for task in manifest.tasks[:2]] == ["riddles[easy]", "riddles[hard]"]


def test_lm_evals_own_tasks_are_named_by_a_pattern(tmp_path):
    languages = {"en": "eng", "sw": "swa"}
    content = changed(lm_eval=["xriddle_{config}", "yriddle_{language}"], languages=languages, groups=None)
    names = [task.name for task in load_manifest(written(tmp_path, content)).tasks]
    assert names == ["xriddle_eng", "yriddle_en", "xriddle_swa", "yriddle_sw"]


REFUSED = [
    (changed(nmae="x"), "unknown key 'nmae' (did you mean 'name'?)"),
    (changed(licence="absent"), "'licence' is missing"),
    (changed(name="puzzles"), "expected the folder's name, 'riddles', got 'puzzles'"),
    (changed(kind="riddle"), "kind: unknown value: 'riddle'"),
    (changed(items=0), "items: expected an integer, got 0"),
    (changed(item=[]), "item: expected 'row', a field or a list of fields"),
    (changed(pairs_with_reference="no"), "expected true or a sentence, got 'no'"),
    (changed(pairs_with_reference=False), "expected true or a sentence, got false"),
    (changed(languages={"sw": "sw"}, groups=None), "true, but English is not among the languages"),
    (changed(languages={}), "languages: there are no languages"),
    (changed(languages={"en": "en", "swh": "x"}), "'swh' is not the tag of this language, 'sw' is"),
    (changed(languages={"en": "en", "qq": "x"}), "'qq' is not a language code"),
    (changed(languages={"en": "en", "gsw": "x"}), "the language 'gsw' is not in the table"),
    (changed(languages={"en": {"confg": "x"}}), "unknown key 'confg' (did you mean 'config'?)"),
    (changed(languages={"en": ["x"]}), "languages.en: expected a mapping, got a list of 1"),
    (changed(languages={"en": {"strings": "x"}}), "languages.en.strings: expected a mapping"),
    (
        changed(languages={"en": "x", "fa-prs": {"language": "fa"}, "fa_prs": {"language": "fa"}}, groups=None),
        "lead to the same task",
    ),
    (changed(groups={"some": ["sv"]}), "groups.some.0: unknown value: 'sv'"),
    (changed(groups={"some": []}), "groups.some: there are no languages"),
    (changed(metrics=[]), "metrics: there are no metrics"),
    (changed(metrics=[{"metric": "acc", "fliter": "x"}]), "unknown key 'fliter' (did you mean 'filter'?)"),
    (changed(variants={"easy": "x"}), "variants.easy: expected a mapping, got 'x'"),
    (changed(variants=[]), "variants: there are no variants"),
    (changed(lm_eval="x_{config}"), "names {config}, and the language 'en' has none"),
    (changed(groups={"sw": ["sw"]}), "the group moe_riddles_sw already exists"),
    (changed(groups={"non_english": ["sw"]}), "the group moe_riddles_non_english already exists"),
    (changed(lm_eval="x_{lang}"), "{lang} in 'x_{lang}' is unknown"),
    (changed(defaults=["x"]), "defaults: expected a mapping"),
    (changed(version="two"), "version: expected a number, got 'two'"),
    ("name: [", "not valid YAML"),
    ("- a\n- b\n", "expected a mapping"),
    ("name: a\nname: b\n", "key 'name' is given twice"),
    (changed(languages={"en": "en", False: "nb"}), "put the code in quotes"),
]


@pytest.mark.parametrize(("content", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_mistake_is_named_with_the_file_and_the_key(tmp_path, content, said):
    path = written(tmp_path, content)
    with pytest.raises(UserError) as caught:
        load_manifest(path)
    assert said in str(caught.value)
    assert "benchmark.yml" in str(caught.value) or "languages.yaml" in str(caught.value)


def test_lm_eval_does_not_take_a_manifest_for_a_task(tmp_path):
    written(tmp_path, GOOD)
    (tmp_path / "riddles" / "_moe_riddles_yaml").write_text("output_type: generate_until\n", encoding="utf-8")
    write_files(load_manifest(tmp_path / "riddles" / "benchmark.yml"))
    index = TaskIndex.build([tmp_path])
    assert "riddles" not in index
    assert {name for name in index if not name.endswith("_resource")} == {
        *("moe_riddles", "moe_riddles_non_english", "moe_riddles_persian", "moe_riddles_everything"),
        *("moe_riddles_en", "moe_riddles_sw", "moe_riddles_fa", "moe_riddles_fa_prs"),
    }


def test_all_manifests_of_the_package_are_read_and_no_task_is_theirs_twice():
    manifests = load_manifests()
    names = [task.name for manifest in manifests if not manifest.lm_eval for task in manifest.tasks]
    assert len(names) == len(set(names))
    assert {"flores", "belebele_passages", "ntrex", "gsm8k_instruct", "medinstruct"} <= {m.name for m in manifests}
    assert all(len(m.citation) > 20 and m.homepage.startswith("https://") for m in manifests)
