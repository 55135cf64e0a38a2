"""Profiles in the making and profiles written column by column: what is read back is what was written, to the byte."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_whole
from lm_eval_moe.identity import Identity
from lm_eval_moe.profiles import ProfileHeader, ProfileItem, read_profile, write_profile
from lm_eval_moe.profiles.columns import ArrayColumn, write_safetensors
from lm_eval_moe.profiles.frames import pack_frame, read_frames
from lm_eval_moe.profiles.unfinished import (
    RowsOnDisk,
    Unfinished,
    forget_unfinished,
    read_unfinished,
    refuse_older,
    unfinished_path,
    write_unfinished,
)
from lm_eval_moe.shape import RoutingShape

SHAPE = RoutingShape((1, 3), 3, 2, 4)
BEGUN = Unfinished({"language": "sw", "limit": None}, Identity({"model.backend": "hf-moe"}))


def rows(count: int, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    generator = np.random.default_rng(seed)
    return [
        {
            # The counts of a document of several windows are sums, and so of more bytes.
            "counts": generator.integers(0, 9, (2, 3)).astype(np.int64 if number % 4 == 1 else np.int32),
            "gate_mass": generator.random((2, 3), np.float32),
            "importance": generator.dirichlet([1.0] * 3, 2).astype(np.float32),
            "tokens": np.array(9 + number),
        }
        for number in range(count)
    ]


def items(count: int) -> list[ProfileItem]:
    return [ProfileItem("news", f"ñ{number}", "sw", "news.txt", "a b") for number in range(count)]


def stacked(of: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([row[name][None] for row in of]) for name in of[0]}


def begun(path: Path) -> RowsOnDisk:
    return RowsOnDisk(path, Unfinished(BEGUN.settings, BEGUN.identity, end=write_unfinished(path, BEGUN)))


def library_bytes(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """Return what the library writes, but for the order of the metadata, which it draws at random."""
    data = save(arrays, metadata)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def test_a_file_has_the_bytes_that_the_library_writes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        "tokens": np.arange(5),
        "zeta": generator.random((5, 2, 3)).astype(np.float16),
        "counts": generator.integers(0, 9, (5, 2, 3)).astype(np.int32),
        "alpha": generator.random((5, 2, 3), np.float32),
        "turned": generator.random((3, 5)).T,
        "none": np.zeros((0, 4), np.float32),
        "one": np.array(7, np.uint8),
    }
    metadata = {"items": '["ñ"]', "format": "f", "header": "{}"}
    write_safetensors(tmp_path / "whole.safetensors", arrays, metadata)
    parted = {
        name: ArrayColumn(array.dtype, array.shape, lambda array=array: iter(array)) if array.ndim else array
        for name, array in arrays.items()
    }
    write_safetensors(tmp_path / "parted.safetensors", parted, metadata)
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    assert (tmp_path / "whole.safetensors").read_bytes() == library_bytes(contiguous, metadata)
    assert (tmp_path / "parted.safetensors").read_bytes() == library_bytes(contiguous, metadata)


@pytest.mark.parametrize("count", [2, 4])
def test_a_column_of_another_length_is_no_file(count: int, tmp_path: Path) -> None:
    column = ArrayColumn(np.dtype(np.float32), (3, 2), lambda: [np.zeros(2)] * count)
    with pytest.raises(ValueError, match="wrong number of bytes"):
        write_safetensors(tmp_path / "p.safetensors", {"a": column}, {"format": "f"})
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays_where_the_content_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "before")

    def content() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, content())
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "before")]


def test_frames_are_read_up_to_the_first_that_is_not_whole() -> None:
    first, second, third = (
        b"".join(pack_frame({"n": number}, {"a": np.arange(number, dtype=np.float32), "b": np.array(number)}))
        for number in (1, 2, 3)
    )

    def read(data: bytes) -> list[tuple[int, list[float], int]]:
        file = BytesIO(data)
        return [
            (frame.head["n"], frame.arrays.read(file, "a").tolist(), int(frame.arrays.read(file, "b")))
            for frame in list(read_frames(file))
        ]

    expected = [(1, [0.0], 1), (2, [0.0, 1.0], 2), (3, [0.0, 1.0, 2.0], 3)]
    assert read(first + second + third) == expected
    assert read(b"") == []
    for end in range(len(second)):  # killed while it wrote
        assert read(first + second[:end]) == expected[:1]
    for place in range(len(second)):  # damaged on the disk
        broken = bytearray(second)
        broken[place] ^= 4
        assert read(first + bytes(broken) + third) == expected[:1]
    for zeros in (1, 16, 17, 4096):  # the system crashed: the file is longer, and nothing was written there
        assert read(first + second + bytes(zeros)) == expected[:2]


def test_a_profile_of_rows_on_disk_is_that_of_the_same_arrays(tmp_path: Path) -> None:
    written, named = rows(7), items(7)
    header = ProfileHeader("m", SHAPE, "prompt", None, {"a": 1}, BEGUN.identity)
    side = unfinished_path(tmp_path / "sw.safetensors")
    on_disk = begun(side)
    for number, (item, row) in enumerate(zip(named, written, strict=True), 1):
        on_disk.add(item, row)
        on_disk.save(number, 0, to_disk=number % 2 == 0)
    write_profile(tmp_path / "sw.safetensors", header, *on_disk.content())
    on_disk.close()
    write_profile(tmp_path / "expected.safetensors", header, named, stacked(written))
    assert (tmp_path / "sw.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    profile = read_profile(tmp_path / "sw.safetensors")
    assert [item.text for item in profile.items] == ["a b"] * 7
    np.testing.assert_array_equal(profile.array("counts"), stacked(written)["counts"])


def test_rows_after_the_last_saving_are_dropped_wherever_it_broke_off(tmp_path: Path) -> None:
    written, named = rows(6), items(6)
    side = tmp_path / "side"
    on_disk = begun(side)
    ends = {0: side.stat().st_size}
    for number in range(6):
        on_disk.add(named[number], written[number])
        if number % 2:
            on_disk.save(number + 1, 10 * number, to_disk=False)
            ends[number + 1] = side.stat().st_size
    on_disk.close()
    whole = side.read_bytes()
    assert ends[6] == len(whole)
    assert read_unfinished(side).steered == 50
    for length in range(ends[0], len(whole) + 1):
        side.write_bytes(whole[:length] + b"torn"[: length % 5])
        state = read_unfinished(side)
        assert state.done == max(done for done, end in ends.items() if end <= length)
        if length % 7 == 0:
            on_disk = RowsOnDisk(side, state)
            for number in range(state.done, 6):
                on_disk.add(named[number], written[number])
            on_disk.save(6, 0, to_disk=False)
            found, columns = on_disk.content()
            assert found == named
            for name, array in stacked(written).items():
                np.testing.assert_array_equal(columns[name].load(), array)
                assert columns[name].load().dtype == array.dtype
            on_disk.close()


def test_a_damaged_beginning_or_another_format_is_one_message(tmp_path: Path) -> None:
    side = tmp_path / "side"
    begun(side).close()
    whole = side.read_bytes()
    for length in range(0, len(whole), 13):
        side.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"(?s)beginning is damaged.*start over with --restart"):
            read_unfinished(side)
    side.write_bytes(b"".join(pack_frame({"format": "lm-eval-moe unfinished profile", "schema_version": 9})))
    with pytest.raises(UserError, match=r"(?s)version 9.*start over with --restart"):
        read_unfinished(side)


def test_an_older_versions_file_is_refused_until_it_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "sw.safetensors"
    refuse_older(path)
    older = tmp_path / ".sw.unfinished.safetensors"
    older.write_bytes(save({"counts": np.zeros((1, 2, 3), np.int32)}, {"format": "lm-eval-moe unfinished profile"}))
    with pytest.raises(UserError, match=r"(?s)older version of lm-eval-moe.*--restart") as refused:
        refuse_older(path)
    assert refused.value.where == str(older)
    begun(unfinished_path(path)).close()
    forget_unfinished(path)
    assert not list(tmp_path.iterdir())


def test_rows_are_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    side = tmp_path / "side"
    first = begun(side)
    with pytest.raises(UserError, match="another process is writing the unfinished profile"):
        RowsOnDisk(side, read_unfinished(side))
    first.close()
    RowsOnDisk(side, read_unfinished(side)).close()


def test_a_file_that_was_changed_meanwhile_makes_no_profile(tmp_path: Path) -> None:
    side = tmp_path / "side"
    on_disk = begun(side)
    for number, row in enumerate(rows(3)):
        on_disk.add(items(3)[number], row)
    on_disk.save(3, 0, to_disk=False)
    whole = side.read_bytes()
    side.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="has changed since it was written"):
        on_disk.content()
    side.write_bytes(whole)
    _, columns = on_disk.content()
    side.write_bytes(whole[:-300])
    with pytest.raises(UserError, match="has changed since it was written"):
        write_profile(tmp_path / "p.safetensors", ProfileHeader("m", SHAPE, "prompt"), items(3), columns)
    assert [file.name for file in tmp_path.iterdir()] == ["side"]
    on_disk.close()


def test_no_more_than_some_rows_are_ever_in_memory(tmp_path: Path) -> None:
    shape, count = RoutingShape(tuple(range(48)), 128, 8, 48), 300
    size = 3 * 4 * 48 * 128
    on_disk = begun(tmp_path / "side")
    row = {name: np.ones((48, 128), kind) for name, kind in (("counts", np.int32), ("importance", np.float32))}
    row |= {"gate_mass": row["importance"], "tokens": np.array(8)}
    tracemalloc.start()
    try:
        for number in range(count):
            on_disk.add(ProfileItem("b", f"{number}", "sw", "t"), row)
        on_disk.save(count, 0, to_disk=False)
        write_profile(tmp_path / "p.safetensors", ProfileHeader("m", shape, "prompt"), *on_disk.content())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    on_disk.close()
    assert (tmp_path / "p.safetensors").stat().st_size > count * size
    assert peak < 30 * size
