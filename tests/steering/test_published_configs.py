"""The steering files of published settings: each says what its paper does, and selects what it should."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT
from support.real_counts import FOLDER as REAL_COUNTS
from support.real_counts import oracle_shared
from support.written_profiles import Row, write

from lm_eval_moe.cli import main, profile
from lm_eval_moe.errors import UserError
from lm_eval_moe.routers import shape_from_config
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import SteeringPlan, load_spec, resolve

CONFIGS = ROOT / "steering_configs"
PAGE = ROOT / "docs" / "published_settings.md"
B, C = "arxiv_2510_04694", "arxiv_2601_14050"

Found = dict[int, dict[int, float]]
"""Layer → expert → coefficient."""

# As their authors' config.json files have them.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3-30b-a3b": (
        "Qwen/Qwen3-30B-A3B",
        "qwen3_moe",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        },
    ),
    "phi-3.5-moe": (
        "microsoft/Phi-3.5-MoE-instruct",
        "phimoe",
        {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 6400,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 16,
            "num_experts_per_tok": 2,
        },
    ),
    "gpt-oss-20b": (
        "openai/gpt-oss-20b",
        "gpt_oss",
        {
            "vocab_size": 201088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 24,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
        },
    ),
    "olmoe": (
        "allenai/OLMoE-1B-7B-0924",
        "olmoe",
        {
            "vocab_size": 50304,
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
        },
    ),
}
SIZES = {"qwen3-30b-a3b": (48, 128, 8), "phi-3.5-moe": (32, 16, 2), "gpt-oss-20b": (24, 32, 4), "olmoe": (16, 64, 8)}


@dataclass(frozen=True)
class Published:
    """A row of a paper's table, or of its released scripts.

    Attributes:
        file: The steering file that says the same.
        model: Key of ``MODELS``.
        layers: First and last, from 0.
        rule: The rule's fields, without the profiles.
        action: As the file dumps it.
        text: Whose profiles the rule reads.
        hit: The experts that the paper finds, and that the written profiles are made to have.
        page: What the docs' table says of the result.
    """

    file: str
    model: str
    layers: tuple[int, int]
    rule: dict[str, Any]
    action: Any
    text: str
    hit: int = 0
    page: str = ""


def task(threshold: float) -> dict[str, Any]:
    return {"task": {"threshold": threshold}}


def shared(source: str) -> dict[str, Any]:
    return {"shared": {"top_m": 20, "threshold": 0.7, "source": source}}


QWEN, PHI, GPT = "qwen3-30b-a3b", "phi-3.5-moe", "gpt-oss-20b"
MATHS, MEDICINE = "gsm8k_instruct", "medinstruct"
SOFT = {"soft": 0.5}
MGSM = f"{B}/qwen3_30b_a3b_mgsm"
POLYMATH = f"{C}/qwen3_30b_a3b_polymath_low_source"
ROWS = [
    Published(f"{MGSM}.yaml", QWEN, (8, 35), task(0.4), SOFT, MATHS, 22, "76.4 → 78.0"),
    Published(f"{B}/phi_3_5_moe_mgsm.yaml", PHI, (8, 17), task(0.3), SOFT, MATHS, 12, "57.5 → 58.9"),
    Published(f"{B}/gpt_oss_20b_mgsm.yaml", GPT, (4, 19), task(0.3), "activate", MATHS, 9, "68.9 → 71.5"),
    Published(
        f"{B}/qwen3_30b_a3b_global_mmlu_medical.yaml", QWEN, (8, 35), task(0.5), "activate", MEDICINE, 23, "68.2 → 69.1"
    ),
    Published(f"{B}/phi_3_5_moe_global_mmlu_medical.yaml", PHI, (8, 17), task(0.25), SOFT, MEDICINE, 2, "57.8 → 58.8"),
    Published(f"{B}/gpt_oss_20b_global_mmlu_medical.yaml", GPT, (4, 19), task(0.3), SOFT, MEDICINE, 6, "63.8 → 64.5"),
    Published(f"{POLYMATH}_en.yaml", QWEN, (10, 39), shared("en"), {"proportional": 0.022}, "mgsm"),
    Published(f"{POLYMATH}_zh.yaml", QWEN, (10, 39), shared("zh"), {"proportional": 0.034}, "mgsm"),
    Published(f"{POLYMATH}_en_control_early_layers.yaml", QWEN, (0, 7), shared("en"), {"proportional": 0.022}, "mgsm"),
    Published(f"{POLYMATH}_en_control_late_layers.yaml", QWEN, (40, 47), shared("en"), {"proportional": 0.022}, "mgsm"),
]
BY_FILE = {row.file: row for row in ROWS}
OTHER_LAYERS = {  # file: the file that it is the control of, and the layers
    f"{MGSM}_control_early_layers.yaml": (f"{MGSM}.yaml", range(8)),
    f"{MGSM}_control_late_layers.yaml": (f"{MGSM}.yaml", range(36, 48)),
    f"{POLYMATH}_en_control_early_layers.yaml": (f"{POLYMATH}_en.yaml", range(8)),
    f"{POLYMATH}_en_control_late_layers.yaml": (f"{POLYMATH}_en.yaml", range(40, 48)),
}
RANDOM = {row.file.replace(".yaml", "_control_random_experts.yaml"): row for row in ROWS if "_control_" not in row.file}
DEACTIVATION = f"{MGSM}_control_deactivation.yaml"
MULTILINGUAL = f"{MGSM}_control_multilingual_experts.yaml"
PUBLISHED = sorted({*BY_FILE, *OTHER_LAYERS, *RANDOM, DEACTIVATION, MULTILINGUAL})
OTHERS = ["demo_random_control.yaml", "demo_task_experts.yaml", "example_ids.yaml", "example_random_control.yaml"]


@lru_cache
def shape_of(model: str) -> RoutingShape:
    """The shape that the very code finds that steers, in the model built without weights."""
    from transformers import AutoConfig

    _, family, sizes = MODELS[model]
    return shape_from_config(AutoConfig.for_model(family, **sizes))


def model_of(file: str) -> str:
    """The model that a file's profiles name."""
    (model,) = {path.split("/")[1] for path in profiles_of(CONFIGS / file)}
    return model


