"""Damaged response caches: no wrong answer, and no end of the run, before it begins or in its middle."""

from __future__ import annotations

import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile.boundary import TRIED, hostile

from lm_eval_moe.backends.cache import ResponseCache, StoredAnswer
from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.recording.packing import pack
from lm_eval_moe.routing_record import RoutingRecord

PAGE = 4096
CELLS = [None, 5, -2.5, "text", b"bytes", b"\xff" * 40, b""]
COLUMNS = ("key", "answer", "record", "digest")


def entry(number: int) -> StoredAnswer:
    """An entry whose record fills more than a page, so that some of it lies on pages of its own."""
    rng = np.random.default_rng(number)
    counts, importance = rng.integers(0, 1 << 30, (8, 64)).astype(np.int32), rng.random((8, 64)).astype(np.float32)
    arrays = dict.fromkeys(("gate_mass", "importance_dense", "overlap", "targeted", "hit", "changed"))
    return StoredAnswer([float(number), True], RoutingRecord(7, counts, importance=importance, pairs=6, **arrays))


ENTRIES = {bytes([number]) * 32: entry(number) for number in range(40)}
KEYS = list(ENTRIES)


def content(entries: dict[bytes, StoredAnswer]) -> dict[bytes, Any]:
    return {key: (entry.answer, pack(entry.record)) for key, entry in entries.items()}


RIGHT = content(ENTRIES)


@dataclass
class Sound:
    """A file without damage, and a copy to spoil."""

    data: bytes
    copy: Path

    @property
    def aside(self) -> Path:
        return self.copy.with_name(f"{self.copy.name}.damaged")

    def restore(self) -> None:
        for path in self.copy.parent.iterdir():
            path.unlink()
        self.copy.write_bytes(self.data)


@pytest.fixture(scope="module")
def sound() -> Iterator[Sound]:
    with tempfile.TemporaryDirectory() as name:
        cache = ResponseCache(Path(name) / "answers")
        cache.put(ENTRIES)
        cache.close()
        yield Sound(cache.path.read_bytes(), cache.path)


@st.composite
def damage(draw: st.DrawFn, size: int = 40 * 2 * PAGE) -> list[tuple[int, bytes]] | int | tuple[str, int, Any]:
    """Draw bytes to overwrite, by place; a length to cut the file to; or a column, a row and what to put there."""
    places = st.integers(0, size - 1)
    kind = draw(st.sampled_from(["bytes", "header", "cut", "pages", "noise", "cell"]))
    if kind == "cut":
        return draw(places)
    if kind == "cell":
        return draw(st.sampled_from(COLUMNS)), draw(st.integers(0, len(KEYS) - 1)), draw(st.sampled_from(CELLS))
    if kind == "pages":
        return [(PAGE * page, bytes(PAGE)) for page in draw(st.lists(st.integers(0, size // PAGE), max_size=3))]
    if kind == "noise":
        return [(draw(places), draw(st.binary(min_size=1, max_size=600)))]
    at = st.integers(0, 400) if kind == "header" else places
    return [(draw(at), draw(st.binary(min_size=1, max_size=1))) for _ in range(draw(st.integers(1, 4)))]


def spoil(path: Path, wrong: list[tuple[int, bytes]] | int | tuple[str, int, Any]) -> None:
    if isinstance(wrong, tuple):
        put_into_cell(path, *wrong)
        return
    with path.open("r+b") as file:
        size = path.stat().st_size
        if isinstance(wrong, int):
            file.truncate(wrong % size)
        else:
            for place, data in wrong:
                file.seek(place % size)
                file.write(data)


def put_into_cell(path: Path, column: str, row: int, value: Any) -> None:
    """Write what the table's constraints forbid, and leave its definition as it was."""
    with sqlite3.connect(path) as database:
        (text,) = database.execute("SELECT sql FROM sqlite_master").fetchone()
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_master SET sql = ?", [text.replace(" NOT NULL", "").replace(" TEXT", "")])
    database.close()
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE OR IGNORE entries SET {column} = ? WHERE key = ?", [value, KEYS[row]])
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_master SET sql = ?", [text])
    database.close()


def run_through(cache: ResponseCache, keys: list[bytes]) -> None:
    """Ask for the answers block by block as a run does, and compute what is missing."""
    for start in range(0, len(keys), 8):
        block = keys[start : start + 8]
        known = content(cache.get(block))
        assert known == {key: RIGHT[key] for key in known}
        if len(known) < len(block):
            cache.put({key: ENTRIES[key] for key in block})
        assert content(cache.get(block)) == {key: RIGHT[key] for key in block}, "what was kept is not read"


@given(wrong=damage(), block=st.sampled_from([None, 0, 16]))
@hostile(80)
def test_damage_gives_no_wrong_answer_and_ends_no_run(sound: Sound, wrong: Any, block: int | None) -> None:
    sound.restore()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        if block is None:  # before the file is opened
            spoil(sound.copy, wrong)
        cache = ResponseCache(sound.copy)
        if block is not None:
            run_through(cache, KEYS[:block])
            spoil(sound.copy, wrong)
        run_through(cache, KEYS[block or 0 :])
        cache.close()
        again = ResponseCache(sound.copy)
        run_through(again, KEYS)
        again.close()
    TRIED["response cache", "accepted"] += 1
    texts = [str(warning.message) for warning in raised if warning.category is RoutingWarning]
    assert len(texts) == len(raised)
    assert all(str(sound.copy) in text for text in texts)
    assert sound.aside.exists() == any(f"renamed to {sound.aside.name}" in text for text in texts)


@pytest.mark.parametrize("column", COLUMNS[1:])
@pytest.mark.parametrize("value", CELLS, ids=repr)
def test_no_cell_is_trusted_whatever_is_in_it(sound: Sound, column: str, value: Any) -> None:
    sound.restore()
    put_into_cell(sound.copy, column, 3, value)
    cache = ResponseCache(sound.copy)
    with pytest.warns(RoutingWarning, match="1 damaged entries"):
        known = cache.get(KEYS)
    assert content(known) == {key: RIGHT[key] for key in KEYS if key != KEYS[3]}
    cache.close()
    assert not sound.aside.exists()


def test_a_file_that_is_gone_or_another_is_begun_anew_and_nothing_is_set_aside(sound: Sound) -> None:
    """As where another process, to which the damage showed first, has set it aside."""
    sound.restore()
    one, other = ResponseCache(sound.copy), ResponseCache(sound.copy)
    spoil(sound.copy, [(0, bytes(2 * PAGE))])
    with pytest.warns(RoutingWarning, match="is damaged"):
        run_through(one, KEYS)
    before = sound.aside.read_bytes()
    other._make_way(sqlite3.DatabaseError("damage that was seen before the other made way"))
    run_through(other, KEYS)
    assert sound.aside.read_bytes() == before
    one.close()
    sound.copy.unlink()
    other.put(ENTRIES)
    other.close()
    assert content(ResponseCache(sound.copy).get(KEYS)) == RIGHT
