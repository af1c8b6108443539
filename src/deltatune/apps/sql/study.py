"""What each part of a system is worth: the same questions, with one part more at each stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import deltatune as dt
from deltatune.apps.sql.asking import settle
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.scoring.growing import GrowingReport
from deltatune.apps.sql.scoring.report import Report
from deltatune.apps.sql.scoring.scores import Outcome, outcome, right_result
from deltatune.apps.sql.source import Source
from deltatune.apps.sql.writer import Writer
from deltatune.errors import ConfigError, DataError
from deltatune.io.digest import written_digests

__all__ = ["STAGES", "Stage", "judge", "study"]

WHOLE = 4096
"""Tokens that a prompt may have which shows all tables."""

Groups = Mapping[str, Sequence[Example]]
Progress = Callable[[str, int], object]
Texts = list[list[str]]


@dataclass(frozen=True, slots=True)
class Stage:
    """Which parts of a system are in use."""

    linked: bool = False
    tuned: bool = False
    constrained: bool = False
    calibrated: bool = False
    voted: bool = False


STAGES: dict[str, Stage] = {
    "base": Stage(),
    "+ linking": Stage(linked=True),
    "+ fine-tuning": Stage(linked=True, tuned=True),
    "+ constraint": Stage(linked=True, tuned=True, constrained=True),
    "+ calibration": Stage(linked=True, tuned=True, constrained=True, calibrated=True),
    "+ self-consistency": Stage(linked=True, tuned=True, constrained=True, calibrated=True, voted=True),
}
"""Each with one part more than the one before."""


def study(
    writer: Writer,
    sources: Mapping[str, Source],
    groups: Groups,
    *,
    stages: Iterable[str] = tuple(STAGES),
    samples: int = 8,
    temperature: float = 0.7,
    seed: int = 0,
    about: Mapping[str, str | int | float | bool] | None = None,
    file: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Ask all questions at each stage and judge the answers by what they return.

    ``base`` is the model without its deltas, told what to do, all tables that 4,096 tokens hold, by the database's own
    names, and nothing of the values; ``+ linking`` shows it what the linker keeps, in words if the settings say so, and
    the values found; ``+ fine-tuning`` puts the deltas on, and from each answer, as before, the query alone is taken;
    ``+ constraint`` lets the model write no words but those of SQL and of the prompt; ``+ calibration`` mends the
    very same answers; ``+ self-consistency`` takes a vote of several.

    Args:
        writer: the model with its deltas on, and how it is prompted.
        sources: the databases, by name.
        groups: questions with the right SQL, by the name of their group, such as "unseen database".
        stages: which stages, in this order. Default: all.
        samples: tries in the vote. Default: 8.
        temperature: that all but the first are drawn with. Default: 0.7.
        seed: of what is drawn. Default: 0.
        about: what else the report should say of the setting.
        file: where the report is kept after each stage, and from where stages of the same questions and setting are
            taken. Default: nowhere.
        progress: called with the stage and how many questions were written since. Default: nothing.

    Raises:
        ConfigError: a stage is unknown, or a question is about a database that is not there.
        DataError: there is a group without a question, the right SQL of one does not run, or the file holds something
            else.
    """
    chosen = list(stages)
    unknown = [name for name in chosen if name not in STAGES]
    if unknown or not chosen:
        found = repr(unknown[0]) if unknown else "none"
        raise ConfigError(f"stages: expected some of {', '.join(STAGES)}, found {found}; choose among them")
    asked = [example for examples in groups.values() for example in examples]
    if not groups or not all(groups.values()):
        raise DataError("questions: expected at least one in each group, found none; add some")
    for example in asked:
        if example.database not in sources:
            known = ", ".join(sources) or "none"
            raise ConfigError(f"databases: expected {example.database} among them, found {known}; add its address")
        # What is wrong with the questions is told before they cost anything.
        right_result(example, sources[example.database].reader)
    drafts = _Drafts(writer, sources, asked, samples, temperature, seed)
    setting = {
        "samples": samples,
        "temperature": temperature,
        "seed": seed,
        "databases": written_digests({name: source.identity for name, source in sources.items()}),
        **(about or {}),
    }
    growing = GrowingReport(file, groups, setting, STAGES)
    for name in [stage for stage in chosen if stage not in growing]:
        tell = partial(progress, name) if progress is not None else None
        texts, seconds = drafts.of(STAGES[name], tell)
        outcomes = iter(
            judge(example, written, sources[example.database], calibrate=STAGES[name].calibrated, seconds=seconds)
            for example, written in zip(asked, texts, strict=True)
        )
        growing.add(name, {group: tuple(next(outcomes) for _ in examples) for group, examples in groups.items()})
    return growing.report(chosen)