def profiles_of(path: Path) -> set[str]:
    return set(re.findall(r"^[^#\n]*?: (\S+\.(?:safetensors|json))$", path.read_text(encoding="utf-8"), re.MULTILINE))


# Profiles whose experts are chosen by hand. From layer to layer they move on, so that neighbouring layers select other
# ones, and each profile has two items of unequal length.
TOKENS = (2000, 4000)


def turned(layer: int, place: int, experts: int) -> int:
    return (7 * layer + 3 + place) % experts


def hits(row: Published, layer: int) -> int:
    """How many task experts a layer is given: in the row's layers as many as the paper finds in all; elsewhere one."""
    first, last = row.layers
    if not first <= layer <= last:
        return 1
    each, more = divmod(row.hit, last - first + 1)
    return each + (layer - first < more)


def task_layer(row: Published, layer: int, item: int) -> dict[int, float]:
    """Frequencies of an item of a task: over the threshold, on it, and under it.

    The mean over items is what counts: over tokens, the first would lie under the threshold and the last over it.
    """
    shape, tau, swing = shape_of(row.model), row.rule["task"]["threshold"], (0.1, -0.1)[item]
    base, n = shape.top_k / shape.experts, hits(row, layer)
    values = [base + tau + 0.001 + swing] * n + [base + tau, base + tau - 0.001 - swing]
    return {turned(layer, place, shape.experts): value for place, value in enumerate(values)}


def task_experts(row: Published) -> Found:
    """What the task's profiles are made to have, in all layers."""
    shape = shape_of(row.model)
    return {
        layer: {turned(layer, place, shape.experts): 1.0 for place in range(hits(row, layer))}
        for layer in shape.layers
        if hits(row, layer)
    }


def parallel_layer(language: str, layer: int, item: int) -> dict[int, float]:
    """Frequencies of parallel sentences: in even layers one expert is Swahili's, in odd ones Bengali is just at 0.3."""
    base = 8 / 128
    if language == "sw" and layer % 2 == 0:
        return {turned(layer, 60, 128): base + 0.301}
    return {turned(layer, 61, 128): base + 0.3} if language == "bn" and layer % 2 else {}


