"""Hostile YAML: steering files, sweep files, gate policies, manifests, and files that say how tasks pair."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.hostile.boundary import hostile, inside
from support.hostile.mutations import mutated, values, yaml_bytes
from support.written_profiles import SMALL, write, write_dump

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.gate.policy import load_policy, parse_policy
from lm_eval_moe.multilingual.manifest import load_manifest
from lm_eval_moe.pairing import PairingRegistry, load_entries
from lm_eval_moe.steering import load_spec, parse_spec, resolve
from lm_eval_moe.sweep.spec import load_sweep

SELECTORS: list[dict[str, Any]] = [
    {"ids": {1: [0, 3], 2: {1: 0.41}}},
    {"task": {"profile": "en.safetensors", "baseline": "base.safetensors", "threshold": 0.1}},
    {"multilingual": {"profiles": {"en": "en.safetensors", "sw": "sw.safetensors"}, "reference": "en", "threshold": 0}},
    {"shared": {"profiles": {"en": "en.safetensors", "sw": "en.json"}, "top_m": 3, "threshold": 0.9, "source": "en"}},
    {
        "exclusive": {
            "profiles": {"en": "en.json", "sw": "sw.safetensors"},
            "languages": ["sw"],
            "top_m": 2,
            "threshold": 0.1,
        }
    },
    {"random": {"like": {"ids": {1: [0], 2: [1]}}, "seed": 1}},
]
ACTIONS: list[Any] = [{"proportional": 0.022}, "activate", {"soft": 0.5}, "deactivate", {"bias": 1.0}, "mask"]
STEERING: list[Any] = [
    {
        "version": 1,
        "name": "hostile",
        "description": "text",
        "source": "arXiv:2510.04694, eq. 4",
        "model": {"layers": 3, "experts": 4, "top_k": 2},
        "seed": 3,
        "interventions": [
            {
                "layers": layers,
                "experts": selector,
                "action": action,
                "guard": action in ("activate", "mask"),
                "tokens": "prompt",
                "languages": languages,
            }
        ],
        "selected_on": {"bench": ["row:0"]},
    }
    for selector, action, layers, languages in zip(
        SELECTORS,
        ACTIONS,
        ["1-2", 1, [1, "2-2"], "all", "1-2", "all"],
        ["all", ["sw"], {"all_but": ["en"]}] * 2,
        strict=True,
    )
]
SWEEP: list[Any] = [
    {
        "version": 1,
        "name": "grid",
        "steering": "steer.yaml",
        "tasks": ["demo_arith_en", "demo_arith_sw"],
        "grid": {"interventions.0.action.soft": [0.25, 0.5], "interventions.0.layers": ["1", "1-2"]},
        "controls": 2,
        "skip_empty": True,
        "evaluation": {"limit": 10, "num_fewshot": 0, "gen_kwargs": {"max_gen_toks": 8}, "batch_size": "auto"},
    },
    {"version": 1, "steering": STEERING[0], "tasks": ["a"], "grid": {"seed": [1, 2]}},
]
POLICY: list[Any] = [
    {
        "version": 1,
        "name": "release",
        "alpha": 0.05,
        "correction": "holm",
        "test": "drop",
        "inconclusive": "warn",
        "samples": "required",
        "minimum_items": 100,
        "margins": {"language": 0.05, "macro": {"relative": 0.1}, "languages": {"sw": 0.08}},
        "benchmarks": {"mgsm": {"minimum_items": 50, "metric": "exact_match,none", "languages": ["en", "sw"]}},
        "routing_drift": {"middle": 0.05, "exceeded": "fail"},
        "allow": [{"language": "sw", "reason": "known", "until": "2027-01-31", "checks": ["score"]}],
    }
]
PARALLEL: list[Any] = [
    {
        "version": 1,
        "entries": [
            {"tasks": r"mine_(?P<lang>[a-z]+)(_(?P<mode>cot))?", "benchmark": "mine", "item": ["a", "b"]},
            {"tasks": "one", "benchmark": "one", "item": "row", "language": "sw", "note": "x", "lacks": ["en"]},
            {"tasks": "t_(?P<lang>..)", "benchmark": "t", "item": "id", "languages": {"jp": "ja"}},
        ],
    }
]
MANIFEST: list[Any] = [
    {
        "name": "riddles",
        "title": "Riddles",
        "kind": "generation",
        "dataset": "someone/riddles",
        "revision": "abc",
        "licence": "CC BY 4.0",
        "citation": "Someone 2024",
        "homepage": "https://example.org",
        "items": 12,
        "item": ["book", "page"],
        "pairs_with_reference": True,
        "metrics": ["acc", {"metric": "exact_match", "filter": "number", "weight_by_size": True}],
        "defaults": {"word": "Question:"},
        "languages": {
            "en": None,
            "sw": {"config": "swa", "file": "swahili", "strings": {"word": "Swali:"}, "fields": {"num_fewshot": 2}},
            "fa_prs": {"language": "fa", "config": "prs_Arab"},
        },
        "variants": {"easy": {"tone": "plain"}, "hard": None},
        "groups": {"persian": ["fa_prs"], "everything": "all"},
        "lm_eval": ["riddles_{language}_{variant}", "more_{file}_{variant}"],
        "version": 1.0,
        "note": "Made up.",
    }
]
NAMES = ["mine_sw_cot", "mine_english", "one", "t_jp", "t_??", "other", "a" * 60]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with profiles, and odd things that a path may point to."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        rows = [("row:0", 10, [[5, 5, 6, 4], [10, 2, 4, 4]]), ("row:1", 8, [[4, 4, 4, 4], [8, 8, 0, 0]])]
        write(path / "en.safetensors", rows)
        other = [("row:0", 10, [[1, 9, 6, 4], [2, 10, 4, 4]]), ("row:1", 8, [[0, 8, 4, 4], [0, 8, 8, 0]])]
        write(path / "sw.safetensors", other, language="sw")
        write(path / "base.safetensors", other, benchmark="general")
        write_dump(path / "en.json", 10, [[5, 5, 6, 4], [10, 2, 4, 4]])
        (path / "steer.yaml").write_text(yaml.safe_dump(STEERING[0]))
        (path / "loop.safetensors").symlink_to("loop.safetensors")
        (path / "dangling.safetensors").symlink_to("nowhere")
        (path / "folder.safetensors").symlink_to(".")
        (path / "folder.json").symlink_to(".")
        (path / "empty.safetensors").touch()
        (path / "noise.safetensors").write_bytes(bytes(range(256)) * 40)
        yield path


def steer(read: Callable[[], Any]) -> Any:
    """Read a spec, and resolve it as a run does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoutingWarning)
        spec = read()
        plan = resolve(spec, SMALL)
        assert len(plan.hash) >= 16
        # What is reported of it reads as a spec again.
        assert parse_spec(spec.to_dict(), base_dir=spec.place.base_dir).to_dict() == spec.to_dict()
        return plan


