"""Kill commands at random moments, start them again, and compare with an undisturbed one.

Every command is killed (SIGKILL) so many times, at moments drawn evenly over the time that it takes by itself, before
it is left to end. What it has written must then be what the undisturbed command wrote: byte for byte, but for dates and
timings in results files. After every kill, each file that is there must be whole already.

    python benchmarks/kills.py
    python benchmarks/kills.py --kills 100 --commands run
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval_moe.resources import steering_configs_dir

SWEEP = """version: 1
steering:
  version: 1
  interventions: [{layers: middle, experts: {ids: {all: [1, 5, 8]}}, action: {soft: 0.5}}]
grid: {interventions.0.action.soft: [-1.0, 1.0]}
tasks: [demo_arith_en, demo_arith_sw]
controls: 1
evaluation: {limit: 40, batch_size: 4}
"""
LASTING = ("results", "groups", "routing", "n-samples", "versions", "configs", "samples")
MODEL = ["--model", "hf-moe", "--model_args", "pretrained=demo"]
STEERING = ["--steering", str(steering_configs_dir() / "demo_task_experts.yaml")]


def run_command(folder: Path) -> list[str]:
    """Evaluate with steering, a control, samples and the response cache."""
    return [
        *("run", *MODEL, "--tasks", "demo_arith_en,demo_arith_sw,demo_arith_gen_sw"),
        *("--limit", "40", "--batch_size", "4", "--log_samples", "--control", "random:1", *STEERING),
        *("--use_cache", str(folder / "answers"), "--output_path", str(folder / "results")),
    ]


def profile_command(folder: Path) -> list[str]:
    """Profile two tasks, saving often."""
    tasks = ["--tasks", "demo_arith_en,demo_arith_sw", "--batch_size", "4", "--save_every", "0.2"]
    return ["profile", *MODEL[2:], *tasks, "--output", str(folder / "profiles")]


def sweep_command(folder: Path) -> list[str]:
    """Sweep two strengths with a control each."""
    file = folder / "sweep.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    return ["sweep", str(file), *MODEL[2:], "--output", str(folder / "sweep")]


def compare_command(folder: Path) -> list[str]:
    """Compare a steered run with a plain one, and write the table in every form."""
    runs = folder.parent / "runs"
    if not runs.exists():
        for name, steering in (("plain", []), ("steered", [*STEERING])):
            tasks = ["--tasks", "demo_arith_en,demo_arith_sw", "--limit", "40", "--batch_size", "4", "--log_samples"]
            _ended(lambda to: ["run", *MODEL, *tasks, *steering, "--output_path", str(to)], runs / name)  # noqa: B023
    tables = [flag for end in ("md", "csv", "json", "html") for flag in ("--output", str(folder / f"board.{end}"))]
    return ["compare", str(runs), *tables]


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "run": run_command,
    "profile": profile_command,
    "sweep": sweep_command,
    "compare": compare_command,
}


def main() -> None:
    """Print a line a command; exit with 1 if one ended with something else."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--kills", type=int, default=12, help="of every command (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    different = False
    for name in args.commands:
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / "whole"
            whole.mkdir()
            COMMANDS[name](whole)  # what it needs is made before the clock starts
            seconds = _ended(COMMANDS[name], whole)
            expected = _written(whole)
            kills, outcomes, torn = 0, [], []
            while kills < args.kills:  # what has ended in spite of them is compared, and the next one begins
                folder = Path(scratch) / f"killed_{len(outcomes)}"
                while kills < args.kills and _killed(COMMANDS[name], folder, moments.uniform(0, seconds)):
                    kills += 1
                    torn += [file for file, text in _written(folder).items() if expected.get(file, text) != text]
                _ended(COMMANDS[name], folder)
                left = [path.name for path in folder.rglob("*") if "partial" in path.name or "unfinished." in path.name]
                outcomes.append(_written(folder) == expected and not left)
        different |= not all(outcomes) or bool(torn)
        print(
            f"{name}: a command of {seconds:.0f} s, killed {kills} times on its way to {len(outcomes)} ends; "
            f"{sum(outcomes)} of them identical to the undisturbed one; {len(torn)} torn files on the way {torn or ''}",
            flush=True,
        )
    sys.exit(different)


def _start(command: Callable[[Path], list[str]], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "lm_eval_moe", *command(folder)],
        env={"OMP_NUM_THREADS": "1", **os.environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _ended(command: Callable[[Path], list[str]], folder: Path) -> float:
    start = time.monotonic()
    code = _start(command, folder).wait()
    if code:
        raise SystemExit(f"{command.__name__} ended with {code}")
    return time.monotonic() - start


def _killed(command: Callable[[Path], list[str]], folder: Path, after: float) -> bool:
    process = _start(command, folder)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _written(folder: Path) -> dict[str, Any]:
    """Return what lasts: the last of several results files, without dates, and all other files as they are."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.startswith("results_") and path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            place = name if "runs" in path.parts else "results"
            found[place] = json.dumps({key: content.get(key) for key in LASTING}, sort_keys=True)
        elif path.suffix == ".jsonl":
            found[path.name.split("_20")[0]] = path.read_bytes()
        elif (
            path.suffix in (".safetensors", ".md", ".csv", ".html")
            or path.name == "board.json"
            or path.name == "table.json"
        ):
            found[name] = path.read_bytes()
    return {name: _without_folder(content, folder) for name, content in found.items()}


def _without_folder(content: Any, folder: Path) -> Any:
    if isinstance(content, str):
        return content.replace(str(folder), "")
    return content.replace(str(folder).encode(), b"")


if __name__ == "__main__":
    main()
