"""Fixtures that the tests share, and the environment that all of them run in."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import pytest
from hypothesis import settings

# Before torch is imported: this process and every process that a test starts then count their threads alike. What is
# compared byte for byte depends on their number. One by default, since the models are tiny: a second one only waits.
os.environ["MKL_NUM_THREADS"] = os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MKL_DYNAMIC"] = "FALSE"  # as many as asked for, even where there are fewer cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from support.paths import TESTS
from support.small_models import SENTENCES, train_tokenizer

settings.register_profile("untimed", deadline=None)  # a machine may be busy
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the long files: the workers then end together."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def _log_of_lm_eval_goes_to_this_test() -> None:
    """Its handler is made once a process, on the standard error of the test that first ran its command."""
    for handler in logging.getLogger("lm_eval").handlers:
        if type(handler) is logging.StreamHandler:  # and not one of a test's own
            handler.stream = sys.stderr


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer([text for texts in SENTENCES.values() for text in texts])


@pytest.fixture(scope="session")
def manager() -> Any:
    """A task manager that knows the tasks of this package."""
    from support.demo_runs import task_manager  # here, since most files need no lm-eval

    return task_manager()


@pytest.fixture(scope="session")
def real_texts() -> dict[str, list[str]]:
    """Parallel texts in five scripts: articles of the Universal Declaration of Human Rights."""
    document = json.loads((TESTS / "support" / "data" / "human_rights.json").read_text(encoding="utf-8"))
    texts: dict[str, list[str]] = document["texts"]
    return texts
