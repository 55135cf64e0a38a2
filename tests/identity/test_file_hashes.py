"""Hashes of files cover every byte, and what is remembered of a file is believed only while the file is the same."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import xxhash

from lm_eval_moe.errors import UserError
from lm_eval_moe.identity import file_hashes
from lm_eval_moe.identity.file_hashes import MEMORY, hash_of_bytes, hash_of_files

OLD = time.time() - 100


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of these tests are as young as the tests; how young is too young has a test of its own."""
    monkeypatch.setattr(file_hashes, "_SETTLED_SECONDS", -1.0)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def read_bytes_of(files: list[Path]) -> tuple[str, int]:
    """Return the hash, and how many bytes were read for it."""
    sizes: list[int] = []
    digest = hash_of_files(files, remember=True, progress=sizes.append)
    return digest, sum(sizes)


def test_every_byte_and_every_name_counts(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    a, b = write(tmp_path / "1" / "a", content), write(tmp_path / "1" / "b", b"b")
    digest = hash_of_files([a, b])
    assert hash_of_files([b, a]) == digest
    for place in (0, 1_048_576, 2_999_999):
        changed = bytearray(content)
        changed[place] ^= 1
        assert hash_of_files([write(tmp_path / "2" / "a", bytes(changed)), b]) != digest
    assert hash_of_files([write(tmp_path / "3" / "a", content), b]) == digest
    assert hash_of_files([write(tmp_path / "3" / "c", content), b]) != digest
    assert hash_of_bytes(content[:7], content[7:]) == xxhash.xxh3_128_hexdigest(content)


def test_a_second_start_reads_nothing(tmp_path: Path) -> None:
    files = [write(tmp_path / name, name.encode() * 1000) for name in "abc"]
    first, size = read_bytes_of(files)
    assert size == 3000
    assert read_bytes_of(files) == (first, 0)
    assert hash_of_files(files) == first


@pytest.mark.parametrize("how", ["in place", "in place, with its time set back", "by another file", "longer"])
def test_a_changed_file_is_read_again(how: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"x" * 1000)
    os.utime(path, (OLD, OLD))
    before, _ = read_bytes_of([path])
    time.sleep(0.02)  # a tick of the file system's clock
    if how == "by another file":
        other = write(tmp_path / "b", b"y" * 1000)
        os.utime(other, (OLD, OLD))
        other.replace(path)
    else:
        path.write_bytes(b"y" * (1001 if how == "longer" else 1000))
        if "time" in how:
            os.utime(path, (OLD, OLD))
    after, size = read_bytes_of([path])
    assert after != before
    assert size >= 1000


def test_a_file_that_has_just_been_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be written again within one tick of its time stamp."""
    monkeypatch.setattr(file_hashes, "_SETTLED_SECONDS", 2.0)
    path = write(tmp_path / "a", b"x")
    assert read_bytes_of([path])[1] == read_bytes_of([path])[1] == 1
    assert not (tmp_path / MEMORY).exists()


@pytest.mark.parametrize("memory", [b"", b"{", b"[1]", b'{"a": 1}', b'{"a": {"stamp": 1}}', b"\xff"], ids=repr)
def test_a_damaged_memory_is_no_memory(memory: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"x")
    digest, _ = read_bytes_of([path])
    (tmp_path / MEMORY).write_bytes(memory)
    assert read_bytes_of([path]) == (digest, 1)
    assert read_bytes_of([path]) == (digest, 0)


def test_where_the_folder_takes_no_file_the_users_cache_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "model" / "a", b"x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder) != path.parent)  # root may write anywhere
    digest, _ = read_bytes_of([path])
    assert not (path.parent / MEMORY).exists()
    assert read_bytes_of([path]) == (digest, 0)
    (memory,) = (tmp_path / "cache" / "lm_eval_moe").iterdir()
    memory.unlink()
    memory.parent.rmdir()
    memory.parent.write_text("no folder", encoding="utf-8")
    assert read_bytes_of([path]) == (digest, 1)  # no memory at all is no reason to end


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: cannot be read"):
        hash_of_files([tmp_path / "nowhere"], remember=True)
