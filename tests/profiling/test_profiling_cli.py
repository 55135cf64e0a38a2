"""``lm-eval-moe profile`` as a user meets it: tasks and data sets, show, merge, diff, and one message for a mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.paths import SHARED
from support.profile_records import read_records

from lm_eval_moe.cli import main
from lm_eval_moe.metrics import expert_overlap, normalized_js_divergence
from lm_eval_moe.profiles import ProfileHeader, ProfileItem, write_profile
from lm_eval_moe.profiling.texts import benchmark_of
from lm_eval_moe.shape import RoutingShape

pytestmark = pytest.mark.long

DUMPS = SHARED / "routing-qwen3-30b-a3b-mgsm"


def profile(*arguments: object) -> int:
    return main(["profile", "--model_args", "pretrained=demo", *map(str, arguments)])


@pytest.fixture(autouse=True)
def _closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's log handlers keep the stream of the test that set them up, which pytest has closed by the next one."""
    monkeypatch.setattr("logging.raiseExceptions", False)


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Path]:
    """Return four small profiles: two languages, another model, another span."""
    shape = RoutingShape((0, 1, 2), 4, 2, 3)
    generator = np.random.default_rng(0)
    paths = {}
    for name, model, language, span in (
        ("en", "m", "en", "prompt"),
        ("sw", "m", "sw", "prompt"),
        ("other", "n", "de", "prompt"),
        ("span", "m", "de", "all"),
    ):
        count = 3 if name == "en" else 2
        tokens = generator.integers(5, 20, count)
        counts = np.stack([generator.multinomial(2 * t, [0.25] * 4, 3).clip(0, t) for t in tokens]).astype(np.int32)
        importance = generator.dirichlet([1.0] * 4, (count, 3)).astype(np.float32)
        items = [ProfileItem("bench", f"i{n}", language, f"{name}.txt") for n in range(count)]
        arrays = {"counts": counts, "gate_mass": importance, "importance": importance, "tokens": tokens}
        paths[name] = tmp_path / f"{name}.safetensors"
        write_profile(paths[name], ProfileHeader(model, shape, span), items, arrays)
    return paths


