"""Means, comparisons, and how they are shown."""

from __future__ import annotations

import io
import json
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from deltatune.apps.tab.plot import plot_report
from deltatune.apps.tab.report import TabReport, read_report
from deltatune.apps.tab.results import Result
from deltatune.apps.tab.table import markdown, remarks, rich_table
from deltatune.errors import DataError

SEEDS = (1, 2, 3)


def results(data: str, model: str, shots: int | None, *areas: float | None) -> list[Result]:
    return [
        Result(data, model, shots, seed, auc=area, seconds=seed, rows=99 if shots is None else shots)
        if area is not None
        else Result(data, model, shots, seed, failure="no luck")
        for seed, area in zip(SEEDS, areas, strict=True)
    ]


@pytest.fixture
def report() -> TabReport:
    return TabReport(
        (
            *results("car", "ours", 0, 0.60, 0.62, 0.61),
            *results("car", "ours", 4, 0.80, 0.82, 0.81),
            *results("car", "ours", None, 0.7, 0.8, None),
            *results("car", "forest", 4, 0.70, 0.71, 0.72),
            *results("car", "forest", None, 0.95, 0.96, 0.97),
            *results("car", "logistic", 4, 0.60, 0.95, 0.52),
            *results("heart", "ours", 4, None, None, None),
        ),
        ("forest", "logistic"),
        {"seeds": "1, 2, 3", "test rows": None},
    )


def test_scores(report: TabReport) -> None:
    assert (report.data, report.models, report.shots) == (
        ("car", "heart"),
        ("ours", "forest", "logistic"),
        (0, 4, None),
    )
    score = report.score("car", "ours", 4)
    assert score is not None
    assert score.mean == pytest.approx(0.81)
    assert score.deviation == pytest.approx(statistics.stdev([0.80, 0.82, 0.81]))
    assert (score.rows, score.seconds) == (4, 2)
    partial = report.score("car", "ours", None)
    assert partial is not None
    assert list(partial.by_seed) == [1, 2]
    assert report.score("heart", "ours", 4) is None
    assert (report.best("car", 4), report.best("heart", 4)) == ("ours", None)


def test_a_model_is_held_against_the_best_baseline_on_the_same_seeds(report: TabReport) -> None:
    pair = report.compared("car", "ours", 4)
    assert pair is not None
    assert (pair.baseline, pair.verdict, pair.wins) == ("forest", "higher", 3)
    assert pair.difference.values == pytest.approx((0.10, 0.11, 0.09))
    lower = report.compared("car", "ours", None)
    assert lower is not None
    assert lower.difference.values == pytest.approx((-0.25, -0.16))
    assert lower.verdict == "not told apart"  # two seeds say little
    assert report.compared("car", "ours", 0) is None
    assert report.compared("car", "forest", 4) is None


def test_one_seed_tells_nothing_apart() -> None:
    found = TabReport(tuple(Result("car", name, 4, 1, auc=area) for name, area in (("a", 0.9), ("b", 0.1))), ("b",))
    pair, score = found.compared("car", "a", 4), found.score("car", "a", 4)
    assert pair is not None
    assert score is not None
    assert (pair.verdict, score.deviation) == ("not told apart", None)
    assert "of one seed" in remarks(found)[0]


def test_it_is_read_as_it_was_written(report: TabReport, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["scores"][0] | {"mean": 0.61, "deviation": 0.01} == {
        "data": "car", "model": "ours", "shots": 0, "mean": 0.61, "deviation": 0.01,
        "seeds": [1, 2, 3], "rows": 0, "seconds": 2,
    }  # fmt: skip
    assert [each["verdict"] for each in plain["against the best baseline"]] == ["higher", "not told apart"]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match="expected a report as JSON"):
        read_report(tmp_path / "other.json")
    with pytest.raises(DataError, match="expected at least one result, found none"):
        TabReport(())


def test_the_table(report: TabReport) -> None:
    lines = markdown(report).splitlines()
    assert lines[0] == "- seeds: 1, 2, 3"
    assert lines[2:7] == [
        "| data set | model | k = 0 | 4 | all | time |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| car | ours | **61.0 ± 1.0** | **81.0 ± 1.0** | 75.0 ± 7.1* | 2.0 s |",
        "| car | forest | – | 71.0 ± 1.0 | **96.0 ± 1.0** | 2.0 s |",
        "| car | logistic | – | 69.0 ± 22.9 | – | 2.0 s |",
    ]
    screen = Console(file=io.StringIO(), width=100)
    screen.print(rich_table(report))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "81.0 ± 1.0" in shown
    assert shown.count("car") == 1


def test_what_is_said_of_it(report: TabReport) -> None:
    found = remarks(report)
    assert found[0].startswith("AUC × 100, mean ± standard deviation over 3 seeds")
    assert "*: some of the seeds failed, and the mean is over the others" in found
    [compared] = [line for line in found if line.startswith("car: ours against")]
    assert compared == (
        "car: ours against the best baseline: higher at k = 4 (+10.0, 3 of 3 seeds won); "
        "not told apart at k = all (-20.5, 0 of 2 seeds won)"
    )
    assert found[-2:] == [
        "car: ours: failed at k = all (seed 3): no luck",
        "heart: ours: failed at k = 4 (seed 1), 4 (seed 2), 4 (seed 3): no luck",
    ]


@pytest.mark.parametrize("count", [1, 4])
def test_the_picture(report: TabReport, tmp_path: Path, count: int) -> None:
    more = tuple(
        Result(f"data {number}", "ours", shots, 1, auc=0.7, rows=shots) for number in range(count) for shots in (4, 64)
    )
    plot_report(TabReport((*report.results, *more), report.baselines), tmp_path / "report.png", title="AUC")
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