@pytest.mark.parametrize("number", range(len(STEERING)))
def test_what_is_mutated_is_valid(folder: Path, number: int) -> None:
    """Otherwise all that is found out is that nonsense is refused."""
    path = folder / "steer.yaml"
    path.write_text(yaml.safe_dump(STEERING[number]))
    assert steer(lambda: load_spec(path)).interventions
    for name, documents, read in (("sweep", SWEEP, load_sweep), ("policy", POLICY, load_policy)):
        for document in documents:
            path = folder / f"{name}.yaml"
            path.write_text(yaml.safe_dump(document))
            assert read(path)
    path.write_text(yaml.safe_dump(PARALLEL[0]))
    assert len(load_entries(path)) == 3
    manifest = folder / "riddles" / "benchmark.yml"
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text(yaml.safe_dump(MANIFEST[0]))
    assert len(load_manifest(manifest).tasks) == 12


@given(data=yaml_bytes(STEERING))
@hostile(60)
def test_steering_files(folder: Path, data: bytes) -> None:
    path = folder / "given.yaml"
    path.write_bytes(data)
    inside("steering file", lambda: steer(lambda: load_spec(path)))


@given(document=st.one_of(mutated(STEERING), values))
@hostile(60)
def test_steering_made_in_python(folder: Path, document: Any) -> None:
    inside("steering spec", lambda: steer(lambda: parse_spec(document, base_dir=folder)))


