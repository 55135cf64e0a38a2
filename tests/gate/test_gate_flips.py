"""Which items flipped and what was answered, which runs were compared, and drops that the margin allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.gate.evidence_of import changes, evidence, line_of, policy, verdict_of
from support.gate.stock_results import right, write_stock

from lm_eval_moe.cli import main
from lm_eval_moe.gate.cells import explained
from lm_eval_moe.gate.junit import junit_xml
from lm_eval_moe.gate.table import verdict_table

POLICY = "version: 1\nname: plain\nmargins: {language: 0.5, macro: 0.5}\nminimum_items: 5\n"


def gate(before: Path, after: Path, folder: Path, items: int = 3, policy: str = POLICY) -> dict[str, Any]:
    (folder / "policy.yaml").write_text(policy, encoding="utf-8")
    output = folder / "gate.json"
    given = ["--baseline", str(before), "--candidate", str(after), "--policy", str(folder / "policy.yaml")]
    main(["gate", *given, "--items", str(items), "--json", str(output), "--markdown", str(folder / "gate.md")])
    content: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return content


def samples(folder: Path, task: str) -> dict[int, dict[str, Any]]:
    (log,) = folder.rglob(f"samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {row["doc_id"]: row for row in rows}


def chosen(row: dict[str, Any]) -> str:
    """The choice that the log gives the highest log-likelihood, as lm-eval's ``acc`` takes it."""
    likelihoods = [float(pair[0]) for pair in row["filtered_resps"]]
    return str(row["doc"]["choices"][likelihoods.index(max(likelihoods))])


