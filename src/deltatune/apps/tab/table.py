"""The tables of an evaluation, for a terminal and in Markdown."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from deltatune.apps.tab.report import Score, TabReport, shots_text
from deltatune.markdown import table_lines

__all__ = ["markdown", "remarks", "rich_table"]


def markdown(report: TabReport) -> str:
    """The setting, the table, and what there is to know of it."""
    heads = _heads(report)
    rows = (
        [data, model, *(f"**{text}**" if best else text for text, best in cells), seconds]
        for data, model, cells, seconds in _rows(report)
    )
    parts = [
        [f"- {name}: {value}" for name, value in report.about.items() if value is not None],
        table_lines(heads, rows, left=2),
        [f"- {line}" for line in remarks(report)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def rich_table(report: TabReport) -> Table:
    """The table for a terminal, one section for each data set."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, head in enumerate(_heads(report)):
        table.add_column(head, justify="left" if place < 2 else "right", no_wrap=place != 1)
    former = ""
    for data, model, cells, seconds in _rows(report):
        if former and data != former:
            table.add_section()
        shown = (Text(text, style="bold green" if best else "") for text, best in cells)
        table.add_row(Text("" if data == former else data), Text(model), *shown, Text(seconds))
        former = data
    return table


def remarks(report: TabReport) -> list[str]:
    """What there is to know of the table, a line each."""
    seeds = report.seeds
    several = len(seeds) > 1
    spread = f"mean ± standard deviation over {len(seeds)} seeds" if several else "of one seed, so without a spread"
    lines = [
        f"AUC × 100, {spread}; of several classes macro one-vs-one; 50 is chance",
        "bold or green: the highest mean of a data set and number of shots, be it by chance; time: of fitting and "
        "scoring once, the median",
    ]
    if any(_is_partial(report, *cell) for cell in _cells(report)):
        lines.append("*: some of the seeds failed, and the mean is over the others")
    compared = list(_compared(report))
    if compared:
        lines.append(
            "higher or lower than the best baseline: the 95 % interval of the difference, seed by seed (Student's t), "
            "leaves out zero, each by itself. The best baseline is known only from the same test rows, which favours "
            "it; the seeds share rows, so the true intervals are wider"
        )
    return [*lines, *compared, *_failures(report)]


def _compared(report: TabReport) -> Iterator[str]:
    for data in report.data:
        for model in report.models:
            verdicts: dict[str, list[str]] = defaultdict(list)
            for shots in report.shots:
                if pair := report.compared(data, model, shots):
                    found = f"{100 * pair.difference.mean:+.1f}, {pair.wins} of {len(pair.difference.values)} seeds won"
                    verdicts[pair.verdict].append(f"{shots_text(shots)} ({found})")
            if verdicts:
                said = "; ".join(f"{verdict} at k = {', '.join(found)}" for verdict, found in verdicts.items())
                yield f"{data}: {model} against the best baseline: {said}"


def _failures(report: TabReport) -> Iterator[str]:
    """One line for each reason, however many seeds it stopped."""
    reasons: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in report.failed:
        place = reasons[each.data, each.model, str(each.failure)]
        place.append(f"{shots_text(each.shots)} (seed {each.seed})")
    for (data, model, failure), places in reasons.items():
        yield f"{data}: {model}: failed at k = {', '.join(places)}: {failure}"


def _heads(report: TabReport) -> list[str]:
    first, *others = map(shots_text, report.shots)
    return ["data set", "model", f"k = {first}", *others, "time"]


def _rows(report: TabReport) -> Iterator[tuple[str, str, list[tuple[str, bool]], str]]:
    """For each data set and model its cells, whether each is the best, and the time."""
    for data in report.data:
        best = {shots: report.best(data, shots) for shots in report.shots}
        for model in report.models:
            scores = {shots: report.score(data, model, shots) for shots in report.shots}
            cells = [
                (_text(score) + "*" * _is_partial(report, data, model, shots), best[shots] == model)
                for shots, score in scores.items()
            ]
            yield data, model, cells, _seconds([score for score in scores.values() if score])


def _cells(report: TabReport) -> Iterator[tuple[str, str, int | None]]:
    return ((data, model, shots) for data in report.data for model in report.models for shots in report.shots)


def _is_partial(report: TabReport, data: str, model: str, shots: int | None) -> bool:
    score = report.score(data, model, shots)
    asked = {each.seed for each in report.results if (each.data, each.model, each.shots) == (data, model, shots)}
    return score is not None and score.by_seed.keys() < asked


def _text(score: Score | None) -> str:
    if score is None:
        return "–"
    spread = "" if score.deviation is None else f" ± {100 * score.deviation:.1f}"
    return f"{100 * score.mean:.1f}{spread}"


def _seconds(scores: Sequence[Score]) -> str:
    return f"{statistics.median(score.seconds for score in scores):.1f} s" if scores else "–"
