"""A report that grows: what was measured is on the disk, and is not measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.scoring.growing import GrowingReport
from deltatune.apps.sql.scoring.report import read_report
from deltatune.apps.sql.scoring.scores import Outcome
from deltatune.errors import DataError

ASKED = {"new": [Example("How many?", "SELECT 1", "funds"), Example("Which?", "SELECT 2", "funds")]}
ABOUT = {"seed": 1, "temperature": 0.7}
ORDER = ("base", "more", "most")


def answered(right: bool) -> dict[str, tuple[Outcome, ...]]:
    found = (
        Outcome(each, "SELECT 1", (), valid=True, executed_right=right, exact_set=right, problem=None, seconds=0.1)
        for each in ASKED["new"]
    )
    return {"new": tuple(found)}


def test_a_stage_is_on_the_disk_and_not_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "out" / "report.json"
    first = GrowingReport(file, ASKED, ABOUT, ORDER)
    assert "base" not in first
    first.add("base", answered(False))
    assert list(read_report(file).stages) == ["base"]
    second = GrowingReport(file, ASKED, ABOUT, ORDER)
    assert "base" in second
    assert "more" not in second
    second.add("more", answered(True))
    assert second.report(["more"]).stages == {"more": answered(True)}
    assert read_report(file).stages == {"base": answered(False), "more": answered(True)}


def test_stages_stand_in_their_order_whichever_was_measured_first(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    for stage in ("most", "other", "base"):
        GrowingReport(file, ASKED, ABOUT, ORDER).add(stage, answered(True))
    assert list(read_report(file).stages) == ["base", "most", "other"]


@pytest.mark.parametrize(("asked", "about"), [({"new": ASKED["new"][:1]}, ABOUT), (ASKED, {**ABOUT, "seed": 2})])
def test_other_questions_or_another_setting_begin_anew(
    tmp_path: Path, asked: dict[str, list[Example]], about: dict[str, float]
) -> None:
    file = tmp_path / "report.json"
    GrowingReport(file, ASKED, ABOUT, ORDER).add("base", answered(True))
    assert "base" not in GrowingReport(file, asked, about, ORDER)


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("{}")
    with pytest.raises(DataError, match=r"report\.json: expected a report"):
        GrowingReport(file, ASKED, ABOUT, ORDER)
    assert file.read_text() == "{}"
    kept = GrowingReport(None, ASKED, ABOUT, ORDER)
    kept.add("base", answered(True))
    assert kept.report(["base"]).about == ABOUT