def test_lost_and_gained_items_are_those_of_the_two_logs(
    real_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = gate(*real_pair, tmp_path, items=4)
    text = capsys.readouterr().out
    assert [each["language"] for each in content["flips"]] == ["en", "de", "sw"]
    for flips in content["flips"]:
        first, second = (samples(folder, flips["task"]) for folder in real_pair)
        lost = [doc for doc in first if first[doc]["acc"] > second[doc]["acc"]]
        gained = [doc for doc in first if first[doc]["acc"] < second[doc]["acc"]]
        assert (flips["lost"], flips["gained"]) == (len(lost), len(gained))
        for kind, ids in (("lost", lost), ("gained", gained)):
            assert [each["doc_id"] for each in flips["shown"][kind]] == ids[:4]
            for each in flips["shown"][kind]:
                row = first[each["doc_id"]]
                assert each["name"].endswith(row["doc"]["item_id"])
                assert each["target"] == row["doc"]["choices"][row["doc"]["gold"]]
                assert each["baseline"] == chosen(row)
                assert each["candidate"] == chosen(second[each["doc_id"]])
        assert f"demo_arith {flips['language']}: {len(lost)} lost, {len(gained)} gained" in text
        assert f"and {len(lost) - 4} more" in text
    assert "| lost |" in (tmp_path / "gate.md").read_text(encoding="utf-8")


def test_where_lower_is_better_a_higher_score_is_a_loss(tmp_path: Path) -> None:
    worse = {"higher_is_better": {"xcopa_en": {"acc": False}}}
    before = write_stock(tmp_path / "before", {"en": [0.0] * 4 + [1.0] * 16}, **worse)
    after = write_stock(tmp_path / "after", {"en": [1.0, 1.0, 0.0, 0.0] + [1.0] * 15 + [0.0]}, **worse)
    [flips] = gate(before, after, tmp_path)["flips"]
    assert (flips["lost"], flips["gained"]) == (2, 1)
    assert [each["doc_id"] for each in flips["shown"]["lost"]] == [0, 1]


def test_both_runs_are_named_with_steering_and_files(
    real_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = gate(*real_pair, tmp_path, items=0)
    lines = capsys.readouterr().out.splitlines()
    files = [str(next(folder.rglob("results_*.json"))) for folder in real_pair]
    steering = json.loads(Path(files[1]).read_text(encoding="utf-8"))["routing"]["steering"]
    title = f"harmful #{steering['hash'][:8]}"
    assert lines[0].startswith("baseline: demo, unsteered")
    assert f"candidate: demo + {title}" in lines[1] + lines[2]
    assert content["runs"]["baseline"] == {"label": "demo", "steering": "", "files": files[:1]}
    assert content["runs"]["candidate"] == {"label": f"demo + {title}", "steering": title, "files": files[1:]}
    assert (content["baseline"], content["candidate"], content["flips"]) == ("demo", f"demo + {title}", [])


def test_without_samples_the_items_are_said_to_be_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_stock(tmp_path / "before", {"sw": right(80, 100)}, samples=False)
    after = write_stock(tmp_path / "after", {"sw": right(70, 100)}, samples=False)
    (flips,) = gate(before, after, tmp_path, policy=POLICY + "samples: preferred\n")["flips"]
    assert flips["shown"] == {}
    assert flips["problem"].startswith("which items flipped is not known, since the items' scores were not logged")
    text = capsys.readouterr().out
    assert "xcopa sw: which items flipped is not known" in text
    assert "lost" not in text


def test_what_the_samples_do_not_hold_is_not_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_stock(tmp_path / "before", {"sw": right(80, 100)})
    after = write_stock(tmp_path / "after", {"sw": right(79, 100)})
    (flips,) = gate(before, after, tmp_path)["flips"]
    (lost,) = flips["shown"]["lost"]
    assert (lost["doc_id"], lost["target"], lost["baseline"], lost["candidate"]) == (79, None, None, None)
    assert "not logged  not logged" in capsys.readouterr().out


def _fields(**fields: Any) -> dict[str, Any]:
    return {"target": "1", "metrics": ["acc"], **fields}


TWO = {"gen_args_0": {"arg_0": "Q:", "arg_1": " no"}, "gen_args_1": {"arg_0": "Q:", "arg_1": " certainly"}}
UNCONDITIONAL = {"gen_args_2": {"arg_0": "", "arg_1": " no"}, "gen_args_3": {"arg_0": "", "arg_1": " certainly"}}


@pytest.mark.parametrize(
    ("metric", "fields", "target", "answer"),
    [
        ("acc", {"filtered_resps": [["-1.0", "True"], ["-3.0", "False"]], "arguments": TWO}, "certainly", "no"),
        # Per character the longer choice is the likelier one: -1/2 against -3/9.
        (
            "acc_norm",
            {"filtered_resps": [["-1.0", "True"], ["-3.0", "False"]], "arguments": TWO},
            "certainly",
            "certainly",
        ),
        (
            "acc",
            {
                "filtered_resps": [["-2.0", "True"], ["-3.0", "False"], ["-9.0", "False"], ["-0.1", "False"]],
                "arguments": TWO | UNCONDITIONAL,
            },
            "certainly",
            "no",
        ),
        (
            "exact_match",
            {"filtered_resps": ["42"], "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {}}}},
            "1",
            "42",
        ),
        ("exact_match", {"filtered_resps": [["-1.0", "True"], ["-3.0", "False"]], "arguments": TWO}, "certainly", None),
        (
            "acc",
            {"filtered_resps": [["-1.0", "True"]], "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": "x"}}},
            "1",
            None,
        ),
        ("acc", {"filtered_resps": [["a", "True"], ["b", "True"]], "arguments": TWO}, "certainly", None),
        ("acc", {"filtered_resps": 3, "arguments": "none"}, "1", None),
        ("acc", {"filtered_resps": [[], []], "arguments": TWO}, "certainly", None),
    ],
)
def test_what_was_answered_is_what_the_metric_took(
    tmp_path: Path, metric: str, fields: dict[str, Any], target: str, answer: str | None
) -> None:
    from lm_eval_moe.results import Metric, read_results, read_runs

    folder = write_stock(tmp_path / "run", {"sw": right(8, 10)})
    (log,) = folder.glob("samples_*.jsonl")
    rows = [json.loads(line) | _fields(**fields) for line in log.read_text(encoding="utf-8").splitlines()]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (run,) = read_runs(read_results([folder]))
    found = run.answers("xcopa_sw", Metric(metric, "none"), {3})
    assert {doc: (each.target, each.given) for doc, each in found.items()} == {3: (target, answer)}
    assert run.answers("xcopa_sw", Metric(metric, "other"), {3}) == {}


def test_a_drop_beyond_chance_within_its_margin_passes_and_is_told() -> None:
    verdict = verdict_of(policy(language=0.2), evidence("sw", changes(30, 5, 250)))
    line = line_of(verdict, "sw")
    assert (line.status, line.effect, verdict.exit_code, line.beyond_chance) == ("held", "pass", 0, True)
    assert line.to_dict()["beyond_chance"] is True
    assert line.sentence.startswith("fell by 10.0 percentage points, beyond chance (of 250 items 30 scored lower and 5")
    assert explained(verdict) == [line]
    assert "held: sums sw: fell by 10.0" in verdict_table(verdict)
    assert verdict.headline == "Gate: passed. 1 check: 1 fell beyond chance, by no more than the margin."
    assert "beyond chance" in junit_xml(verdict)


@pytest.mark.parametrize(("worse", "better"), [(9, 5), (5, 30), (0, 0)])
def test_what_may_be_chance_or_a_gain_is_not_told_as_a_drop(worse: int, better: int) -> None:
    verdict = verdict_of(policy(language=0.2), evidence("sw", changes(worse, better, 250)))
    assert (line_of(verdict, "sw").status, line_of(verdict, "sw").beyond_chance) == ("held", False)
    assert explained(verdict) == []
    assert verdict.headline == "Gate: passed. 1 check, none failed."


def test_an_inconclusive_drop_beyond_chance_is_counted_where_it_passes() -> None:
    verdict = verdict_of(policy(language=0.11, inconclusive="pass"), evidence("sw", changes(30, 5, 250)))
    assert line_of(verdict, "sw").status == "inconclusive"
    assert verdict.headline == "Gate: passed. 1 check: 1 fell beyond chance, by no more than the margin."