KEYS = ["interventions.0.action.soft", "interventions.0.experts", "seed", "a..b", "", "interventions.99999999999", "x"]


@given(
    document=st.sampled_from(STEERING),
    overrides=st.lists(
        st.one_of(st.text(max_size=20), st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=20))),
        max_size=3,
    ),
)
@hostile(30)
def test_overrides(folder: Path, document: Any, overrides: list[str]) -> None:
    inside("--set", lambda: steer(lambda: parse_spec(document, base_dir=folder, overrides=overrides)))


ODD = ["loop", "dangling", "folder", "empty", "noise", "absent", "x" * 5000, "a\0b", "en/en", "\ud800"]
PATHS = [f"{name}.safetensors" for name in ODD]
PATHS += ["folder.json", "", ".", "..", "/", "/dev/null", "../" * 40 + "etc/passwd", "~/x", "file:///etc/passwd"]
PATHS += ["./../{0}/en.safetensors", "\\\\host\\share", "http://127.0.0.1:9/x.safetensors", "|touch hostile"]


@pytest.mark.parametrize("given_path", PATHS)
def test_paths_in_a_steering_file(folder: Path, given_path: str) -> None:
    rule = {"task": {"profile": given_path.format(folder.name), "baseline": "base.safetensors", "threshold": 0.01}}
    entry = {"layers": "all", "experts": rule, "action": {"soft": 0.5}}
    found = inside("path", lambda: steer(lambda: parse_spec({"version": 1, "interventions": [entry]}, base_dir=folder)))
    assert isinstance(found, UserError) == ("{0}" not in given_path)


@given(data=yaml_bytes(SWEEP))
@hostile(40)
def test_sweep_files(folder: Path, data: bytes) -> None:
    path = folder / "sweep.yaml"
    path.write_bytes(data)

    def read() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RoutingWarning)
            sweep = load_sweep(path)
            first = {axis.key: axis.values[0] for axis in sweep.axes}
            return sweep.at(first), [axis.name for axis in sweep.axes]

    inside("sweep file", read)


@given(data=yaml_bytes(POLICY))
@hostile(40)
def test_gate_policies(folder: Path, data: bytes) -> None:
    path = folder / "policy.yaml"
    path.write_bytes(data)
    inside("gate policy", lambda: load_policy(path))


@given(document=st.one_of(mutated(POLICY), values))
@hostile(30)
def test_gate_policies_made_in_python(document: Any) -> None:
    inside("gate policy in Python", lambda: parse_policy(document))


@given(data=yaml_bytes(PARALLEL))
@hostile(60)
def test_parallel_files(folder: Path, data: bytes) -> None:
    path = folder / "parallel.yaml"
    path.write_bytes(data)
    registry = inside("parallel file", lambda: PairingRegistry(load_entries(path)))
    if isinstance(registry, PairingRegistry):
        for name in NAMES:
            inside("task name", lambda name=name: registry.pairing(name))


@given(data=yaml_bytes(MANIFEST))
@hostile(40)
def test_manifests(folder: Path, data: bytes) -> None:
    path = folder / "riddles" / "benchmark.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    inside("manifest", lambda: load_manifest(path))


@given(
    metadata=st.one_of(mutated([{"routing": {"language": "sw", "benchmark": "b", "item": ["x"], "note": "n"}}]), values)
)
@hostile(30)
def test_metadata_of_a_task(metadata: Any) -> None:
    registry = PairingRegistry([])

    def read() -> Any:
        pairing = registry.pairing("task", metadata)
        return pairing and pairing.item_key({"x": 1, "y": "b"}, 3)

    inside("task metadata", read)
