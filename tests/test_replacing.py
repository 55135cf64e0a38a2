"""What is put in a place for a while leaves it again, in whatever order threads come and go."""

from __future__ import annotations

import threading
from typing import Any

from lm_eval_moe.replacing import Changeable


def test_each_thread_has_its_own_change_and_nothing_stays() -> None:
    def original(number: int) -> int:
        return number

    place: dict[str, Any] = {"function": original}
    changeable = Changeable(place, "function")
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    found: dict[str, int] = {}

    def first() -> None:
        with changeable.changed(lambda function: lambda number: function(number) + 10):
            first_in.set()
            second_in.wait(10)
            found["first"] = place["function"](1)
        first_out.set()

    def second() -> None:
        first_in.wait(10)
        with changeable.changed(lambda function: lambda number: function(number) + 100):
            second_in.set()
            first_out.wait(10)
            found["second"] = place["function"](1)

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    first_in.wait(10)
    found["nobody"] = place["function"](1)
    for thread in threads:
        thread.join()
    assert found == {"first": 11, "second": 101, "nobody": 1}
    assert place["function"] is original


def test_an_exception_takes_the_change_along() -> None:
    place: dict[str, Any] = {"function": abs}
    try:
        with Changeable(place, "function").changed(lambda _: str):
            assert place["function"](-1) == "-1"
            raise KeyError
    except KeyError:
        assert place["function"] is abs
