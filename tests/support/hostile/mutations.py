"""Makes hostile documents: valid ones with something wrong in them, and bytes that are no document at all."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import strategies as st

HUGE = [10**19, -(10**19), 2**63, 10**400, -1, 0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")]
TEXTS = [
    "",
    " ",
    "no",
    "null",
    "!!python/object/apply:os.system",
    "../../../../etc/passwd",
    "/dev/zero",
    "\x00",
    "\ud800",
    "\u202eright to left",
    "a" * 5000,
    "{{7*7}}",
    "${HOME}",
    "$(touch x)",
    "; rm -rf x",
    "<script>alert(1)</script>",
    "9" * 500,
    "\r\n",
    "row:0",
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70),
    st.sampled_from(HUGE),
    st.floats(),
    st.sampled_from(TEXTS),
    st.text(max_size=12),
)


def _nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


values = st.one_of(
    scalars,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=8,
    ),
    st.sampled_from([10, 45, 60]).map(_nested),
    st.just(list(range(200))),
    st.just({str(n): n for n in range(200)}),
).map(copy.deepcopy)  # what is drawn may be changed


def paths_in(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of every value in a document."""
    found = [at] if at else []
    entries: Any = ()
    if isinstance(document, dict):
        entries = document.items()
    elif isinstance(document, list):
        entries = enumerate(document)
    for key, value in entries:
        found += paths_in(value, (*at, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, documents: list[Any]) -> Any:
    """Draw one of the valid documents and change up to three places in it."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        places = paths_in(document)
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        home = document
        for key in parents:
            home = home[key]
        what = draw(st.sampled_from(["replace", "delete", "rename", "add", "swap"]))
        if what == "replace":
            home[last] = draw(values)
        elif what == "delete":
            del home[last]
        elif what == "swap":
            other = document
            for key in draw(st.sampled_from(places)):
                other = other[key] if not isinstance(other, str) else other
            home[last] = copy.deepcopy(other)
        elif isinstance(home, dict):
            value = home.pop(last) if what == "rename" else draw(values)
            home[draw(st.one_of(st.sampled_from([*TEXTS, f"{last}s"]), st.text(max_size=8)))] = value
        else:
            home.insert(0, draw(values))
    return document


BOMB = "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9 if level else ['lol'] * 9)}]\n" for level in range(10)
)
_FRAGMENTS = [
    "!!python/object/apply:os.system ['touch hostile']",
    "!!python/object/new:subprocess.Popen [[touch, hostile]]",
    "!!python/name:os.system",
    "!!binary aGk=",
    "!!set {a, b}",
    "!!timestamp 2024-13-45",
    "!!int x",
    "!!int ''",
    "!!bool x",
    "!!timestamp x",
    "!!float .",
    "&a [*a]",
    "&a {b: *a}",
    "*nowhere",
    "{<<: {version: 1}}",
    "{<<: [1, 2]}",
    "2024-13-45",
    "0x" + "f" * 40,
    "9" * 5000,
    "1:2:3:4",
    "[" * 300,
    "[" * 3000 + "]" * 3000,
    "{a: " * 400,
    "? [1]\n: 2",
    "'",
    "\t",
    "%YAML 9.9\n---",
    "--- a\n--- b",
    "|\n  x" * 50,
    "\u2028",
    "\x85",
]


@st.composite
def yaml_bytes(draw: st.DrawFn, documents: list[Any]) -> bytes:
    """Draw the bytes of a YAML file: a mutated document, written in one of YAML's styles, and spoilt in places."""
    document = draw(mutated(documents))
    try:
        text = yaml.safe_dump(
            document, allow_unicode=draw(st.booleans()), default_flow_style=draw(st.sampled_from([None, True, False]))
        )
    except (yaml.YAMLError, RecursionError, UnicodeError):
        text = json.dumps(document)
    lines = text.split("\n")
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["twice", "fragment", "value", "bomb", "cut", "indent"]))
        if kind == "twice":
            lines.insert(at, lines[at])
        elif kind == "fragment":
            lines.insert(at, draw(st.sampled_from(_FRAGMENTS)))
        elif kind == "value":
            key = lines[at].partition(":")[0]
            lines[at] = f"{key}: {draw(st.sampled_from(_FRAGMENTS))}"
        elif kind == "bomb":
            key = lines[at].partition(":")[0].strip() or "x"
            lines = [*BOMB.strip().split("\n"), *lines[:at], f"{key}: *a9", *lines[at + 1 :]]
        elif kind == "cut":
            lines[at] = lines[at][: len(lines[at]) // 2]
        else:
            lines[at] = " " * draw(st.integers(1, 9)) + lines[at]
    return draw(spoilt("\n".join(lines).encode("utf-8", "surrogatepass")))


@st.composite
def spoilt(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw the bytes of a file as they may arrive: another encoding, a mark, other line ends, cut, overwritten."""
    how = draw(st.sampled_from(["as is"] * 8 + ["bom", "crlf", "cr", "latin", "utf16", "nul", "cut", "bytes", "noise"]))
    text = data.decode("utf-8", "replace")
    if how == "bom":
        return b"\xef\xbb\xbf" * draw(st.integers(1, 2)) + data
    if how in ("crlf", "cr"):
        return data.replace(b"\n", b"\r\n" if how == "crlf" else b"\r")
    if how == "latin":
        return ("# caf\xe9\n" + text).encode("latin-1", "replace")
    if how == "utf16":
        return text.encode("utf-16", "surrogatepass")
    if how == "nul":
        at = draw(st.integers(0, len(data)))
        return data[:at] + b"\x00" + data[at:]
    if how == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if how == "bytes":
        at = draw(st.integers(0, len(data)))
        return data[:at] + draw(st.binary(min_size=1, max_size=6)) + data[at + draw(st.integers(0, 6)) :]
    if how == "noise":
        return draw(st.binary(max_size=300))
    return data


@st.composite
def json_bytes(draw: st.DrawFn, documents: list[Any]) -> bytes:
    """Draw the bytes of a JSON file: a mutated document, perhaps with a key given twice, and spoilt."""
    text = json.dumps(draw(mutated(documents)), ensure_ascii=draw(st.booleans()))
    kind = draw(st.sampled_from(["as is"] * 4 + ["twice", "deep", "number", "constant"]))
    if kind == "twice":
        text = text.replace("{", '{"results": {}, "results": 1, ', 1)
    elif kind == "deep":
        levels = draw(st.sampled_from([60, 990, 5000, 100_000]))
        text = text.replace(": ", ": " + "[" * levels + "]" * levels + ', "y": ', 1)
    elif kind == "number":
        number = draw(st.sampled_from(["9" * 5000, "1e999", "-0", "1e-999", "0.1" + "0" * 4000]))
        text = text.replace(": ", f": {number}, " + '"y": ', 1)
    elif kind == "constant":
        text = text.replace(": ", draw(st.sampled_from([": NaN, ", ": Infinity, ", ": -Infinity, "])) + '"y": ', 1)
    return draw(spoilt(text.encode("utf-8", "surrogatepass")))