SHARED_PLACES: dict[int, tuple[float, float]] = {  # place: frequency in English, in Chinese
    **dict.fromkeys(range(10), (0.4, 0.4)),
    10: (0.34, 0.15),  # English has 0.694 of it
    11: (0.36, 0.15),  # 0.706: exclusive
    12: (0.15, 0.34),
    13: (0.15, 0.36),
    14: (0.3, 0.2),
    **dict.fromkeys(range(15, 19), (0.2, 0.0)),  # not of Chinese's 20 most active experts
    **dict.fromkeys(range(19, 23), (0.0, 0.2)),
    23: (0.1, 0.1),  # the 20th of both languages
    24: (0.09, 0.09),  # the 21st of both
}
SHARED_SHARES = {  # place: the shares that these make, of what is shared
    **dict.fromkeys(range(10), (0.5, 0.5)),
    10: (34 / 49, 15 / 49),
    12: (15 / 49, 34 / 49),
    14: (0.6, 0.4),
    23: (0.5, 0.5),
}


def shared_experts(source: str, layers: range) -> Found:
    side = ("en", "zh").index(source)
    return {
        layer: {turned(layer, place, 128): shares[side] for place, shares in SHARED_SHARES.items()} for layer in layers
    }


def layer_of_profile(model: str, text: str, language: str, layer: int, item: int) -> dict[int, float]:
    if text == "mgsm":
        side = ("en", "zh").index(language)
        return {turned(layer, place, 128): both[side] for place, both in SHARED_PLACES.items() if both[side]}
    if text == "flores":
        return parallel_layer(language, layer, item)
    (row,) = (each for each in ROWS if (each.model, each.text) == (model, text))
    return task_layer(row, layer, item)


def counts(given: dict[int, float], tokens: int, shape: RoutingShape) -> list[int]:
    """Counts of one layer: those given, and the rest of K·T spread over the other experts."""
    row = {expert: round(value * tokens) for expert, value in given.items()}
    others = [expert for expert in range(shape.experts) if expert not in row]
    each, more = divmod(shape.top_k * tokens - sum(row.values()), len(others))
    row |= {expert: each + (place < more) for place, expert in enumerate(others)}
    assert 0 <= min(row.values()) <= max(row.values()) <= tokens
    return [row[expert] for expert in range(shape.experts)]


