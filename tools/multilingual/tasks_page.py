"""Write ``docs/tasks.md``: every benchmark with its facts, and its prompts, for native readers to judge.

``python -m tools.multilingual.tasks_page [--check]``

The prompts are what lm-eval's own task class makes of an invented row.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_whole
from lm_eval_moe.harness.requests import prompt_of
from lm_eval_moe.multilingual.groups import groups_of
from lm_eval_moe.multilingual.languages import TIERS, language_info
from lm_eval_moe.multilingual.listing import list_benchmarks
from lm_eval_moe.multilingual.manifest import BenchmarkTask, Manifest, load_manifests
from lm_eval_moe.resources import tasks_dir
from tools.multilingual.offline import OfflineTasks

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

__all__ = ["DOCUMENT", "document", "main", "page_without_prompts", "section", "shown_prompt"]

DOCUMENT = tasks_dir().parent / "docs" / "tasks.md"
"""Where the page lies in a checkout."""

_CLOSE = "</details>"
_MANY = 40  # prompts that differ in one word are shown as one template from here on

_HEAD = """\
# Multilingual tasks

Made by `python -m tools.multilingual.tasks_page` from the manifests `tasks/*/benchmark.yml`; a test checks that it is
current. `lm-eval-moe ls` shows the same facts in the terminal.

```sh
lm-eval-moe ls --language sw
lm-eval-moe run --model hf-moe --model_args pretrained=demo --tasks moe_xcopa --limit 10        # all languages
lm-eval-moe run --model hf-moe --model_args pretrained=demo --tasks moe_xcopa_en,moe_xcopa_sw
lm-eval-moe profile --model_args pretrained=demo --tasks moe_ntrex_en,moe_ntrex_sw --output profiles
```

**Averages.** A group `moe_<benchmark>` shows the mean over its tasks, each with the same weight; within it
`..._non_english` the mean over all but English, and within that one group for each resource tier without English
(`..._high_resource`, `..._mid_resource`, `..._low_resource`, `..._unknown_resource`). lm-eval refuses a task that is in
two of the groups of a run: give the largest group alone. Routing divergence needs the English task in the run, or its
profile.

**Resource tiers** are the classes of Joshi et al. 2020 (arXiv 2004.09095) as the Aya Dataset paper (arXiv 2402.06619)
groups them: high 5 and 4, mid 3, low 2 to 0; languages that their list does not name are unknown. The table of names,
scripts, families and classes, with its sources, is `lm_eval_moe/multilingual/languages.yaml`.

**Offline.** With `MOE_BENCH_DIR` set, this package's own tasks read `<folder>/<benchmark>/<file>.jsonl` instead of the
hub, with one row per line in the hub's columns. Groups of lm-eval's own tasks read what lm-eval reads.

