"""Write a benchmark's per-language task files and its group files from its manifest.

``python -m tools.multilingual.task_files [--check] [BENCHMARK ...]``

A task file includes the benchmark's template, ``_moe_<name>_yaml``, and adds what differs: the language, what names an
item, and under ``metadata.moe`` what the loader needs (dataset, configuration, file, strings) and what results can be
sorted by (the language's name, script, family and resource tier). Which groups there are, says
`lm_eval_moe.multilingual.groups`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.files import write_whole
from lm_eval_moe.multilingual.groups import groups_of
from lm_eval_moe.multilingual.manifest import BenchmarkTask, Manifest, load_manifests

__all__ = ["FIRST_LINE", "files_of", "main", "stale_files", "template_name", "write_files"]

FIRST_LINE = "# Made by `python -m tools.multilingual.task_files` from benchmark.yml: change that, not this file."


def template_name(manifest: Manifest) -> str:
    """Return the name of the file that all task files of a benchmark include."""
    return f"_moe_{manifest.name}_yaml"


def files_of(manifest: Manifest) -> dict[str, str]:
    """Return the content of every file that is made from a manifest, by name."""
    contents = {} if manifest.lm_eval else {f"{task.name}.yaml": _task(manifest, task) for task in manifest.tasks}
    contents.update({f"_{group['group']}.yaml": group for group in groups_of(manifest)})
    return {name: f"{FIRST_LINE}\n{_dumped(content)}" for name, content in contents.items()}


def stale_files(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of files that are missing, differ from what the manifest says, or are made from no language."""
    wanted, folder = files_of(manifest), manifest.path.parent
    differing = [name for name, text in wanted.items() if not _has(folder / name, text)]
    return tuple(sorted([*differing, *_leftovers(folder, wanted)]))


def write_files(manifest: Manifest) -> tuple[str, ...]:
    """Bring a benchmark's files up to date; return the names of those that were written or removed.

    Raises:
        UserError: The template is missing.
    """
    folder = manifest.path.parent
    if not manifest.lm_eval and not (folder / template_name(manifest)).is_file():
        raise UserError(
            f"the template {template_name(manifest)} is missing",
            fix="write what the tasks of all languages have in common into it, see tasks/flores",
            where=str(folder),
        )
    wanted, changed = files_of(manifest), stale_files(manifest)
    for name in changed:
        if name in wanted:
            write_whole(folder / name, wanted[name], "task file")
        else:
            (folder / name).unlink()
    return changed


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or with ``--check`` say which are not current; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.multilingual.task_files", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help="a folder of tasks/ (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is not current")
    args = parser.parse_args(argv)
    try:
        stale = 0
        for manifest in _chosen(args.benchmarks):
            names = stale_files(manifest) if args.check else write_files(manifest)
            stale += len(names)
            if names:
                print(f"{manifest.name}: {len(names)} {'not current' if args.check else 'written'} ({_some(names)})")
        return 1 if args.check and stale else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _chosen(names: Sequence[str]) -> tuple[Manifest, ...]:
    manifests = {manifest.name: manifest for manifest in load_manifests()}
    for name in names:
        if name not in manifests:
            raise UserError(
                f"there is no benchmark {name!r}{did_you_mean(name, manifests)}",
                fix=f"there are {', '.join(manifests)}",
                where="BENCHMARK",
            )
    return tuple(manifests[name] for name in names) if names else tuple(manifests.values())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _has(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _leftovers(folder: Path, wanted: Iterable[str]) -> list[str]:
    """Files that were made once, of languages or groups that the manifest no longer has."""
    names = set(wanted)
    return [
        path.name
        for path in folder.glob("*.yaml")
        if path.name not in names and path.read_text(encoding="utf-8").startswith(FIRST_LINE)
    ]


def _dumped(content: dict[str, Any]) -> str:
    """Write YAML as a person would: lists of names downwards, small mappings in one line."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        flat = not any(isinstance(value, (dict, list)) for value in dict(mapping).values())
        one_line = flat and sum(len(str(value)) for value in dict(mapping).values()) < 200
        return super().represent_mapping(tag, mapping, flow_style=one_line)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        names = all(isinstance(value, str) for value in sequence)
        return super().represent_sequence(tag, sequence, flow_style=names and len(sequence) < 4)


def _task(manifest: Manifest, task: BenchmarkTask) -> dict[str, Any]:
    item: Any = "row" if manifest.item is None else list(manifest.item)
    source: dict[str, Any] = {
        "benchmark": manifest.name,
        "dataset": manifest.dataset,
        "revision": manifest.revision,
        "config": task.config,
        "file": task.file,
        "variant": task.variant,
        "language": {
            "name": task.info.name,
            "script": task.info.script,
            "family": task.info.family,
            "branch": task.info.branch,
            "resources": task.info.tier,
        },
        "strings": dict(task.strings),
    }
    source["language"] = {key: value for key, value in source["language"].items() if value is not None}
    return {
        "include": template_name(manifest),
        "task": task.name,
        **task.fields,
        "metadata": {
            "version": manifest.version,
            "routing": {
                "language": task.language,
                "benchmark": manifest.identity(task.variant),
                "item": item[0] if isinstance(item, list) and len(item) == 1 else item,
            },
            "moe": {key: value for key, value in source.items() if value not in (None, {})},
        },
    }


if __name__ == "__main__":
    sys.exit(main())