def write_profile(folder: Path, given: str) -> None:
    """Write ``profiles/<model>/<text>/<language>.safetensors`` below a folder."""
    top, model, text, file = given.split("/")
    assert top == "profiles"
    language, shape, path = Path(file).stem, shape_of(model), folder / given
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for item, tokens in enumerate(TOKENS):
        layers = [layer_of_profile(model, text, language, layer, item) for layer in shape.layers]
        rows.append((str(item), tokens, [counts(layer, tokens, shape) for layer in layers]))
    write(path, rows, language=language, benchmark=text, shape=shape, model=MODELS[model][0], span="all")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files, with the profiles that they name."""
    folder = tmp_path_factory.mktemp("published") / "steering_configs"
    copytree(CONFIGS, folder)
    for file in PUBLISHED:
        for given in profiles_of(folder / file):
            if not (folder / file).parent.joinpath(given).exists():
                write_profile((folder / file).parent, given)
    return folder


def plan_of(folder: Path, file: str, overrides: tuple[str, ...] = ()) -> SteeringPlan:
    return resolve(load_spec(folder / file, overrides), shape_of(model_of(file)))


def found(plan: SteeringPlan) -> Found:
    (intervention,) = plan.interventions
    return {
        layer: dict(zip(targets.experts, targets.coefficients, strict=True))
        for layer, targets in intervention.targets.items()
    }


def says(folder: Path, file: str) -> tuple[Any, ...]:
    """What a file says that a row can say: model, layers, rule, action, and the text of the first profile."""
    spec = load_spec(folder / file)
    assert spec.model is not None
    (intervention,) = spec.interventions
    dump = {key: value for key, value in intervention.experts.dump().items() if key not in ("profile", "profiles")}
    dump.pop("baseline", None)
    model = model_of(file)
    layers = intervention.layers.resolve(shape_of(model), spec.place)
    text = sorted({path.split("/")[2] for path in profiles_of(folder / file)} - {"flores"})
    return (model, spec.model.dump(), layers, {intervention.experts.name: dump}, intervention.action.dump(), text)


@pytest.mark.parametrize("model", MODELS)
def test_the_models_have_the_sizes_that_the_files_are_for(model: str) -> None:
    layers, experts, top_k = SIZES[model]
    assert shape_of(model) == RoutingShape(tuple(range(layers)), experts, top_k, layers)


def test_these_are_all_the_files() -> None:
    found = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert {path for path in found if not path.startswith("sweeps/")} == {*PUBLISHED, *OTHERS}


@pytest.mark.parametrize("file", OTHERS)
def test_the_files_that_need_no_profiles_resolve(file: str) -> None:
    spec = load_spec(CONFIGS / file)
    assert spec.model is not None
    layers, experts, top_k = (spec.model.dump()[name] for name in ("layers", "experts", "top_k"))
    assert resolve(spec, RoutingShape(tuple(range(layers)), experts, top_k, layers)).experts_by_layer()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.file)
def test_every_row_has_exactly_one_file_that_says_the_same(row: Published, filled: Path) -> None:
    layers, experts, top_k = SIZES[row.model]
    model_block = {"layers": layers, "experts": experts, "top_k": top_k}
    span = tuple(range(row.layers[0], row.layers[1] + 1))
    expected = (row.model, model_block, span, row.rule, row.action, [row.text])
    assert [file for file in PUBLISHED if says(filled, file) == expected] == [row.file]


@pytest.mark.parametrize("file", PUBLISHED)
def test_every_file_steers_all_tokens_and_languages_and_names_its_paper(file: str, filled: Path) -> None:
    spec = load_spec(filled / file)
    plan = plan_of(filled, file)
    (intervention,) = plan.interventions
    assert (intervention.tokens, intervention.languages.dump(), intervention.guard, spec.seed) == (
        "all",
        "all",
        False,
        0,
    )
    paper = Path(file).parent.name.removeprefix("arxiv_").replace("_", ".", 1)
    assert f"arXiv:{paper}" in spec.source
    assert spec.description
    assert {source.model for source in plan.profiles} == {MODELS[model_of(file)][0]}


def test_names_are_told_apart(filled: Path) -> None:
    assert len({load_spec(filled / file).name for file in PUBLISHED}) == len(PUBLISHED)


@pytest.mark.parametrize("row", [row for row in ROWS if "task" in row.rule], ids=lambda row: row.file)
def test_task_experts_as_chosen_by_hand(row: Published, filled: Path) -> None:
    first, last = row.layers
    expected = {layer: experts for layer, experts in task_experts(row).items() if first <= layer <= last}
    assert sum(map(len, expected.values())) == row.hit
    assert found(plan_of(filled, row.file)) == expected


@pytest.mark.parametrize("row", [row for row in ROWS if "shared" in row.rule], ids=lambda row: row.file)
def test_shared_experts_as_chosen_by_hand(row: Published, filled: Path) -> None:
    expected = shared_experts(row.rule["shared"]["source"], range(row.layers[0], row.layers[1] + 1))
    targets = found(plan_of(filled, row.file))
    assert {layer: set(experts) for layer, experts in targets.items()} == {
        layer: set(experts) for layer, experts in expected.items()
    }
    for layer, experts in expected.items():
        assert targets[layer] == pytest.approx(experts, rel=1e-8)


@pytest.mark.parametrize("file", OTHER_LAYERS)
def test_layer_controls_differ_in_nothing_but_the_layers(file: str, filled: Path) -> None:
    controlled, layers = OTHER_LAYERS[file]
    model, block, span, rule, action, text = says(filled, file)
    theirs = says(filled, controlled)
    assert (model, block, rule, action, text) == (*theirs[:2], *theirs[3:])
    assert span == tuple(layers)
    assert not set(span) & set(theirs[2])
    targets = found(plan_of(filled, file))
    assert set(targets) == set(layers)
    if "task" in rule:
        of_task = task_experts(BY_FILE[controlled])
        assert targets == {layer: of_task[layer] for layer in layers}


@pytest.mark.parametrize("file", RANDOM)
def test_random_controls_match_the_numbers_and_none_of_the_experts(file: str, filled: Path) -> None:
    row = RANDOM[file]
    model, block, span, rule, action, text = says(filled, file)
    theirs = says(filled, row.file)
    assert (model, block, span, action, text) == (*theirs[:3], *theirs[4:])
    like = rule["random"]["like"]
    (name,) = like
    bare = {key: value for key, value in like[name].items() if key not in ("profile", "profiles", "baseline")}
    assert {name: bare} == row.rule
    matched, drawn = found(plan_of(filled, row.file)), found(plan_of(filled, file))
    assert set(drawn) == set(matched)
    for layer, experts in matched.items():
        assert sorted(drawn[layer].values()) == sorted(experts.values())
        assert not set(drawn[layer]) & set(experts)
    again = found(plan_of(filled, file, ("interventions.0.experts.random.seed=2",)))
    assert again != drawn
    assert {layer: len(experts) for layer, experts in again.items()} == {
        layer: len(experts) for layer, experts in drawn.items()
    }


def test_deactivation_has_the_task_experts(filled: Path) -> None:
    row, plan = BY_FILE[f"{MGSM}.yaml"], plan_of(filled, DEACTIVATION)
    assert found(plan) == found(plan_of(filled, row.file))
    assert plan.interventions[0].action.dump() == "deactivate"
    assert says(filled, DEACTIVATION)[3] == row.rule


def test_multilingual_experts_are_other_ones_in_the_same_layers(filled: Path) -> None:
    plan = plan_of(filled, MULTILINGUAL)
    assert found(plan) == {layer: {turned(layer, 60, 128): 1.0} for layer in range(8, 36, 2)}
    task_plan = plan_of(filled, f"{MGSM}.yaml")
    for layer, experts in found(task_plan).items():
        assert not set(experts) & set(found(plan).get(layer, {}))
    _, _, span, rule, action, _ = says(filled, MULTILINGUAL)
    assert (span, action) == (tuple(range(8, 36)), SOFT)
    assert rule == {"multilingual": {"reference": "en", "threshold": 0.3}}
    languages = {Path(path).stem for path in profiles_of(CONFIGS / MULTILINGUAL)}
    assert languages == {"en", "bn", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"}


@pytest.mark.parametrize("file", PUBLISHED)
def test_another_model_is_refused(file: str, filled: Path) -> None:
    spec = load_spec(filled / file)
    for model in MODELS.keys() - {model_of(file)}:
        with pytest.raises(UserError, match=r"model\.layers: .* for a model with layers: \d+, but this model has"):
            resolve(spec, shape_of(model))


def test_another_model_is_exit_code_2(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = filled / f"{MGSM}.yaml"
    model = ("--model", "hf-moe", "--model_args", "pretrained=demo")
    assert main(["run", *model, "--tasks", "demo_arith_en", "--limit", "1", "--steering", str(file)]) == 2
    message = capsys.readouterr().err
    assert f"{file}: model.layers: the file is for a model with layers: 48, but this model has 8" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("file", PUBLISHED)
def test_profiles_that_are_not_made_yet_are_named(file: str) -> None:
    with pytest.raises(UserError, match=r"there is no file 'profiles/.*\n.*relative paths start from the folder"):
        load_spec(CONFIGS / file)


def commands(text: str) -> list[list[str]]:
    """The ``lm-eval-moe profile`` commands of a header's comments, or of a page."""
    joined = re.sub(r"\\\n#?", " ", text)
    lines = (line.lstrip("# ").strip() for line in joined.splitlines())
    return [shlex.split(line) for line in lines if line.startswith("lm-eval-moe profile ")]


