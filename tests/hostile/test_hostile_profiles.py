"""Hostile profiles: safetensors files whose header, metadata or data lie, and JSON counts that do."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile.boundary import hostile, inside
from support.hostile.mutations import json_bytes, mutated, scalars, spoilt
from support.written_profiles import SMALL, spec_of, write, write_dump

from lm_eval_moe.analysis import read_inputs
from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.gate.drift import item_spread
from lm_eval_moe.profiles import PROFILE_ARRAYS, read_profile
from lm_eval_moe.profiles.merge import merge_profiles
from lm_eval_moe.recording.profile_rows import records_of
from lm_eval_moe.report.figures.experts import expert_differences
from lm_eval_moe.steering import resolve

ROWS = [("row:0", 10, [[5, 5, 6, 4], [10, 2, 4, 4]]), ("row:1", 8, [[4, 4, 4, 4], [8, 8, 0, 0]])]
OTHER = [("x:0", 10, [[1, 9, 6, 4], [2, 10, 4, 4]]), ("x:1", 8, [[0, 8, 4, 4], [0, 8, 8, 0]])]
RULE = {"task": {"profile": "given.safetensors", "baseline": "base.safetensors", "threshold": 0.01}}
DTYPES = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "C64", "X", "", None, 3]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "good.safetensors", ROWS)
        write(Path(name) / "sw.safetensors", ROWS, language="sw")
        write(Path(name) / "base.safetensors", OTHER, benchmark="general")
        yield Path(name)


def parts(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of the good profile."""
    data = (folder / "good.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def read_all(path: Path) -> None:
    """Read everything that is in a profile, as `profile show` does, and hold it to what the file says."""
    profile = read_profile(path)
    tokens = profile.tokens
    assert tokens.shape == (len(profile.items),)
    for name in sorted(profile.arrays & set(PROFILE_ARRAYS)):
        rows = list(profile.rows(name, range(len(profile.items))))
        shape = (len(profile.header.shape.layers), profile.header.shape.experts)
        assert all(row.shape == shape for row in rows)
    assert profile.header.shape.to_dict()
    assert isinstance(profile.header.model, str)


def used(folder: Path) -> None:
    """Select experts from a profile, as a steering file asks."""
    resolve(spec_of(RULE, folder), SMALL)


def refused_or_read(folder: Path, data: bytes) -> None:
    path = folder / "given.safetensors"
    path.write_bytes(data)
    inside("profile", lambda: read_all(path))
    inside("profile in a rule", lambda: used(folder))


def test_what_is_mutated_is_a_valid_profile(folder: Path) -> None:
    header, data = parts(folder)
    (folder / "given.safetensors").write_bytes(put_together(header, data))
    read_all(folder / "given.safetensors")
    used(folder)


@st.composite
def headers(draw: st.DrawFn) -> Any:
    """Draw what is done to the header: a function from it to another one."""
    what = draw(st.sampled_from(["metadata", "dtype", "shape", "offsets", "drop", "extra", "scalar", "swap"]))
    name = draw(st.sampled_from(["counts", "tokens", "gate_mass", "importance"]))
    if what == "metadata":
        key = draw(st.sampled_from(["header", "items", "format", "schema_version"]))
        inner = draw(st.one_of(scalars, st.just("mutate")))
        seed = draw(st.randoms(use_true_random=False))
        return lambda header: _metadata(header, key, inner, seed)
    if what == "dtype":
        dtype = draw(st.sampled_from(DTYPES))
        return lambda header: header[name].update(dtype=dtype)
    if what == "shape":
        sizes = st.one_of(st.integers(-2, 70), st.sampled_from([2**31, 2**63, 2**64, 10**30, 1.5, None, "2"]))
        shape = draw(st.lists(sizes, max_size=4))
        return lambda header: header[name].update(shape=shape)
    if what == "offsets":
        offsets = draw(st.lists(st.sampled_from([-1, 0, 1, 8, 16, 64, 10**9, 2**63, 2**64 - 1]), max_size=3))
        return lambda header: header[name].update(data_offsets=offsets)
    if what == "drop":
        return lambda header: header.pop(name)
    if what == "extra":
        return lambda header: header.update({draw(st.text(max_size=5)): dict(header[name])})
    if what == "scalar":
        value = draw(scalars)
        return lambda header: header.update({name: value})
    return lambda header: header.update(counts=header["importance"], importance=header["counts"])


def _metadata(header: dict[str, Any], key: str, inner: Any, seed: Any) -> None:
    metadata = header["__metadata__"]
    if inner != "mutate":
        metadata[key] = inner if seed.random() < 0.3 else json.dumps(inner)
        return
    if key not in ("header", "items"):
        del metadata[key]
        return
    document = json.loads(metadata[key])
    spots: list[Any] = [document]
    for each in spots:
        inner_values = each.values() if isinstance(each, dict) else each
        spots += [value for value in inner_values if isinstance(value, dict | list)]
    spot = seed.choice(spots)
    places = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
    wrong = [None, -1, 1.5, 10**12, "x", [], {}, True, float("nan"), [1, 1], ["a"], "\u0000"]
    if places:
        spot[seed.choice(places)] = seed.choice(wrong)
    metadata[key] = json.dumps(document)


@given(changes=st.lists(headers(), min_size=1, max_size=2), length=st.sampled_from([None] * 9 + [0, 5, 2**40, 2**63]))
@hostile(100)
def test_headers_that_lie(folder: Path, changes: list[Any], length: int | None) -> None:
    header, data = parts(folder)
    for change in changes:
        try:
            change(header)
        except (
            KeyError,
            AttributeError,
            TypeError,
            ValueError,
        ):  # the first change took away what the second would change
            continue
    refused_or_read(folder, put_together(header, data, length))


@given(header=mutated([{"__metadata__": {"format": "x"}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}]))
@hostile(30)
def test_headers_of_any_form(folder: Path, header: Any) -> None:
    refused_or_read(folder, put_together(header, b"\0" * 16))


@given(data=st.data())
@hostile(60)
def test_bytes_that_were_changed(folder: Path, data: st.DataObject) -> None:
    given_bytes = data.draw(spoilt((folder / "good.safetensors").read_bytes()))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, max(len(given_bytes) - 1, 0)))
        given_bytes = given_bytes[:at] + data.draw(st.binary(min_size=1, max_size=9)) + given_bytes[at + 1 :]
    refused_or_read(folder, given_bytes)


