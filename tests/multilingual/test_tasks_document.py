"""``docs/tasks.md``: current, complete, and with the prompts that lm-eval makes."""

from __future__ import annotations

import re
from functools import cache

import pytest
from support.answering_models import prompt_of

from lm_eval_moe.multilingual.manifest import load_manifests
from tools.multilingual.examples import write_examples
from tools.multilingual.offline import OfflineTasks
from tools.multilingual.tasks_page import DOCUMENT, main, page_without_prompts, section, shown_prompt

MANIFESTS = {manifest.name: manifest for manifest in load_manifests()}
LARGE = {name for name, manifest in MANIFESTS.items() if len(manifest.tasks) > 60 and manifest.kind != "routing"}
PAGE = DOCUMENT.read_text(encoding="utf-8")


@cache
def offline():
    return OfflineTasks()


def section_on_the_page(manifest):
    return PAGE.partition(f"\n## {manifest.title}\n")[2].partition("\n## ")[0]


def test_everything_but_the_prompts_is_current():
    blocks = re.compile(r"(?<=<details>)<summary>.*?(?=</details>)", re.DOTALL)
    said = "run python -m tools.multilingual.tasks_page"
    assert blocks.sub("", PAGE) == blocks.sub("", page_without_prompts(tuple(MANIFESTS.values()))), said


@pytest.mark.filterwarnings("ignore::lm_eval_moe.errors.RoutingWarning")
@pytest.mark.parametrize("name", [name for name in MANIFESTS if name not in LARGE])
def test_the_section_of_a_benchmark_is_current(name):
    manifest = MANIFESTS[name]
    made = section(manifest, offline()).partition(f"## {manifest.title}\n")[2]
    assert section_on_the_page(manifest).strip() == made.strip(), "run python -m tools.multilingual.tasks_page"


@pytest.mark.filterwarnings("ignore::lm_eval_moe.errors.RoutingWarning")
@pytest.mark.parametrize("name", sorted(LARGE))
def test_prompts_of_a_large_benchmark_are_on_the_page_in_all_languages_looked_at(name):
    manifest = MANIFESTS[name]
    some = [task for task in manifest.tasks if task.language in ("en", "sw", "zh", "zh-Hant", "ar", "acm-Arab")]
    shown = section_on_the_page(manifest)
    for task, built in offline().build(manifest, some, 1).items():
        prompt = shown_prompt(built)
        named = {t.name: t.strings.get("name") for t in some}[task]
        assert prompt in shown or (named and prompt.replace(named, "{name}") in shown), task
    assert [task.key for task in manifest.tasks if f"**{task.key}**" not in shown] == []


def test_a_prompt_is_shown_as_a_run_sends_it(tmp_path, monkeypatch):
    manifest = MANIFESTS["xcopa"]
    (swahili,) = [task for task in manifest.tasks if task.key == "sw"]
    assert shown_prompt(offline().build(manifest, [swahili], 1)["moe_xcopa_sw"]) == (
        "<premise> kwa sababu\n→ <choice1>\n→ <choice2>"
    )
    write_examples(tmp_path, manifest, [swahili], 1)
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))
    assert prompt_of("moe_xcopa_sw") == "<premise> kwa sababu"


def test_licence_citation_and_data_of_every_benchmark_are_on_the_page():
    for manifest in MANIFESTS.values():
        shown = section_on_the_page(manifest)
        for fact in (manifest.licence, manifest.citation, manifest.dataset, manifest.homepage, manifest.group):
            assert fact in shown, (manifest.name, fact)


def test_links_of_the_overview_lead_to_sections():
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(#([^)]*)\)", PAGE)
    assert len(links) == len(MANIFESTS)
    assert set(links) <= anchors


def test_check_tells_a_page_that_is_not_current(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tools.multilingual.tasks_page.load_manifests", lambda root: (MANIFESTS["medinstruct"],))
    page = tmp_path / "tasks.md"
    assert main(["--check", "--output", str(page)]) == 1
    assert main(["--output", str(page)]) == 0
    assert main(["--check", "--output", str(page)]) == 0
    page.write_text(page.read_text(encoding="utf-8") + "x", encoding="utf-8")
    assert main(["--check", "--output", str(page)]) == 1
    assert "is not current" in capsys.readouterr().out