**One more benchmark** takes a folder in `tasks/`, or in a [plug-in](extending.md#a-benchmark), with a manifest
`benchmark.yml` (its keys are explained at the head of `lm_eval_moe/multilingual/manifest.py`), a template, and a loader
if the rows need more than reading; `python -m tools.multilingual.task_files` writes the tasks and groups.

**Prompts.** Each benchmark's prompts are shown on an invented row, `<question>` standing for the question; lines that
begin with an arrow are the answers to choose from. If you speak the language and a prompt reads wrong,
please report it.
"""


def document(manifests: Sequence[Manifest]) -> str:
    """Return the page.

    Raises:
        UserError: There are no invented rows for a benchmark.
    """
    offline = OfflineTasks()
    ordered = _ordered(manifests)
    return "\n".join([_HEAD, _overview(ordered), *(section(manifest, offline) for manifest in ordered)])


def page_without_prompts(manifests: Sequence[Manifest]) -> str:
    """Return the page with the sections' folded parts empty: what can be had without building a task."""
    ordered = _ordered(manifests)
    sections = ("\n".join([*_opening(m), "<details><summary></summary></details>", ""]) for m in ordered)
    return "\n".join([_HEAD, _overview(ordered), *sections])


def section(manifest: Manifest, offline: OfflineTasks) -> str:
    """Return a benchmark's section: its facts, and folded its prompts, or its languages where there are no prompts.

    Raises:
        UserError: There are no invented rows for the benchmark.
    """
    lines = _opening(manifest)
    if manifest.kind == "routing":
        return "\n".join(
            [*lines, "<details><summary>Languages</summary>", "", _languages(manifest.tasks), "", _CLOSE, ""]
        )
    lines += [f"<details><summary>Prompts in {len(manifest.languages)} languages</summary>", ""]
    prompts = _prompts(manifest, offline)
    if len(prompts) > _MANY and (template := _template(prompts)) is not None:
        lines += [*_block(template[0]), *template[1], ""]
    else:
        for prompt, tasks in prompts:
            lines += [_languages(tasks), "", *_block(prompt)]
    return "\n".join([*lines, _CLOSE, ""])


def shown_prompt(task: ConfigurableTask) -> str:
    """Return what a model is given for a task's first document without examples, and the answers to choose from."""
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests(limit=1)
    prompt = prompt_of(task.instances[0])
    if task.OUTPUT_TYPE != "multiple_choice":
        return prompt
    choices = [f"→ {str(request.args[1]).strip()}" for request in task.instances]
    return "\n".join([*([prompt.rstrip("\n")] if prompt else []), *choices])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` say whether it is current; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.multilingual.tasks_page", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is not current")
    parser.add_argument("--output", type=Path, default=DOCUMENT, help="default: docs/tasks.md of the checkout")
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # lm-eval explains every task that it builds
    try:
        text = document(load_manifests(tasks_dir()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if args.check:
        current = args.output.is_file() and args.output.read_text(encoding="utf-8") == text
        if not current:
            print(f"{args.output} is not current")
        return 0 if current else 1
    write_whole(args.output, text, "page")
    return 0


def _overview(manifests: Sequence[Manifest]) -> str:
    listing = list_benchmarks(manifests)
    lines = ["## Overview", "", "| group | kind | languages | items | paired with English |", "|---|---|--:|---|---|"]
    for manifest, row in zip(manifests, listing.rows, strict=True):
        paired = "no" if manifest.no_pairs else str(row[4])
        anchor = _anchor(manifest)
        lines.append(f"| [`{row[0]}`](#{anchor}) | {row[1]} | {len(manifest.languages)} | {row[3]} | {paired} |")
    return "\n".join(lines) + "\n"


def _anchor(manifest: Manifest) -> str:
    """GitHub's anchor of a section's title."""
    kept = "".join(char for char in manifest.title.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def _ordered(manifests: Sequence[Manifest]) -> list[Manifest]:
    return sorted(manifests, key=lambda m: (m.kind == "routing", m.name))


def _opening(manifest: Manifest) -> list[str]:
    """Title, facts and note of a section."""
    lines = [f"## {manifest.title}", "", *(f"- {fact}" for fact in _facts(manifest)), ""]
    return [*lines, manifest.note, ""] if manifest.note else lines


def _block(prompt: str) -> list[str]:
    return ["```text", prompt, "```", ""]


def _template(prompts: list[tuple[str, list[BenchmarkTask]]]) -> tuple[str, list[str]] | None:
    """Return the one prompt that all are with a string of the manifest put in, and a line that says what is put in."""
    for name in prompts[0][1][0].strings:
        texts = [(prompt, task, task.strings.get(name)) for prompt, tasks in prompts for task in tasks]
        templates = {prompt.replace(text, f"{{{name}}}") for prompt, _, text in texts if isinstance(text, str)}
        if len(templates) == 1:
            values = "; ".join(f"**{task.key}** {text}" for _, task, text in texts)
            return templates.pop(), [f"{{{name}}} is: {values}"]
    return None


def _facts(manifest: Manifest) -> Iterator[str]:
    tiers = Counter(language_info(language).tier for language in manifest.languages)
    counted = ", ".join(f"{tiers[tier]} {tier}" for tier in TIERS if tiers[tier])
    groups = [group["group"] for group in groups_of(manifest)]
    names = "lm-eval's own" if manifest.lm_eval else "this package's own"
    yield f"Group `{manifest.group}` of {len(manifest.tasks)} tasks, {names}, such as `{manifest.tasks[-1].name}`"
    further = [group for group in groups[1:] if not group.endswith(("_non_english", "_resource"))]
    if further:
        yield f"Further groups: {', '.join(f'`{group}`' for group in further)}"
    yield f"Languages: {len(manifest.languages)} (resources: {counted})"
    paired = f"no, {_lower(manifest.no_pairs)}" if manifest.no_pairs else f"by {_item(manifest)}"
    yield f"Items: {manifest.items}; paired with English: {paired}"
    if manifest.kind == "routing":
        yield "Text without a task, for divergence and profiles; the score is bits per byte"
    else:
        metrics = (f"`{m.name}`" + (f" ({m.filter})" if m.filter else "") for m in manifest.metrics)
        yield f"{manifest.kind.replace('_', ' ').capitalize()}; metrics: {', '.join(metrics)}"
    revision = f" at {manifest.revision[:12]}" if manifest.revision else ""
    yield f"Data: `{manifest.dataset}`{revision} on the Hugging Face hub; <{manifest.homepage}>"
    yield f"Licence of the data: {manifest.licence}"
    yield f"Cite: {manifest.citation}"


def _item(manifest: Manifest) -> str:
    return "row" if manifest.item is None else " and ".join(f"`{field}`" for field in manifest.item)


def _lower(sentence: str | None) -> str:
    return "" if not sentence else (sentence[0].lower() + sentence[1:]).rstrip(".")


def _prompts(manifest: Manifest, offline: OfflineTasks) -> list[tuple[str, list[BenchmarkTask]]]:
    """Return every prompt with the tasks that have it, in the manifest's order."""
    built = offline.build(manifest, manifest.tasks, 1)
    having: dict[str, list[BenchmarkTask]] = {}
    for task in manifest.tasks:
        having.setdefault(shown_prompt(built[task.name]), []).append(task)
    return list(having.items())


def _languages(tasks: Iterable[BenchmarkTask]) -> str:
    """Name languages: with their English names where there are few."""
    keys = {task.key: task.language for task in tasks}
    if len(keys) <= 3:
        return ", ".join(f"**{key}** {language_info(tag).name}" for key, tag in keys.items())
    return " ".join(f"**{key}**" for key in keys)


if __name__ == "__main__":
    sys.exit(main())
