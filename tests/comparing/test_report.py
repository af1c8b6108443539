"""The table, the picture and the page, and the page in a real browser."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deltatune.comparing.interval import interval
from deltatune.comparing.pareto import draw
from deltatune.comparing.report import report
from deltatune.comparing.results import Comparison, Curve, Row
from deltatune.comparing.table import markdown, rich_table, score_text


def row(label: str, accuracy: tuple[float, ...], memory: int, **changes: Any) -> Row:
    curves = tuple(
        Curve(1e-3, seed, False, tuple((step, 2 / (step + seed + 1)) for step in range(10)), ((9, 0.4),))
        for seed in range(len(accuracy))
    )
    settings = {
        "learning_rate": 1e-3,
        "tried": {"0.001": 0.9, "0.0032": 0.8},
        "trainable_parameters": memory // 1000,
        "share": 0.01,
        "seconds": memory / 1e8,
        "file_bytes": memory // 500,
        "overhead": 1.1,
    }
    scores = {"accuracy": interval(accuracy)} if accuracy else {}
    return Row(label, "lora", (), scores=scores, memory_bytes=memory, curves=curves, **{**settings, **changes})


@pytest.fixture
def found(tmp_path: Path) -> Comparison:
    close = interval([0.01, -0.01, 0.02])
    rows = (
        row("lora", (0.9, 0.91, 0.92), 700_000_000),
        row("norm", (0.9, 0.9, 0.91), 600_000_000, behind=close, merge="it has no form as weights"),
        row("<b>ia3</b> | x", (0.5, 0.6, 0.7), 650_000_000, behind=interval([0.3, 0.31, 0.32])),
        Row("prompt </script><script>boom()", "prompt", (), failure="no sites; attach it elsewhere"),
    )
    about = {"base": "tiny", "train": "a.csv", "idle_bytes": 400_000_000}
    return Comparison(tmp_path, "accuracy", (0, 1, 2), rows, about, ("a note",))


def test_the_table_in_markdown(found: Comparison) -> None:
    lines = markdown(found).splitlines()
    assert lines[2].startswith(
        "| lora | 91.0 ± 2.5 % | 0.001 | 700,000 | 1.00% | 700.0 MB | 7.0 s | 1.4 MB | × 1.10 | yes |"
    )
    assert "| norm | 90.3 ± 1.4 % ≈ |" in lines[3]
    assert r"<b>ia3</b> \| x" in lines[4]
    assert {line.count(" | ") for line in lines[:6] if "ia3" not in line} == {9}
    assert "- prompt </script><script>boom(): failed: no sites; attach it elsewhere" in lines
    assert "- ≈: not told apart from the best row, seed by seed, at 95 %" in lines
    assert "- a note" in lines


def test_the_table_in_a_terminal_shows_the_names_however_narrow_it_is(found: Comparison) -> None:
    heads = [[str(column.header) for column in rich_table(found, width).columns] for width in (200, 80, 60)]
    assert heads[0][:4] == ["method", "accuracy ↑", "lr", "trains"]
    assert len(heads[0]) > len(heads[1]) > len(heads[2])
    console = Console(width=60, file=io.StringIO())
    console.print(rich_table(found, 60))
    assert "norm" in console.file.getvalue()  # type: ignore[attr-defined]


def test_scores_as_text() -> None:
    assert score_text(interval([0.5]), "accuracy") == "50.0 %"
    assert score_text(interval([1.5, 1.5]), "loss") == "1.500 ± 0.000"


def test_the_picture(found: Comparison, tmp_path: Path) -> None:
    draw(found, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_nothing(tmp_path: Path) -> None:
    draw(Comparison(tmp_path, "loss", (0,), (Row("lora", "lora", (), failure="x"),), {"base": "b"}), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_the_page_needs_nothing_else(found: Comparison) -> None:
    page = report(found)
    links = set(re.findall(r"(?:https?:)?//[\w.]+", page.replace("http://www.w3.org/2000/svg", "")))
    assert not {link for link in links if "." in link}  # that is the name of SVG, which nothing fetches
    assert not re.search(r"<(link|img|script|iframe)[^>]+(src|href)=(?!\"data:)", page)
    assert "@@" not in page
    assert page.count("<script") == 2  # what is in the figures does not end the script


def test_the_figures_lie_in_the_page(found: Comparison) -> None:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', report(found), re.DOTALL)
    assert text is not None
    data = json.loads(text[1])
    assert [each["label"] for each in data["rows"]] == [each.label for each in found.rows]
    assert [each["close"] for each in data["rows"]] == [False, True, False, False]


CHECKS = """
<script>
addEventListener("error", (event) => { document.body.dataset.error = event.message; });
addEventListener("load", () => {
  const order = () => [...document.querySelectorAll("#table tbody th")].map((cell) => cell.textContent);
  const click = (text) => [...document.querySelectorAll("button")].find((each) => each.textContent === text).click();
  const found = { first: order() };
  click("peak memory"); found.memory = order();
  click("peak memory"); found.reversed = order();
  found.sort = [...document.querySelectorAll("[aria-sort]")].map((cell) => cell.getAttribute("aria-sort"))
    .filter((each) => each !== "none");
  found.marks = document.querySelectorAll("#trade .mark").length;
  found.axes = [...document.querySelectorAll("#cost option")].map((each) => {
    const chooser = document.getElementById("cost");
    chooser.value = each.value;
    chooser.dispatchEvent(new Event("change"));
    return document.querySelectorAll("#trade .mark").length;
  });
  const curves = () => document.querySelectorAll("#loss path.curve").length;
  found.curves = [curves()];
  click("lora"); found.curves.push(curves());
  click("none"); found.curves.push(curves());
  click("all"); found.curves.push(curves());
  found.rates = document.querySelectorAll("#rate .series").length;
  found.bold = document.querySelectorAll("#table b").length;
  found.wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.found = JSON.stringify(found);
});
</script>
"""


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_in_a_browser(found: Comparison, tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("NO BROWSER: the report was not tried in one; install it by apt-get install chromium")
    page = tmp_path / "report.html"
    page.write_text(report(found).replace("</head>", CHECKS + "</head>"))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},900",
        "--virtual-time-budget=2000",
    ]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [browser, *options, profile, "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert "data-error" not in done.stdout
    text = re.search(r'data-found="([^"]*)"', done.stdout)
    assert text is not None, done.stdout[-2000:]
    seen = json.loads(text[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    ia3, prompt = found.rows[2].label, found.rows[3].label
    assert seen["first"] == ["lora", "norm", ia3, prompt]
    assert seen["memory"] == ["norm", ia3, "lora", prompt]
    assert seen["reversed"] == ["lora", ia3, "norm", prompt]
    assert seen["sort"] == ["descending"]
    assert seen["marks"] == 3
    assert set(seen["axes"]) == {3}
    assert seen["curves"] == [9, 6, 0, 9]
    assert seen["rates"] == 3
    assert seen["bold"] == 0
    assert not seen["wide"], "the page is wider than the screen"


def test_a_row_of_which_a_run_failed_is_never_the_best(tmp_path: Path) -> None:
    rows = (row("lora", (0.99,), 1, failure="seed 1: the loss is NaN"), row("norm", (0.5, 0.6), 1))
    found = Comparison(tmp_path, "accuracy", (0, 1), rows, {"base": "tiny"})
    assert [each.label for each in found.ranked()] == ["norm", "lora"]
    assert found.best() is rows[1]
    assert Comparison(tmp_path, "accuracy", (0, 1), rows[:1], {"base": "tiny"}).best() is None