@given(
    counts=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=16, max_size=16),
    tokens=st.lists(st.sampled_from([-1, 0, 1, 10, 2**31 - 1, 2**62, -(2**63)]), min_size=2, max_size=2),
    dtype=st.sampled_from(["int32", "float32", "float64", "uint8"]),
    wrong=st.sampled_from([0.0, float("nan"), float("inf"), -1.0, 1e30]),
)
@hostile(30)
def test_numbers_that_cannot_be(folder: Path, counts: list[int], tokens: list[int], dtype: str, wrong: float) -> None:
    from safetensors.numpy import save

    header, _ = parts(folder)
    with np.errstate(all="ignore"):
        array = np.array(counts).reshape(2, 2, 4).astype(dtype)
        floats = np.full((2, 2, 4), wrong, dtype=np.float32)
        arrays = {"counts": array, "tokens": np.array(tokens), "gate_mass": floats, "importance": floats}
        refused_or_read(folder, save(arrays, header["__metadata__"]))


SIZES = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "U32": 32, "F16": 16, "BF16": 16, "U16": 16, "I8": 8, "BOOL": 8}
SIZES |= {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "C64": 64}


@pytest.mark.parametrize("name", ["counts", "tokens", "importance"])
@pytest.mark.parametrize("dtype", SIZES)
def test_arrays_of_another_type(folder: Path, dtype: str, name: str) -> None:
    header, _ = parts(folder)
    file: dict[str, Any] = {"__metadata__": header.pop("__metadata__")}
    data = b""
    for array, entry in header.items():
        bits = SIZES[dtype] if array == name else {"I32": 32, "F32": 32, "I64": 64}[entry["dtype"]]
        size = int(np.prod(entry["shape"])) * bits // 8
        file[array] = {**entry, "data_offsets": [len(data), len(data) + size]}
        file[array]["dtype"] = dtype if array == name else entry["dtype"]
        data += b"\1" * size
    refused_or_read(folder, put_together(file, data))


