"""The report of an ablation: what it keeps, says and draws."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.scoring.plot import plot_report
from deltatune.apps.sql.scoring.report import Report, read_report
from deltatune.apps.sql.scoring.scores import Outcome
from deltatune.apps.sql.scoring.share import Paired, Share
from deltatune.apps.sql.scoring.table import markdown, remarks, rich_by_difficulty, rich_table
from deltatune.errors import DataError

GROUPS = ("unseen templates", "unseen database")


def outcomes(group: str, marks: str) -> tuple[Outcome, ...]:
    """One outcome for each letter: R(ight and of the same parts), r(ight), v(alid), . (not valid)."""
    return tuple(
        Outcome(
            Example(f"{group}: question {i} | ä", "SELECT 1", "funds", Path("a/funds.sqlite") if i % 2 else None,
                    difficulty="extra" if i % 2 else "easy"),
            f"SELECT {i}",
            ("a keyword",) * (i % 3),
            valid=mark != ".",
            executed_right=mark in "Rr",
            exact_set=mark == "R",
            problem="SQL: expected SELECT" if mark == "." else None,
            seconds=i / 4,
        )
        for i, mark in enumerate(marks)
    )  # fmt: skip


def report(**stages: tuple[str, str]) -> Report:
    found = {
        name: {group: outcomes(group, each) for group, each in zip(GROUPS, marks, strict=True)}
        for name, marks in stages.items()
    }
    return Report(found, {"model": "smollm2", "seed": 0})


REPORT = report(
    base=("........vv", "vvvv...."),
    linking=("Rrrrrrrvvv", "vvvvr..."),
    calibration=("RRrrrrvvvr", "vvvvvvvr"),
)


def test_figures() -> None:
    assert REPORT.groups == GROUPS
    found = REPORT.scores("linking", "unseen templates")
    assert (found.execution, found.exact_set, found.valid) == (Share(7, 10), Share(1, 10), Share(10, 10))
    assert REPORT.compared("linking", "base", "unseen templates") == Paired(7, 0, 10)
    assert REPORT.compared("calibration", "linking", "unseen templates") == Paired(1, 1, 10)
    assert REPORT.steps == [("base", "linking"), ("linking", "calibration"), ("base", "calibration")]


def test_json_keeps_everything(tmp_path: Path) -> None:
    file = tmp_path / "new" / "report.json"
    REPORT.save(file)
    assert read_report(file) == REPORT
    plain = json.loads(file.read_text(encoding="utf-8"))
    assert plain["about"] == {"model": "smollm2", "seed": 0}
    assert len(plain["scores"]) == 6
    first = plain["scores"][0]
    assert (first["stage"], first["group"]) == ("base", "unseen templates")
    assert first["valid"]["right"] == 2
    change = next(c for c in plain["changes"] if c["stage"] == "linking" and c["group"] == "unseen templates")
    assert (change["gained"], change["lost"], change["verdict"]) == (7, 0, "better")
    assert [each.name for each in file.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"outcomes": {"base": {"a": [{}]}}}', '{"about": {}}', '{"outcomes": 3}'])
def test_a_file_that_is_no_report_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DataError, match=r"report\.json: expected a report as JSON"):
        read_report(tmp_path / "report.json")


def test_stages_have_the_same_questions() -> None:
    with pytest.raises(DataError, match="expected the questions of base at every stage, found others at linking"):
        report(base=("rr", "rr"), linking=("rr", "r"))
    for stages in ({}, {"base": {}}, {"base": {"all": ()}}):
        with pytest.raises(DataError, match="expected a stage, and at least one question in each group"):
            Report(stages)


def test_markdown() -> None:
    lines = markdown(REPORT).splitlines()
    assert lines[:2] == ["- model: smollm2", "- seed: 0"]
    assert "| questions | stage | execution accuracy | to the stage before | exact set | valid |" in lines
    assert "| unseen templates | base | 0.0% (0.0 to 27.8) | – | 0.0% | 20.0% |" in lines
    assert "| unseen templates | linking | 70.0% (39.7 to 89.2) | +70.0 | 10.0% | 100.0% |" in lines
    assert "| unseen templates | calibration | 70.0% (39.7 to 89.2) | +0.0 ≈ | 20.0% | 100.0% |" in lines
    assert "| unseen database | linking | 12.5% (2.2 to 47.1) | +12.5 ≈ | 0.0% | 62.5% |" in lines
    assert "| questions | stage | easy | extra |" in lines
    assert "| unseen templates | linking | 4 of 5 | 3 of 5 |" in lines


def test_a_stage_is_better_only_where_the_test_says_so() -> None:
    found = remarks(REPORT)
    assert "unseen templates: linking against base: better (7 gained, 0 lost of 10, p = 0.016)" in found
    assert "unseen templates: calibration against linking: not told apart (1 gained, 1 lost of 10, p = 1)" in found
    assert "unseen database: calibration against base: not told apart (1 gained, 0 lost of 8, p = 1)" in found
    assert sum(": better" in line for line in found) == 2  # and over all stages, among the unseen templates


def test_the_table_for_a_terminal_has_every_figure() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(rich_table(REPORT))
    shown = console.export_text()
    assert shown.count("unseen templates") == shown.count("unseen database") == 1
    assert shown.count("calibration") == 2
    assert "70.0% (39.7 to 89.2)" in shown
    console.print(rich_by_difficulty(REPORT))
    assert re.search(r"calibration +. of . +. of", console.export_text())


def test_scores_are_told_by_difficulty_too() -> None:
    for each in REPORT.to_dict()["scores"]:
        kinds = each["by_difficulty"].values()
        for name in ("execution", "exact_set", "valid"):
            assert sum(own[name]["right"] for own in kinds) == each[name]["right"]
            assert sum(own[name]["total"] for own in kinds) == each[name]["total"]


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert "| unseen templates | a\\|b |" in markdown(report(**{"a|b": ("r", "r")}))


@pytest.mark.parametrize("stages", [("base",), ("base", "+linking", "+fine-tuning", "+calibration", "+consistency")])
def test_the_picture_is_a_png(stages: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_report(report(**dict.fromkeys(stages, ("rrv.", "rv.."))), tmp_path / "plot.png", "an ablation")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [each.name for each in tmp_path.iterdir()] == ["plot.png"]