def test_merge_keeps_every_row(written: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "all.safetensors"
    assert main(["profile", "merge", str(out), str(written["en"]), str(written["sw"])]) == 0
    header, items, records = read_records(out)
    parts = [read_records(written[name]) for name in ("en", "sw")]
    assert items == [item for _, own, _ in parts for item in own]
    for record, expected in zip(records, [r for _, _, own in parts for r in own], strict=True):
        assert record.tokens == expected.tokens
        np.testing.assert_array_equal(record.counts, expected.counts)
        np.testing.assert_array_equal(record.importance, expected.importance)
    assert header.provenance is not None
    assert [source["file"] for source in header.provenance["merged"]] == ["en.safetensors", "sw.safetensors"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("en", "en"), "is also in"),
        (("en", "other"), "its model is n, that of .* is m"),
        (("en", "span"), "its span is all, that of .* is prompt"),
    ],
)
def test_merge_refuses_what_does_not_belong_together(
    files: tuple[str, str], message: str, written: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.safetensors"
    assert main(["profile", "merge", str(out), *(str(written[name]) for name in files)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert not out.exists()


def test_merge_replaces_nothing(written: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = written["en"].read_bytes()
    assert main(["profile", "merge", str(written["en"]), str(written["sw"])]) == 2
    assert "already exists" in capsys.readouterr().err
    assert written["en"].read_bytes() == before


def test_diff_is_of_the_pooled_routing(written: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "diff", str(written["en"]), str(written["sw"]), "--experts", "1"]) == 0
    printed = capsys.readouterr().out
    frequency, importance = [], []
    for name in ("en", "sw"):
        _, _, records = read_records(written[name])
        tokens = [record.tokens for record in records]
        frequency.append(np.sum([record.counts for record in records], 0) / sum(tokens))
        importance.append(np.average([record.importance for record in records], 0, tokens))
    change = frequency[1] - frequency[0]
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == [0, 1, 2]
    for layer, (_, divergence, overlap, expert, difference) in enumerate(rows):
        expected = normalized_js_divergence(importance[0][layer], importance[1][layer])
        assert float(divergence) == pytest.approx(float(expected), abs=6e-5)
        ties = (importance[0][layer], importance[1][layer])
        assert float(overlap) == pytest.approx(
            float(expert_overlap(frequency[0][layer], frequency[1][layer], 2, *ties)), abs=6e-4
        )
        largest = int(np.argmax(np.abs(change[layer])))
        assert int(expert.rstrip(":")) == largest
        assert float(difference) == pytest.approx(change[layer, largest], abs=6e-4)
    assert "items in both: 2\nitems only in A: 1 (bench i2)\nitems only in B: 0" in printed


def test_show_and_diff_read_json_counts(capsys: pytest.CaptureFixture[str]) -> None:
    if not DUMPS.is_dir():
        pytest.skip("the released counts are not there")
    english, swahili = DUMPS / "mgsm_en.json", DUMPS / "mgsm_sw.json"
    assert main(["profile", "show", str(english)]) == 0
    assert "layers 0-47 of 48, 128 experts, top 8" in capsys.readouterr().out
    assert main(["profile", "diff", str(english), str(swahili)]) == 0
    printed = capsys.readouterr().out
    gates = []
    for path in (english, swahili):
        layer = json.loads(path.read_text(encoding="utf-8"))["20"]
        sums = np.array([layer.get(str(e), {}).get("gate_values_sum", 0.0) for e in range(128)])
        gates.append(sums / sums.sum())
    row = next(line.split() for line in printed.splitlines() if line.startswith("   20  "))
    assert float(row[1]) == pytest.approx(float(normalized_js_divergence(*gates)), abs=6e-5)
    assert main(["profile", "diff", str(english), str(english)]) == 0
    assert "all     divergence 0.0000  overlap 1.000" in capsys.readouterr().out


def test_looking_at_profiles_imports_no_torch(written: dict[str, Path], tmp_path: Path) -> None:
    paths = {name: str(path) for name, path in written.items()}
    code = (
        "import sys\nfrom lm_eval_moe.cli import main\n"
        f"assert main(['profile', 'show', {paths['en']!r}]) == 0\n"
        f"assert main(['profile', 'diff', {paths['en']!r}, {paths['sw']!r}]) == 0\n"
        f"assert main(['profile', 'merge', {str(tmp_path / 'all.safetensors')!r}, {paths['en']!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("span", ["prompt", "all"])
def test_tasks_give_the_items_that_a_run_records(span: str, tmp_path: Path) -> None:
    by_run = tmp_path / "run.safetensors"
    tasks = ("--tasks", "demo_arith_en,demo_arith_sw", "--limit", "5")
    model = f"pretrained=demo,capture={span}"
    assert main(["run", "--model", "hf-moe", "--model_args", model, *tasks, "--routing_profile", str(by_run)]) == 0
    assert profile(*tasks, "--span", span, "--output", tmp_path / "out") == 0
    header, run_items, run_records = read_records(by_run)
    expected = dict(zip(run_items, run_records, strict=True))
    found = {}
    for language in ("en", "sw"):
        own, items, records = read_records(tmp_path / "out" / f"{language}.safetensors")
        assert (own.model, own.shape, own.span) == (header.model, header.shape, header.span)
        assert {item.language for item in items} == {language}
        found |= dict(zip(items, records, strict=True))
    assert found.keys() == expected.keys()
    for item, record in found.items():
        assert record.tokens == expected[item].tokens
        np.testing.assert_array_equal(record.counts, expected[item].counts)
        np.testing.assert_allclose(record.importance, expected[item].importance, atol=1e-5)


def test_a_data_set_gives_the_profile_of_the_same_lines(tmp_path: Path) -> None:
    folder = tmp_path / "greetings"
    folder.mkdir()
    lines = [json.dumps({"sentence": text, "key": n}) for n, text in enumerate(["Good day.", "Habari ya asubuhi."])]
    (folder / "dev.jsonl").write_text("\n".join(lines), encoding="utf-8")
    fields = ("--text_field", "sentence", "--id_field", "key")
    assert profile("--texts", f"sw=hf:{folder}::validation", *fields, "--output", tmp_path / "hub") == 0
    arguments = ("--texts", f"sw={folder / 'dev.jsonl'}", "--benchmark", "greetings", *fields)
    assert profile(*arguments, "--output", tmp_path / "file") == 0
    header, items, records = read_records(tmp_path / "hub" / "sw.safetensors")
    _, expected_items, expected = read_records(tmp_path / "file" / "sw.safetensors")
    assert [(i.benchmark, i.item) for i in items] == [("greetings", "0"), ("greetings", "1")]
    assert [(i.benchmark, i.item) for i in expected_items] == [(i.benchmark, i.item) for i in items]
    for record, other in zip(records, expected, strict=True):
        np.testing.assert_array_equal(record.counts, other.counts)
    assert header.provenance is not None
    assert (header.provenance["source"]["kind"], header.provenance["source"]["split"]) == ("dataset", "validation")


def test_real_texts_pair_by_their_names(
    real_texts: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "udhr"
    folder.mkdir()
    texts = []
    for name, language, code in (("en", "eng", "eng"), ("zh", "zh-Hans", "zho-CN")):
        lines = [json.dumps({"id": f"udhr:{number}", "text": text}) for number, text in enumerate(real_texts[name])]
        (folder / f"{code}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        texts.append(f"{language}={folder / code}.jsonl")
    assert profile("--texts", *texts, "--id_field", "id", "--limit", "12", "--output", tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count("12 items") == 2
    english, chinese = tmp_path / "en.safetensors", tmp_path / "zh.safetensors"
    assert main(["profile", "diff", str(english), str(chinese)]) == 0
    assert "items in both: 12" in capsys.readouterr().out
    assert main(["profile", "show", str(english)]) == 0
    shown = capsys.readouterr().out
    for line in ("model ", "udhr: 12 rows", "source.sha256", "versions.transformers"):
        assert line in shown
    assert profile("--texts", *texts, "--id_field", "id", "--limit", "12", "--output", tmp_path) == 0
    assert capsys.readouterr().out.count("already exists, with the same settings") == 2
    assert profile("--texts", *texts, "--id_field", "id", "--limit", "13", "--output", tmp_path) == 2
    assert "limit was 12, is 13" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "language", "benchmark"),
    [
        ("data/flores_en.txt", "en", "flores"),
        ("data/flores.swh_Latn.dev.txt", "sw", "flores.dev"),
        ("ntrex/zho-CN.jsonl", "zh", "ntrex"),
        ("news/en.txt", "en", "news"),
        ("data/sentences.txt", "en", "sentences"),
    ],
)
def test_the_benchmark_is_the_name_without_its_language(path: str, language: str, benchmark: str) -> None:
    assert benchmark_of(Path(path), language) == benchmark


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--texts", "en=GOOD"], "--output: no folder given"),
        (["--output", "OUT"], "either texts or tasks"),
        (["--output", "OUT", "--texts", "GOOD"], "is not LANGUAGE=FILE"),
        (["--output", "OUT", "--texts", "xx1=GOOD"], "is not a language code"),
        (["--output", "OUT", "--texts", "en=GOOD", "eng=GOOD"], "'en' is given twice"),
        (["--output", "OUT", "--texts", "en=missing.txt"], "missing.txt: cannot be read"),
        (["--output", "OUT", "--texts", "en=EMPTY"], "holds no text"),
        (["--output", "OUT", "--texts", "en=LATIN"], "is not UTF-8"),
        (["--output", "OUT", "--texts", "en=LINES", "--text_field", "txt"], "line 1: the field 'txt' is missing"),
        (["--output", "OUT", "--texts", "en=LINES", "--id_field", "id"], "line 2: 'id' is 'a', as on line 1"),
        (["--output", "OUT", "--texts", "en=BROKEN"], "line 1: is not JSON"),
        (["--output", "OUT", "--texts", "en=hf:name"], "does not name a split of a data set"),
        (["--output", "OUT", "--texts", "en=hf:FOLDER::nosuch"], "the data set cannot be loaded"),
        (["--output", "OUT", "--texts", "en=GOOD", "--span", "continuation"], "a text has no continuation"),
        (["--output", "OUT", "--texts", "en=GOOD", "--limit", "0"], "--limit: 0 is too small"),
        (["--output", "OUT", "--texts", "en=GOOD", "--set", "seed=1"], "--set: there is no steering file"),
        (["--output", "OUT", "--tasks", "nosuch_task"], "there is no task 'nosuch_task'"),
        (["--output", "OUT", "--tasks", "demo_arith_en", "--benchmark", "b"], "--benchmark: has no effect on tasks"),
        (["--output", "GOOD", "--texts", "en=GOOD"], "is not a folder"),
    ],
)
def test_a_mistake_is_one_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.txt").write_text("A text.\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    (tmp_path / "lines.jsonl").write_text('{"text": "A", "id": "a"}\n{"text": "B", "id": "a"}\n', encoding="utf-8")
    (tmp_path / "broken.jsonl").write_text("{\n", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.jsonl").write_text('{"text": "A"}\n', encoding="utf-8")
    names = {"GOOD": "good.txt", "EMPTY": "empty.txt", "LATIN": "latin.txt", "LINES": "lines.jsonl", "OUT": "out"}
    for name, file in {**names, "BROKEN": "broken.jsonl", "FOLDER": "folder"}.items():
        arguments = [argument.replace(name, str(tmp_path / file)) for argument in arguments]
    assert profile(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{}", "[1]", "{", '{"0": {"a": {}}}', '{"0": {"1": {"activation_tokens": 3}}}'])
def test_json_of_another_kind_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "counts.json"
    file.write_text(content, encoding="utf-8")
    assert main(["profile", "show", str(file)]) == 2
    assert str(file) in capsys.readouterr().err
