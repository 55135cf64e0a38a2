"""What hostile input may lead to: a result or one UserError, soon, and nothing else.

`inside` runs a reader and fails if it takes long, raises anything but UserError, writes a file, unpickles, starts a
process, opens a connection, or executes code that is not in a file.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings

from lm_eval_moe.errors import UserError

T = TypeVar("T")

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
NIGHTLY = PROFILE == "nightly"
TRIED: Counter[str] = Counter()
"""Inputs by reader and outcome, which the end of the test run shows."""

# Seconds of CPU for one input, generous for a busy machine, and of the clock before an input counts as a hang.
CPU_LIMIT, HANG_LIMIT = 3.0, 60.0

_FORBIDDEN = frozenset(
    [
        "pickle.find_class",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "os.forkpty",
        "os.startfile",
        "subprocess.Popen",
        "socket.connect",
        "socket.bind",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.sendto",
        "urllib.Request",
        "ftplib.connect",
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.chmod",
        "os.chown",
        "os.utime",
        "shutil.move",
        "shutil.rmtree",
        "shutil.copyfile",
        "tempfile.mkstemp",
        "tempfile.mkdtemp",
        "ctypes.dlopen",
        "code.__new__",
    ]
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_watched: list[str] | None = None


def hostile(examples: int, **more: Any) -> settings:
    """Return how many inputs a test tries: ``examples`` seeded ones in CI, forty times as many random ones nightly."""
    return settings(
        max_examples=40 * examples if NIGHTLY else examples,
        derandomize=not NIGHTLY,
        deadline=None,  # `inside` limits the CPU time of each input, whatever else runs on the machine
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        **more,
    )


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watched is None or threading.current_thread() is not threading.main_thread():
        return
    if event in _FORBIDDEN:
        _watched.append(f"{event}{args!r:.200}")
    elif event == "open":
        path, mode, flags = args
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & _WRITING):
            _watched.append(f"open for writing: {path!r}")
    elif event == "exec":
        file = getattr(args[0], "co_filename", "")
        # Jinja compiles the package's own template of the HTML page.
        if not Path(file).is_file() and not file.startswith("<frozen") and file != "<template>" and not _importing():
            _watched.append(f"code executed that is in no file: {file!r}")


def _importing() -> bool:
    """Whether a module is being imported, which makes its dataclasses from text."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "exec_module" and "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


sys.addaudithook(_audit)


def _never(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError(f"{name} was called")

    return refuse


@contextmanager
def _watching() -> Iterator[list[str]]:
    global _watched
    import pickle

    import torch

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
            patch.setattr(module, name, _never(f"{module.__name__}.{name}"))
        _watched = seen = []
        try:
            yield seen
        finally:
            _watched = None


def _hang(*_: Any) -> NoReturn:
    raise AssertionError(f"the input was not dealt with in {HANG_LIMIT:.0f} s")


def inside(name: str, read: Callable[[], T], *, cpu_limit: float = CPU_LIMIT) -> T | UserError:
    """Run a reader on hostile input; return what it returns, or the error that it refuses with."""
    previous = signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, HANG_LIMIT)
    start = time.process_time()
    found: T | UserError
    try:
        with _watching() as seen:
            try:
                found = read()
            except UserError as error:
                found = error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    spent = time.process_time() - start
    assert not seen, f"{name} did what no reader may do: {seen}"
    assert spent < cpu_limit, f"{name} took {spent:.1f} s"
    TRIED[name, "refused" if isinstance(found, UserError) else "accepted"] += 1
    if isinstance(found, UserError):
        _check_message(found)
    return found


def _check_message(error: UserError) -> None:
    text = str(error)
    assert error.problem.strip(), "an error without a problem"
    assert len(text) < 2000, f"a message of {len(text)} characters: {text[:300]}"
    assert "Traceback" not in text