def makes(command: list[str]) -> set[tuple[str, str]]:
    """The profiles that a command writes, as its own parser reads it, and the model that it loads."""
    parser = argparse.ArgumentParser()
    profile.add_parser(parser.add_subparsers())
    args = parser.parse_args(command[1:])
    languages = [text.split("=")[0] for text in args.texts or []]
    languages += [task.rsplit("_", 1)[1] for task in (args.tasks or "").split(",") if task]
    assert languages
    return {(f"{args.output}/{language}.safetensors", args.model_args["pretrained"]) for language in languages}


@pytest.mark.parametrize("file", PUBLISHED)
def test_the_header_has_the_commands_that_make_the_profiles(file: str) -> None:
    made = set().union(*(makes(command) for command in commands((CONFIGS / file).read_text(encoding="utf-8"))))
    pretrained = MODELS[model_of(file)][0]
    assert made == {(path, pretrained) for path in profiles_of(CONFIGS / file)}


def test_the_page_has_every_file_and_what_was_published() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = {cells[1].strip(" `"): cells for line in page.splitlines() if len(cells := line.split("|")) > 3}
    assert {Path(file).name for file in PUBLISHED} <= rows.keys()
    for row in ROWS:
        line = "|".join(rows[Path(row.file).name])
        assert f"| {row.layers[0]}-{row.layers[1]} |" in line
        assert str(row.rule[next(iter(row.rule))]["threshold"]) in line
        action = row.action if isinstance(row.action, str) else str(row.action).replace("'", "")
        assert f"| `{action}` |" in line
        assert not row.hit or f"| {row.hit} | {row.page} |" in line
    made = set().union(*(makes(command) for command in commands(page)))
    assert made == {(path, MODELS[model_of(file)][0]) for file in PUBLISHED for path in profiles_of(CONFIGS / file)}


