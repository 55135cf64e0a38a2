"""``lm-eval-moe profile``: capture routing without scoring; show, merge, compare and analyse profiles."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.registry import usual_batch_size
from lm_eval_moe.cli._profile_analyse import add_analyse
from lm_eval_moe.cli._shared import (
    add_device,
    add_model,
    add_overrides,
    add_parallel,
    add_strict,
    check_at_least,
    check_folder,
    loaded,
    model_arguments,
    quiet_libraries,
    refuse_several_processes,
    steering_of,
    warnings_as_lines,
)
from lm_eval_moe.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel
    from lm_eval_moe.profiling.documents import Source
    from lm_eval_moe.profiling.prompting import Prompting

__all__ = ["add_parser"]

_OF_TEXTS = ("text_field", "id_field", "benchmark")
_OF_TASKS = ("include_path",)


def add_parser(subparsers: Any) -> None:
    """Add ``profile``."""
    parser = subparsers.add_parser(
        "profile",
        description="Capture how a model routes texts, or the prompts of tasks, and write one safetensors profile per "
        "language. An interrupted run resumes where it stopped when it is started again with the same arguments.",
        epilog="examples:\n"
        "  lm-eval-moe profile --model_args pretrained=demo --output profiles --texts en=en.txt sw=sw.jsonl\n"
        "  lm-eval-moe profile --model_args pretrained=demo --output profiles --tasks demo_arith_en,demo_arith_sw\n"
        "  lm-eval-moe profile show profiles/*.safetensors\n"
        "  lm-eval-moe profile diff profiles/en.safetensors profiles/sw.safetensors\n"
        "  lm-eval-moe profile analyse profiles/*.safetensors --output analysis",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_capture(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="show | merge | diff | analyse", title="working with profiles")
    show = verbs.add_parser("show", help="show what is in profiles")
    show.add_argument("files", nargs="+", type=Path, metavar="FILE", help="safetensors profile, or JSON counts")
    show.set_defaults(func=_show)
    merge = verbs.add_parser("merge", help="merge the items of several profiles of one model into one file")
    merge.add_argument("out", type=Path, metavar="OUT", help="the file to write")
    merge.add_argument("files", nargs="+", type=Path, metavar="FILE", help="safetensors profile")
    merge.set_defaults(func=_merge)
    diff = verbs.add_parser("diff", help="show how far apart two profiles are, layer by layer")
    diff.add_argument("a", type=Path, metavar="A", help="safetensors profile, or JSON counts")
    diff.add_argument("b", type=Path, metavar="B", help="the profile to compare it with")
    diff.add_argument("--experts", type=int, default=3, help="experts to name in each layer (default: 3)")
    diff.set_defaults(func=_diff)
    add_analyse(verbs)
    parser.set_defaults(func=_capture)


def _add_capture(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--output", "-o", type=Path, metavar="DIR", help="folder for the profiles, one file per language"
    )
    parser.add_argument(
        "--texts",
        nargs="+",
        action="extend",
        metavar="LANG=FILE",
        help="texts to profile: a file with one text per line, a .jsonl file, or hf:NAME:CONFIG:SPLIT for a data set",
    )
    parser.add_argument("--tasks", metavar="NAMES", help="lm-eval tasks, separated by commas, whose prompts to profile")
    parser.add_argument("--text_field", help="field of the text in JSON lines or a data set (default: text)")
    parser.add_argument(
        "--id_field", help="field that names an item in every language (default: items pair by their position)"
    )
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        help="benchmark that the texts are from (default: the file's name without its language)",
    )
    parser.add_argument("--include_path", metavar="DIR", help="folder with additional task files")
    add_parallel(parser)
    parser.add_argument(
        "--span",
        choices=("prompt", "continuation", "all", "thinking"),
        metavar="{prompt,continuation,all}",  # a run's fourth span is refused with the reason
        default="prompt",
        help="tokens to count (default: prompt). A text is all prompt; the continuation of a document with choices "
        "is its gold choice",
    )
    parser.add_argument(
        "--apply_chat_template",
        nargs="?",
        const=True,
        default=False,
        metavar="NAME",
        help="apply the tokenizer's chat template to prompts, with a text as the user's message; NAME if there are "
        "several templates",
    )
    parser.add_argument("--system_instruction", metavar="TEXT", help="put this before every prompt or text")
    parser.add_argument("--aggregate", action="store_true", help="one pooled row per language instead of one per item")
    parser.add_argument(
        "--arrays",
        metavar="NAMES",
        default="",
        help="additional arrays to store: consecutive_overlap, how similar the experts of neighbouring tokens are",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N texts of a file, or N documents of a task")
    parser.add_argument("--batch_size", type=int, help="texts per batch (default: 8; auto for vllm-moe)")
    parser.add_argument("--max_length", type=int, help="tokens per window; longer texts are split")
    add_device(parser)
    parser.add_argument("--steering", metavar="FILE", help="profile the model steered by this file")
    add_overrides(parser)
    parser.add_argument(
        "--save_every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often to force everything to disk (default: 60). Killing the command itself loses at most the last "
        "few batches, or with --aggregate whatever was not yet saved",
    )
    parser.add_argument("--restart", action="store_true", help="replace existing profiles instead of resuming them")
    add_strict(parser)


def _capture(args: argparse.Namespace) -> int:
    _check(args)
    with warnings_as_lines(strict=args.strict) as warned:
        with contextlib.redirect_stdout(sys.stderr), quiet_libraries():
            from lm_eval_moe.profiling.capture import CaptureOptions, planned
            from lm_eval_moe.profiling.prompting import InTurns, Prompting

            # Texts are read and checked before any weights are loaded; tasks need the model's tokenizer and registry.
            sources = _texts(args) if args.texts else None
            lm = _model(args)
            lm.trust_files()
            prompting = Prompting(args.apply_chat_template, args.system_instruction)
            if sources is None:
                sources = _task_prompts(args, lm, prompting)
            elif prompting != Prompting():
                sources = [InTurns(source, lm, prompting) for source in sources]
            options = CaptureOptions(
                args.limit, args.aggregate, args.restart, args.save_every, _arrays(args), prompting
            )
            jobs = planned(lm, sources, args.output, options)
            warned.check()
            del sources
            lines = []
            while jobs:  # what a job held goes with it
                lines.append(_run(jobs.pop(0)))
        print("\n".join(lines))
    return 0


def _run(job: Any) -> str:
    from tqdm import tqdm

    if job.finished:
        return f"{job.path}: already exists, with the same settings"
    if job.done:
        print(f"lm-eval-moe: {job.path}: resuming after {job.done} of {len(job.source)} documents", file=sys.stderr)
    with tqdm(
        total=len(job.source),
        initial=job.done,
        desc=job.source.language,
        unit="doc",
        disable=not sys.stderr.isatty(),
        file=sys.stderr,
    ) as bar:
        rows, tokens = job.run(bar.update)
    extent = f"{job.done} documents pooled" if job.options.aggregate else f"{rows} items"
    return f"{job.path}: {extent}, {tokens} tokens"


def _check(args: argparse.Namespace) -> None:
    arguments = model_arguments(args)
    if args.output is None:
        raise UserError("no folder given", fix="say where to write the profiles", where="--output")
    check_folder(args.output, "--output")
    if bool(args.texts) == bool(args.tasks):
        raise UserError(
            "give either texts or tasks to profile", fix="use --texts LANG=FILE ... or --tasks NAMES", where="profile"
        )
    foreign, other_kind = (_OF_TASKS, "texts") if args.texts else (_OF_TEXTS, "tasks")
    idle = [flag for flag in foreign if getattr(args, flag)]
    if idle:
        raise UserError("has no effect on " + other_kind, fix="leave it out", where=f"--{idle[0]}")
    check_at_least(args, 1, "limit", "batch_size", "max_length")
    if not args.save_every >= 0:
        raise UserError(
            f"{args.save_every} is not a number of seconds",
            fix="give a number of at least 0; 0 saves as often as possible",
            where="--save_every",
        )
    if args.span == "thinking":
        raise UserError(
            "profile generates nothing, so there is no thinking to count",
            fix="use `lm-eval-moe run --routing_profile` with capture=thinking, or another --span",
            where="--span",
        )
    if args.texts and args.span == "continuation":
        raise UserError("a text has no continuation", fix="leave out --span", where="--span")
    _arrays(args)
    twice = [
        name
        for name in ("steering", "max_length")
        if arguments.get(name) is not None and getattr(args, name) is not None
    ]
    if twice:
        raise UserError(f"{twice[0]} is given twice", fix="leave it out of --model_args", where=f"--{twice[0]}")


def _arrays(args: argparse.Namespace) -> tuple[str, ...]:
    from lm_eval_moe.profiles import EXTRA_ARRAYS

    names = dict.fromkeys(name.strip() for name in args.arrays.split(",") if name.strip())
    for name in names:
        if name not in EXTRA_ARRAYS:
            raise UserError(
                f"there is no array {name!r}{did_you_mean(name, EXTRA_ARRAYS)}",
                fix=f"choose among {', '.join(EXTRA_ARRAYS)}; the others are always stored",
                where="--arrays",
            )
    return tuple(names)


def _texts(args: argparse.Namespace) -> list[Source]:
    from lm_eval_moe.profiling.fields import Fields
    from lm_eval_moe.profiling.texts import text_sources

    fields = Fields(args.text_field or "text", args.id_field)
    return text_sources(args.texts, fields, benchmark=args.benchmark, limit=args.limit, has_names=not args.aggregate)


def _task_prompts(args: argparse.Namespace, lm: RoutedModel, prompting: Prompting) -> list[Source]:
    from lm_eval_moe.profiling.task_prompts import task_sources

    names = [name.strip() for name in args.tasks.split(",") if name.strip()]
    return task_sources(lm, names, limit=args.limit, include_path=args.include_path, prompting=prompting)


def _model(args: argparse.Namespace) -> RoutedModel:
    size = args.batch_size or usual_batch_size(args.model, 8)
    arguments = {"batch_size": size, **model_arguments(args), "capture": args.span}
    if args.max_length is not None:
        arguments["max_length"] = args.max_length
    if args.parallel:
        arguments["parallel"] = args.parallel
    lm = loaded(args, arguments | {"steering": steering_of(args, arguments)})
    refuse_several_processes(lm, "profile")
    return lm


def _show(args: argparse.Namespace) -> int:
    from lm_eval_moe.profiles.show import show_profiles

    print(show_profiles(args.files))
    return 0


def _merge(args: argparse.Namespace) -> int:
    from lm_eval_moe.profiles.merge import merge_profiles

    with warnings_as_lines():
        items = merge_profiles(args.out, args.files)
    print(f"{args.out}: {items} items of {len(args.files)} files")
    return 0


def _diff(args: argparse.Namespace) -> int:
    from lm_eval_moe.profiles.diff import diff_profiles

    check_at_least(args, 0, "experts")
    print(diff_profiles(args.a, args.b, experts=args.experts))
    return 0