def rewritten(folder: Path, name: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Path:
    """Write the good profile with another array."""
    from safetensors.numpy import load, save

    header, _ = parts(folder)
    arrays = load((folder / "good.safetensors").read_bytes())
    path = folder / "given.safetensors"
    path.write_bytes(save({**arrays, name: change(arrays[name])}, header["__metadata__"]))
    return path


def first_is(value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Return what puts a value at an array's first place."""
    return lambda array: np.concatenate([[value], array.ravel()[1:]]).reshape(array.shape).astype(array.dtype)


DAMAGE = [
    *(("importance", first_is(value)) for value in (float("nan"), float("inf"), -0.5, 1e30, 0.9)),
    ("importance", lambda array: (array * 2).astype(np.int32)),
    *(("gate_mass", first_is(value)) for value in (float("nan"), float("-inf"), -1.0)),
    ("gate_mass", lambda array: array.astype(np.int32)),
    *(("counts", first_is(value)) for value in (-1, 11)),
    ("counts", lambda array: array.astype(np.float32)),
    ("tokens", first_is(-1)),
    ("tokens", lambda array: array.astype(np.float32)),
]
READERS: dict[str, tuple[tuple[str, ...], Callable[[Path], object]]] = {
    "profile merge": (
        (*PROFILE_ARRAYS, "tokens"),
        lambda path: merge_profiles(path.with_name("out.safetensors"), [path.with_name("base.safetensors"), path]),
    ),
    "run": ((*PROFILE_ARRAYS, "tokens"), lambda path: records_of(read_profile(path))),
    "gate": (("importance",), lambda path: item_spread(path, ["late"])),
    "report": (
        ("counts", "tokens"),
        lambda path: expert_differences(read_inputs([str(path), str(path.with_name("sw.safetensors"))])),
    ),
    "profile analyse": (("importance",), lambda path: list(read_profile(path).importance())),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("name", "change"), DAMAGE)
def test_every_reader_refuses_values_that_cannot_be(folder: Path, name: str, change: Any, reader: str) -> None:
    path = rewritten(folder, name, change)
    reads, read = READERS[reader]
    if name in reads:
        with pytest.raises(UserError, match="is a damaged profile"):
            read(path)
    assert not (folder / "out.safetensors").exists()


def test_a_report_on_an_importance_of_zeros_says_which_figures_there_cannot_be(folder: Path) -> None:
    path = rewritten(folder, "importance", np.zeros_like)
    page = folder / "page.html"
    assert main(["report", str(path), str(folder / "sw.safetensors"), "--output", str(page)]) == 0
    assert "no layer has a value in any language" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 10_000_000])
def test_files_of_any_size(folder: Path, size: int) -> None:
    path = folder / "given.safetensors"
    path.write_bytes(b"\xff" * size)
    assert isinstance(inside("profile", lambda: read_all(path)), UserError)


@pytest.mark.parametrize("target", ["given.safetensors", "nowhere", ".", "/dev/null"])
def test_links_that_lead_nowhere(folder: Path, target: str) -> None:
    path = folder / "given.safetensors"
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    try:
        assert isinstance(inside("profile", lambda: read_all(path)), UserError)
        assert isinstance(inside("profile in a rule", lambda: used(folder)), UserError)
    finally:
        path.unlink()


DUMP: list[Any] = []
with tempfile.TemporaryDirectory() as _name:
    DUMP.append(json.loads(write_dump(Path(_name) / "x.json", 10, [[5, 5, 6, 4], [10, 2, 4, 4]]).read_text()))


@pytest.mark.parametrize("command", ["show", "diff"])
@pytest.mark.parametrize("value", ["1" + 400 * "0", "1e400", "-1", "true", '"5"', "[]"], ids=lambda text: text[:5])
def test_a_sum_of_weights_that_cannot_be_is_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, command: str
) -> None:
    path, other = tmp_path / "damaged.json", tmp_path / "good.json"
    other.write_text(json.dumps(DUMP[0]))
    path.write_text(json.dumps(DUMP[0]).replace('"gate_values_sum": 2.5', f'"gate_values_sum": {value}', 1))
    assert main(["profile", command, str(other), str(path)]) != 0
    assert "is damaged: 'gate_values_sum' of layer 1, expert 0 is" in capsys.readouterr().err


@given(data=json_bytes(DUMP))
@hostile(100)
def test_json_counts(folder: Path, data: bytes) -> None:
    (folder / "given.json").write_bytes(data)

    def read() -> None:
        profile = read_profile(folder / "given.json", counts=True)
        assert profile.tokens.shape == (1,)
        fitted = profile.fit(SMALL)
        frequency = fitted.activity().pooled
        assert frequency.shape == fitted.pooled_importance().shape == (2, 4)
        assert ((frequency >= 0) & (frequency <= 1)).all()

    inside("JSON counts", read)
    rule = {"task": {"profile": "given.json", "baseline": "base.safetensors", "threshold": 0.01}}
    inside("JSON counts in a rule", lambda: resolve(spec_of(rule, folder), SMALL))
