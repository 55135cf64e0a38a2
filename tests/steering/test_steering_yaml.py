"""Reading YAML: what PyYAML would let through or misread, and what a file may not be."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_moe import yaml_limits
from lm_eval_moe.errors import UserError
from lm_eval_moe.steering import load_spec
from lm_eval_moe.strict_yaml import read_yaml, yaml_key, yaml_quoted, yaml_text, yaml_value

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 8)}]\n" for level in range(1, 9)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 8)}]}}\n" for level in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),  # Norwegian, not false
        ("[on, off, yes]", ["on", "off", "yes"]),
        ("true", True),
        ("8:35", "8:35"),  # not 515
        ("8-35", "8-35"),
        ("012", 12),  # not octal
        ("1_000", "1_000"),
        ("1e-3", 0.001),  # not a string
        ("-.5", -0.5),
        (".inf", math.inf),
        ("2026-01-01", "2026-01-01"),  # not a date
        ("", None),
        ("{a: ~, b: '1'}", {"a": None, "b": "1"}),
        ("{base: &b {x: 1, y: 2}, more: {<<: *b, y: 3}}", {"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}}),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    assert yaml_value(text, where="f") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"key 'a' is given twice \(line 3, column 1\)"),
        ("{8: [1], 8: [2]}", "key 8 is given twice"),
        ("{true: 1, 1: 2}", "key 1 is given twice"),
        ("a: [", r"not valid YAML: while parsing a flow node, .*line 2"),
        ("{[1]: 2}", "a key must be a plain value"),
        ("&a [*a]", "an alias refers to itself"),
        ("!!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not allowed"),
        ("!!set {a}", "the tag !!set is not allowed"),
        ("!!int x", "not a value of type int"),
        ("a\n---\nb", "a single document"),
        ("[" * 60, "nested deeper than 50 levels"),
        ("a: \x01", "unacceptable character"),
        (BOMB, "aliases expand to far too many values"),
        (MERGE_BOMB, "aliases expand to far too many values"),
    ],
)
def test_unacceptable_yaml_is_one_message_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        yaml_value(text, where="steer.yaml")
    assert str(caught.value).startswith("steer.yaml: not valid YAML: ")


def test_without_libyaml_the_same_is_read_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    loader = runpy.run_path(yaml_limits.__file__)["Limited"]
    assert not issubclass(loader, yaml_limits.Events)
    assert loader("{a: [1, x], b: &c {d: 2}, e: *c}").get_single_data() == {"a": [1, "x"], "b": {"d": 2}, "e": {"d": 2}}
    for text, message in (
        ("[" * 60, "nested deeper"),
        (BOMB, "expand to far too many"),
        ("&a [*a]", "refers to itself"),
    ):
        with pytest.raises(yaml.MarkedYAMLError, match=message):
            loader(text).get_single_data()


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 1\n")
    assert read_yaml(path, "steering") == {"version": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"name: caf\xe9\n", r"is not UTF-8 text \(byte 9\)"),
        ("version: 1\n".encode("utf-16"), "is not UTF-8 text"),
        (b"# " + b"x" * 10_000_000, "is 10 MB large"),
        (b"", "expected a mapping, got nothing"),
        (b"just text", "expected a mapping, got 'just text'"),
    ],
)
def test_a_file_that_is_no_steering_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "steer.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        load_spec(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.yaml", "No such file"), (".", "Is a directory"), ("a\0b", "null (byte|character)")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"cannot be read: .*{message}"):
        load_spec(tmp_path / name)


@given(st.text(alphabet=st.sampled_from("ab1-: \n[]{},*&!<>|'\"#?%@\t~.\\"), max_size=60))
def test_no_text_ends_in_any_other_error(text: str) -> None:
    try:
        value = yaml_value(text, where="f")
    except UserError as error:
        assert error.where == "f"  # noqa: PT017  (either outcome is right, no other error is)
    else:
        assert value is None or isinstance(value, bool | int | float | str | list | dict)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64)
        | st.floats(allow_nan=False)
        | st.text(st.characters(exclude_categories=["Cs"]))
        | st.sampled_from(
            ["1e-3", "no", "8:35", "=", "<<", "012", "0o7", "2026-01-01", "1_000", "~", "", "\x85", " \x85a", "a\x85 b"]
        ),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(0, 99), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_what_is_written_reads_the_same_by_either_yaml(value: object) -> None:
    text = yaml_text(value)
    assert yaml_value(text, where="f") == value
    assert yaml.safe_load(text) == value


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    | st.sampled_from(["no", "true", "null", "x1", "a" * 3000])
)
def test_a_key_and_a_quoted_text_read_back_wherever_they_stand(text: str) -> None:
    document = f"outer:\n{yaml_key(text, indent=2)}:\n    name: {yaml_quoted(text)}\n"
    assert yaml_value(document, where="f") == yaml.safe_load(document) == {"outer": {text: {"name": text}}}