def judge(
    example: Example, texts: Sequence[str], source: Source, *, calibrate: bool = True, seconds: float = 0.0
) -> Outcome:
    """Settle what was written for a question, and compare it with the right SQL.

    Args:
        example: the question with the right SQL.
        texts: what the model wrote, one or several tries.
        source: the database.
        calibrate: mend what can be mended first. Default: true.
        seconds: that the answer took.

    Raises:
        DataError: the right SQL does not run.
    """
    chosen = settle(texts, source, calibrate=calibrate).chosen
    repairs = [str(repair) for repair in chosen.repairs]
    return outcome(example, chosen.sql, source.reader, chosen.problem, repairs=repairs, seconds=seconds)


@dataclass
class _Drafts:
    """What the model writes: once for all stages that differ only in what becomes of it."""

    writer: Writer
    sources: Mapping[str, Source]
    asked: Sequence[Example]
    samples: int
    temperature: float
    seed: int
    known: dict[Stage, tuple[Texts, float]] = field(default_factory=dict)

    def of(self, stage: Stage, tell: Callable[[int], object] | None) -> tuple[Texts, float]:
        """The texts for every question, and the seconds that one took."""
        kind = replace(stage, calibrated=False)
        if kind not in self.known:
            start = time.monotonic()
            texts = self._texts(kind, tell)
            self.known[kind] = texts, (time.monotonic() - start) / len(self.asked)
        return self.known[kind]

    def _texts(self, stage: Stage, tell: Callable[[int], object] | None) -> Texts:
        prompter, base = self.writer.prompter, self.writer.base
        if not stage.tuned:  # it has to be told what to do, and writes joins itself
            prompter = replace(prompter, style=replace(prompter.style, keys=True, instruct=True))
        if not stage.linked:
            style = replace(prompter.style, budget=WHOLE)
            prompter = replace(prompter, linker=None, values=False, names="own", style=style)
        own = self.writer
        if stage.tuned:
            writer = Writer(base, prompter, answer=own.answer, joins=own.joins, max_new_tokens=own.max_new_tokens)
        else:  # a model that was taught nothing writes SQL as it is
            writer = Writer(base, prompter, max_new_tokens=own.max_new_tokens)
        with nullcontext() if stage.tuned else dt.disabled(base.model):
            return self._written(writer, stage, tell)

    def _written(self, writer: Writer, stage: Stage, tell: Callable[[int], object] | None) -> Texts:
        by_database: dict[str, list[int]] = defaultdict(list)
        for number, example in enumerate(self.asked):
            by_database[example.database].append(number)
        texts: Texts = [[] for _ in self.asked]
        for name, numbers in by_database.items():
            found = writer.write(
                [self.asked[number].question for number in numbers],
                self.sources[name],
                evidence=[self.asked[number].evidence for number in numbers],
                samples=self.samples if stage.voted else 1,
                temperature=self.temperature,
                seed=self.seed,
                constrained=stage.constrained,
                progress=tell,
            )
            for number, answers in zip(numbers, found, strict=True):
                texts[number] = answers
        return texts