@pytest.mark.skipif(not REAL_COUNTS.is_dir(), reason="needs ../shared/data/routing-qwen3-30b-a3b-mgsm")
@pytest.mark.parametrize("file", [file for file in PUBLISHED if file.startswith(C)])
def test_on_the_released_counts(file: str, filled: Path) -> None:
    rule = "random.like.shared" if file in RANDOM else "shared"
    paths = ", ".join(f"{language}: {REAL_COUNTS / f'mgsm_{language}.json'}" for language in ("en", "zh"))
    targets = found(plan_of(filled, file, (f"interventions.0.experts.{rule}.profiles={{{paths}}}",)))
    row = RANDOM.get(file) or BY_FILE[file]
    layers = range(row.layers[0], row.layers[1] + 1)
    expected = oracle_shared(("en", "zh"), 20, 0.7, row.rule["shared"]["source"], layers)
    assert set(expected) == set(layers)
    for layer, experts in expected.items():
        if file in RANDOM:
            assert not set(targets[layer]) & set(experts)
            assert sorted(targets[layer].values()) == pytest.approx(sorted(experts.values()), rel=1e-14)
        else:
            assert targets[layer] == pytest.approx(experts, rel=1e-14)


@pytest.mark.skipif(not REAL_COUNTS.is_dir(), reason="needs ../shared/data/routing-qwen3-30b-a3b-mgsm")
def test_the_page_says_how_many_experts_the_released_counts_select() -> None:
    sizes = [
        sum(map(len, oracle_shared(("en", "zh"), 20, 0.7, "en", layers).values()))
        for layers in (range(10, 40), range(8), range(40, 48))
    ]
    sentence = "select {} experts in layers 10-39, {} in 0-7 and {} in 40-47".format(*sizes)
    assert sentence in " ".join(PAGE.read_text(encoding="utf-8").split())


def test_the_files_are_in_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs hatchling to build a wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    prefix = "lm_eval_moe/data/steering_configs/"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)}
        for file in PUBLISHED:
            assert archive.read(prefix + file) == (CONFIGS / file).read_bytes()
    assert packed >= {*PUBLISHED, *OTHERS}


def test_the_written_frequencies_are_what_they_are_meant_to_be(filled: Path) -> None:
    """A task expert's mean over items lies over the threshold, its share of all tokens under it."""
    from safetensors.numpy import load_file

    row = BY_FILE[f"{MGSM}.yaml"]
    arrays = load_file(filled / B / "profiles" / row.model / row.text / "en.safetensors")
    frequencies = arrays["counts"][:, 8, turned(8, 0, 128)] / np.array(TOKENS)
    assert frequencies.mean() - 8 / 128 == pytest.approx(0.401)
    assert np.average(frequencies, weights=TOKENS) - 8 / 128 == pytest.approx(0.401 - 1 / 30)
