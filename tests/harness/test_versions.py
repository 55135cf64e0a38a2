"""A release of lm-eval that nobody has tried is warned of, once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.harness import versions


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    versions.warn_if_untested.cache_clear()
    yield
    versions.warn_if_untested.cache_clear()


def test_the_installed_release_is_a_tested_one() -> None:
    assert version("lm_eval") in versions.TESTED
    versions.warn_if_untested()


def test_another_release_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda name: "0.6.0")
    with pytest.warns(RoutingWarning, match=r"lm-eval 0\.6\.0 has not been tested .*0\.4\.13 and 0\.5\.0\.dev1 have"):
        versions.warn_if_untested()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.warn_if_untested()
