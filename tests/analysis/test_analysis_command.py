"""``lm-eval-moe profile analyse`` as a user meets it: files, summary, and one message for a mistake."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon
from support.analysis_profiles import SHAPE, drawn, write_profile_of
from support.paths import SHARED

from lm_eval_moe.analysis import Analysis
from lm_eval_moe.cli import main
from lm_eval_moe.shape import RoutingShape

DUMPS = SHARED / "routing-qwen3-30b-a3b-mgsm"
LANGUAGES = ("en", "sw", "de", "zh", "nl", "ru")
needs_dumps = pytest.mark.skipif(not DUMPS.is_dir(), reason="needs ../shared/data/routing-qwen3-30b-a3b-mgsm")


def analyse(*arguments: object) -> int:
    return main(["profile", "analyse", *map(str, arguments)])


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "analysis.json").read_text())
    return found


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def profiles(tmp_path: Path) -> list[Path]:
    for seed, language in enumerate(LANGUAGES):
        overlap = np.random.default_rng(seed).random((4, 11))
        write_profile_of(tmp_path, language, drawn(seed, 4, sharpness=2.0), extra={"consecutive_overlap": overlap})
    return [tmp_path / f"{language}.safetensors" for language in LANGUAGES]


def results(folder: Path, accuracy: dict[str, float], curves: dict[str, list[float]] | None = None) -> Path:
    """A results file of a benchmark whose tasks say their language."""
    tasks = {language: f"quiz_{language}" for language in accuracy}
    document: dict[str, Any] = {
        "results": {
            tasks[each]: {"alias": "x", "acc,none": value, "acc_stderr,none": 0.01} for each, value in accuracy.items()
        },
        "configs": {
            task: {"metadata": {"routing": {"language": language, "benchmark": "quiz", "item": "row"}}}
            for language, task in tasks.items()
        },
        "n-samples": {task: {"original": 50, "effective": 50} for task in tasks.values()},
        "model_name": "a/model",
    }
    if curves is not None:
        document["routing"] = {
            "model_shape": SHAPE.to_dict(),
            "reference": "en",
            "tasks": {
                tasks[each]: {
                    "language": each,
                    "benchmark": "quiz",
                    "curves": {"divergence": curves[each]} if each in curves else {},
                }
                for each in accuracy
            },
        }
    path = folder / "results.json"
    path.write_text(json.dumps(document))
    return path


@needs_dumps
def test_real_counts_of_four_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    languages = ("en", "zh", "sw", "ja")
    assert analyse(*(f"{each}={DUMPS / f'mgsm_{each}.json'}" for each in languages), "--output", tmp_path / "out") == 0
    found, text = read(tmp_path / "out"), capsys.readouterr().out
    assert found["schema_version"] == 1
    assert found["shape"]["layers"] == list(range(48))
    digest = hashlib.sha256((DUMPS / "mgsm_sw.json").read_bytes()).hexdigest()
    assert [(each["file"], each["sha256"]) for each in found["profiles"]][2] == ("mgsm_sw.json", digest)
    done = {name: each["done"] for name, each in found["analyses"].items()}
    assert done == {
        **dict.fromkeys(("divergence", "entropy", "clustering", "exclusivity"), True),
        **dict.fromkeys(("consecutive_overlap", "task_overlap", "correlation"), False),
    }
    assert "give --results or --accuracy" in text
    assert set(done) == set(Analysis.registry)  # nothing is silently absent

    dumps = {each: json.loads((DUMPS / f"mgsm_{each}.json").read_text()) for each in languages}
    mass, counts = {}, {}
    for each, dump in dumps.items():
        mass[each] = np.array([[dump[str(at)][str(k)]["gate_values_sum"] for k in range(128)] for at in range(48)])
        counts[each] = np.array(
            [
                [dump[str(at)][str(k)]["activation_tokens"] / dump[str(at)]["total_tokens"] for k in range(128)]
                for at in range(48)
            ]
        )
        mass[each] /= mass[each].sum(1, keepdims=True)
    for entry in found["analyses"]["divergence"]["languages"]:
        assert (entry["level"], entry["shape"]) == ("pooled", "U by its means")
        p, q = mass[entry["language"]], mass["en"]
        rooms = np.log(128) - (stats.entropy(p, axis=1) + stats.entropy(q, axis=1)) / 2
        curve = np.array([jensenshannon(*each) ** 2 for each in zip(p, q, strict=True)]) / rooms
        shown = [entry["layers"][str(layer)]["mean"] for layer in range(48)]
        np.testing.assert_allclose(shown, curve, rtol=1e-9)
        assert entry["bands"]["middle"]["mean"] == pytest.approx(curve[8:36].mean())
    shares = np.zeros((4, 48, 128))
    for at, each in enumerate(languages):
        for layer in range(48):
            top = sorted(range(128), key=lambda k, f=counts[each][layer]: (-f[k], k))[:15]  # type: ignore[misc]
            shares[at, layer, top] = counts[each][layer, top]
    shares /= shares.sum(0) + 1e-10
    exclusive = found["analyses"]["exclusivity"]["exclusive"]["0.4"]
    for at, each in enumerate(languages):
        assert exclusive[each]["experts_by_layer"] == (shares[at] >= 0.4).sum(1).tolist()


def test_everything_with_task_and_results(profiles: list[Path], tmp_path: Path) -> None:
    task = write_profile_of(tmp_path, "en", drawn(90, 3, sharpness=3.0), benchmark="maths", file="task.safetensors")
    accuracy = {"en": 0.9, "sw": 0.3, "de": 0.8, "zh": 0.6, "nl": 0.75, "ru": 0.5}
    curves = {each: (np.linspace(0.1, 0.5, 11) * (1 - accuracy[each])).tolist() for each in LANGUAGES[1:]}
    given = results(tmp_path, accuracy, curves)
    out = tmp_path / "out"
    arguments = ("--results", given, "--task_profile", task, "--baseline_profile", profiles[0], "--output", out)
    assert analyse(*profiles, *arguments) == 0
    found = read(out)
    assert all(each["done"] for each in found["analyses"].values())
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["analysis.json", *(f"{name}.csv" for name in Analysis.registry)]
    )
    by_source = {
        (each["divergence_of"], each["band"]): each for each in found["analyses"]["correlation"]["correlations"]
    }
    middle = by_source["results", "middle"]
    points = {each: (accuracy[each], float(np.mean(curves[each][1:8]))) for each in LANGUAGES[1:]}
    assert {each: (p["accuracy"], pytest.approx(p["divergence"])) for each, p in middle["points"].items()} == points
    assert middle["pearson"]["r"] == pytest.approx(-1)
    assert middle["pearson"]["interval"] is None  # a line
    profiled = {
        each["language"]: each["bands"]["late"]["mean"] for each in found["analyses"]["divergence"]["languages"]
    }
    late = by_source["profiles", "late"]
    expected = stats.spearmanr([profiled[each] for each in points], [accuracy[each] for each in points])
    assert late["spearman"]["r"] == pytest.approx(expected.statistic)
    assert late["spearman"]["n"] == 5


def test_tables_hold_what_the_json_holds(profiles: list[Path], tmp_path: Path) -> None:
    assert analyse(*profiles, "--output", tmp_path / "out") == 0
    found = read(tmp_path / "out")["analyses"]
    rows = table(tmp_path / "out", "divergence")
    assert len(rows) == 6 * (11 + 4 + 3)  # five languages and their mean; layers, bands, differences
    for entry in found["divergence"]["languages"]:
        mine = [row for row in rows if row["language"] == entry["language"]]
        assert {row["at"]: float(row["mean"]) for row in mine if row["part"] == "layer"} == {
            layer: each["mean"] for layer, each in entry["layers"].items()
        }
        assert {row["at"]: float(row["high"]) for row in mine if row["part"] == "difference"} == {
            name: each["high"] for name, each in entry["differences"].items()
        }
    pairs = table(tmp_path / "out", "clustering")
    at = found["clustering"]["languages"].index
    for row in pairs:
        expected = found["clustering"]["distances"][at(row["language_a"])][at(row["language_b"])]
        assert float(row["distance"]) == expected
    assert len(pairs) == 15
    sharing = [row for row in table(tmp_path / "out", "exclusivity") if row["kind"] == "shared_by"]
    assert sum(int(row["experts"]) for row in sharing) == 11 * 6


def test_accuracies_from_a_table(profiles: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "acc.csv").write_text(
        "language,accuracy\nen,0.9\nswh_Latn,0.3\nde,0.8\nzh-Hans,0.6\nnl,0.75\nfr,0.7\n", encoding="utf-8-sig"
    )
    arguments = ("--accuracy", tmp_path / "acc.csv", "--analyses", "correlation", "--output", tmp_path / "out")
    assert analyse(*profiles, *arguments) == 0
    (middle,) = [
        each for each in read(tmp_path / "out")["analyses"]["correlation"]["correlations"] if each["band"] == "middle"
    ]
    assert middle["accuracy_of"] == "acc.csv"
    assert set(middle["points"]) == {"sw", "de", "zh", "nl"}  # without the reference
    assert middle["unmatched_languages"] == ["fr", "ru"]
    assert "4 (not fr, ru)" in capsys.readouterr().out


def test_what_cannot_be_correlated_is_said(
    profiles: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results(tmp_path, dict(zip(LANGUAGES, (0.9, 0.3, 0.8, 0.6, 0.75, 0.5), strict=True)))
    document = json.loads(path.read_text())
    document["results"]["riddle"] = {"alias": "riddle", "acc,none": 0.5}
    for language in ("en", "sw"):
        document["results"][f"other_{language}"] = {"exact_match,strict": 0.25}
        routing = {"language": language, "benchmark": "other", "item": "row"}
        document["configs"][f"other_{language}"] = {"metadata": {"routing": routing}}
    path.write_text(json.dumps(document))
    assert analyse(*profiles, "--results", path, "--output", tmp_path / "out") == 0
    found = read(tmp_path / "out")["analyses"]["correlation"]
    assert {each["accuracy_of"] for each in found["correlations"]} == {"quiz acc,none"}
    assert set(found["left_out"]) == {"task riddle", "other exact_match,strict with profiles"}
    assert "1 languages (sw) besides the reference" in found["left_out"]["other exact_match,strict with profiles"]
    assert "left out: task riddle: its language is not known" in capsys.readouterr().out


def test_results_may_be_in_several_files_of_one_model(
    profiles: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy = dict(zip(LANGUAGES, (0.9, 0.3, 0.8, 0.6, 0.75, 0.5), strict=True))
    files = []
    for number, languages in enumerate((LANGUAGES[:3], LANGUAGES[3:])):
        (tmp_path / str(number)).mkdir()
        files.append(results(tmp_path / str(number), {each: accuracy[each] for each in languages}))
    assert analyse(*profiles, "--results", *files, "--output", tmp_path / "several") == 0
    assert analyse(*profiles, "--results", results(tmp_path, accuracy), "--output", tmp_path / "one") == 0
    several, one = (read(tmp_path / name)["analyses"]["correlation"] for name in ("several", "one"))
    assert several == one
    capsys.readouterr()
    twice = files[0].with_name("results_again.json")
    twice.write_text(files[0].read_text())
    assert analyse(*profiles, "--results", files[0], twice, "--output", tmp_path / "out") == 2
    assert "has the task quiz_de, which is in" in capsys.readouterr().err
    files[1].write_text(files[1].read_text().replace('"a/model"', '"b/model"'))
    assert analyse(*profiles, "--results", *files, "--output", tmp_path / "out") == 2
    assert "its model is b/model, that of" in capsys.readouterr().err


def test_same_files_give_the_same_bytes(profiles: list[Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        given = results(tmp_path, dict(zip(LANGUAGES, (0.9, 0.3, 0.8, 0.6, 0.75, 0.5), strict=True)))
        assert analyse(*profiles, "--results", given, "--output", tmp_path / name) == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_forced_analysis_leaves_no_table_of_the_one_before(profiles: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert analyse(*profiles, "--output", out) == 0
    assert analyse(*profiles, "--output", out, "--analyses", "entropy,divergence", "--force") == 0
    assert sorted(path.name for path in out.iterdir()) == ["analysis.json", "divergence.csv", "entropy.csv"]


def test_one_file_may_hold_all_languages(profiles: list[Path], tmp_path: Path) -> None:
    assert main(["profile", "merge", str(tmp_path / "all.safetensors"), *map(str, profiles)]) == 0
    assert analyse(tmp_path / "all.safetensors", "--output", tmp_path / "a") == 0
    assert analyse(*profiles, "--output", tmp_path / "b") == 0
    assert read(tmp_path / "a")["analyses"] == read(tmp_path / "b")["analyses"]
    assert analyse(f"en={profiles[0]}", f"sw={tmp_path / 'all.safetensors'}", "--output", tmp_path / "c") == 0
    assert read(tmp_path / "c")["languages"] == ["en", "sw"]


def test_help_names_every_analysis(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        analyse("--help")
    text = " ".join(capsys.readouterr().out.split())
    (listed,) = re.findall(r"only these of (.*?), separated", text)
    assert listed.split(", ") == sorted(each.name for each in Analysis.ordered())


def test_neither_torch_nor_lm_eval_is_imported(profiles: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys; from lm_eval_moe.cli import main; "
        f"main(['profile', 'analyse', *{[str(path) for path in profiles]!r}, '-o', {str(tmp_path / 'out')!r}]); "
        "print([name for name in ('torch', 'lm_eval', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


OTHER = RoutingShape(layers=(0, 1), experts=4, top_k=2, depth=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("en.safetensors", "sw.safetensors", "--reference", "fr"), "there is no profile of fr"),
        (("en.safetensors", "sw.safetensors", "--reference", "klingon!"), "'klingon!' is not a language code"),
        (("fr=sw.safetensors",), "holds no items in fr, it has sw"),
        (
            ("en.safetensors", "other_model.safetensors"),
            "its model is other/model, that of .*en.safetensors is a/model",
        ),
        (("en.safetensors", "other_span.safetensors"), "its span is all, that of"),
        (("en.safetensors", "other_steering.safetensors"), "its steering is abc, that of .* is none"),
        (("en.safetensors", "other_shape.safetensors"), "has a different shape from .*layers 0-1 of 2, 4 experts"),
        (("en.safetensors", "en=copy.safetensors"), "the language en is in .*en.safetensors, too"),
        (("counts.json",), "counts.json: holds JSON counts, which do not say their language\n  -> write en="),
        (("missing.safetensors",), "cannot be read as a profile"),
        (("en.safetensors", "--benchmark", "new"), r"no profile has items of 'new' \(did you mean 'news'\?\)"),
        (("en=dump.json", "--benchmark", "news"), "dump.json: does not say of which benchmark"),
        (("en.safetensors", "--analyses", "divergance"), r"no analysis 'divergance' \(did you mean 'divergence'\?\)"),
        (("en.safetensors", "--analyses", "divergence"), "divergence cannot be done: it compares at least 2 languages"),
        (
            (
                "en.safetensors",
                "sw.safetensors",
                "de.safetensors",
                "--accuracy",
                "three.csv",
                "--analyses",
                "correlation",
            ),
            r"2 languages \(sw, de\) besides the reference .* at least 4 needed",
        ),
        (("en.safetensors", "--accuracy", "columns.csv"), r"has no column 'accuracy' \(did you mean 'accuracies'\?\)"),
        (("en.safetensors", "--accuracy", "number.csv"), "number.csv: line 3: the accuracy '80 %' is not a number"),
        (("en.safetensors", "--accuracy", "twice.csv"), "line 3: the language sw is given twice"),
        (("en.safetensors", "--results", "columns.csv"), "columns.csv: is not valid JSON"),
        (("en.safetensors", "--results", "counts.json"), "counts.json: holds no table of results"),
        (("en.safetensors", "--results", "results.json"), "shape differs from the profiles': experts 99, not 6"),
        (("en.safetensors", "--task_profile", "sw.safetensors"), "--baseline_profile: is missing"),
        (("en.safetensors", "--top_m", "0"), "--top_m: 0 is too small"),
        (("en.safetensors", "--output", "full"), "already holds an analysis\n  -> .*--force"),
    ],
)
def test_mistakes_are_one_message(
    arguments: tuple[str, ...],
    message: str,
    profiles: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, options in {
        "other_model": {"model": "other/model"},
        "other_span": {"span": "all"},
        "other_steering": {"steering": "abc"},
        "copy": {},
    }.items():
        language = "en" if name == "copy" else "fr"
        write_profile_of(tmp_path, language, drawn(1, 2), file=f"{name}.safetensors", **options)  # type: ignore[arg-type]
    write_profile_of(tmp_path, "fr", drawn(1, 2, OTHER), file="other_shape.safetensors", shape=OTHER)
    (tmp_path / "counts.json").write_text("{}")
    experts = {str(expert): {"activation_tokens": 4, "gate_values_sum": 2.0} for expert in range(2)}
    (tmp_path / "dump.json").write_text(json.dumps({"0": {**experts, "total_tokens": 4}}))
    (tmp_path / "three.csv").write_text("language,accuracy\nen,0.9\nsw,0.3\nde,0.5\nfr,0.4\n")
    (tmp_path / "columns.csv").write_text("language,accuracies\nsw,0.3\n")
    (tmp_path / "number.csv").write_text("language,accuracy\nsw,0.3\nde,80 %\n")
    (tmp_path / "twice.csv").write_text("language,accuracy\nsw,0.3\nswa,0.4\n")
    path = results(tmp_path, {"sw": 0.3}, {})
    document = json.loads(path.read_text())
    document["routing"]["model_shape"]["experts"] = 99
    path.write_text(json.dumps(document))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "analysis.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    output = () if "--output" in arguments else ("--output", "out")
    assert analyse(*arguments, *output) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_items_of_two_benchmarks_are_said_to_be_pooled_and_can_be_taken_apart(
    profiles: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiz = [
        write_profile_of(
            tmp_path,
            language,
            drawn(10 + seed, 3),
            benchmark="quiz",
            file=f"quiz_{language}.safetensors",
            extra={"consecutive_overlap": np.full((3, 11), 0.5)},
        )
        for seed, language in enumerate(LANGUAGES)
    ]
    merged = []
    for news, other, language in zip(profiles, quiz, LANGUAGES, strict=True):
        merged.append(tmp_path / f"both_{language}.safetensors")
        assert main(["profile", "merge", str(merged[-1]), str(news), str(other)]) == 0
    capsys.readouterr()
    assert analyse(*merged, "--output", tmp_path / "both") == 0
    counts = {"news": 4 * len(LANGUAGES), "quiz": 3 * len(LANGUAGES)}
    said = f"benchmarks news ({counts['news']} items), quiz ({counts['quiz']} items): pooled, --benchmark takes one"
    assert said in capsys.readouterr().out
    assert read(tmp_path / "both")["benchmarks"] == counts
    for name, alone in (("news", profiles), ("quiz", quiz)):
        assert analyse(*merged, "--benchmark", name, "--output", tmp_path / name) == 0
        assert f"benchmark  {name} ({counts[name]} items)" in capsys.readouterr().out
        assert analyse(*alone, "--output", tmp_path / f"{name}_alone") == 0
        for table in ("divergence", "entropy", "exclusivity"):
            own, expected = ((tmp_path / folder / f"{table}.csv").read_text() for folder in (name, f"{name}_alone"))
            assert own == expected, "the other benchmark's items have no part in it"
    assert (tmp_path / "both/divergence.csv").read_text() != (tmp_path / "news/divergence.csv").read_text()


def test_results_may_be_a_folder_of_which_the_newest_count(
    profiles: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy = dict(zip(LANGUAGES, (0.9, 0.3, 0.8, 0.6, 0.75, 0.5), strict=True))
    folder = tmp_path / "results" / "a__model"
    folder.mkdir(parents=True)
    first = dict.fromkeys(LANGUAGES[:4], 0.1)
    for date, given in (("2026-01-01", first), ("2026-01-02", accuracy)):
        results(folder, given).rename(folder / f"results_{date}T10-00-00.000001.json")
    newest = folder / "results_2026-01-02T10-00-00.000001.json"
    assert analyse(*profiles, "--results", tmp_path / "results", "--output", tmp_path / "folder") == 0
    assert "the results of 2026-01-02T10-00-00.000001 count for quiz_en, quiz_sw" in capsys.readouterr().err
    assert analyse(*profiles, "--results", newest, "--output", tmp_path / "file") == 0
    both = [read(tmp_path / name) for name in ("folder", "file")]
    assert both[0]["analyses"]["correlation"] == both[1]["analyses"]["correlation"]
    assert both[0]["results"] == [newest.name]
    (tmp_path / "empty").mkdir()
    assert analyse(*profiles, "--results", tmp_path / "empty", "--output", tmp_path / "out") == 2
    assert "no results in this directory" in capsys.readouterr().err
